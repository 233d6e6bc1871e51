"""What some rows need that is not in the shared data: labels of a few rows alone, leads as devices of their own, how
far each node of a graph lies from those with a label."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path

SHARE = 5
"""One row of so many of each class keeps its label."""
LEADS = {"ii": 1, "v1": 6, "v3": 8, "v6": 11}
"""Column -> the lead of a twelve-lead ECG that it holds."""


def prepared(how: str, path: str, folder: Path) -> str:
    """`data.path` of the same data with further columns: a folder, or a file of a graph; made where it is not there."""
    kind, _, rest = path.rpartition(":")
    source = Path(rest)
    if kind == "graph":
        file = folder / f"{source.stem}-{how}.npz"
        if not file.is_file():
            np.savez(file, **MAKES[how](source))
        return f"graph:{file}"
    out = folder / f"{source.name}-{how}"
    if not out.is_dir():
        out.mkdir()
        for split, rows in MAKES[how](source).items():
            rows.to_parquet(out / f"{split}.parquet")
    return str(out)


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


def far(source: Path) -> dict[str, Any]:
    """`far_CLASS_mean` and `_least`: edges from each node to the training nodes of a class, of which one that cannot be
    reached is one edge further than all others (Distance2Labeled of SelfTask-GNN, whose greatest distances are left
    out: where one of the class lies apart they are the same for all)."""
    held = dict(np.load(source))
    start, end = held["edge_index"]
    nodes = len(held["y"])
    labelled = np.flatnonzero(held["train_mask"])
    links = coo_array((np.ones(len(start)), (start, end)), shape=(nodes, nodes)).tocsr()
    hops = shortest_path(links, directed=False, unweighted=True, indices=labelled)
    hops = np.minimum(hops, hops[np.isfinite(hops)].max() + 1)
    found = {}
    for value in np.unique(held["y"]):
        own = hops[held["y"][labelled] == value]
        found |= {f"far_{value}_mean": own.mean(0), f"far_{value}_least": own.min(0)}
    return held | {name: numbers.astype(np.float32) for name, numbers in found.items()}


MAKES: dict[str, Callable[[Path], dict[str, Any]]] = {"few": few, "leads": leads, "far": far}
