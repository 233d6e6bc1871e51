"""Cells and labels that look alike are alike: signs of numbers, blanks, and the two spellings of an accent."""

from __future__ import annotations

import datasets
import pytest
from toys.tables import fitted

from mmssl.data.labels import make_target
from mmssl.evaluation.rows import read_labels

COMPOSED, APART = "caf\u00e9", "cafe\u0301"
MINUS = "\u2212"


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["3", "4", "(5)"], [3, 4, -5]),
        (["(1)", "(2)", "(30)"], [-1, -2, -30]),
        ([f"{MINUS}1.5", "2", "3"], [-1.5, 2, 3]),
        (["- 5", "3", "7"], [-5, 3, 7]),
        (["1\u00a0", "2", "\u00a03"], [1, 2, 3]),
    ],
)
def test_signs_as_people_write_them(texts: list[str], values: list[float]) -> None:
    """The notation of the column took them for numbers, and its cells were broken all the same."""
    table = fitted([{"x": text} for text in texts])
    assert table.columns[0].kind == "numeric"
    assert [float(table.read({"x": text})[0]) for text in texts] == values


def test_two_spellings_of_an_accent_are_one_category() -> None:
    table = fitted([{"x": text} for text in (COMPOSED, APART, " tea ", "tea")])
    assert table.columns[0].categories == [COMPOSED, "tea"]
    assert table.read({"x": APART})[0] == table.read({"x": COMPOSED})[0]


def test_labels_that_nobody_tells_apart_are_one_class() -> None:
    data = datasets.Dataset.from_dict({"label": [COMPOSED, APART, "tea ", "tea", None]})
    target = make_target(data, ["label"], "auto")
    assert target.classes == [COMPOSED, "tea"]
    assert [target.encode(value) for value in data["label"]] == [0, 0, 1, 1, None]
    labels, _ = read_labels(data, None, "label")
    assert labels is not None and labels.values == [COMPOSED, "tea"] and labels.test.tolist() == [0, 0, 1, 1, -1]
