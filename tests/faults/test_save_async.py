"""Checkpoints that are written while the training goes on: as those that it waits for, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import forking, runs
from toys.broken import FULL, nothing_half_written

from mmssl.errors import RunError, UserError
from mmssl.training import checkpoints, writing
from mmssl.training.lock import RunLock
from mmssl.training.loop import Loop

ASYNC = "train.save_async=true"
STOPS = """
import pathlib, sys, time
from mmssl.cli import main
from mmssl.training import checkpoints
real, calls = checkpoints.save_file, []
def save_file(tensors, path):
    real(tensors, path)
    calls.append(path)
    if len(calls) == 4:  # in the middle of the second checkpoint
        path.write_bytes(path.read_bytes()[:100])
        pathlib.Path(sys.argv[1]).touch()
        time.sleep(300)
checkpoints.save_file = save_file
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoints the training waits for."""
    folder = tmp_path_factory.mktemp("straight")
    assert runs.cli(folder, "train.keep=3") == 0
    return folder / "run"


def files(run: Path) -> dict[str, bytes]:
    """Of all its checkpoints."""
    return {str(p.relative_to(run)): p.read_bytes() for p in (run / "checkpoints").rglob("*.safetensors")}


def test_the_bytes_are_those_of_a_run_that_waits_though_the_weights_go_on_meanwhile(straight, tmp_path, monkeypatch):
    moved, save, update = threading.Event(), writing.save, Loop._update
    behind = []

    def late(folder: Path, step: int, *rest: Any) -> Path:
        if step < 6:
            assert moved.wait(60)
            behind.append(step)
        return save(folder, step, *rest)

    def updating(self: Loop, step: int) -> torch.Tensor | None:
        norm = update(self, step)
        if step + 1 in (3, 5):
            moved.set()
        else:
            moved.clear()
        return norm

    monkeypatch.setattr(writing, "save", late)
    monkeypatch.setattr(Loop, "_update", updating)
    assert runs.cli(tmp_path, "train.keep=3", ASYNC) == 0
    assert behind == [2, 4]
    assert files(tmp_path / "run") == files(straight)
    for name in runs.checkpoints(straight):
        found, expected = (
            json.loads((run / "checkpoints" / name / checkpoints.STATE).read_text()) | {"seconds": 0}
            for run in (tmp_path / "run", straight)
        )
        assert found == expected


def wait_for_the_lock(run: Path) -> None:
    """A process that is killed closes its files one by one."""
    for _ in range(500):
        with contextlib.suppress(UserError), RunLock() as lock:
            return lock.acquire(run)
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_in_the_middle_of_writing_the_one_before_is_whole_and_the_run_goes_on_from_it(tmp_path):
    path, marker = runs.write(tmp_path, runs.recipe()), tmp_path / "marker"
    words = ["pretrain", str(path), ASYNC, "--output", str(tmp_path / "run")]
    child = forking.start(["-c", STOPS, str(marker), *words], level="mmssl")
    end = time.monotonic() + 120
    while not marker.exists() and not child.ended() and time.monotonic() < end:
        time.sleep(0.02)
    assert marker.exists()
    child.kill()
    child.wait()
    wait_for_the_lock(tmp_path / "run")
    assert runs.checkpoints(tmp_path / "run") == [".step-00000004.partial", "step-00000002"]
    found = checkpoints.latest(tmp_path / "run" / "checkpoints")
    assert found is not None and found.name == "step-00000002"
    # in processes that start alike: what one has computed before may decide the last bits of the next
    whole = ["pretrain", str(path), "--output", str(tmp_path / "straight")]
    for run in ([*words, "--resume"], whole):
        assert forking.run(["-m", "mmssl", *run], level="mmssl").returncode == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")
    assert nothing_half_written(tmp_path / "run")


def failing(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    """The checkpoint of this step cannot be written, the first time."""
    commit, failed = writing.commit, []

    def fail(folder: Path, number: int, *rest: Any) -> Path:
        if number == step and not failed:
            failed.append(number)
            raise error
        return commit(folder, number, *rest)

    monkeypatch.setattr(writing, "commit", fail)


def test_a_full_disk_costs_a_line_as_where_the_training_waits(tmp_path, monkeypatch, caplog):
    failing(monkeypatch, 4, FULL)
    assert runs.cli(tmp_path, ASYNC) == 0
    (warning,) = [r.getMessage() for r in caplog.records if "could not be written" in r.getMessage()]
    assert "step-00000004" in warning and "the last complete one is step-00000002" in warning
    assert runs.checkpoints(tmp_path / "run") == ["step-00000002", "step-00000006"]
    assert nothing_half_written(tmp_path / "run")


def test_an_interrupted_run_writes_at_once_what_could_not_be_written_beside_it(tmp_path, monkeypatch, caplog):
    failing(monkeypatch, 2, FULL)
    gradients, saved = Loop._gradients, []

    def interrupted(self: Loop, stream: Any, step: int, *rest: Any) -> Any:
        if step == 2:
            saved.append(self.keeper.saved)
            raise KeyboardInterrupt
        return gradients(self, stream, step, *rest)

    monkeypatch.setattr(Loop, "_gradients", interrupted)
    with monkeypatch.context() as patch:
        patch.setattr(writing.Beside, "begin", _at_once(writing.Beside.begin))
        assert runs.cli(tmp_path, ASYNC) == 130
    assert saved == [2] and runs.checkpoints(tmp_path / "run") == ["step-00000002"]
    assert any("could not be written" in r.getMessage() for r in caplog.records)


def _at_once(begin: Any) -> Any:
    """`Beside.begin` whose thread has ended when it returns."""

    def beginning(self: writing.Beside, *words: Any) -> None:
        begin(self, *words)
        assert self._thread is not None
        self._thread.join()

    return beginning


def test_any_other_error_of_the_writer_ends_the_run(tmp_path, monkeypatch, capsys):
    failing(monkeypatch, 2, ValueError("a fault of ours"))
    assert runs.cli(tmp_path, ASYNC) == 1
    assert "a fault of ours" in capsys.readouterr().err
    assert runs.checkpoints(tmp_path / "run") == []


def test_the_next_one_waits_for_the_last_and_the_copy_is_one():
    weights, written = {"w": torch.zeros(3)}, []
    beside, go = writing.Beside(), threading.Event()

    def write(content: writing.Content) -> None:
        assert go.wait(60)
        written.append(content.weights["w"].clone())

    for value in (1.0, 2.0):
        go.clear()
        weights["w"].fill_(value)
        beside.begin(writing.Content(weights, {}, {}, {}), write)
        weights["w"].fill_(-1.0)
        with pytest.raises(AssertionError):
            beside.begin(writing.Content(weights, {}, {}, {}), write)
        go.set()
        assert beside.wait() is None and beside.wait() is None
    assert torch.equal(torch.stack(written), torch.tensor([[1.0] * 3, [2.0] * 3]))


def test_why_it_could_not_be_written_is_told_once():
    def write(_: writing.Content) -> None:
        raise RunError("the disk is full")

    beside = writing.Beside()
    beside.begin(writing.Content({}, {}, {}, {}), write)
    assert str(beside.wait()) == "the disk is full" and beside.wait() is None
