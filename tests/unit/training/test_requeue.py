"""Runs that a scheduler starts again with the same command, and the launcher's wish for shares."""

from __future__ import annotations

import pytest
from toys import runs

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.recipe.config import LoopConfig, TrainConfig
from mmssl.training.engine import way_of

AT_ONCE = "train.time_limit=0.00001"


def test_a_run_that_is_started_again_until_it_is_done_is_the_straight_one(tmp_path, capsys):
    assert runs.cli(tmp_path, "train.steps=3", output="straight") == 0
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(runs.cli(tmp_path, "train.steps=3", AT_ONCE, "--resume", "auto"))
        assert len(codes) < 5
    assert codes == [75, 75, 0]
    lines = runs.errors(capsys.readouterr().err)
    assert [f"after step {step} of 3; a checkpoint is written" in line for step, line in enumerate(lines, 1)] == [
        True
    ] * 2
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")


def test_auto_starts_in_an_empty_folder_and_other_words_are_refused(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    assert runs.cli(tmp_path, "--resume", "auto", "train.steps=1") == 0
    assert "going on" not in capsys.readouterr().out
    assert main(["pretrain", str(tmp_path / "tiny.yaml"), "--resume=later", "--output", str(tmp_path / "run")]) == 2
    assert "--resume: found 'later', expected nothing behind it, or auto" in capsys.readouterr().err


def test_the_launcher_asks_for_shares_or_the_recipe_does(monkeypatch):
    assert way_of(TrainConfig(steps=1)) == way_of(LoopConfig(steps=1)) == "ddp"
    assert way_of(TrainConfig(steps=1, parallel="fsdp2")) == "fsdp2"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert way_of(TrainConfig(steps=1)) == "fsdp2"
    with pytest.raises(UserError, match="train.parallel: found ddp, but the launcher asks for FSDP"):
        way_of(TrainConfig(steps=1, parallel="ddp"))
    with pytest.raises(UserError, match="which only pretraining knows"):
        way_of(LoopConfig(steps=1))


@pytest.mark.parametrize(
    ("options", "variables", "said"),
    [
        ({"compile": True}, {}, "train.compile is true"),
        ({"mixed_precision": "fp16"}, {}, "expected bf16"),
        ({"micro_batch": "auto"}, {}, "train.micro_batch is auto, .* expected a number"),
        ({}, {"FSDP_VERSION": "1"}, "the launcher asks for version 1; expected fsdp_version: 2"),
        ({}, {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({}, {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "expected train.gradient_checkpointing=true"),
    ],
)
def test_what_does_not_go_with_shares_is_refused(monkeypatch, options, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"^train.parallel: found fsdp2, but .*{said}"):
        way_of(TrainConfig(steps=1, parallel="fsdp2", **options))
