"""What the matrix holds: one cell a data set and objective, read from `cells.yaml`."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.errors import UserError, nearest
from mmssl.evaluation.linear import STRENGTHS
from mmssl.options import plainyaml
from mmssl.recipe.loading import merge_overrides, recipe_path

HERE = Path(__file__).resolve().parent
OBJECTIVES = ("mae", "contrastive", "jepa")
SEEDS = (0, 1, 2)
SHARED = "../shared/data"
"""How recipes name the folder of the data; `$MMSSL_SHARED_DATA` takes its place where it is set."""
METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC", "r2": "R2"}
KINDS = ("standard", "folds", "few")
RUN_PARTS = ("data", "modalities", "model", "views", "masks", "objectives", "train")
"""The parts of a recipe that a result depends on; its name, description and evaluation it does not."""


@dataclass(frozen=True)
class Cell:
    """One recipe on one data set. family: what its name begins with; set: overrides of the recipe; splits, label,
    protocol, metric: see cells.yaml."""

    data: str
    objective: str
    family: str
    set: dict[str, Any]
    splits: tuple[str, ...]
    label: str
    protocol: dict[str, Any]
    metric: str

    @property
    def name(self) -> str:
        return f"{self.data}/{self.objective}"

    @property
    def recipe(self) -> str:
        return f"examples/{self.family}_{self.objective}"

    @property
    def modality(self) -> str:
        """Of its recipe: recipes for nodes are of graphs, too."""
        return "graph" if self.family == "node" else self.family

    def shipped(self) -> bool:
        """Whether its recipe exists."""
        try:
            recipe_path(self.recipe)
        except UserError:
            return False
        return True

    def recipe_data(self) -> dict[str, Any]:
        """The recipe as plain data with the cell's overrides merged into it, paths as they are written."""
        data = plainyaml.read(recipe_path(self.recipe))
        faults: list[str] = []
        merged = merge_overrides(copy.deepcopy(data), self.set, faults)
        if faults:
            raise UserError(f"cells.yaml: {self.name}: " + "; ".join(faults))
        return merged

    def _trained(self) -> dict[str, Any]:
        """What of the recipe is trained, as it is written: an option added to mmssl changes nothing."""
        recipe = {key: value for key, value in self.recipe_data().items() if key in RUN_PARTS}
        quiet = ("log_every", "save_every", "keep")
        return {**recipe, "train": {key: value for key, value in recipe["train"].items() if key not in quiet}}

    def fingerprint(self) -> str:
        """A hash of all that the result depends on but the seed and the code: what has another one is out of date."""
        judged: dict[str, Any] = {"splits": self.splits, "label": self.label, "protocol": self.protocol}
        judged |= {"metric": self.metric, "probe": STRENGTHS}
        return digest({**self._trained(), "judged": judged})

    def training(self) -> str:
        """A hash of what the trained weights depend on but the seed and the code: how a tower is read out is not in
        it."""
        recipe = copy.deepcopy(self._trained())
        for tower in recipe["model"]["towers"].values():
            tower.pop("readout", None)
        return digest(recipe)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _overrides(entry: Mapping[str, Any], objective: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for part in (entry.get("set") or {}, (entry.get("for") or {}).get(objective) or {}):
        merge_overrides(merged, part, [])
    return merged


def read_cells(path: Path = HERE / "cells.yaml") -> list[Cell]:
    """All cells, data set by data set. UserError for an entry that cannot be."""
    cells = []
    for data, entry in plainyaml.read(path).items():
        kind = entry["protocol"].get("kind")
        if kind not in KINDS or entry["metric"] not in METRICS:
            expected = f"protocol.kind of {', '.join(KINDS)} and a metric of {', '.join(METRICS)}"
            raise UserError(f"{path.name}: {data}: found {kind} and {entry['metric']}, expected {expected}")
        for objective in OBJECTIVES:
            cells.append(
                Cell(
                    data,
                    objective,
                    entry["recipe"],
                    _overrides(entry, objective),
                    tuple(entry["splits"]),
                    entry["label"],
                    dict(entry["protocol"]),
                    entry["metric"],
                )
            )
    return cells


def choose(cells: Iterable[Cell], only: Iterable[str]) -> list[Cell]:
    """Those that `only` names as DATA, OBJECTIVE or DATA/OBJECTIVE; all when it names none."""
    cells, only = list(cells), list(only)
    known = list(dict.fromkeys(name for c in cells for name in (c.data, c.objective, c.name)))
    for name in only:
        if name not in known:
            raise UserError(
                f"--only: unknown '{name}', expected a data set, an objective or DATA/OBJECTIVE{nearest(name, known)}"
            )
    return [c for c in cells if not only or {c.data, c.objective, c.name} & set(only)]


def local(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe's data with `../shared/data` replaced by `$MMSSL_SHARED_DATA`, where that is set."""
    folder = os.environ.get("MMSSL_SHARED_DATA")
    if not folder:
        return data
    data = copy.deepcopy(data)
    for part in ("data", "evaluation"):
        if data.get(part, {}).get("path"):
            data[part]["path"] = data[part]["path"].replace(SHARED, folder)
    return data


def result_path(cell: Cell, seed: int, folder: Path = HERE / "results") -> Path:
    return folder / f"{cell.data}.{cell.objective}.{seed}.json"


def read_result(cell: Cell, seed: int, folder: Path = HERE / "results") -> dict[str, Any] | None:
    path = result_path(cell, seed, folder)
    return json.loads(path.read_text()) if path.is_file() else None
