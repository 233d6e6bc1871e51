"""Further columns in a recipe: what contradicts itself is refused when it is read, with its place."""

from __future__ import annotations

from typing import Any

import pytest
from toys import runs
from toys.refusals import refused

from mmssl.recipe.loading import load_recipe

VIEWS = {"after": {"image": {"column": "after", "flip": 0.5}}, "plain": {"image": {"column": "after"}}}


def test_a_name_is_known_where_a_view_reads_it() -> None:
    content = runs.recipe(data={"columns": {"image": "before", "after": "later_picture"}})
    content["views"] = VIEWS
    recipe = load_recipe(content)
    assert recipe.data.columns == {"image": "before", "after": "later_picture"}
    again = load_recipe(content, ["data.columns.after=another", "views.plain.image.column=after"])
    assert again.data.columns["after"] == "another"
    mixed = {"more": {"path": "builtin:digits", "columns": {"after": "b"}}}
    assert load_recipe(content, {"data.mix": mixed}).data.mix["more"].columns == {"after": "b"}


@pytest.mark.parametrize(
    ("views", "columns", "facts", "meant"),
    [
        ({}, {"after": "b"}, ("data.columns.after", "image"), None),
        (VIEWS, {"aftr": "b"}, ("data.columns.aftr", "after"), "after"),
        ({"a": {"image": {"column": "image"}}}, {}, ("views.a.image.column", "own"), None),
        ({"a": {"image": {"column": 3}}}, {}, ("views.a.image.column", "data.columns.NAME"), None),
        ({"a": {"image": {"column": "two words"}}}, {}, ("views.a.image.column", "two words"), None),
        ({"a": {"image": {"column": "b", "flop": 0.5}}}, {}, ("views.a.image.flop",), "flip"),
        ({"a": {"image": {"column": "b", "corrupt": {}}}}, {}, ("views.a.image.column", "corrupt.view"), None),
        ({"a": {"image": {"corrupt": {"view": "b"}}}}, {}, ("views.a.image.corrupt.view", "b"), None),
    ],
)
def test_contradictions_are_refused(views: Any, columns: dict[str, str], facts: tuple[str, ...], meant: Any) -> None:
    content = runs.recipe(data={"columns": columns})
    content["views"] = views
    with refused(*facts, meant=meant):
        load_recipe(content)


def test_a_column_is_of_one_modality_and_no_modality() -> None:
    content = runs.image_text()
    content["views"] = {"a": {"image": {"column": "b"}, "text": {"column": "b"}}}
    with refused("views.a.text.column", "b", "image"):
        load_recipe(content)
    content["views"] = {"a": {"image": {"column": "text"}}}
    with refused("views.a.image.column", "text", "modality"):
        load_recipe(content)
    # what a view corrupts may be another column
    content["views"] = {"a": {"image": {"column": "b"}}, "c": {"image": {"corrupt": {"view": "a"}}}}
    assert load_recipe(content).views["c"]["image"] == {"corrupt": {"view": "a"}}
