"""Is what lies near a target better to train on than as much at random? `python -m benchmarks.curation [--seeds 3]`.

The target are the upper garments of Fashion-MNIST (T-shirt, pullover, coat, shirt), of which 400 training images
without labels are known; the open set are 4,000 other training images of all ten classes. A masked autoencoder is
trained on the open set for a short while, and embeds both; SimCore chooses rows (`mmssl select --near` on standardised
embeddings, its stop rule as it stands). The same network is then trained anew on the target beside what was chosen, or
beside as many rows at random, with the same steps and seed. Probes learn from 400 labelled images of the target's
classes and are measured on the test images of these. Nothing was searched but that: without standardising no round was
below the stop.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np

import mmssl
from mmssl.training.process import prepare_process

from . import pages

DATA = Path(os.environ.get("MMSSL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).resolve().parent / "results" / "curation.json"
MARKS = ("<!-- curation: python -m benchmarks.curation -->", "<!-- /curation -->")
PAGE = pages.REPO / "docs" / "benchmarks" / "mechanisms.md"
CLASSES, KNOWN = (0, 2, 4, 6), 400
OPEN = 4000
SHORT, STEPS = 60, 150
ARMS = {"near": ["near"], "random": ["keep", "by"]}


def recipe(data: Path, seed: int, steps: int, others: Path | None = None, kept: Path | None = None) -> dict[str, Any]:
    """A small masked autoencoder; of two data the rows of both come alike often."""
    mix = {} if others is None else {"open": {"path": str(others), "select": str(kept), "columns": {"image": "image"}}}
    return {
        "name": "curation",
        "seed": seed,
        "data": {"path": str(data), "columns": {"image": "image"}, "mix": mix},
        "modalities": {"image": {"size": 28, "patch": 4, "channels": 1}},
        "model": {"towers": {"image": {"width": 64, "depth": 2, "heads": 2}}},
        "masks": {"most": {"type": "random", "ratio": 0.75}},
        "objectives": {"mae": {"tower": "image", "mask": "most", "decoder": {"width": 32, "depth": 1, "heads": 2}}},
        "train": {
            "steps": steps,
            "batch_size": 64,
            "lr": 1.5e-3,
            "warmup": 20,
            "memory": 1.0,
            "trackers": [],
            "health_every": None,
            "save_minutes": None,
            "compile": False,
        },
        "evaluation": {"tasks": []},
    }


def parts(source: Path, folder: Path) -> dict[str, Path]:
    """The files: target (unlabelled use), open, probe/{train,test}.parquet of the target's classes."""
    train, test = (datasets.Dataset.from_parquet(str(source / f"{split}.parquet")) for split in ("train", "test"))
    labels = np.array(train["label"])
    mine = np.flatnonzero(np.isin(labels, CLASSES))
    order = np.random.default_rng(0).permutation(mine)
    target, probed = np.sort(order[:KNOWN]), np.sort(order[KNOWN : 2 * KNOWN])
    rest = np.setdiff1d(np.arange(len(labels)), np.concatenate([target, probed]))
    rest = np.sort(np.random.default_rng(1).permutation(rest)[:OPEN])
    (folder / "probe").mkdir()
    found = {"target": folder / "target.parquet", "open": folder / "open.parquet", "probe": folder / "probe"}
    train.select(target).to_parquet(found["target"])
    train.select(rest).to_parquet(found["open"])
    train.select(probed).to_parquet(found["probe"] / "train.parquet")
    tested = np.flatnonzero(np.isin(np.array(test["label"]), CLASSES))
    test.select(tested).to_parquet(found["probe"] / "test.parquet")
    return found


def scores(run: Any, probe: Path, seed: int) -> dict[str, float]:
    """Accuracy of both probes on the test images of the target's classes; and of the untrained twin."""
    report = mmssl.evaluate(run.folder, probe, label="label", tasks=["knn", "linear"])
    found = {}
    for task in ("knn", "linear"):
        measured = report["tasks"][task]["image/accuracy"]
        found |= {task: measured["model"], f"{task} untrained": measured["untrained"], f"{task} raw": measured["raw"]}
    return found


def one_seed(seed: int, files: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Both selections, and what training on each gives."""
    short = mmssl.pretrain(recipe(files["open"], seed, SHORT), output=folder / f"short-{seed}")
    embedded = {}
    for name in ("open", "target"):
        embedded[name] = folder / f"{name}-{seed}.embeddings.parquet"
        mmssl.embed(short.folder, files[name], embedded[name])
    labels = datasets.Dataset.from_parquet(str(files["open"]))["label"]
    found: dict[str, Any] = {"seed": seed}
    count = 0
    for arm in ARMS:
        kept = folder / f"{arm}-{seed}.parquet"
        if arm == "near":
            options: dict[str, Any] = {
                "embeddings": str(embedded["open"]),
                "near": str(embedded["target"]),
                "standardise": True,
            }
        else:
            options = {"keep": count / len(labels), "by": "random"}
        done = mmssl.select(files["open"], kept, seed=seed, **options)
        count = done["kept"]
        reasons = datasets.Dataset.from_parquet(str(kept))["reason"]
        classes = Counter(label for label, reason in zip(labels, reasons, strict=True) if reason == "kept")
        run = mmssl.pretrain(
            recipe(files["target"], seed, STEPS, files["open"], kept), output=folder / f"run-{arm}-{seed}"
        )
        of_target = sum(classes[label] for label in CLASSES) / count
        found[arm] = {"rows": count, "of the target's classes": of_target} | scores(run, files["probe"], seed)
        print(seed, arm, found[arm], flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """The page's table."""
    lines = ["| beside the target | rows | of its classes | linear | nearest neighbours |", "|---|---|---|---|---|"]
    runs = results["runs"]

    def cells(arm: str, key: str) -> str:
        return " ".join(f"{run[arm][key]:.3f}".lstrip("0") for run in runs)

    for arm, words in (("near", "SimCore"), ("random", "as many at random")):
        rows = " ".join(f"{run[arm]['rows']:,}" for run in runs)
        share = " ".join(f"{run[arm]['of the target' + chr(39) + 's classes']:.0%}" for run in runs)
        lines.append(f"| {words} | {rows} | {share} | {cells(arm, 'linear')} | {cells(arm, 'knn')} |")
    lines.append(f"| untrained twin | - | - | {cells('near', 'linear untrained')} | {cells('near', 'knn untrained')} |")
    lines.append(f"| raw pixels | - | - | {cells('near', 'linear raw')} | {cells('near', 'knn raw')} |")
    return "\n".join(lines)


def main() -> None:
    """Run seed after seed, and store what is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--data", type=Path, default=DATA / "fashion_mnist")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if args.what == "run":
        prepare_process()
        with tempfile.TemporaryDirectory() as name:
            files = parts(args.data, Path(name))
            found: list[dict[str, Any]] = []
            for seed in range(args.seeds):
                found.append(one_seed(seed, files, Path(name)))
                stored = {
                    "steps": STEPS,
                    "short": SHORT,
                    "open": OPEN,
                    "known": KNOWN,
                    "classes": CLASSES,
                    "runs": found,
                }
                RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    pages.write(PAGE, table(json.loads(RESULTS.read_text())), MARKS)


if __name__ == "__main__":
    main()
