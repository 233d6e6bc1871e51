"""Two processes in one folder, several signals, other rows behind --resume, a process that is gone."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toys import runs

from mmssl import cli
from mmssl.distributed import lost_peers_told
from mmssl.errors import LostProcess, RunError, TimeUp, UserError
from mmssl.training import metrics, writing
from mmssl.training.interrupts import SIGNALS, Interrupts
from mmssl.training.lock import HOLDER, RunLock
from mmssl.training.loop import Loop
from mmssl.training.metrics import MetricsFile

HOLD = """
import sys, time
from pathlib import Path
from mmssl.training.lock import RunLock
lock = RunLock()
lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


# --------------------------------------------------------------------------------------------------------- the lock


def test_a_second_process_is_refused_with_the_first_ones_number_until_it_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process writes to this run \(process {holder.pid} on .*, since"):
            RunLock().acquire(tmp_path)
    finally:
        holder.kill()  # leaves its note behind, and no lock
        holder.communicate()
    assert (tmp_path / HOLDER).is_file()
    with RunLock() as lock:
        lock.acquire(tmp_path)
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / HOLDER).exists()


def test_what_a_killed_process_has_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    mine, gone = (tmp_path / "cells" / f".a.json.{pid}.partial" for pid in (os.getpid(), 2**30))
    for path in (mine, gone):
        path.write_text("half")
    with RunLock() as lock:
        lock.acquire(tmp_path)
    assert mine.is_file() and not gone.exists()


def test_a_run_holds_its_folder_and_gives_it_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with RunLock() as lock:
        lock.acquire(run)
        assert runs.cli(tmp_path) == 2
        assert runs.cli(tmp_path, "--resume") == 2
    for line in runs.errors(capsys.readouterr().err):
        assert f"--output {run}: another process writes to this run (process {os.getpid()} on " in line
    assert not (run / "metrics.jsonl").exists()
    assert runs.cli(tmp_path) == 0
    assert runs.cli(tmp_path, "--resume") == 0


# -------------------------------------------------------------------------------------------------------- the signals


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals as on a terminal, also where a job in the background ignores them."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("number", SIGNALS)
def test_any_of_the_signals_stops_and_a_second_waits_for_the_checkpoint(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGHUP is a closed terminal."""
    gradients, save = Loop._gradients, writing.save

    def interrupted(self: Loop, stream: Any, step: int, *rest: Any) -> Any:
        if step == 3:
            os.kill(os.getpid(), number)
        return gradients(self, stream, step, *rest)

    def saving(*words: Any) -> Path:
        os.kill(os.getpid(), number)
        return save(*words)

    monkeypatch.setattr(Loop, "_gradients", interrupted)
    monkeypatch.setattr(writing, "save", saving)
    assert runs.cli(tmp_path, content=runs.recipe(train={"save_every": None})) == 130
    assert runs.checkpoints(tmp_path / "run") == ["step-00000003"]
    assert any("is being written, wait" in record.getMessage() for record in caplog.records)
    assert not (tmp_path / "run" / HOLDER).exists()


@pytest.mark.usefixtures("heard")
def test_a_third_signal_ends_it_at_once() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            with interrupts.saving():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                done = True
    assert not done


# ------------------------------------------------------------------------------------------------------------- the rows


def _rows(path: Path, order: list[int]) -> Path:
    folder = path / "pictures"
    folder.mkdir(exist_ok=True)
    for i in range(40):
        if not (folder / f"{i:02}.png").exists():
            Image.effect_noise((12, 12), 50 + i).save(folder / f"{i:02}.png")
    (path / "rows.jsonl").write_text("".join(json.dumps({"image": f"pictures/{i:02}.png"}) + "\n" for i in order))
    return path / "rows.jsonl"


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([1, 0, *range(2, 40)], "row 0, 1 of 40 that were compared hold something else"),
        (list(range(39, -1, -1)), "row 0, 1, 2, 3, 4 and 35 more of 40"),
        (list(range(39)), "there are 39 rows, there were 40"),
    ],
)
def test_other_rows_behind_resume_are_named(
    order: list[int], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = runs.recipe(data={"path": str(_rows(tmp_path, list(range(40))))}, train={"batch_size": 8, "steps": 2})
    content["data"].pop("limit")
    assert runs.cli(tmp_path, content=content) == 0
    _rows(tmp_path, order)
    assert runs.cli(tmp_path, "--resume", "train.steps=3", content=content) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert words in line and "--resume: the data changed" in line
    _rows(tmp_path, list(range(40)))
    assert runs.cli(tmp_path, "--resume", "train.steps=3", content=content) == 0


def test_a_picture_that_was_changed_in_place_is_another_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = runs.recipe(data={"path": str(_rows(tmp_path, list(range(40))))}, train={"batch_size": 8, "steps": 2})
    content["data"].pop("limit")
    assert runs.cli(tmp_path, content=content) == 0
    Image.effect_noise((12, 12), 5).save(tmp_path / "pictures" / "07.png")
    assert runs.cli(tmp_path, "--resume", "train.steps=3", content=content) == 2
    assert "row 7 of 40 that were compared hold something else" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- a process, a disk that is gone


@pytest.mark.parametrize(
    "words",
    [
        "[pair.cc:538] Connection closed by peer [127.0.0.1]:5",
        "[buf.cc:78] Timed out waiting 1800000ms for recv",
        "Application timeout caused pair closure",
        "recvValue failed on SocketImpl(fd=3)",
    ],
)
def test_a_killed_process_gives_the_others_one_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.distributed.world_size", lambda: 2)
    with pytest.raises(RunError, match=r"another process of this run ended.*--resume") as caught, lost_peers_told():
        raise RuntimeError(f"{words}\nmore lines of it")
    assert "\n" not in str(caught.value)


def test_a_process_that_is_gone_before_all_have_met_gives_the_others_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LostProcess, match="another process of this run ended"), lost_peers_told():
        raise RuntimeError("Gloo connectFullMesh failed with [pair.cc:561] Connection closed by peer [127.0.0.1]:22751")


@pytest.mark.parametrize(
    ("rank", "local", "answers", "speaks"),
    [
        (0, "0", False, False),
        (1, "1", True, False),
        (1, "1", False, True),
        (3, "3", False, False),
        (8, "0", False, True),
    ],
)
def test_somebody_says_it_where_the_first_process_is_gone(
    rank: int,
    local: str,
    answers: bool,
    speaks: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The first one speaks for all; the others all ended without a word where it was killed."""

    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        if not answers:
            first.close()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))
        monkeypatch.setattr("mmssl.distributed.world_size", lambda: 16)
        monkeypatch.setenv("LOCAL_RANK", str(local))
        monkeypatch.setenv("RANK", str(rank))
        with pytest.raises(LostProcess) as caught, lost_peers_told():
            raise RuntimeError("Connection reset by peer")
    assert caught.value.speaks == speaks
    assert cli._complain(caught.value, 1) == 1
    assert len(runs.errors(capsys.readouterr().err)) == (speaks or rank == 0)


def test_a_process_waits_for_the_first_to_say_what_all_have_found_and_then_says_it_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    for rank, error, waits, says in (
        ("0", UserError("no such file"), [], True),
        ("1", UserError("no such file"), [cli.PATIENCE], True),  # nobody ended it meanwhile: it is its own fault
        ("1", TimeUp("the time is over"), [], False),
    ):
        monkeypatch.setenv("RANK", rank)
        assert cli._complain(error, 2) == 2
        assert waited == waits and bool(runs.errors(capsys.readouterr().err)) == says
        waited.clear()


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="^Connection closed by peer$"), lost_peers_told():
        raise RuntimeError("Connection closed by peer")  # one process alone has no peer
    monkeypatch.setattr("mmssl.distributed.world_size", lambda: 2)
    for error in (RuntimeError("shapes differ"), RunError("the disk is full"), UserError("no")):
        with pytest.raises(type(error)) as caught, lost_peers_told():
            raise error
        assert caught.value is error


def test_a_disk_that_turns_read_only_in_the_middle_costs_lines_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class ReadOnly:
        """A file whose disk has turned read-only: nothing about it works any more."""

        def __getattr__(self, name: str) -> Any:
            def fail(*_: Any) -> Any:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

            return fail

    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    assert file.write({"step": 1})
    file._file = ReadOnly()  # type: ignore[assignment]
    monkeypatch.setattr(metrics.os, "fstat", lambda _: os.stat(tmp_path))
    assert not file.write({"step": 2})
    file.cut(1)
    file.close()
    assert any("Read-only file system" in record.getMessage() for record in caplog.records)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
