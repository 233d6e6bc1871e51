"""What is said of something that takes long: when, where, and never a password."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from mmssl import saying
from mmssl.models.privacy import GONE, hidden, is_veiled, veiled
from mmssl.saying import AGAIN, FIRST, Activity, Speaker, doing, say, secrets_hidden, speaker


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Speaker]:
    """A speaker whose clock nobody but the test looks at."""
    one = Speaker()
    monkeypatch.setattr(one, "_beat", lambda over: None)
    yield one


def test_silence_is_broken_after_a_while_and_then_more_rarely(alone, capsys):
    with alone.doing(Activity("embedding the test rows", 50_000, began=0.0)) as activity:
        for now in (1, FIRST - 0.1):
            alone.look(now)
        assert capsys.readouterr().err == ""
        activity.done = 3_200
        for now in (FIRST, FIRST + 1, FIRST + AGAIN - 1, FIRST + AGAIN):
            alone.look(now)
    said = capsys.readouterr()
    assert said.out == ""  # which may be JSON, for a program
    assert said.err.splitlines() == [
        "... embedding the test rows: 3,200 of 50,000 (5 s)",
        "... embedding the test rows: 3,200 of 50,000 (35 s)",
    ]
    alone.look(1000)
    assert capsys.readouterr().err == ""  # nothing is being done


def test_what_is_said_breaks_the_silence_too_and_the_innermost_is_told_of(alone, capsys, monkeypatch):
    with alone.doing(Activity("outer", began=0.0)):
        monkeypatch.setattr(saying.time, "monotonic", lambda: 4.0)
        alone.say("a line")
        alone.look(4 + FIRST - 0.1)
        with alone.doing(Activity("inner", began=6.0)):
            alone.look(4 + FIRST)
        alone.look(5 + FIRST)
    captured = capsys.readouterr()
    assert captured.out == "a line\n" and captured.err == "... inner (3 s)\n"


def test_on_a_terminal_there_is_one_line_that_goes_when_something_is_said(alone, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(sys, "stdout", sys.stderr)
    with alone.doing(Activity("inner", began=0.0)):
        alone.look(0.5)
        assert sys.stderr.getvalue() == ""
        alone.look(1.0)
        alone.look(2.0)
        alone.say("a line")
    assert sys.stderr.getvalue() == "\r\x1b[Kinner (1 s)\r\x1b[Kinner (2 s)\r\x1b[Ka line\n"


def test_where_something_ends_its_line_goes_and_none_comes_at_once(alone, monkeypatch):
    """A table that is printed next must not stand behind it."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with alone.doing(Activity("outer", began=0.0)):
        with alone.doing(Activity("inner", began=0.0)):
            alone.look(3.0)
            monkeypatch.setattr(saying.time, "monotonic", lambda: 3.5)
        alone.look(4.0)
        assert sys.stderr.getvalue() == "\r\x1b[Kinner (3 s)\r\x1b[K"
        alone.look(4.5)
    assert sys.stderr.getvalue().endswith("\r\x1b[Kouter (4 s)\r\x1b[K")


def test_a_progress_bar_shows_it_in_its_own_way(alone, capsys):
    shown: list[str] = []
    alone.screen = shown.append
    with alone.doing(Activity("inner", began=0.0)):
        alone.look(0.5)
    assert shown == ["inner"] and capsys.readouterr().err == ""


def test_other_processes_say_nothing(alone, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with alone.doing(Activity("inner", began=0.0)):
        alone.look(100)
    assert capsys.readouterr().err == ""


def test_the_clock_is_looked_at_while_something_is_done_and_no_longer(monkeypatch, capsys):
    monkeypatch.setattr(saying, "FIRST", 0.0)
    monkeypatch.setattr(saying, "BEAT", 0.01)
    with doing("waiting", 3) as advance:
        advance(2)
        beats, until = speaker._beats, time.monotonic() + 30
        while not (speaker.activities[-1].told) and time.monotonic() < until:
            time.sleep(0.01)
    assert "... waiting: 2 of 3" in capsys.readouterr().err
    assert beats is not None
    beats.join(30)
    assert not beats.is_alive() and not speaker.activities


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_is_forked_meanwhile_has_nothing_to_do():
    """As data workers are: a lock that the thread holds would be held for ever."""
    code = """
import os, sys
from mmssl.saying import doing, say, speaker
with doing("outer"):
    with speaker._lock:
        child = os.fork()
        if child == 0:
            with doing("inner"):
                say("from the child")
            os._exit(len(speaker.activities))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "from the child\n0\n", done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:secret@host:80/a.parquet?x=1", f"https://{GONE}@host:80/a.parquet?x=1"),
        ("https://ghp_me@host/a", f"https://{GONE}@host/a"),
        ("see https://host/a?for=test&signature=0a.b now", f"see https://host/a?{GONE} now"),
        ("zip://a.csv::https://me:secret@host/a.zip", f"zip://a.csv::https://{GONE}@host/a.zip"),
        ("hf_" + "a" * 34, GONE),
        ("s3://bucket/key=3/*.parquet", "s3://bucket/key=3/*.parquet"),
        ("https://docs.example/page?q=1#part", "https://docs.example/page?q=1#part"),
        ("step 3/6  loss 2.8  left 0:44", "step 3/6  loss 2.8  left 0:44"),
    ],
)
def test_passwords_and_tokens_are_not_said(text, shown, capsys, caplog):
    assert hidden(text) == hidden(shown) == shown
    assert veiled({"data": {"path": text, "limit": 3}}) == {"data": {"path": shown, "limit": 3}}
    assert is_veiled(shown) == (text != shown and "://" in text)
    heard: list[str] = []
    speaker.listeners.append(heard.append)
    try:
        say(text)
    finally:
        speaker.listeners.remove(heard.append)
    with secrets_hidden():
        logging.getLogger("mmssl").warning("found %s", text)
    assert capsys.readouterr().out == f"{shown}\n" and heard == [shown]
    assert caplog.records[0].getMessage() == f"found {shown}"
    assert caplog.records[0].args == ((text,) if text == shown else ())
