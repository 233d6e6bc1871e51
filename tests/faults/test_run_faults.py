"""What goes wrong around a run: each fault gives one clear line, the right exit code, and loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toys import runs

from mmssl.training.loop import Loop


def pictures(folder: Path, n: int = 40, broken: int = 0) -> Path:
    """A folder of n grey PNGs, the first `broken` of them cut in half."""
    folder.mkdir()
    for i in range(n):
        path = folder / f"{i:03}.png"
        Image.effect_noise((12, 12), 50 + i).save(path)
        if i < broken:
            path.write_bytes(path.read_bytes()[:80])
    return folder


# ------------------------------------------------------------------------------------------------------------- data


def test_a_truncated_image_is_quarantined_and_the_run_goes_on(tmp_path, capsys, caplog):
    data = pictures(tmp_path / "data", broken=1)
    content = runs.recipe(data={"path": str(data)}, train={"steps": 10, "batch_size": 8})
    assert runs.cli(tmp_path, content=content) == 0
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["modality"], row["column"]) for row in listed] == [("image", "image")]  # seen twice, listed once
    assert "000.png" in listed[0]["reason"]
    assert len([r for r in caplog.records if "broken sample" in r.getMessage()]) == 1
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "2 of 80 samples read were broken, in whole or in part (1 different" in card
    assert all(loss == loss for loss in runs.losses(tmp_path / "run").values())


def test_too_many_broken_images_stop_the_run(tmp_path, capsys):
    data = pictures(tmp_path / "data", broken=10)
    content = runs.recipe(data={"path": str(data), "max_bad": 0.1}, train={"steps": 20, "batch_size": 8})
    assert runs.cli(tmp_path, content=content) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "data.max_bad = 0.1" in line and "quarantine.jsonl" in line
    run = tmp_path / "run"
    assert (run / "quarantine.jsonl").read_text().count("\n") >= 5
    assert not (run / "model").exists()
    # what was computed until then is kept
    (last,) = runs.checkpoints(run)[-1:]
    assert runs.cli(tmp_path, "data.max_bad=0.5", "--resume", content=content) == 0
    assert f"going on after step {int(last.removeprefix('step-'))} of 20" in capsys.readouterr().out


def test_with_a_higher_limit_the_same_data_passes(tmp_path):
    data = pictures(tmp_path / "data", broken=10)
    content = runs.recipe(data={"path": str(data), "max_bad": 0.5}, train={"steps": 8, "batch_size": 8})
    assert runs.cli(tmp_path, content=content) == 0


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert runs.cli(tmp_path, content=runs.recipe(data={"path": str(tmp_path / "empty")})) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "empty" in line


def test_a_run_that_cannot_be_leaves_no_folder(tmp_path, capsys, monkeypatch):
    """One of a tracker that wants to be logged in to, say; what somebody else had put there stays."""

    def refused(*_: object, **__: object) -> None:
        raise LookupError("no API key configured")

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.Accelerator.init_trackers", refused)
        assert runs.cli(tmp_path, "train.trackers=[tensorboard]") == 2
        (line,) = runs.errors(capsys.readouterr().err)
        assert "train.trackers: tensorboard could not be started" in line and "no API key configured" in line
        assert not (tmp_path / "run").exists()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "notes.txt").write_text("mine")
        assert runs.cli(tmp_path, "train.trackers=[tensorboard]") == 2
        assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert runs.cli(tmp_path, "data.columns.image=imagee", output="other") == 2
    assert not (tmp_path / "other").exists()


def test_a_column_that_does_not_exist(tmp_path, capsys):
    assert runs.cli(tmp_path, content=runs.recipe(data={"columns": {"image": "imagee"}})) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "'imagee'" in line and "did you mean 'image'" in line


def test_a_null_caption_trains_on_the_image_and_is_counted(tmp_path):
    data = pictures(tmp_path / "data", n=24)
    rows = [{"image": f"data/{i:03}.png", "text": None if i % 3 == 0 else f"noise number {i}"} for i in range(24)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = runs.image_text()
    content["data"] = {"path": str(tmp_path / "list.jsonl")}
    content["train"] |= {"steps": 3, "batch_size": 8, "log_every": 1}
    assert runs.cli(tmp_path, content=content) == 0
    run = tmp_path / "run"
    assert not (run / "quarantine.jsonl").exists()
    assert "image 24, text 16" in (run / "model" / "README.md").read_text()
    assert [row["loss/clip"] > 0 for row in runs.metrics(run)] == [True] * 3
    assert data.is_dir()


# --------------------------------------------------------------------------------------------------------- the rest


def test_a_loss_that_is_not_a_number(tmp_path, monkeypatch, capsys):
    real = Loop._gradients

    def gradients(self: Loop, stream: Any, step: int, meter: Any) -> None:
        real(self, stream, step, meter)
        if step == 4:
            meter.parts[""] = meter.parts[""] * float("nan")

    monkeypatch.setattr(Loop, "_gradients", gradients)
    assert runs.cli(tmp_path, "train.log_every=6", "train.save_every=1", "train.keep=5") == 1
    (line,) = runs.errors(capsys.readouterr().err)
    assert "the loss is nan at step 5" in line and "train.lr" in line
    # found before the checkpoint of the broken step, although nothing is logged there
    assert runs.checkpoints(tmp_path / "run") == [f"step-{i:08}" for i in (1, 2, 3, 4)]


def test_fp16_without_a_gpu(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, where fp16 works")
    code = runs.cli(tmp_path, "train.mixed_precision=fp16")
    (line,) = runs.errors(capsys.readouterr().err)
    assert code == 2 and "train.mixed_precision" in line and "fp16" in line


def test_a_tracker_that_is_not_there(tmp_path, capsys):
    assert runs.cli(tmp_path, "train.trackers=[tensorbord]") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "train.trackers" in line and "did you mean 'tensorboard'" in line
    assert runs.cli(tmp_path, "train.trackers=[aim]") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "aim" in line and "not installed" in line
    assert not (tmp_path / "run").exists()


def test_processes_that_would_each_train_alone_are_refused(tmp_path, monkeypatch, capsys):
    """What `torchrun` without ACCELERATE_USE_CPU starts on a CPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, where torchrun needs no such variable")
    monkeypatch.setenv("WORLD_SIZE", "2")
    # before any of them connects: one that is gone in the middle of that would break the others' connections
    monkeypatch.setattr("mmssl.training.engine.Accelerator", None)
    assert runs.cli(tmp_path) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "ACCELERATE_USE_CPU=true" in line
