"""Columns that nobody named: each modality takes what looks like its own, and what is left out is said."""

from __future__ import annotations

import re
from typing import Any

import datasets
import pytest

from mmssl.data.choosing import choose_columns, no_inputs, possible_label
from mmssl.errors import UserError
from mmssl.modality import load_modality

N = 60
WORDS = "the quick brown fox jumps over a lazy dog and some more".split()


def readers(*names: str) -> dict[str, Any]:
    out = {}
    for name in names:
        package = load_modality(name)
        out[name] = package.Preprocessor(package.Config())
    return out


def mixed(**more: Any) -> datasets.Dataset:
    columns = {
        "row_id": list(range(N)),
        "key": [f"{i * 7919 % 9973:05x}" for i in range(N)],
        "account": [10_000_000 + i * 7919 % 100_003 for i in range(N)],
        "number": list(range(5, N + 5)),
        "age": [20 + i % 40 for i in range(N)],
        "city": [["Rome", "Bern", "NA"][i % 3] for i in range(N)],
        "price": [f"$ {i}.5" for i in range(N)],
        "born": [f"{1 + i % 28}.3.19{10 + i}" for i in range(N)],
        "comment": [" ".join(WORDS[i % 5 :]) + f" {i}" for i in range(N)],
        "picture": [f"img/{i}.png" for i in range(N)],
        "wave": [[float(i)] * 100 for i in range(N)],
        "nothing": [None] * N,
        "target": [i % 2 for i in range(N)],
        "split": ["train"] * N,
    }
    return datasets.Dataset.from_dict(columns | more)


def test_a_table_takes_what_cells_may_hold() -> None:
    chosen, said = choose_columns(readers("tabular"), {}, mixed(), {"age": "group"})
    assert chosen == {"tabular": ["city", "price", "born"]}
    text = "\n".join(said)
    assert "tabular leaves out row_id: identifier, by its name" in text and "number: row numbers" in text
    assert "key, account" in text and "identifier, all different" in text
    assert "comment: running text" in text and "nothing: empty" in text and "wave: no plain values" in text
    assert "target: label" in text and "split: split" in text and "age: group" in text


@pytest.mark.parametrize(
    ("names", "label", "expected"),
    [
        (["a", "outcome", "b"], None, "'outcome' .* \\(by its name\\), evaluation.label=outcome leaves it out"),
        (["a", "is_target", "y"], None, "'y'"),
        (["a", "b", "kind"], None, "'kind' .* \\(the last one\\)"),
        (["a", "outcome", "b"], "b", None),
        (["a", "outcome", "class"], None, None),
        (["a"], None, None),
    ],
)
def test_a_column_that_may_be_the_label(names: list[str], label: str | None, expected: str | None) -> None:
    source = datasets.Dataset.from_dict({name: [1, 2, 3] for name in names})
    chosen: dict[str, Any] = {"tabular": [name for name in names if name not in ("class", label)], "text": "a"}
    said = possible_label(chosen, source, label)
    assert said is None if expected is None else said is not None and re.search(expected, said)
    assert possible_label({"tabular": "a"}, source, label) is None


def test_every_modality_takes_its_own() -> None:
    chosen, said = choose_columns(readers("tabular", "text", "image", "ecg"), {}, mixed(), {})
    assert (chosen["text"], chosen["image"], chosen["ecg"]) == ("comment", "picture", "wave")
    assert chosen["tabular"] == ["age", "city", "price", "born"]
    assert "text is read from the column 'comment' (data.columns.text says another)" in said


def test_what_is_named_or_called_so_comes_first() -> None:
    named, said = choose_columns(readers("tabular", "text"), {"tabular": ["age"]}, mixed(text=["a b"] * N), {})
    assert named == {} and said == []
    fitted = readers("text")
    fitted["text"].read_from = "city"
    assert choose_columns(fitted, {}, mixed(), {})[0] == {"text": "city"}
    fitted["text"].read_from = "town"
    assert choose_columns(fitted, {}, mixed(), {})[0] == {"text": "comment"}, "other data: by looking"


def test_several_that_would_do_are_named() -> None:
    two = mixed(other=[f"x{i}.jpg" for i in range(N)])
    with pytest.raises(UserError, match="data.columns.image: several .* an image: picture, other; say which"):
        choose_columns(readers("image"), {}, two, {})
    assert choose_columns(readers("audio"), {}, mixed(), {})[0] == {}


def test_names_of_the_labels_classes_are_labels_too() -> None:
    source = mixed(topic=[0] * N, topic_name=["a"] * N, label_name=["b"] * N)
    assert no_inputs("topic", "city", source) == {
        "topic": "label",
        "topic_name": "label",
        "label_name": "label",
        "city": "group",
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_streams_are_looked_at_too(streaming: bool) -> None:
    source = mixed().to_iterable_dataset() if streaming else mixed()
    assert choose_columns(readers("text"), {}, source, {})[0] == {"text": "comment"}
