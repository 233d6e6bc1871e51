"""`train.log`: what a run says, with the time; behind what is there; a full disk costs lines."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from toys import runs

from mmssl.cli import main
from mmssl.errors import RunError
from mmssl.saying import say, speaker
from mmssl.training.run_log import RunLog

logger = logging.getLogger("mmssl")


def lines(folder: Path, name: str = "train.log") -> list[str]:
    """What stands behind the time."""
    out = []
    for line in (folder / name).read_text().splitlines():
        found = re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (.*)", line)
        assert found is not None, line
        out.append(found[1])
    return out


def test_what_was_said_before_there_is_a_folder_stands_first_and_nothing_stays_behind(tmp_path, capsys):
    handlers, filters = list(logger.handlers), list(logger.filters)
    with RunLog() as log:
        say("early")
        logger.warning("look at %s", "https://me:secret@host/a")
        log.open(tmp_path)
        say("late\nand more")
        speaker.note("seen on a bar")
    say("after it")
    found = lines(tmp_path)
    assert found[0].startswith("---- process ") and found[-1] == "---- done"
    assert found[1:-1] == ["early", "warning: look at https://***@host/a", "late", "and more", "seen on a bar"]
    assert capsys.readouterr().out == "early\nlate\nand more\nafter it\n"
    assert logger.handlers == handlers and logger.filters == filters and not speaker.listeners


def test_warnings_are_shown_as_without_a_log_and_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a command: no handler but Python's last one
    with RunLog() as log:
        log.open(tmp_path)
        logger.warning("a sample is broken")
        logger.info("nobody asked")
        assert capsys.readouterr().err == "a sample is broken\n"
        logging.getLogger().addHandler(logging.NullHandler())
        logger.warning("shown by the other handler")
    assert capsys.readouterr().err == ""
    assert lines(tmp_path)[1:-1] == ["warning: a sample is broken", "warning: shown by the other handler"]


def test_it_says_what_ended_it_and_goes_on_behind_that(tmp_path):
    for error in (RunError("the disk is full"), KeyboardInterrupt(), TypeError("odd")):
        with pytest.raises(type(error)), RunLog() as log:
            log.open(tmp_path)
            raise error
    ends = [line for line in lines(tmp_path) if "ended" in line]
    assert ends == ["---- ended: the disk is full", "---- ended: KeyboardInterrupt", "---- ended: TypeError: odd"]


def test_a_disk_that_is_full_costs_lines_and_one_warning(tmp_path, caplog, capsys):
    with RunLog() as log:
        log.open(tmp_path)
        log._file = Path("/dev/full").open("ab", buffering=0)
        say("not written")
        say("nor this")
    assert capsys.readouterr().out == "not written\nnor this\n"
    assert len([r for r in caplog.records if "train.log could not be written" in r.getMessage()]) == 1


def test_other_processes_have_a_file_of_their_own_where_they_fail(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    with RunLog() as log:
        log.open(tmp_path)
    with pytest.raises(RunError), RunLog() as log:
        log.open(tmp_path)
        raise RunError("lost")
    assert lines(tmp_path, "train.3.log")[-1] == "---- ended: lost" and not (tmp_path / "train.log").exists()


# ------------------------------------------------------------------------------------------------------------ of a run


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a table, signed."""
    place = tmp_path / "served"
    place.mkdir()
    pd.DataFrame({"text": [f"a text of {n} words" for n in range(64)]}).to_parquet(place / "rows.parquet")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(place)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rows.parquet?for=test&signature=sesame42"
    server.shutdown()
    server.server_close()


def test_a_run_keeps_its_lines_but_no_signature_and_goes_on_all_the_same(served, tmp_path, capfd, caplog):
    content = runs.image_text()
    content["modalities"].pop("image")
    content["model"]["towers"].pop("image")
    content["data"] = {"path": served, "streaming": True, "fit_samples": 32}
    mlm = {"tower": "text", "mask": "half", "decoder": {"width": 16, "depth": 1, "heads": 2}}
    content["objectives"] = {"mae": mlm}
    with runs.killed_at(4):
        runs.cli(tmp_path, content=content)
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    run = tmp_path / "run"
    for file in run.rglob("*"):
        assert not file.is_file() or b"sesame42" not in file.read_bytes(), file
    said = capfd.readouterr()
    assert "sesame42" not in said.out + said.err + caplog.text
    assert "changed since the run was started" not in caplog.text
    found = lines(run)
    assert [line for line in found if line.startswith("---- ended")] == ["---- ended: Killed"]
    assert [line.split()[1] for line in found if line.startswith("step ")] == ["2/6", "4/6", "4/6", "6/6"]
    assert any(line.startswith("mmssl pretrain tiny: text; streamed samples") for line in found)
    assert any("config.yaml keeps no passwords and tokens" in line for line in found)
    assert main(["embed", str(run / "model"), "--output", str(tmp_path / "x.parquet")]) == 2
    (line,) = runs.errors(capfd.readouterr().err)
    assert "rows.parquet?***" in line and "without its password or token" in line
