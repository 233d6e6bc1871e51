"""Whole runs whose steps are done in parts: by `train.accumulation`, or because a step does not fit the memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs, tuned

from mmssl.cli import main
from mmssl.objectives.pretraining import Pretraining
from mmssl.training import micro_batch
from mmssl.training.metrics import TIMED


def watched() -> dict[str, Any]:
    """Masked autoencoding and CLIP, a teacher that says its health, gradient shares; a large `eps`, so that Adam makes
    no steps of what rounding leaves of a gradient that is zero."""
    content = runs.image_text()
    content["views"] = {name: {"image": {"crop_scale": [0.3, 1.0]}} for name in ("a", "b")}
    content["objectives"]["pull"] = {"type": "toys.collapse", "tower": "image", "weight": 0.1, "ramp": {"end": 0.5}}
    content["train"] |= {
        "log_every": 1,
        "health_every": 2,
        "gradient_share_every": 2,
        "health_samples": 44,
        "eps": 1e-3,
    }
    content["train"]["guard"] = {"min_rank": None, "min_std": None}
    return content


@pytest.fixture(scope="module")
def in_one_pass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `watched` without accumulation."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.cli(folder, content=watched()) == 0
    return folder / "run"


def assert_close(run: Path, other: Path) -> None:
    """Every number of the log, and the state at the end, to rounding."""
    for ours, theirs in zip(runs.metrics(run), runs.metrics(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - TIMED:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=1e-6), (key, ours["step"])
    a, b = runs.weights(run), runs.weights(other)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("parts", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 16))])
def test_a_whole_run_says_and_leaves_the_same_whatever_its_accumulation(in_one_pass, tmp_path, parts):
    assert runs.cli(tmp_path, f"train.accumulation={parts}", content=watched()) == 0
    assert_close(tmp_path / "run", in_one_pass)


def test_a_step_that_does_not_fit_the_memory_is_done_in_more_parts(in_one_pass, tmp_path, caplog, monkeypatch):
    """A device that holds 5 samples: the run ends up with 4 at a time, in the middle of whose steps it ran out, too."""
    forward, calls = Pretraining.forward, iter(range(10**6))

    def small(self, batch, *words, **options):
        rows = len(next(iter(batch.values()))["pixel_values"]) if isinstance(batch, dict) else 0
        if rows > 5 or next(calls) == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, batch, *words, **options)

    monkeypatch.setattr(Pretraining, "forward", small)
    assert runs.cli(tmp_path, content=watched()) == 0
    assert_close(tmp_path / "run", in_one_pass)
    told = [r.getMessage() for r in caplog.records if "does not fit the memory" in r.getMessage()]
    assert [line.rpartition("accumulation=")[2].partition(",")[0] for line in told] == ["2", "4", "8"]


def test_the_steps_before_one_that_cannot_be_cut_are_kept(tmp_path, monkeypatch):
    forward, calls = Pretraining.forward, iter(range(10**6))

    def full(self, *words, **options):
        if next(calls) >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, *words, **options)

    monkeypatch.setattr(Pretraining, "forward", full)
    assert runs.cli(tmp_path, content=runs.recipe()) == 1
    assert runs.checkpoints(tmp_path / "run")[-1] == "step-00000003"
    monkeypatch.undo()
    assert runs.cli(tmp_path, "--resume", content=runs.recipe()) == 0
    assert runs.cli(tmp_path, content=runs.recipe(), output="straight") == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")


@pytest.mark.parametrize(
    ("views", "says"),
    [
        ({}, "out of memory with 1 samples at a time; train.gradient_checkpointing=true"),
        (
            {"a": {"image": {"corrupt": {"fill": ["other"]}}}},
            "out of memory with 16 samples at a time, and views.a.image",
        ),
    ],
)
def test_a_step_that_cannot_be_cut_is_one_line(tmp_path, capsys, monkeypatch, views, says):
    def never(self, *words, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pretraining, "forward", never)
    assert runs.cli(tmp_path, content=runs.recipe() | {"views": views}) == 1
    line = runs.errors(capsys.readouterr().err)[-1]
    assert line.startswith(f"error: {says}") and ("corrupt.fill: other" in line) == bool(views)


# ----------------------------------------------------------------------------------- how many samples at once


def little_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A device that holds so many samples, and says so."""
    forward = Pretraining.forward

    def small(self, batch, *words, **options):
        if isinstance(batch, dict) and len(next(iter(batch.values()))["pixel_values"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, batch, *words, **options)

    monkeypatch.setattr(Pretraining, "forward", small)
    monkeypatch.setattr(micro_batch, "runs_out", lambda device: True)


def cut(run: Path) -> tuple[object, object]:
    train = runs.plainyaml.parse((run / "config.yaml").read_text(), "config.yaml")["train"]
    return train["accumulation"], train["micro_batch"]


def test_a_step_is_cut_by_the_number_of_samples_that_go_through_at_once(in_one_pass, tmp_path, capsys):
    words = ["train.steps=2", "train.save_every=null"]
    for micro, parts in (("5", 4), ("16", 1), ("1000", 1)):
        assert runs.cli(tmp_path, f"train.micro_batch={micro}", *words, content=watched(), output=micro) == 0
        assert cut(tmp_path / micro) == (parts, None)
    assert runs.losses(tmp_path / "5")[1] == pytest.approx(runs.losses(in_one_pass)[1], rel=1e-5)
    assert runs.cli(tmp_path, "train.micro_batch=5", "train.accumulation=2", content=watched()) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert line == "error: train.micro_batch: found 5 and train.accumulation = 2, expected one of them"


def test_auto_finds_what_fits_before_the_first_step_and_changes_no_number(
    in_one_pass, tmp_path, monkeypatch, caplog, capsys
):
    little_memory(monkeypatch, 5)
    assert runs.cli(tmp_path, "train.micro_batch=auto", content=watched()) == 0
    assert "micro_batch auto: 4 of 16 samples at once (train.accumulation=4)" in capsys.readouterr().out.splitlines()
    assert "does not fit" not in caplog.text
    assert cut(tmp_path / "run") == (4, None)
    assert_close(tmp_path / "run", in_one_pass)


def test_auto_leaves_no_trace_of_its_tries(tmp_path, monkeypatch):
    """Bit for bit, with dropout and the order of the samples, where the first try fits."""
    content = runs.recipe()
    assert runs.cli(tmp_path, content=content, output="plain") == 0
    little_memory(monkeypatch, 16)
    assert runs.cli(tmp_path, "train.micro_batch=auto", content=content) == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "plain")


def test_auto_says_when_nothing_fits_and_what_cannot_be_cut(tmp_path, monkeypatch, capsys):
    assert runs.cli(tmp_path, "train.micro_batch=auto", "train.steps=1", output="plain") == 0
    assert "16 of 16 samples at once (train.accumulation=1): a processor does not say" in capsys.readouterr().out
    content = runs.recipe() | {"views": {"a": {"image": {"corrupt": {"fill": ["other"]}}}}}
    assert runs.cli(tmp_path, "train.micro_batch=auto", "train.steps=1", content=content, output="whole") == 0
    assert "(train.accumulation=1): views.a.image.corrupt.fill: other: takes from" in capsys.readouterr().out
    assert runs.cli(tmp_path, "train.micro_batch=4", content=content, output="cut") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert line == (
        "error: train.micro_batch: found 4, but views.a.image.corrupt.fill: other: takes from other rows of the batch; "
        "expected all of a process's 16 at once, or null"
    )
    little_memory(monkeypatch, 0)
    assert runs.cli(tmp_path, "train.micro_batch=auto") == 1
    assert "error: out of memory with 1 sample at a time" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_finetuning_finds_it_too(tmp_path, monkeypatch, capsys):
    base = str(tuned.image_base(tmp_path / "base"))
    little_memory(monkeypatch, 5)
    words = ["finetune", base, "--data", "builtin:digits", "--label", "label", "--peft", "none", *tuned.QUICK]
    assert main([*words, "train.micro_batch=auto", "--output", str(tmp_path / "run")]) == 0
    assert "micro_batch auto: 4 of 16 samples at once (train.accumulation=4)" in capsys.readouterr().out


def test_a_run_goes_on_under_another_accumulation_as_if_nothing_had_changed(in_one_pass, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(in_one_pass, run)
    for step in ("step-00000006", "step-00000005"):
        shutil.rmtree(run / "checkpoints" / step, ignore_errors=True)
    assert runs.checkpoints(run) == ["step-00000004"]
    assert runs.cli(tmp_path, "--resume", "train.accumulation=8", content=watched()) == 0
    assert "changed since the run was started" not in caplog.text
    assert_close(run, in_one_pass)


def test_another_batch_size_is_refused_in_one_line_and_nothing_is_touched(in_one_pass, tmp_path, capsys, caplog):
    """cases/media-text-training.md, row 20: it was a warning, and 56 samples were passed over."""
    run = tmp_path / "run"
    shutil.copytree(in_one_pass, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "train.log"}
    assert runs.cli(tmp_path, "--resume", "train.batch_size=32", content=watched()) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert line.startswith("error: --resume: found train.batch_size 32") and "expected 16" in line
    assert "train.accumulation" in line and not caplog.text
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "train.log"} == before
    shutil.rmtree(run / "checkpoints")
    assert runs.cli(tmp_path, "--resume", "train.batch_size=32", "train.steps=2", content=watched()) == 0


def test_bf16_and_accumulation(tmp_path):
    words = ["train.mixed_precision=bf16", "train.steps=2"]
    assert runs.cli(tmp_path, *words, content=watched(), output="whole") == 0
    assert runs.cli(tmp_path, *words, "train.accumulation=4", content=watched()) == 0
    found, expected = runs.losses(tmp_path / "run"), runs.losses(tmp_path / "whole")
    assert found == pytest.approx(expected, rel=5e-3)
