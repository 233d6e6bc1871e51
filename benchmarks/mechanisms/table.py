"""The table of docs/benchmarks/mechanisms.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import pages
from .rows import Row, stored

PAGE = pages.REPO / "docs" / "benchmarks" / "mechanisms.md"
MARKS = ("<!-- mechanisms: python -m benchmarks.mechanisms -->", "<!-- /mechanisms -->")
COLUMNS = {"linear": "linear accuracy", "knn": "knn accuracy"}
HEAD = ["| | mechanism | data, steps | linear | nearest neighbours | raw: linear, kNN |", "|---|---|---|---|---|---|"]


def table(rows: Sequence[Row]) -> str:
    """A line a row that has results."""
    return "\n".join([*HEAD, *(line(row, found) for row in rows if (found := stored(row)))])


def line(row: Row, found: dict[int, dict[str, Any]]) -> str:
    """Its name, what it shows, and for each seed what was found."""
    recipe = row.recipe()
    data = f"{Path(str(recipe['data']['path'])).name.partition('.')[0]}, {recipe['train']['steps']}"
    seeds = [found[seed] for seed in sorted(found)]
    pairs = [" ".join(pair(seed.get(key, {})) for seed in seeds) for key in COLUMNS.values()]
    raw = ", ".join(short(seeds[0].get(key, {}).get("raw")) for key in COLUMNS.values())
    return "| " + " | ".join([f"`{row.name}`", row.says, data, *pairs, raw]) + " |"


def pair(scores: dict[str, float]) -> str:
    """Pretrained / untrained."""
    return f"{short(scores.get('pretrained'))}/{short(scores.get('untrained'))}" if scores else "-"


def short(value: float | None) -> str:
    """Three digits."""
    return "-" if value is None else f"{value:.3f}".removeprefix("0")
