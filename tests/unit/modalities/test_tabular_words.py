"""Cells and labels that look alike are alike: signs of numbers, blanks, and the two spellings of an accent."""

from __future__ import annotations

import datasets
import pytest
from toys.tables import fitted

from mmssl.data.labels import make_target
from mmssl.errors import BadSample
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


MEASURED = [f"{number},{number % 7}" for number in range(1, 25)]
"""As a German spreadsheet writes them."""


def test_bounds_among_numbers_are_the_number_that_they_name(caplog: pytest.LogCaptureFixture) -> None:
    """Cells below what a laboratory can measure made words of a whole column."""
    table = fitted([{"crp": text} for text in [*MEASURED, "<0,8", "> 300", "n/a"]])
    (column,) = table.columns
    assert column.kind == "numeric" and "'<0,8' is read as 0.8" in caplog.text
    assert [float(table.read({"crp": text})[0]) for text in ("<0,8", "> 300", "≤ 0,5", "3,5")] == [0.8, 300, 0.5, 3.5]
    assert table.read({"crp": "n/a"}) is None
    again = fitted([{"crp": text} for text in MEASURED])
    with pytest.raises(BadSample, match="found '<0,8'"):  # a column without them has not said how it takes them
        again.read({"crp": "<0,8"})


@pytest.mark.parametrize("texts", [["<18", "18-65", ">65"], ["<18", ">18"], ["1", "2", "3", ">3"], ["<b>1", "2"]])
def test_names_of_ranges_are_words(texts: list[str]) -> None:
    assert fitted([{"age": text} for text in texts]).columns[0].kind == "categorical"


def test_a_few_words_among_numbers_or_dates_are_empty_cells(caplog: pytest.LogCaptureFixture) -> None:
    odd = ["k.A.", "haemolytic"]
    days = [f"{1 + n % 28:02}.{1 + n % 12:02}.20{n:02}" for n in range(24)]
    table = fitted([{"hb": h, "seen": d} for h, d in zip([*MEASURED, *odd], [*days, "unknown", days[0]], strict=True)])
    assert [column.kind for column in table.columns] == ["numeric", "date"]
    assert table.columns[0].absent == sorted(odd) and table.columns[0].missing == pytest.approx(2 / 26)
    assert "'haemolytic', 'k.A.' (7.7 % of the cells)" in caplog.text and "'unknown'" in caplog.text
    assert table.read({"hb": "k.A.", "seen": "unknown"}) is None
    with pytest.raises(BadSample, match="found 'lost'"):
        table.read({"hb": "lost", "seen": days[0]})
    same = type(table)(table.config)
    same.state = table.state
    assert same.read({"hb": "haemolytic", "seen": "unknown"}) is None, "what was found travels with the model"


def test_many_words_among_numbers_are_no_empty_cells() -> None:
    mixed = [*MEASURED, *(f"site{letter}" for letter in "ABCDEFGH")]
    assert fitted([{"x": text} for text in mixed]).columns[0].kind == "categorical"
    codes = [f"{number:03}" for number in range(40)]
    assert fitted([{"x": text} for text in [*codes, "none here"]]).columns[0].kind == "categorical"


def test_codes_with_leading_zeros_need_no_advice(caplog: pytest.LogCaptureFixture) -> None:
    assert fitted([{"zip": text} for text in ("01067", "10115", "80331")]).columns[0].kind == "categorical"
    assert not caplog.text
