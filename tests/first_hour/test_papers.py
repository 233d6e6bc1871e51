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


def labels_of(recipe: Recipe) -> dict[str, Callable[[int], object]]:
    """The columns that its objectives learn from."""
    asked = [column for part in recipe.objectives.values() for column in part.config.label_columns]
    values: dict[str, Callable[[int], object]] = {}
    for column in asked:
        for name in column.columns:
            values[name] = (lambda n: n % 3 / 2) if column.kind in ("number", "regression") else (lambda n: n % 3)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("number", [n for n, e in ENTRIES.items() if "base" in e])
def test_it_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ENTRIES[number]
    asked = entry.get("set", {})
    recipe = load_recipe(entry["base"], asked)
    monkeypatch.chdir(tmp_path)
    more = labels_of(recipe)
    for name, columns in recipe.data.columns.items():
        for column in columns.values() if isinstance(columns, dict) else [columns]:
            if isinstance(column, str) and column not in ("graph", name):
                more.setdefault(column, lambda n: f"a line of words of its own {n}")
    path = of_kinds(tmp_path, list(recipe.modalities), more)
    data = {"data": {"path": path, "split": "train"}}
    mmssl.pretrain(entry["base"], output=tmp_path / "run", **merge_overrides(asked, data | FEW, []))
    assert (tmp_path / "run" / "model" / "config.json").is_file()
