"""docs/papers.yaml says of every paper how it runs: its recipe is valid, its command is one, its tests are there."""

from __future__ import annotations

import ast
import shlex
import sys
from typing import Any

import pytest

from benchmarks.pages import REPO
from mmssl.cli import parsers
from mmssl.recipe.evaluation import TASKS
from mmssl.recipe.loading import load_recipe, recipe_names

sys.path.insert(0, str(REPO / "docs" / "hooks"))
import papers  # noqa: E402

ENTRIES = papers.read()
KEYS = {"paper", "state", "base", "set", "command", "checked", "against", "missing"}
RUNS = {n: e for n, e in ENTRIES.items() if e["state"] != "none"}


def test_every_paper_in_scope_is_there_once_and_says_what_is_asked() -> None:
    assert list(ENTRIES) == list(range(1, 86))
    for number, entry in ENTRIES.items():
        assert set(entry) <= KEYS and entry["state"] in papers.STATES, number
        assert entry["state"] == "exact" or entry.get("missing"), f"{number}: say what is left out"
        if number in RUNS:
            assert ("base" in entry) != ("command" in entry) and entry["checked"] and entry["against"], number
        else:
            assert set(entry) <= {"paper", "state", "missing"}, number


@pytest.mark.parametrize("number", [n for n, e in RUNS.items() if "base" in e])
def test_its_recipe_is_valid(number: int) -> None:
    entry = RUNS[number]
    assert entry["base"] in recipe_names()
    load_recipe(entry["base"], entry.get("set", {}))


@pytest.mark.parametrize("number", [n for n, e in RUNS.items() if "command" in e])
def test_its_command_is_one(number: int) -> None:
    program, verb, *words = shlex.split(RUNS[number]["command"])
    _, commands = parsers()
    assert program == "mmssl" and verb in commands
    given = commands[verb].parse_args([word for word in words if "=" not in word])
    tasks: Any = getattr(given, "task", None) or getattr(given, "tasks", None) or []
    assert set(tasks) <= {*TASKS, "retrieval"}


@pytest.mark.parametrize("test", sorted({test for e in RUNS.values() for test in e["checked"]}))
def test_what_checks_it_is_there(test: str) -> None:
    file, _, function = test.partition("::")
    path = REPO / file
    assert path.is_file()
    if function:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_counts_what_runs() -> None:
    text = papers.page()
    assert f"{sum(e['state'] == 'exact' for e in ENTRIES.values())} exact" in text
    assert text.count("\n| ") == len(ENTRIES) + 1
