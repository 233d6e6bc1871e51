"""What a second data set costs the first: `python -m benchmarks.continual [--seeds 3]`.

A masked autoencoder is trained on five classes of Fashion-MNIST and goes on with the other five, twice: on the infinite
schedule, from before its annealing and at the rate that was held (`train.after`), and on cosines, of which the second
warms up again. Both go on with their decoder and the optimiser's state, have the same peak rate, steps and draws.
Measured on test images of both halves: the loss of the final weights. Nothing was searched.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file

from mmssl.draws import Draws
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_pretraining
from mmssl.training.pretrain import pretrain
from mmssl.training.process import prepare_process

DATA = Path(os.environ.get("MMSSL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).resolve().parent / "results" / "continual.json"
STEPS, ANNEAL, ROWS = 400, 60, 500
INFINITE = {"schedule": {"kind": "infinite", "cooldown": 120, "hold": 0.4}, "warmup": 20, "anneal": ANNEAL}
COSINE = {"warmup": 20}


def recipe(data: Path, seed: int, train: dict[str, Any]) -> dict[str, Any]:
    """The recipe of one half."""
    own = {"steps": STEPS, "batch_size": 64, "lr": 1.5e-3, "trackers": [], "health_every": None, "save_minutes": None}
    return {
        "name": "half",
        "seed": seed,
        "data": {"path": str(data), "columns": {"image": "image"}},
        "modalities": {"image": {"size": 28, "patch": 4, "channels": 1}},
        "model": {"towers": {"image": {"width": 64, "depth": 2, "heads": 2}}},
        "masks": {"most": {"type": "random", "ratio": 0.75}},
        "objectives": {"mae": {"tower": "image", "mask": "most", "decoder": {"width": 32, "depth": 1, "heads": 2}}},
        "train": own | {"compile": False} | train,
        "evaluation": {"tasks": []},
    }


def halves(source: Path, folder: Path) -> tuple[list[Path], list[list[Any]]]:
    """(training files of classes 0 to 4 and 5 to 9; their test images)."""
    files, held_out = [], []
    for name, wanted in (("a", range(5)), ("b", range(5, 10))):
        parts = {}
        for split in ("train", "test"):
            rows = datasets.Dataset.from_parquet(str(source / f"{split}.parquet"))
            parts[split] = rows.filter(lambda label, wanted=wanted: label in wanted, input_columns="label")
        files.append(folder / f"{name}.parquet")
        parts["train"].to_parquet(files[-1])
        held_out.append(parts["test"]["image"][:ROWS])
    return files, held_out


def losses(run: Path, held_out: list[list[Any]]) -> list[float]:
    """The loss of a run's last weights on either half's test images, with the same masks."""
    processor = MMSSLProcessor.from_pretrained(run / "processor")
    work = build_pretraining(load_recipe(run / "config.yaml"), processor)
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    work.load_state_dict(load_file(last / "weights.safetensors"))
    work.eval()
    with torch.no_grad():
        rows = [{"image": processor.preprocessors["image"](images)} for images in held_out]
        return [float(work(batch, Draws(7, ROWS)).total) for batch in rows]


def one_seed(seed: int, files: list[Path], held_out: list[list[Any]], folder: Path) -> dict[str, Any]:
    """Losses on (first, second) half after each run."""
    found: dict[str, Any] = {"seed": seed}
    for name, train in (("infinite", INFINITE), ("cosine", COSINE)):
        first, second = (folder / f"{name}-{seed}-{part}" for part in "ab")
        pretrain(recipe(files[0], seed, train), output=first)
        pretrain(recipe(files[1], seed, train | {"after": str(first)}), output=second)
        found[name] = {"first": losses(first, held_out), "second": losses(second, held_out)}
        print(seed, name, found[name], flush=True)
    return found


def main() -> None:
    """Run and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA / "fashion_mnist")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    prepare_process()
    with tempfile.TemporaryDirectory() as name:
        files, held_out = halves(args.data, Path(name))
        found = [one_seed(seed, files, held_out, Path(name)) for seed in range(args.seeds)]
    RESULTS.write_text(
        json.dumps({"steps": STEPS, "infinite": INFINITE, "cosine": COSINE, "runs": found}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
