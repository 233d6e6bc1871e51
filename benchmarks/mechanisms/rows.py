"""The rows: which recipe, what it shows, and what is stored of it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.errors import UserError, nearest
from mmssl.options import plainyaml

from ..matrix.cells import RUN_PARTS, local
from ..matrix.cells import digest as digest_of

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Row:
    """name: of its recipe; says: the table's first cell, Markdown; prepare: what is made of the data first (see
    `preparing`), or None; first: the row whose trained run this one goes on from, named RUN in its recipe, or None."""

    name: str
    says: str
    prepare: str | None = None
    first: str | None = None

    def recipe(self) -> dict[str, Any]:
        """As it is written, with the data where they lie here."""
        return local(plainyaml.read(HERE / f"{self.name}.yaml"))

    def digest(self) -> str:
        """Of all that a result depends on but the seed and the code: what has another one is out of date."""
        recipe = plainyaml.read(HERE / f"{self.name}.yaml")
        parts = {key: recipe.get(key) for key in (*RUN_PARTS, "evaluation")}
        before = [Row(self.first, "").digest()] if self.first else []
        return digest_of([parts, self.prepare, *before])

    @property
    def file(self) -> Path:
        """Where its results are."""
        return RESULTS / f"{self.name}.json"


def read_rows(names: Sequence[str] = ()) -> list[Row]:
    """Those that are named, in that order; all, in the table's order, where none is. UserError for one there is not."""
    rows = {name: Row(name, **entry) for name, entry in plainyaml.read(HERE / "rows.yaml").items()}
    for name in names:
        if name not in rows:
            raise UserError(f"found '{name}', expected a row of benchmarks/mechanisms{nearest(name, list(rows))}")
    return [rows[name] for name in names or rows]


def stored(row: Row) -> dict[int, dict[str, Any]]:
    """Seed -> result; none where it is of another recipe."""
    if not row.file.is_file():
        return {}
    held = json.loads(row.file.read_text())
    return {int(seed): found for seed, found in held["seeds"].items()} if held["recipe"] == row.digest() else {}


def due(row: Row, seed: int) -> bool:
    """Whether a result is to be made."""
    return seed not in stored(row)


def store(row: Row, seed: int, found: dict[str, Any]) -> None:
    """Add a result to those of the same recipe: whole or not at all."""
    seeds = {**stored(row), seed: found}
    text = json.dumps({"recipe": row.digest(), "seeds": {str(s): seeds[s] for s in sorted(seeds)}}, indent=1)
    RESULTS.mkdir(exist_ok=True)
    partial = row.file.with_suffix(".partial")
    partial.write_text(text + "\n")
    os.replace(partial, row.file)
