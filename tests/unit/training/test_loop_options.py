"""Which options a resumed run may change, and which a command has at all."""

from __future__ import annotations

import dataclasses

import pytest
from toys import runs, tuned

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.options import FinetuneConfig
from mmssl.options import not_resumable
from mmssl.recipe.config import DataConfig, LoopConfig, TrainConfig

RESUMABLE = {
    DataConfig: {"workers", "max_bad", "fit_samples", "source", "license", "limits", "fetch", "cache"},
    LoopConfig: {
        "steps",
        "epochs",
        "log_every",
        "save_every",
        "save_minutes",
        "time_limit",
        "keep",
        "save_async",
        "trackers",
        "accumulation",
        "anneal",
        "micro_batch",
        "memory",
    },
    TrainConfig: {
        *(
            "steps",
            "epochs",
            "accumulation",
            "anneal",
            "micro_batch",
            "log_every",
            "save_every",
            "save_minutes",
            "time_limit",
            "keep",
            "save_async",
            "trackers",
            "compile",
            "keep_best",
            "keep_best_model",
            "gradient_checkpointing",
            "memory",
            "store_frozen",
            "parallel",
        ),
        *("gradient_share_every", "health_every", "health_samples", "guard"),
        *("probe_every", "probe_tasks", "probe_samples", "report", "card_samples", "report_every", "report_minutes"),
    },
    FinetuneConfig: {"arms", "draws", "score", "patience", "eval_batch_size", "workers", "max_bad", "limits", "fetch"},
}
OWN = (
    "keep_best",
    "keep_best_model",
    "gradient_checkpointing",
    "compile",
    "gradient_share_every",
    "health_every",
    "health_samples",
    "guard",
)
OWN += ("after", "store_frozen", "parallel", "probe_every", "probe_tasks", "probe_samples", "report", "card_samples")
OWN += ("report_every", "report_minutes")


@pytest.mark.parametrize("cls", RESUMABLE)
def test_what_a_resumed_run_may_change_is_said_at_the_option(cls):
    names = {field.name for field in dataclasses.fields(cls)}
    assert RESUMABLE[cls] <= names
    assert set(not_resumable(cls)) == names - RESUMABLE[cls]


def test_a_resumed_run_is_told_of_the_others_only(tmp_path, caplog):
    assert runs.cli(tmp_path) == 0
    quiet = ["data.workers=1", "train.keep=1", "train.health_every=null", "train.guard=null", "train.log_every=1"]
    assert runs.cli(tmp_path, *quiet, "train.steps=7", "--resume") == 0
    assert "changed" not in caplog.text
    assert runs.cli(tmp_path, *quiet, "train.clip=null", "train.weight_decay=0.1", "train.steps=8", "--resume") == 0
    (said,) = [r.getMessage() for r in caplog.records if "changed" in r.getMessage()]
    assert said == "--resume: train.weight_decay, train.clip changed since the run was started"


def test_pretraining_has_the_common_options_and_its_own():
    common = {field.name for field in dataclasses.fields(LoopConfig)}
    assert {field.name for field in dataclasses.fields(TrainConfig)} == {*common, *OWN} and not common & {*OWN}


@pytest.mark.parametrize("name", OWN)
def test_fine_tuning_refuses_what_it_does_nothing_with(name):
    with pytest.raises(UserError) as error:
        load_options([f"train.{name}=null"])
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"train.{name}: found an unknown key, expected one of steps, epochs, batch_size")


def test_the_command_says_so_in_one_line(tmp_path, capsys):
    base = tuned.image_base(tmp_path / "base")
    words = ["finetune", str(base), "--data", "builtin:digits", "--label", "label", "--output", str(tmp_path / "out")]
    assert main([*words, "train.guard=null"]) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "train.guard: found an unknown key" in line and not (tmp_path / "out").exists()
