"""Does JEPA through an adapter improve a frozen encoder? `python -m benchmarks.adapter_continue [SETTING ...]`.

Each setting pretrains a start, goes on from it with JEPA through LoRA (the backbone frozen, the teacher over the
adapter alone), and judges both, and the untrained twin, by the matrix's probe on the same folds, and by 20 nearest
neighbours (cosine). Several seeds; all settings that were tried are in benchmarks/results/adapter_continue.json, also
those that made it worse.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.matrix.cells import Cell, choose, local, read_cells
from benchmarks.matrix.judging import SCORES, make_folds
from benchmarks.matrix.judging import judge as judged
from benchmarks.matrix.run import Rows, read_rows
from mmssl.recipe.loading import load_recipe, merge_overrides
from mmssl.training.pretrain import pretrain
from mmssl.training.process import prepare_process

from . import pages

RESULTS = Path(__file__).resolve().parent / "results" / "adapter_continue.json"
QUIET: dict[str, Any] = {"evaluation": {"tasks": []}, "train": {"trackers": [], "health_every": None}}
MARKS = ("<!-- continued: python -m benchmarks.adapter_continue -->", "<!-- /continued -->")
NEIGHBOURS = 20


@dataclass(frozen=True)
class Setting:
    """start: cell of the matrix that the start is trained by, with `first` as overrides; judged: data set that JEPA
    goes on with and that both are judged on, by its cell's recipe, with `then` as overrides; rank: of LoRA."""

    start: str
    first: dict[str, Any]
    judged: str
    then: dict[str, Any]
    rank: int = 8
    tower: str = "tabular"
    why: str = field(default="", compare=False)


SETTINGS = {
    "adult, T-JEPA stopped after 40 steps": Setting(
        "adult/jepa",
        {"train": {"steps": 40}},
        "adult",
        {"train": {"steps": 150, "batch_size": 128, "lr": 2e-3}},
        why="an encoder that was stopped early goes on with its own objective",
    ),
    "cora, JEPA stopped after 20 steps": Setting(
        "cora/jepa",
        {"train": {"steps": 20}},
        "cora",
        {"train": {"steps": 100, "lr": 2e-3}},
        tower="graph",
        why="an encoder that was stopped early goes on with its own objective",
    ),
    "ptbxl_500, masked autoencoder stopped after 60 steps": Setting(
        "ptbxl_500/mae",
        {"train": {"steps": 60, "batch_size": 64}},
        "ptbxl_500",
        {"objectives": {"jepa": {"momentum": [0.996, 1.0]}}, "train": {"steps": 120, "batch_size": 64, "lr": 2e-3}},
        tower="ecg",
        why="where JEPA of the whole encoder is the better objective: 0.865 against 0.820",
    ),
}


def cell(name: str) -> Cell:
    return choose(read_cells(), [name])[0]


def one(setting: Setting, seed: int) -> dict[str, Any]:
    """Scores of start, after and untrained by both probes, and what was trained."""
    first = merge_overrides(cell(setting.start).recipe_data(), setting.first, [])
    target = cell(f"{setting.judged}/jepa")
    then = merge_overrides(target.recipe_data(), setting.then, [])
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        recipe = load_recipe(local(first), {"seed": seed, **QUIET})
        start = pretrain(recipe, output=Path(scratch) / "start")
        adapter = {setting.tower: {"adapter": {"type": "lora", "r": setting.rank}}}
        model = {"from": str(start.folder), "towers": adapter}
        parts = {k: then[k] for k in ("data", "masks", "objectives", "train", "views") if k in then}
        recipe_after = load_recipe({**local(parts), "model": model, "seed": seed}, QUIET)
        after = pretrain(recipe_after, output=Path(scratch) / "after")
        size = (after.model_folder / "adapter_model.safetensors").stat().st_size
        judge_on = load_recipe(local({**first, "data": then["data"]}), {"seed": seed, **QUIET})
        rows = [read_rows(target, judge_on, run) for run in (start, after)]
    arms = {
        "untrained": rows[0].arms["untrained"],
        "start": rows[0].arms["pretrained"],
        "after": rows[1].arms["pretrained"],
    }
    groups = rows[0].columns[target.protocol["group"]] if "group" in target.protocol else None
    folds = make_folds(rows[0].y, rows[0].split, rows[0].columns, target.protocol)
    linear = judged(arms, rows[0].y, groups, folds, target.metric)
    knn = {name: neighbours(x, rows[0], folds, target.metric) for name, x in arms.items()}
    return {"seed": seed, "linear": linear, "knn": knn, "adapter_bytes": size, "steps": recipe_after.train.steps}


def neighbours(x: np.ndarray, rows: Rows, folds: list[Any], metric: str) -> float:
    """Mean score over the folds of the share of each class among the nearest neighbours, by cosine."""
    from sklearn.neighbors import KNeighborsClassifier

    scores = []
    for train, test in folds:
        near = KNeighborsClassifier(min(NEIGHBOURS, len(train)), metric="cosine").fit(x[train], rows.y[train])
        shares = np.zeros((len(test), int(rows.y.max()) + 1))
        shares[:, near.classes_] = near.predict_proba(x[test])
        scores.append(SCORES[metric](shares, rows.y[test]))
    return float(np.mean(scores))


def table(results: dict[str, Any]) -> str:
    """Markdown: means over seeds, and in how many seeds each probe improved over the start."""
    lines = [
        "| judged on, started from | probe | untrained | start | after LoRA-JEPA | better in | adapter |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in results.items():
        for probe in ("linear", "knn"):
            means = [np.mean([r[probe][arm] for r in runs]) for arm in ("untrained", "start", "after")]
            better = sum(r[probe]["after"] > r[probe]["start"] for r in runs)
            shown = " | ".join(f"{m:.3f}" for m in means)
            lines.append(
                f"| {name} | {probe} | {shown} | {better} of {len(runs)} | {runs[0]['adapter_bytes'] / 1e6:.2f} MB |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="beginnings of the names of settings; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: dict[str, Any] = json.loads(args.results.read_text()) if args.results.is_file() else {}
    prepare_process()
    for name, setting in SETTINGS.items():
        if args.settings and not any(name.startswith(s) for s in args.settings):
            continue
        results[name] = []
        for seed in range(args.seeds):
            results[name].append(one(setting, seed))
            print(name, results[name][-1], flush=True)
        args.results.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    if args.results == RESULTS:
        pages.write(pages.FINE_TUNING, table(results), MARKS)


if __name__ == "__main__":
    main()
