"""What some rows need that is not in the shared data: labels of a few rows alone, leads as devices of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

SHARE = 5
"""One row of so many of each class keeps its label."""
LEADS = {"ii": 1, "v1": 6, "v3": 8, "v6": 11}
"""Column -> the lead of a twelve-lead ECG that it holds."""


def prepared(how: str, source: Path, folder: Path) -> Path:
    """A folder of the same data with further columns; made where it is not there."""
    out = folder / f"{source.name}-{how}"
    if not out.is_dir():
        out.mkdir()
        for split, rows in MAKES[how](source).items():
            rows.to_parquet(out / f"{split}.parquet")
    return out


def few(source: Path) -> dict[str, Any]:
    """`few`: the label of every fifth training row of each class, as text; None for all other rows."""
    read = datasets.load_dataset(str(source))
    splits = {split: read[split] for split in ("train", "test")}
    labels, draw = splits["train"]["label"], random.Random(0)
    known: set[int] = set()
    for value in sorted(set(labels)):
        rows = [n for n, label in enumerate(labels) if label == value]
        known |= set(draw.sample(rows, len(rows) // SHARE))
    kept = {"train": [f"class {v}" if n in known else None for n, v in enumerate(labels)]}
    kept["test"] = [None] * len(splits["test"])
    text = datasets.Value("string")
    return {split: rows.add_column("few", kept[split], feature=text) for split, rows in splits.items()}


def leads(source: Path) -> dict[str, Any]:
    """One column a lead; validation rows are test rows too, as these alone are 66."""

    def apart(row: dict[str, Any]) -> dict[str, Any]:
        return {name: [row["signal"][number]] for name, number in LEADS.items()}

    def read(*splits: str) -> Any:
        rows = datasets.Dataset.from_parquet([str(source / f"{split}.parquet") for split in splits])
        return rows.map(apart, keep_in_memory=True).select_columns([*LEADS, "norm", "patient_id"])

    return {"train": read("train"), "test": read("validation", "test")}


MAKES: dict[str, Callable[[Path], dict[str, Any]]] = {"few": few, "leads": leads}
