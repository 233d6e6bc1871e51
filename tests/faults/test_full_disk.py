"""A full disk at any moment of a run costs a line, never what was there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs
from toys.broken import FULL, nothing_half_written, raise_full

from mmssl.training import checkpoints
from mmssl.training.loop import Loop


def failing(monkeypatch: pytest.MonkeyPatch, times: set[int] | None = None) -> list[Path]:
    """Checkpoint writers fail (at these calls, from 0): half a file is written, then the disk is full."""
    calls: list[Path] = []
    real = checkpoints.save_file

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        calls.append(path)
        if times is None or len(calls) - 1 in times:
            Path(path).write_bytes(b"half")
            raise FULL
        real(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", save)
    return calls


def test_a_checkpoint_that_fails_in_the_middle_is_a_warning(tmp_path, monkeypatch, caplog):
    failing(monkeypatch, {3})  # the optimiser's file of the second checkpoint
    assert runs.cli(tmp_path) == 0
    run = tmp_path / "run"
    (warning,) = [r.getMessage() for r in caplog.records if "could not be written" in r.getMessage()]
    for part in ("step-00000004", "No space left", "the last complete one is step-00000002", "training goes on"):
        assert part in warning
    assert runs.checkpoints(run) == ["step-00000002", "step-00000006"]
    assert sorted(runs.losses(run)) == [2, 4, 6]
    assert nothing_half_written(run)


def test_when_only_the_last_checkpoint_fails_the_model_is_there(tmp_path, monkeypatch, capsys):
    failing(monkeypatch, {4})
    assert runs.cli(tmp_path) == 1
    (line,) = runs.errors(capsys.readouterr().err)
    assert "step-00000006" in line and "is complete" in line
    assert (tmp_path / "run" / "model" / "README.md").is_file()
    assert nothing_half_written(tmp_path / "run")


def test_a_disk_full_at_the_end_says_how_to_go_on_and_resume_finishes(tmp_path, monkeypatch, capsys):
    assert runs.cli(tmp_path, output="straight") == 0
    with monkeypatch.context() as patch:
        failing(patch, {4})
        patch.setattr("mmssl.models.saving.MMSSLModel.save_pretrained", raise_full)
        assert runs.cli(tmp_path) == 1
    run = tmp_path / "run"
    (line,) = runs.errors(capsys.readouterr().err)
    assert "No space left" in line and f"--output {run} --resume" in line and "step-00000004" in line
    assert runs.checkpoints(run) == ["step-00000002", "step-00000004"] and not (run / "model").exists()
    assert nothing_half_written(run)
    assert runs.cli(tmp_path, "--resume") == 0
    assert runs.losses(run) == runs.losses(tmp_path / "straight")
    files = [p / "model" / "model.safetensors" for p in (run, tmp_path / "straight")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_metrics_and_trackers_that_cannot_be_written_cost_their_lines_only(tmp_path, monkeypatch, caplog, capsys):
    real = Path.open

    def opened(self: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        if self.name == "metrics.jsonl" and "a" in mode:
            raise FULL
        return real(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", raise_full)
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.finish", raise_full)
    assert runs.cli(tmp_path, "train.trackers=[tensorboard]") == 0
    assert len([r for r in caplog.records if "metrics could not be written" in r.getMessage()]) == 1
    assert runs.errors(capsys.readouterr().err) == []
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_a_tracker_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", raise_full)
    assert runs.cli(tmp_path, "train.trackers=[tensorboard]") == 0
    assert len([r for r in caplog.records if "trackers failed" in r.getMessage()]) == 1
    assert sorted(runs.losses(tmp_path / "run")) == [2, 4, 6]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of `size` mounted at `folder`; skips the test where that is not permitted."""
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(tmp_path, capsys, caplog):
    content = runs.recipe(train={"trackers": ["tensorboard"]})
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    with small_disk(tmp_path / "disk", "2m") as disk:
        ballast = disk / "ballast"
        real = Loop.save

        def save(self: Loop, step: int, *rest: Any) -> None:
            if step == 4:  # fills the disk after the first checkpoint
                with contextlib.suppress(OSError), ballast.open("wb") as file:
                    while True:
                        file.write(bytes(4096))
            real(self, step, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loop, "save", save)
            assert runs.cli(tmp_path, content=content, output="disk/run") == 1
        run = disk / "run"
        (line,) = runs.errors(capsys.readouterr().err)
        assert "No space left" in line and f"--output {run} --resume" in line
        warnings = [r.getMessage() for r in caplog.records if "step-00000004 could not be written" in r.getMessage()]
        assert len(warnings) == 1 and "training goes on" in warnings[0]
        assert runs.checkpoints(run) == ["step-00000002"]
        assert nothing_half_written(run)
        assert all(json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines())
        ballast.unlink()
        assert runs.cli(tmp_path, "--resume", content=content, output="disk/run") == 0
        assert runs.losses(run) == runs.losses(tmp_path / "straight")
        files = [p / "model" / "model.safetensors" for p in (run, tmp_path / "straight")]
        assert files[0].read_bytes() == files[1].read_bytes()
