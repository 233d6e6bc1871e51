"""Rows held out where the data have no split to test on: the same ones for every command, by label and by group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from mmssl.data.holding import Rule, held_rows
from mmssl.errors import UserError
from mmssl.evaluation.held_out import elsewhere, hold_out, open_sources
from mmssl.evaluation.leaks import telling_columns
from mmssl.recipe.config import DataConfig, EvaluationConfig


def rows(n: int = 100, **columns: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"x": list(range(n)), **columns})


def test_a_fifth_of_every_label_is_held_out() -> None:
    labels = ["a"] * 50 + ["b"] * 40 + ["c"] * 10
    source = rows(label=labels)
    held = held_rows(source, Rule(("label",)))
    assert [sum(labels[row] == c for row in held) for c in "abc"] == [10, 8, 2]
    assert held.tolist() == held_rows(source, Rule(("label",))).tolist()
    assert held_rows(source, Rule()).tolist() != held.tolist() and len(held_rows(source, Rule())) == 20


def test_groups_stay_together_and_amounts_are_held_out_by_fifths() -> None:
    source = rows(g=[i // 5 for i in range(100)], y=[float(i) ** 2 for i in range(100)], z=[None, 1] * 50)
    held = set(held_rows(source, Rule(("y",), "g")).tolist())
    assert held and all(
        {5 * g + i for i in range(5)} <= held or not {5 * g + i for i in range(5)} & held for g in range(20)
    )
    fifths = np.bincount(held_rows(source, Rule(("y",))) // 20, minlength=5)
    assert fifths.tolist() == [4, 4, 4, 4, 4]
    assert (held_rows(source, Rule(("z",))) % 2).sum() == 10, "an unknown label is one of its own"
    with pytest.raises(UserError, match="group: the data has no column 'gg'.*did you mean 'g'"):
        held_rows(source, Rule(group="gg"))


def test_few_rows_are_not_held_out() -> None:
    assert not len(held_rows(rows(9), Rule())) and not len(held_rows(rows(), Rule(share=0)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("x,label\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(100)))
    return path


def test_the_rule_of_the_model_comes_first_where_the_data_are_those(file: Path) -> None:
    data, asked = DataConfig(path=str(file)), EvaluationConfig(label="label")
    own = hold_out(data, asked, set())
    kept = hold_out(data, asked, set(), {"label": [], "group": None, "share": 0.3, "rows": 100})
    other = hold_out(data, asked, set(), {"label": [], "group": None, "share": 0.3, "rows": 99})
    assert own and kept and other
    assert len(own.held) == 20 and len(kept.held) == 30 and other.held.tolist() == own.held.tolist()
    assert not set(own.held) & set(own.rest) and len(own.rest) == 80
    assert hold_out(data, EvaluationConfig(split="train"), set()) is None
    found = open_sources(data, EvaluationConfig(limit=5), 0, None, set())
    assert found.test is not None and found.train is not None and not found.same_rows
    assert set(found.test["x"]) <= set(own.held.tolist()) and not set(found.train["x"]) & set(own.held.tolist())


@pytest.mark.parametrize(
    ("train", "test", "shared", "left"),
    [
        ("train", "train[:20%]", 20, 80),
        ("train[:50%]", "train[40%:60%]", 10, 40),
        ("train[:80%]", "train[80%:]", 0, 80),
        ("train[:20%]", "train", 20, None),
        ("train", "train", 0, None),
    ],
)
def test_rows_are_compared_and_not_words(file: Path, train: str, test: str, shared: int, left: int | None) -> None:
    found = open_sources(DataConfig(path=str(file), split=train), EvaluationConfig(split=test), 0, None, set())
    assert found.test is not None and found.train is not None
    assert found.same_rows is (left is None)
    if left is not None:
        assert len(found.train) == left and not set(found.train["x"]) & set(found.test["x"])
        assert any(f"{shared} rows of" in note for note in found.notes) is bool(shared)


def test_the_same_file_under_another_name_is_no_other_data(file: Path) -> None:
    data = DataConfig(path=str(file))
    assert not elsewhere(data, EvaluationConfig(path=str(file.parent / "." / ".." / file.parent.name / file.name)))
    assert elsewhere(data, EvaluationConfig(path="builtin:digits")) and not elsewhere(data, EvaluationConfig())


def test_columns_that_tell_the_label_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    source = rows(
        400,
        told=[f"c{v}" for v in y],
        amount=(y + rng.normal(size=400) * 0.01).tolist(),
        noise=rng.normal(size=400).tolist(),
        customer_id=list(range(400)),
    )
    inputs = {"tabular": ["told", "amount", "noise", "customer_id"]}
    said = " ".join(telling_columns(source, inputs, y.tolist()))
    assert "column 'told' alone tells the label of 100.0%" in said and "'amount' alone" in said
    assert "'noise'" not in said and "column 'customer_id' is an input, but tells rows apart" in said
    rare = [int(i < 4) for i in range(400)]
    assert telling_columns(source, {"tabular": ["noise"]}, rare) == [], (
        "what is nearly always so is not told by a column"
    )
