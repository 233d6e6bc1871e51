"""What every command shows at a terminal, in a pipe, with `--quiet` and with `--log json`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from toys import forking
from toys.terminals import shown

SMALL = [f"model.towers.image.{key}" for key in ("width=16", "depth=1", "heads=2")]
RUN = ["data.path=builtin:digits", "data.limit=96", *SMALL, "objectives.mae.decoder.width=16", "train.batch_size=16"]
RUN += ["objectives.mae.decoder.depth=1", "objectives.mae.decoder.heads=2", "train.log_every=1", "train.trackers=[]"]
RUN += ["train.health_every=null"]
DIGITS = ["--data", "builtin:digits"]
COMMANDS: dict[str, tuple[list[str], int]] = {
    "list": (["list", "recipes"], 0),
    "check": (["check", "builtin:digits", "sample=200", "--output", "OUT"], 0),
    "init": (["init", "builtin:digits", "--output", "OUT/r.yaml", "--force"], 0),
    "plan": (["plan", "image_mae", *RUN], 0),
    "pretrain": (["pretrain", "image_mae", *RUN, "train.steps=2", "evaluation.tasks=[knn]", "--output", "OUT"], 0),
    "evaluate": (["evaluate", "RUN", *DIGITS, "--task", "knn", "--label", "label", "limit=40", "train_limit=60"], 0),
    "embed": (["embed", "RUN", *DIGITS, "limit=60", "--output", "OUT/e.parquet"], 0),
    "report": (["report", "RUN", "--output", "OUT/r.html"], 0),
    "export": (["export", "RUN", "--to", "vit", "--output", "OUT"], 0),
    "finetune": (["finetune", "RUN", *DIGITS, "--label", "label", "few=0", "train.steps=2", "--output", "OUT"], 0),
    "cluster": (["cluster", "RUN", *DIGITS, "limit=96", "clusters=[4]", "--output", "OUT/c.parquet"], 0),
    "select": (["select", "builtin:digits", "--keep", "0.5", "--by", "random", "--output", "OUT/s.parquet"], 0),
    "push": (["push", "RUN", "me/digits", "--dry-run"], 0),
    "wrong": (["embed", "RUN", "--data", "/nowhere", "--output", "OUT/e.parquet"], 2),
}
"""Name -> (words, exit code). RUN: of a pretrained model; OUT: a place of its own."""
FAST = ("list",)
TABLES = ("evaluate", "finetune", "pretrain")
"""What is drawn by rich at a terminal, and is plain elsewhere."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminals") / "run"
    words = ["-m", "mmssl", "pretrain", "image_mae", *RUN, "train.steps=2", "evaluation.tasks=[]"]
    forking.run([*words, "--output", str(folder)], level="mmssl", check=True)
    return folder


def alike(text: str) -> str:
    """Without what differs from one run to another: numbers, places, ends of lines."""
    return re.sub(r"[-\d.,:e]*\d[\d.,:]*", "#", re.sub(r"/\S*?/(?=[abcdef]\b)\w", "OUT", text.replace("\r\n", "\n")))


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in COMMANDS])
def test_what_a_command_shows(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    words, code = COMMANDS[name]
    trained = str(request.getfixturevalue("run")) if "RUN" in words else ""
    asked = []
    for place, terminal, flags in (
        ("a", False, []),
        ("b", False, ["--quiet"]),
        ("c", False, ["--log", "json"]),
        ("d", True, []),
        ("e", True, ["--quiet"]),
        ("f", True, ["--log", "json"]),
    ):
        own = [word.replace("RUN", trained).replace("OUT", f"{tmp_path}/{place}") for word in words]
        asked.append(([*own, *flags], terminal))
    pipe, quiet, lines, seen, seen_quiet, seen_lines = found = shown(asked)
    assert [one.code for one in found] == [code] * 6
    assert not any("Traceback" in one.out + one.err for one in found)
    # with --quiet nothing but results, and errors; in a pipe no colours and nothing that is drawn
    assert bool(quiet.err) == bool(code) and not any("\x1b" in one.out + one.err for one in (pipe, quiet, lines))
    # with --log json the same results, and an object a line
    assert alike(lines.out) == alike(quiet.out)
    events = [json.loads(line) for line in lines.err.splitlines()]
    assert all({"event", "time"} <= set(event) for event in events)
    progress = [event for event in events if event["event"] == "progress"]
    assert all({"what", "done", "total", "seconds", "left"} <= set(event) for event in progress)
    assert progress or name in ("list", "push", "wrong")
    assert [event["code"] for event in events if event["event"] == "error"] == ([code] if code else [])
    # at a terminal what was being done is gone at the end, and its cursor is back
    whats = {event["what"] for event in progress}
    assert seen.out.count("\x1b[?25l") == seen.out.count("\x1b[?25h")
    assert not [line for line in seen.left if re.match(r"(.+?)   +(\d|$)", line) and line.split("   ")[0] in whats]
    if name not in TABLES:
        assert alike(seen_quiet.out) == alike(quiet.out + quiet.err)
        plain = [line for line in quiet.out.splitlines() if line.strip()]
        shown_lines = alike("\n".join(seen.left))
        assert all(alike(line) in shown_lines for line in plain)
    for line in seen_lines.out.splitlines():
        if line.startswith('{"event"'):
            json.loads(line)
