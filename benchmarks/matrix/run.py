"""One run of a cell: pretrain its recipe, embed the judged rows with three arms, probe them, write the result."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmssl.data.splits import Fold
from mmssl.evaluation.embedding import embed_source
from mmssl.evaluation.linear import STRENGTHS
from mmssl.evaluation.rank import rankme
from mmssl.models.building import tower_config
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.opening import open_model
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.recipe.config import Recipe
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model
from mmssl.training.pretrain import pretrain

from .. import glyphs, noisy_speech
from .cells import Cell, local, result_path
from .judging import (
    RAW_SCALES,
    RAW_UNSCALED,
    boosted,
    chance,
    difference,
    judge,
    known_rows,
    make_folds,
    mean_score,
    neighbours,
    varying,
)

ENCODERS = ("pretrained", "untrained")
ARMS = (*ENCODERS, "raw")
RANK_ROWS = 2000
SPENT = "spent.json"
"""Beside a kept model: the first and last loss, and the time of its run."""


MADE = {"glyphs": glyphs.write, "noisy_speech": noisy_speech.write}
"""Sets that are made here, in `cache/` -> what writes them to a folder."""


@dataclass
class Rows:
    """The judged rows of all splits one after the other. y: (n,) truth (see `judging`); split: (n,) its number;
    columns: further values; arms: name -> (n, D) features, NaN in no row (the truth of broken rows is unknown)."""

    y: np.ndarray
    split: np.ndarray
    columns: dict[str, np.ndarray]
    arms: dict[str, np.ndarray]


def run_cell(cell: Cell, seed: int, results: Path) -> dict[str, Any]:
    """Pretrain and judge; returns the result.

    results: the folder of what was measured before; beside it `cache/` keeps models and the baselines' outputs, so that
    another way to judge trains nothing anew.
    """
    quiet = {"seed": seed, "evaluation": {"tasks": []}, "train": {"trackers": []}}
    recipe = load_recipe(local(cell.recipe_data()), quiet)
    if cell.data in MADE:
        MADE[cell.data](Path(recipe.data.path))
    cache = results.parent / "cache"
    model, processor, spent = trained(recipe, cache / f"{cell.data}.{cell.objective}.{seed}.{cell.training()}")
    rows = read_rows(cell, recipe, model, processor)
    folds = make_folds(rows.y, rows.split, rows.columns, cell.protocol)
    groups = rows.columns[cell.protocol["group"]] if "group" in cell.protocol else None
    key = _raw_key(cell, rows, folds)
    encoders = {arm: rows.arms[arm] for arm in ENCODERS}
    outputs = judge(encoders, rows.y, groups, folds, cell.metric, _tell)
    outputs |= _raw_outputs(cell, rows, groups, folds, cache / f"{key}.npz")
    near = {arm: [neighbours(varying(rows.arms[arm]), rows.y, fold) for fold in folds] for arm in (*ENCODERS, "raw")}

    def means(of: Mapping[str, Sequence[Any]]) -> dict[str, float]:
        return {arm: round(mean_score(found, rows.y, folds, cell.metric), 5) for arm, found in of.items()}

    def against(other: str, of: Mapping[str, Sequence[Any]]) -> list[float]:
        found = difference(of["pretrained"], of[other], rows.y, folds, groups, cell.metric)
        return [round(value, 5) for value in found]

    return {
        "cell": cell.name,
        "recipe": cell.recipe,
        "seed": seed,
        "fingerprint": cell.fingerprint(),
        "metric": cell.metric,
        "scores": means(outputs),
        "differences": {arm: against(arm, outputs) for arm in outputs if arm != "pretrained"},
        "knn": means(near),
        "knn_differences": {arm: against(arm, near) for arm in near if arm != "pretrained"},
        "readout": read_out(model),
        "chance": round(chance(cell.metric, rows.y, folds), 5),
        "rankme": {name: round(_rank(rows, name), 3) for name in ("pretrained", "untrained")},
        "width": int(rows.arms["pretrained"].shape[1]),
        "raw_key": key,
        "raw_width": int(rows.arms["raw"].shape[1]),
        "rows": len(known_rows(rows.y)),
        "folds": len(folds),
        "fitted_on": round(float(np.mean([len(train) for train, _ in folds])), 1),
        "tested_on": int(len(np.unique(np.concatenate([test for _, test in folds])))),
        "parameters": int(sum(p.numel() for p in model.parameters())),
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        **spent,
        "threads": torch.get_num_threads(),
    }


def trained(recipe: Recipe, kept: Path) -> tuple[MMSSLModel, MMSSLProcessor, dict[str, Any]]:
    """(model, processor, losses and time of its run), which `kept` holds, or will; read out as the recipe says."""
    if not (kept / SPENT).is_file():
        with tempfile.TemporaryDirectory(prefix="mmssl-matrix-") as folder:
            began, spent = time.perf_counter(), time.process_time()
            run = pretrain(recipe, output=Path(folder) / "run")
            seconds, cpu = time.perf_counter() - began, time.process_time() - spent
            losses = [json.loads(line)["loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(run.model_folder, kept / "model")
        told = {"loss": [round(losses[0], 4), round(losses[-1], 4)]}
        told |= {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}  # type: ignore[dict-item]
        (kept / SPENT).write_text(json.dumps(told) + "\n")
    model, processor = open_model(kept / "model")
    assert model.config.towers is not None
    for name, tower in recipe.model.towers.items():
        model.config.towers[name]["readout"] = tower.readout
    model.settle_readouts()
    for name, spec in model.config.towers.items():
        model.tower(name).set_pooling(tower_config(spec))
    return model, processor, json.loads((kept / SPENT).read_text())


def read_out(model: MMSSLModel) -> str:
    """How its tower is read out: `mean+std`, or `mean+std of 3 blocks`."""
    assert model.config.towers is not None
    tower = next(iter(model.config.towers.values()))
    layers = tower.get("readout_layers", 1)
    return tower["readout"] if layers == 1 else f"{tower['readout']} of {layers} blocks"


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


def _raw_scales(cell: Cell) -> tuple[str, ...]:
    return ("common",) if cell.modality in RAW_UNSCALED else RAW_SCALES


def _raw_key(cell: Cell, rows: Rows, folds: Sequence[Fold]) -> str:
    """A hash of all that the raw features' score depends on but the probe's code."""
    digest = hashlib.sha256(f"{cell.metric} {STRENGTHS} {_raw_scales(cell)}".encode())
    for array in (np.round(rows.arms["raw"].astype(np.float64), 4), rows.y, *(part for fold in folds for part in fold)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def _raw_outputs(
    cell: Cell, rows: Rows, groups: np.ndarray | None, folds: Sequence[Fold], kept: Path
) -> dict[str, list[np.ndarray]]:
    """Outputs of the probe and of boosting on raw features, which depend on no seed and objective: kept in a file."""
    names = ("raw", "boosting")
    if kept.is_file():
        with np.load(kept) as stored:
            return {name: [stored[f"{name}{number}"] for number in range(len(folds))] for name in names}
    found = judge({"raw": rows.arms["raw"]}, rows.y, groups, folds, cell.metric, _tell, _raw_scales(cell))
    found["boosting"] = [boosted(varying(rows.arms["raw"]), rows.y, groups, fold) for fold in folds]
    _tell(f"boosting: {mean_score(found['boosting'], rows.y, folds, cell.metric):.4f}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    flat = {f"{name}{number}": out for name in names for number, out in enumerate(found[name])}
    np.savez_compressed(kept, **flat)  # type: ignore[arg-type]
    return found


def read_rows(cell: Cell, recipe: Recipe, model: MMSSLModel, processor: MMSSLProcessor) -> Rows:
    """Every judged row with its labels and its features in the three arms."""
    from mmssl.data.sources import open_source

    name = next(iter(recipe.modalities))
    columns = {name: recipe.data.columns.get(name, name)}
    models = {"pretrained": model, "untrained": build_model(recipe, processor)}
    labels: list[Any] = []
    split: list[int] = []
    further: dict[str, list[Any]] = {key: [] for key in (cell.protocol.get(k) for k in ("group", "column")) if key}
    parts: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
    for number, part in enumerate(cell.splits):
        source = open_source(recipe.data.path, name=recipe.data.name, split=part, columns=columns)
        source = _limited(source, cell.protocol, number, len(cell.splits))
        embedded = embed_source(models, processor.preprocessors, source, columns, describe=model, batch_size=64)
        plain = source.with_format(None)
        present = embedded.present[name].tolist()
        labels += [label if there else None for label, there in zip(plain[cell.label], present, strict=True)]
        split += [number] * len(present)
        for key, values in further.items():
            values += list(plain[key])
        for arm in ARMS:
            features = embedded.features(arm, name)
            assert features is not None, f"{name} has no raw features"
            parts[arm].append(features.numpy())
    arms = {arm: np.concatenate(values) for arm, values in parts.items()}
    truth = np.array(labels, np.float64) if cell.metric == "r2" else numbered(labels)  # None becomes nan
    return Rows(truth, np.array(split), {k: np.array(v) for k, v in further.items()}, arms)


def numbered(labels: list[Any]) -> np.ndarray:
    """(n,) class numbers in the order of the sorted values; -1 for None and negative numbers."""
    known = [None if v is None or (isinstance(v, (int, float)) and v < 0) else v for v in labels]
    order = {value: number for number, value in enumerate(sorted({v for v in known if v is not None}))}
    return np.array([-1 if v is None else order[v] for v in known])


def _limited(source: Any, protocol: Mapping[str, Any], number: int, splits: int) -> Any:
    """Of data that is much larger than what is judged, only some rows are embedded: the same ones for every run."""
    limit = protocol.get("train" if number == 0 else "test" if number == splits - 1 else "")
    if limit is None or protocol["kind"] == "folds" or limit >= len(source):
        return source
    order = np.random.default_rng(number).permutation(len(source))[:limit]
    return source.select(sorted(order.tolist()))


def _rank(rows: Rows, arm: str) -> float:
    """RankMe over at most 2,000 of the judged rows, the same for both arms."""
    known = known_rows(rows.y)
    chosen = np.sort(np.random.default_rng(0).permutation(known)[:RANK_ROWS])
    return rankme(torch.from_numpy(rows.arms[arm][chosen]))


def write_result(cell: Cell, seed: int, result: Mapping[str, Any], folder: Path) -> Path:
    """Whole or not at all."""
    path = result_path(cell, seed, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(partial, path)
    return path
