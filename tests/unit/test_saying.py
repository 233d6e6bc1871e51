"""What is said of something that takes long: when, where, and never a password."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from toys.refusals import refused

from mmssl.cli import main, parsers
from mmssl.models.privacy import GONE, hidden, is_veiled, veiled
from mmssl.saying import (
    Activity,
    Speaker,
    doing,
    loading,
    say,
    secrets_hidden,
    set_log,
    speaker,
    speaking,
    told,
    told_as,
)
from mmssl.saying.activity import clock
from mmssl.saying.speaking import AGAIN, EACH, FIRST


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
        "... embedding the test rows: 3,200 of 50,000 (3 s, 44 s left)",
        "... embedding the test rows: 3,200 of 50,000 (33 s, 8:03 left)",
    ]
    alone.look(1000)
    assert capsys.readouterr().err == ""  # nothing is being done


def test_what_is_said_breaks_the_silence_too_and_the_innermost_is_told_of(alone, capsys, monkeypatch):
    with alone.doing(Activity("outer", began=0.0)):
        monkeypatch.setattr(speaking.time, "monotonic", lambda: 4.0)
        alone.say("a line")
        alone.look(4 + FIRST - 0.1)
        with alone.doing(Activity("inner", began=6.0)):
            alone.look(4 + FIRST)
        alone.look(5 + FIRST)
    captured = capsys.readouterr()
    assert captured.out == "a line\n" and captured.err == "... inner (1 s)\n"


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One of 100 columns, for stdout and stderr; not in a fixture, behind which pytest sets both."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setattr(sys, "stdout", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return found


def test_on_a_terminal_it_stands_at_the_foot_and_goes_when_something_is_said(alone, monkeypatch):
    terminal = on_terminal(monkeypatch)
    with alone.doing(Activity("outer", 4, 1, began=0.0)), alone.doing(Activity("inner [x]", began=0.0)) as inner:
        alone.look(0.5)
        assert terminal.getvalue() == "" and sys.stdout is terminal
        inner.note = "loss 0.31"
        alone.look(2.0)
        drawn = [line.split() for line in bare(terminal.getvalue()).splitlines() if line.strip()]
        assert drawn[0][:1] == ["outer"] and drawn[0][2:] == ["1", "of", "4", "2", "s,", "6", "s", "left"]
        assert drawn[1] == ["inner", "[x]", "2", "s", "loss", "0.31"]
        print("somebody else's line")  # above it
        assert sys.stderr is not terminal
        alone.say("a line")
        assert (sys.stdout, sys.stderr) == (terminal, terminal)
        assert terminal.getvalue().endswith("a line\n")


def bare(text: str) -> str:
    """Without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_where_something_ends_its_line_goes_and_none_comes_at_once(alone, monkeypatch):
    """A table that is printed next must not stand behind it."""
    terminal = on_terminal(monkeypatch)
    with alone.doing(Activity("outer", began=0.0)):
        with alone.doing(Activity("inner", began=0.0)):
            alone.look(3.0)
            assert sys.stdout is not terminal
            monkeypatch.setattr(speaking.time, "monotonic", lambda: 3.5)
        before = terminal.getvalue()
        alone.look(4.0)
        assert terminal.getvalue() == before and sys.stdout is terminal
        alone.look(4.5)
        assert "outer" in bare(terminal.getvalue()[len(before) :])


def test_a_terminal_that_cannot_draw_again_gets_lines(alone, monkeypatch):
    terminal = on_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    with alone.doing(Activity("inner", began=0.0)):
        alone.look(FIRST)
    assert terminal.getvalue() == "... inner (3 s)\n"


def test_numbers_stand_beside_what_is_done_or_in_a_line(alone, capsys, monkeypatch):
    terminal = on_terminal(monkeypatch)
    heard: list[str] = []
    alone.listeners.append(heard.append)
    alone.measured("step 3", {"step": 3})
    assert terminal.getvalue() == ""
    monkeypatch.undo()
    alone.measured("step 4", {"step": 4})
    alone.json = True
    alone.measured("step 5", {"step": 5})
    assert heard == ["step 3", "step 4", "step 5"]
    captured = capsys.readouterr()
    assert captured.out == "step 4\n" and json.loads(captured.err)["step"] == 5


def test_of_imports_it_is_said_before_they_begin(alone, capsys, monkeypatch):
    monkeypatch.setattr(speaking, "speaker", alone)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with loading():
        assert capsys.readouterr().err == "... loading torch and transformers\n"
    for how in ("quiet", "json"):
        setattr(alone, how, True)
        with loading():
            said = capsys.readouterr().err
        setattr(alone, how, False)
        assert said == "" if how == "quiet" else json.loads(said)["what"] == "loading torch and transformers"
    terminal = on_terminal(monkeypatch)
    with loading():
        assert "loading torch and transformers" in bare(terminal.getvalue())
    monkeypatch.undo()
    with loading():
        pass
    assert capsys.readouterr().err == ""  # they are there


def test_how_long_it_will_take_counts_from_where_it_began():
    one = Activity("steps", 100, 40, began=0.0, first=20)
    assert one.left(10.0) == 30.0 and Activity("steps", 100, 40, first=40).left(1.0) is None
    assert one.plain(10.04) == {"what": "steps", "done": 40, "total": 100, "seconds": 10.0, "left": 30.1}
    assert [clock(s) for s in (0.4, 59.4, 200, 3800)] == ["0 s", "59 s", "3:20", "1:03:20"]


def test_parts_are_told_of_while_they_are_gone_through():
    parts = told([1, 2, 3], "reading", 25, size=10)
    seen = [(part, speaker.activities[-1].done) for part in parts]
    assert seen == [(1, None), (2, 10), (3, 20)] and not speaker.activities


# -------------------------------------------------------------------------------------------------- quiet, JSON lines


def test_quiet_leaves_errors_and_results(alone, capsys):
    alone.quiet = True
    heard: list[str] = []
    alone.listeners.append(heard.append)
    with alone.doing(Activity("inner", began=0.0)):
        alone.look(100.0)
        alone.say("a message")
        alone.warn("a warning")
        alone.print("a result")
        alone.complain(["broken"], 2)
    captured = capsys.readouterr()
    assert captured.out == "a result\n" and captured.err == "error: broken\n"
    assert heard == ["a message"]  # the run's log has it all the same


def test_json_lines_hold_messages_and_progress_an_object_each(alone, capsys):
    alone.json = True
    with alone.doing(Activity("inner", 10, 4, began=0.0)):
        for now in (1.0, FIRST, FIRST + EACH - 0.1, FIRST + EACH):
            alone.look(now)
        alone.say("two\nlines")
        alone.warn("a warning")
        alone.print("a result")
        alone.complain(["broken", "and more"], 2)
    captured = capsys.readouterr()
    assert captured.out == "a result\n"
    found = [json.loads(line) for line in captured.err.splitlines()]
    assert all(isinstance(one.pop("time"), float) for one in found)
    facts = {"what": "inner", "done": 4, "total": 10}
    assert found == [
        {"event": "progress", **facts, "seconds": 3.0, "left": 4.5},
        {"event": "progress", **facts, "seconds": 8.0, "left": 12.0},
        {"event": "message", "text": "two\nlines"},
        {"event": "warning", "text": "a warning"},
        {"event": "error", "text": "broken", "code": 2},
        {"event": "error", "text": "and more", "code": 2},
    ]


def test_what_others_write_to_stderr_is_json_too_and_all_is_as_before_behind_it(capsys):
    stderr, handlers = sys.stderr, list(logging.getLogger("mmssl").handlers)
    with told_as(quiet=False, json=True):
        sys.stderr.write("half")
        sys.stderr.write(" a line\n 10%|#\r 20%|##")
        logging.getLogger("mmssl").warning("ours")
        assert os.environ["TQDM_DISABLE"] == "1" and speaker.json
    assert sys.stderr is stderr and "TQDM_DISABLE" not in os.environ and not speaker.json
    assert logging.getLogger("mmssl").handlers == handlers
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    events = [(one["event"], one["text"]) for one in found]
    assert events[0] == ("other", "half a line") and ("warning", "ours") in events
    assert ("other", " 10%|#") in events and ("other", " 20%|##") in events


def test_python_can_ask_for_it(capsys):
    try:
        set_log("quiet")
        say("a message")
        logging.getLogger("mmssl").warning("a warning")
        assert capsys.readouterr() == ("", "")
        set_log("json")
        logging.getLogger("mmssl").warning("a warning")
        assert json.loads(capsys.readouterr().err)["event"] == "warning"
    finally:
        set_log("text")
    say("a message")
    assert capsys.readouterr().out == "a message\n"
    with refused("set_log", "loud"):
        set_log("loud")


COMMANDS = [["list", "masks"], ["pretrain", "nope"], ["evaluate"], ["tune", "nope"], ["check", "nope.parquet"]]


@pytest.mark.parametrize("words", COMMANDS, ids=[words[0] for words in COMMANDS])
@pytest.mark.parametrize("front", [True, False])
def test_every_command_knows_both_in_front_and_behind(words, front, capsys):
    log = ["--quiet", "--log", "json"]
    code = main([*log, *words] if front else [*words, *log])
    captured = capsys.readouterr()
    if words[0] == "list":
        assert code == 0 and "block" in captured.out and captured.err == ""
    else:
        assert code == 2 and [json.loads(line)["event"] for line in captured.err.splitlines()] == ["error"]


def test_they_are_offered_by_all_commands_and_wrong_words_are_refused(capsys):
    _, commands = parsers()
    assert all({"--quiet", "--log"} <= set(sub._option_string_actions) for sub in commands.values())
    assert main(["list", "masks", "--log", "jsn"]) == 2
    assert "did you mean 'json'" in capsys.readouterr().err
    assert main(["--quiet"]) == 2 and main(["--log", "json", "pretrian"]) == 2


def test_other_processes_say_nothing(alone, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with alone.doing(Activity("inner", began=0.0)):
        alone.look(100)
    assert capsys.readouterr().err == ""


def test_the_clock_is_looked_at_while_something_is_done_and_no_longer(monkeypatch, capsys):
    monkeypatch.setattr(speaking, "FIRST", 0.0)
    monkeypatch.setattr(speaking, "AGAIN", 0.0)  # a look may come before the next line
    monkeypatch.setattr(speaking, "BEAT", 0.01)
    said = ""
    with doing("waiting", 3) as advance:
        advance(2)
        beats, until = speaker._beats, time.monotonic() + 30
        while "... waiting: 2 of 3" not in said and time.monotonic() < until:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert "... waiting: 2 of 3" in said
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
