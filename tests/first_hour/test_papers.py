"""What docs/papers.yaml says of a paper runs: its recipe takes two steps on small data of its kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from toys.own_data import of_kinds

import mmssl
from mmssl.recipe.config import Recipe
from mmssl.recipe.loading import load_recipe, merge_overrides

REPO = Path(__file__).resolve().parents[2]
ENTRIES: dict[int, dict[str, Any]] = yaml.safe_load((REPO / "docs" / "papers.yaml").read_text(encoding="utf-8"))
FEW = {
    "train": {"steps": 2, "epochs": None, "batch_size": 6, "health_every": None, "log_every": 1},
    "evaluation": {"tasks": []},
}


SMALL: dict[int, dict[str, Any]] = {
    22: {"objectives": {"mae": {"codes": {"audio": {"size": 16, "topics": 3}}}}},
    38: {"model": {"towers": {"audio": {"trunk_options": {"blocks": 6}}}}},
    41: {"objectives": {"tokenizer": {"size": 16}}},
    10: {"data": {"sampler": None, "renewed": {"first": 0, "every": 1, "clusters": 2}}},
    48: {"data": {"sampler": None, "renewed": None}},
    69: {"data": {"renewed": {"clusters": 2}}},
    47: {"data": {"sampler": None}},
    79: {"data": {"sampler": None}},
    52: {"train": {"warmup": 0, "anneal": 1}},
}
"""What needs more samples, groups or steps than are here, or a column of scores."""


def labels_of(recipe: Recipe) -> dict[str, Callable[[int], object]]:
    """The columns that its objectives learn from."""
    values: dict[str, Callable[[int], object]] = {}
    for part in recipe.objectives.values():
        for column in part.config.label_columns:
            several = getattr(part.config, "task", None) == "multilabel"
            number = column.kind in ("number", "regression")
            for name in column.columns:
                if several:
                    values[name] = lambda n: ["abc"[n % 3], "xy"[n % 2]]
                else:
                    values[name] = (lambda n: n % 3 / 2) if number else (lambda n: n % 3)
    if recipe.data.renewed is not None:  # makes these itself
        values = {name: value for name, value in values.items() if not name.startswith("cluster")}
    return values


def codes_of(recipe: Recipe) -> dict[str, str]:
    """Modality -> the run that its codes come from, of what the recipe predicts."""
    codes = [getattr(part.config, "codes", None) or {} for part in recipe.objectives.values()]
    return {name: asked.from_ for of in codes for name, asked in of.items() if asked.from_ is not None}


def inputs_of(recipe: Recipe) -> dict[str, str]:
    """Column -> kind, of its modalities and of the columns that its views read."""
    read = {name: name for name in recipe.modalities}
    for view in recipe.views.values():
        read |= {spec["column"]: name for name, spec in view.items() if "column" in spec}
    return {str(recipe.data.columns.get(name, name)): recipe.modalities[kind].type for name, kind in read.items()}


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n, e in ENTRIES.items() if "base" in e])
def test_it_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENTRIES[number]
    asked = merge_overrides(entry.get("set", {}), SMALL.get(number, {}), [])
    recipe = load_recipe(entry["base"], asked)
    monkeypatch.chdir(tmp_path)
    path = of_kinds(tmp_path, inputs_of(recipe), labels_of(recipe))
    small = merge_overrides({"data": {"path": path, "split": "train"}}, FEW, [])
    for name, run in codes_of(recipe).items():
        tokenizer = {"type": "tokenizer", "tower": name, "target": "values", "kind": "residual", "size": 16, "books": 2}
        objectives = dict.fromkeys(load_recipe(entry["base"]).objectives) | {"tokenizer": tokenizer}
        of = {"modalities": asked["modalities"], "objectives": objectives, "masks": {"most": None}}
        mmssl.pretrain(entry["base"], output=run, **merge_overrides(of, small, []))
    mmssl.pretrain(entry["base"], output=tmp_path / "run", **merge_overrides(asked, small, []))
    assert (tmp_path / "run" / "model" / "config.json").is_file()
