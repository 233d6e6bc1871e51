"""What goes wrong around a run: each fault gives one clear line, the right exit code, and loses nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toys import runs

from mmssl.cli import main
from mmssl.training import checkpoints
from mmssl.training.loop import Loop

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def mmssl_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, logger="mmssl"):
        yield


def pictures(folder: Path, n: int = 40, broken: int = 0) -> Path:
    """A folder of n grey PNGs, the first `broken` of them cut in half."""
    folder.mkdir()
    for i in range(n):
        path = folder / f"{i:03}.png"
        Image.effect_noise((12, 12), 50 + i).save(path)
        if i < broken:
            path.write_bytes(path.read_bytes()[:80])
    return folder


def nothing_half_written(run: Path) -> bool:
    return not [p for p in run.rglob("*") if ".partial" in p.name or ".deleted" in p.name or ".old" in p.name]


# ------------------------------------------------------------------------------------------------------------- data


def test_a_truncated_image_is_quarantined_and_the_run_goes_on(tmp_path, capsys, caplog):
    data = pictures(tmp_path / "data", broken=1)
    content = runs.recipe(data={"path": str(data)}, train={"steps": 10, "batch_size": 8})
    assert runs.cli(tmp_path, content=content) == 0
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["modality"], row["column"]) for row in listed] == [("image", "image")]  # seen twice, listed once
    assert "000.png" in listed[0]["reason"]
    assert len([r for r in caplog.records if "skipped broken sample" in r.getMessage()]) == 1
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "2 of 80 samples read were broken and skipped (1 different" in card
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


# ------------------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert runs.cli(folder) == 0
    assert runs.checkpoints(folder / "run") == ["step-00000004", "step-00000006"]
    return folder / "run"


@pytest.fixture
def finished(trained_once: Path, tmp_path: Path) -> Path:
    """A finished run of 6 steps with the checkpoints of steps 4 and 6, to be damaged."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


def damage(checkpoint: Path, how: str) -> None:
    weights, state = checkpoint / checkpoints.WEIGHTS, checkpoint / checkpoints.STATE
    if how == "flipped":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "no optimizer":
        (checkpoint / checkpoints.OPTIMIZER).unlink()
    elif how == "no state":
        state.unlink()
    else:
        state.write_bytes({"torn state": state.read_bytes()[:40], "binary state": b"\xff\x00", "list": b"[]"}[how])


@pytest.mark.parametrize(
    "how", ["flipped", "truncated", "no optimizer", "no state", "torn state", "binary state", "list"]
)
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(finished, how, caplog, capsys):
    expected = (finished / "model" / "model.safetensors").read_bytes()
    damage(finished / "checkpoints" / "step-00000006", how)
    assert runs.cli(finished.parent, "--resume") == 0
    (warning,) = [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()]
    assert "step-00000006" in warning
    assert "going on after step 4 of 6" in capsys.readouterr().out
    assert (finished / "model" / "model.safetensors").read_bytes() == expected
    assert checkpoints.latest(finished / "checkpoints").name == "step-00000006"


def test_a_damaged_checkpoint_never_pushes_out_a_good_one(finished):
    damage(finished / "checkpoints" / "step-00000006", "flipped")
    assert runs.cli(finished.parent, "train.steps=5", "train.keep=1", "--resume") == 0
    assert runs.checkpoints(finished) == ["step-00000005"]


def test_only_damaged_checkpoints(finished, capsys):
    for checkpoint in (finished / "checkpoints").iterdir():
        damage(checkpoint, "truncated")
    model = (finished / "model" / "model.safetensors").read_bytes()
    assert runs.cli(finished.parent, "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "no checkpoint" in line and "step-00000004" in line and "step-00000006" in line
    assert (finished / "model" / "model.safetensors").read_bytes() == model


def test_a_checkpoint_of_another_architecture(finished, capsys):
    before = (finished / "config.yaml").read_text()
    content = runs.recipe()
    content["model"]["towers"]["image"]["width"] = 32
    assert runs.cli(finished.parent, "--resume", content=content) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "does not fit this recipe" in line
    assert (finished / "config.yaml").read_text() == before


def test_a_changed_recipe_is_named_when_resuming(finished, caplog):
    assert runs.cli(finished.parent, "train.lr=5e-4", "train.steps=8", "seed=3", "--resume") == 0
    (warning,) = [r.getMessage() for r in caplog.records if "changed" in r.getMessage()]
    assert "train.lr" in warning and "seed" in warning and "steps" not in warning


def test_resume_with_fewer_steps_than_were_done(finished, capsys):
    assert runs.cli(finished.parent, "train.steps=5", "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "has done 6 steps, more than the 5 asked for" in line


def test_resume_without_a_run(tmp_path, capsys):
    assert runs.cli(tmp_path, "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "there is no run" in line


def test_a_folder_that_holds_a_run_already(finished, capsys):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    assert runs.cli(finished.parent) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "holds a run already" in line and "--resume" in line
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_without_output_a_taken_name_gets_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = runs.write(tmp_path, runs.recipe(train={"steps": 1}))
    assert [main(["pretrain", str(path)]) for _ in range(2)] == [0, 0]
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]


def test_output_is_a_file(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    assert runs.cli(tmp_path) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "expected a folder" in line


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "processor_config.json"])
@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_damaged_model_folder(finished, file, how, capsys):
    path = finished / "model" / file
    path.write_bytes(path.read_bytes()[:50]) if how == "truncated" else path.unlink()
    command = ["evaluate", str(finished / "model"), "--data", "builtin:digits", "--task", "rankme"]
    assert main(command) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert str(finished / "model") in line


def test_weights_that_lack_a_tensor(finished, capsys):
    from safetensors.torch import load_file, save_file

    path = finished / "model" / "model.safetensors"
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path, {"format": "pt"})
    assert main(["evaluate", str(finished / "model"), "--data", "builtin:digits", "--task", "rankme"]) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "the weights lack 1 tensors" in line


# -------------------------------------------------------------------------------------------------------- full disk


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


def raise_full(*_: Any, **__: Any) -> None:
    raise FULL


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_an_old_model_survives_a_new_one_that_cannot_be_written(finished, moment, monkeypatch):
    before = (finished / "model" / "model.safetensors").read_bytes()
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        return raise_full() if self.name == ".model.partial" else real(self, target)

    if moment == "writing":
        monkeypatch.setattr("mmssl.models.saving.MMSSLModel.save_pretrained", raise_full)
    else:
        monkeypatch.setattr(Path, "rename", rename)
    assert runs.cli(finished.parent, "train.steps=8", "--resume") == 1
    assert (finished / "model" / "model.safetensors").read_bytes() == before
    assert runs.checkpoints(finished) == ["step-00000006", "step-00000008"]
    assert nothing_half_written(finished)


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

        def save(self: Loop, step: int, healthy: bool | None = None) -> None:
            if step == 4:  # fills the disk after the first checkpoint
                with contextlib.suppress(OSError), ballast.open("wb") as file:
                    while True:
                        file.write(bytes(4096))
            real(self, step, healthy)

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
    assert runs.cli(tmp_path, "train.trackers=[nonsense]") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "train.trackers" in line and "nonsense" in line
    assert runs.cli(tmp_path, "train.trackers=[aim]") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "aim" in line and "not installed" in line


def test_processes_that_would_each_train_alone_are_refused(tmp_path, monkeypatch, capsys):
    """What `torchrun` without ACCELERATE_USE_CPU starts on a CPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, where torchrun needs no such variable")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert runs.cli(tmp_path) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "ACCELERATE_USE_CPU=true" in line
