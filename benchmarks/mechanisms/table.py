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


FOUND = "R@10"
"""Of ten that are retrieved one belongs to what was asked for."""


def table(rows: Sequence[Row]) -> str:
    """A line a row that has results, and what was found of pairs by those that were asked for them."""
    held = {row.name: (row, found) for row in rows if (found := stored(row))}
    pairs = [said for name, (_, found) in held.items() for said in between(name, found)]
    return "\n".join([*HEAD, *(line(*one) for one in held.values()), *([""] if pairs else []), *pairs])


def between(name: str, found: dict[int, dict[str, Any]]) -> list[str]:
    """A line for each way between two columns: how often the partner is among the ten that are nearest."""
    seeds = [found[seed] for seed in sorted(found)]
    keys = [key for key in seeds[0] if key.startswith("retrieval") and key.endswith(FOUND)]
    return [
        f"`{name}`, {key.removeprefix('retrieval ').rpartition('/')[0]}, the partner among the nearest ten: "
        f"{' '.join(pair(seed.get(key, {})) for seed in seeds)}; raw features {short(seeds[0][key].get('raw'))}."
        for key in keys
    ]


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
