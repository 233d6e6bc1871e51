"""`mmssl list objectives`: which objective suits which data."""

from __future__ import annotations

import re

import pytest

from mmssl.cli import main
from mmssl.objectives.options import objective_config, objective_names
from mmssl.recipe import listing


@pytest.mark.parametrize("name", objective_names())
def test_every_objective_says_its_papers_when_to_use_it_and_what_it_suits(name: str) -> None:
    objective = objective_config(name)
    for text in (objective.papers, objective.when, objective.suits):
        assert 10 < len(text) and not re.search(r"[\n|]", text), f"{name}: {text!r}"
    assert re.search(r"(19|20)\d\d", objective.papers), f"{name}: papers carry their year"


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "objectives"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in objective_names():
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{name} ")]
        objective = objective_config(name)
        below = [line.strip() for line in lines[at + 1 : at + 3]]
        assert below == [f"when: {objective.when}", f"data: {objective.suits}"]
    assert len(lines) == 3 * len(objective_names()), "who picks by the data that he has reads no lists of papers"


def test_a_long_name_does_not_touch_what_is_said_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "formats"]) == 0
    assert {name for name, _ in listing.formats()} == {row.split()[0] for row in capsys.readouterr().out.splitlines()}
