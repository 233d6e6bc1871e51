"""The comparison with few labels: commands that make what was measured, and a summary that counts as it says."""

from __future__ import annotations

import copy
import re

import pytest

from benchmarks import compare
from mmssl.options import plainyaml
from mmssl.recipe.loading import merge_overrides, recipe_path


@pytest.mark.parametrize("name", compare.SETS)
def test_the_words_of_a_set_make_the_recipe_of_its_cell(name: str) -> None:
    cell = compare.cell_of(name)
    faults: list[str] = []
    data = plainyaml.read(recipe_path(cell.recipe))
    assert merge_overrides(copy.deepcopy(data), list(compare.words_of(cell.set)), faults) == cell.recipe_data()
    assert not faults


def report(scratch: float, boosting: float, says: str | None) -> dict:
    less = {
        arm: {"100": {"mean": scratch, "low": scratch - 0.1, "high": scratch + 0.1, "says": says}}
        for arm in compare.ARMS
    }
    less["raw_boosting"] = {"100": {"mean": boosting, "low": boosting, "high": boosting, "says": None}}
    less["probe"] = {"100": {"mean": 0.0, "low": 0.0, "high": 0.0, "says": None}}
    return {
        "score": "accuracy",
        "scores": {"accuracy": {a: {"100": {"mean": 0.5}} for a in compare.ARMS}},
        "differences": less,
    }


def test_the_summary_counts_sets_and_tables() -> None:
    found = {"letter": report(0.2, -0.1, "better"), "adult": report(-0.1, 0.3, None), "speech": report(0.1, 0.2, None)}
    said = compare.counted(found)
    assert "than training from scratch on 2 of 3 (1 with an interval above 0) sets" in said
    assert "than its own linear probe on 0 of 3 (0 with an interval above 0) (equal on 3)" in said
    assert "boosting on 1 of 2 (0 with an interval above 0) tables and 2 of 3" in said
    rows = compare.summary(found)
    assert [row[0] for row in rows[1:]] == ["`letter_recognition`", "`adult`", "`fsdd`"]
    assert all(len(row) == len(rows[0]) for row in rows) and re.match(r"\+0\.200 \(\+0\.100 to \+0\.300\)", rows[1][-1])
