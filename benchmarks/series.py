"""Series against their untrained twin: `python -m benchmarks.series [NAME ...] [--seeds 0 1 2]`.

Recordings of the shared folder, read as plain series of numbers in named channels by a shipped recipe:

- `bonn`: one channel, 173.61 numbers a second, 23.6 s; five kinds of brain activity. 400 to learn from, 100 to test on.
- `ecg`: twelve channels, 100 numbers a second, 10 s; normal or not. 353 to learn from, 147 to test on (the set's
  validation and test parts; no patient is on two sides).

`--choose` tests on a quarter of the rows to learn from in place of the reported ones, which settings were chosen by.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import yaml

import mmssl
from mmssl.training.process import prepare_process

from . import pages
from .machine import machine

DATA = Path(os.environ.get("MMSSL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "series.json"
MARKS = ("<!-- series: python -m benchmarks.series -->", "<!-- /series -->")
PAGE = pages.REPO / "docs" / "benchmarks" / "mechanisms.md"
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
SETS: dict[str, dict[str, Any]] = {
    "bonn": {
        "folder": "bonn_eeg",
        "tested": ["test"],
        "label": "label",
        "scores": "accuracy",
        "set": {
            "modalities.series": {"rate": 64, "source_rate": 173.61, "length": 1500, "window": 16},
            "model.towers.series": {"width": 64, "depth": 3, "trunk": "resnet"},
            "train.batch_size": 48,
            "train.steps": 150,
        },
    },
    "ecg": {
        "folder": "ptbxl_500",
        "tested": ["validation", "test"],
        "label": "norm",
        "scores": "accuracy",
        "set": {
            "modalities.series": {"length": 1000, "window": 25, "patch": "time", "source_channels": LEADS},
            "model.towers.series": {"width": 64, "depth": 3, "trunk": "resnet"},
            "train.batch_size": 64,
            "train.steps": 150,
        },
    },
}
"""Name -> the shared folder, the splits that are tested on, the label, what is told, and what is set in the recipe."""
ALWAYS = {
    "train.trackers": [],
    "train.health_every": None,
    "train.report": False,
    "evaluation.tasks": ["linear", "knn"],
}


def rows(name: str, choose: bool) -> dict[str, Any]:
    """{"train": rows to learn from, "test": rows to test on}."""
    entry = SETS[name]
    splits = {
        s: datasets.Dataset.from_parquet(str(DATA / entry["folder"] / f"{s}.parquet"))
        for s in ("train", *entry["tested"])
    }
    if not choose:
        return {"train": splits["train"], "test": datasets.concatenate_datasets([splits[s] for s in entry["tested"]])}
    whole = splits["train"]
    keys = np.array(whole["patient_id"] if "patient_id" in whole.column_names else range(len(whole)))
    each, own = np.unique(keys, return_inverse=True)
    held = np.random.default_rng(7).permutation(len(each))[own] % 4 == 0
    return {"train": whole.select(np.flatnonzero(~held)), "test": whole.select(np.flatnonzero(held))}


def one(name: str, objective: str, seed: int, folder: Path, choose: bool, more: dict[str, Any]) -> dict[str, Any]:
    """Scores of one run: task -> arm -> value."""
    entry = SETS[name]
    options = ALWAYS | entry["set"] | {"evaluation.label": entry["label"], "seed": seed} | more
    run = mmssl.pretrain(
        f"series_{objective}",
        output=folder / f"{name}-{objective}-{seed}",
        data={"path": rows(name, choose), "columns": {"series": "signal"}},
        **options,
    )
    found: dict[str, Any] = json.loads((run.folder / "evaluation.json").read_text())["tasks"]
    return {
        task: {key: scores[key] for key in ("model", "untrained", "raw")}
        for task, measures in found.items()
        for measure, scores in measures.items()
        if measure.endswith(entry["scores"])
    }


def table(runs: dict[str, Any], recipe: str = "series") -> str:
    """The page's table: a line a set and objective, the seeds side by side.

    Args:
        runs: set/objective/seed -> task -> arm -> accuracy.
        recipe: what the recipes' names begin with.
    """
    lines = [
        "| set | objective | linear: model/twin | nearest neighbours: model/twin | raw features |",
        "|---|---|---|---|---|",
    ]
    for cell in dict.fromkeys(key.rpartition("/")[0] for key in runs):
        mine = [run for key, run in runs.items() if key.rpartition("/")[0] == cell]
        pairs = [
            " ".join(f"{run[task]['model']:.3f}/{run[task]['untrained']:.3f}".replace("0.", ".") for run in mine)
            for task in ("linear", "knn")
        ]
        raw = ", ".join(f"{mine[0][task]['raw']:.3f}".lstrip("0") for task in ("linear", "knn"))
        name, _, objective = cell.partition("/")
        lines.append(f"| {name} | `{recipe}_{objective}` | {pairs[0]} | {pairs[1]} | {raw} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for; results that are reported are stored."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SETS))
    parser.add_argument("--objective", default="contrastive")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="printed, not stored")
    parser.add_argument("--set", nargs="*", default=[], dest="tried", help="key=value, with --choose")
    args = parser.parse_args()
    prepare_process()
    more = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in args.tried)}
    if more and not args.choose:
        parser.error("--set goes with --choose: what is stored is what SETS says")
    with tempfile.TemporaryDirectory() as place:
        for name in args.names:
            for seed in args.seeds:
                found = one(name, args.objective, seed, Path(place), args.choose, more)
                print(name, args.objective, seed, args.tried, json.dumps(found), flush=True)
                if args.choose:
                    continue
                stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                stored.setdefault("runs", {})[f"{name}/{args.objective}/{seed}"] = found
                stored["machine"] = machine()
                RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    if RESULTS.exists() and not args.choose:
        pages.write(PAGE, table(json.loads(RESULTS.read_text())["runs"]), MARKS)


if __name__ == "__main__":
    main()
