"""Small heads on two frozen stock encoders (`examples/image_text_lit`) beside ridge regression between the encoders.

    python -m benchmarks.stock_encoders ../encoders
    python -m benchmarks.lit --data ../shared/data --encoders ../encoders

Recall at 10 among the test rows, both ways, by the protocol of `benchmarks.crossmodal`; settings were chosen on
held-out training pairs (`--held`: the last fifth of them is judged in place of the test rows). What the encoders make
of the rows is computed once a set (`train.store_frozen`), so that a further seed costs the heads. Ridge: both sides
standardised, the penalty chosen on the same held-out training pairs.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from mmssl import load_recipe
from mmssl.data.quarantine import Quarantine
from mmssl.data.stored import Outputs
from mmssl.evaluation.differences import paired_difference, resamples
from mmssl.evaluation.retrieval import recall_at, retrieval_ranks
from mmssl.models.projection import Standard
from mmssl.training.building import build_pretraining, fitted_processor, open_training_data
from mmssl.training.engine import make_accelerator
from mmssl.training.feeding import Feed
from mmssl.training.loop import Loop
from mmssl.training.parallel import Parallel
from mmssl.training.preparing import count_steps
from mmssl.training.process import prepare_process
from mmssl.training.storing import store_outputs

from .stock_encoders import IMAGE, TEXT

RESULTS = Path(__file__).parent / "results" / "lit.json"
RECIPE = "examples/image_text_lit"
SETS: dict[str, dict[str, Any]] = {
    "emoji": {},
    "flickr8k_mini": {
        "data": {"name": None, "columns": {"text": "captions"}},
        "modalities": {"image": {"resize": "crop"}},
        "evaluation": {"label": None},
    },
}
"""Data set -> what is changed in the recipe."""
PENALTIES = (100.0, 300.0, 1000.0, 3000.0, 10000.0, 30000.0)
WAYS = ("image->text", "text->image")
RESAMPLES = 1000
Ranks = Mapping[str, NDArray[np.float64]]
"""Way -> (n,) rank of each test row's partner."""


class Rows:
    """Pooled outputs of both encoders: (n, W) each, with one text a row, or all of them in training."""

    def __init__(self, stored: Mapping[str, Outputs], first: int, last: int) -> None:
        rows: dict[str, list[Any]] = {"image": [], "text": []}
        for index in range(first, last):
            for name, found in rows.items():
                found.append(stored[name].read(index))
        self.image, self.text = (torch.stack([torch.from_numpy(x.copy()) for x in rows[n]]) for n in ("image", "text"))


def ranks(image: Tensor, text: Tensor) -> Ranks:
    """The rank of each test row's partner, both ways."""
    own = [[i] for i in range(len(image))]
    return {way: retrieval_ranks(a, b, own) for way, a, b in zip(WAYS, (image, text), (text, image), strict=True)}


def recalls(found: Ranks) -> dict[str, float]:
    """Recall at 10 both ways."""
    return {way: recall_at(rank, 10) for way, rank in found.items()}


def ridge(train: Rows, test: Rows, penalty: float) -> Ranks:
    """Ranks by a ridge map from each side to the other, of standardised numbers."""

    def standard(rows: Tensor, like: Tensor) -> Tensor:
        return (rows - like.mean(0)) / (like.std(0) + 1e-6)

    out = {}
    for way, a, b in zip(WAYS, ("image", "text"), ("text", "image"), strict=True):
        x, y = (standard(getattr(train, name), getattr(train, name)) for name in (a, b))
        weight = torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]), x.T @ y)
        asked, there = (standard(getattr(test, name), getattr(train, name)) for name in (a, b))
        out[way] = ranks(asked @ weight, there)[WAYS[0]]
    return out


def better_by(ours: Sequence[Ranks], theirs: Ranks) -> dict[str, list[float]]:
    """Way -> recall at 10 of the seeds less ridge's: mean, and the 95 % interval over test rows and seeds."""
    out = {}
    for way in WAYS:
        hits, other = np.array([seed[way] <= 10 for seed in ours], float), np.array(theirs[way] <= 10, float)
        rows = list(resamples(len(other), None, 0, RESAMPLES))
        each = [np.array([[x[r].mean() for r in rows] for x in arm]) for arm in (hits, [other] * len(hits))]
        found = paired_difference(hits.mean(1), np.full(len(hits), other.mean()), *each)
        out[way] = [round(value, 4) for value in (found.mean, found.low, found.high)]
    return out


def stored_of(recipe: Any, split: str, folder: Path, accelerator: Accelerator) -> tuple[Any, Any, Any, dict[str, Any]]:
    """(source, columns, processor, stored outputs) of a split, computed where the folder lacks them."""
    recipe = copy.deepcopy(recipe)
    recipe.data.split = split
    opened = open_training_data(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    processor = fitted_processor(
        recipe.modalities, opened.source, opened.columns, folder, accelerator, samples=100, resume=True
    )
    pretraining = build_pretraining(recipe, processor).to(accelerator.device)
    made = (recipe, pretraining, processor, opened.source, opened.columns, accelerator, folder)
    return opened.source, opened.columns, processor, store_outputs(*made)


def measure(name: str, data: Path, encoders: Path, seeds: Sequence[int], held: bool, cache: Path, words: Any) -> Any:
    """Recall of each seed and of ridge, on the test rows or on held-out training pairs."""
    changes = copy.deepcopy(SETS[name])
    changes["model"] = {
        "towers": {"image": {"from": f"timm:{encoders / IMAGE}"}, "text": {"from": str(encoders / TEXT)}}
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in flat(changes)] + [f"data.path={data / name}", *words]
    recipe = load_recipe(RECIPE, overrides)
    recipe.evaluation.tasks, recipe.train.trackers = [], []
    accelerator = make_accelerator(recipe.train)
    source, columns, processor, stored = stored_of(recipe, "train", cache / name / "train", accelerator)
    count = len(source)
    fit = count * 4 // 5 if held else count
    train = Rows(stored, 0, fit)
    if held:
        test = Rows(stored, fit, count)
    else:
        other = stored_of(recipe, "test", cache / name / "test", accelerator)
        test = Rows(other[3], 0, len(other[0]))
    inner, outer = Rows(stored, 0, count * 4 // 5), Rows(stored, count * 4 // 5, count)
    penalty = max(PENALTIES, key=lambda value: sum(recalls(ridge(inner, outer, value)).values()))
    linear = ridge(train, test, penalty)
    out: dict[str, Any] = {
        "data": name,
        "changes": words,
        "n_train": fit,
        "n_test": len(test.image),
        "ridge": recalls(linear) | {"penalty": penalty},
        "seeds": {},
    }
    every: list[Ranks] = []
    rows = source.select(range(fit))
    for seed in seeds:
        began = time.process_time()
        recipe.seed = seed
        pretraining = build_pretraining(recipe, processor)
        for tower, seen in (("image", train.image), ("text", train.text)):
            norm: Any = getattr(pretraining.model.projections[tower], "norm", None)
            if isinstance(norm, Standard):  # held-out rows are not among these
                norm.fit(seen)
        steps, per_epoch = count_steps(recipe.train, rows)
        folder = cache / name / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        quarantine = Quarantine(None, recipe.data.max_bad, None)
        loop = Loop(Parallel(accelerator), pretraining, recipe.train, steps, folder, seed, quarantine)
        loop.run(Feed(recipe, rows, columns, processor, accelerator, stored, {}), per_epoch)
        model = pretraining.model.eval()
        with torch.no_grad():
            every.append(ranks(model.project("image", test.image), model.project("text", test.text)))
        spent = round(time.process_time() - began)
        out["seeds"][str(seed)] = recalls(every[-1]) | {"cpu_seconds": spent}
        print(name, seed, out["seeds"][str(seed)], out["ridge"], flush=True)
    out["better_by"] = better_by(every, linear)
    return out


def flat(changes: Mapping[str, Any], at: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values."""
    out: list[tuple[str, Any]] = []
    for key, value in changes.items():
        out += flat(value, f"{at}{key}.") if isinstance(value, Mapping) else [(f"{at}{key}", value)]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--encoders", type=Path, default=Path("../encoders"))
    parser.add_argument("--cache", type=Path, default=Path("runs/lit"))
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--held", action="store_true", help="judge on held-out training pairs, and keep nothing")
    parser.add_argument("words", nargs="*", help="key=value, as `mmssl pretrain` takes them")
    args = parser.parse_args()
    prepare_process()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in args.only:
        found = measure(name, args.data, args.encoders, args.seeds, args.held, args.cache, args.words)
        means = {way: statistics.fmean(seed[way] for seed in found["seeds"].values()) for way in WAYS}
        print(name, "mean", means, "ridge", found["ridge"], "better by", found["better_by"], flush=True)
        if not args.held:
            kept[name] = found
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
