"""Does T-JEPA collapse without `[REG]` tokens? Measured on the adult table, several seeds.

Trains T-JEPA (random feature subsets, mean squared error on the un-normalised latents of an EMA teacher, no
augmentation; Thimonier et al. 2025) with 0 and with 1 prefix token, everything else equal, and prints as training
goes on, for rows that were not trained on: how far the encoder's column embeddings differ between rows (`spread`: 1
for directions spread evenly over the sphere, 0 when all rows are one; `std`: their standard deviation over rows,
averaged over columns and dimensions), RankMe of the centred mean embedding, and the accuracy of a kNN on it for
income (0.76 say no).

    python -m benchmarks.tjepa_reg --data ../shared/data/adult/adult.csv [--steps 4000] [--seeds 0 1 2] [--prefix 0 1]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import Tensor

from mmssl.data.loading import read_rows
from mmssl.data.sources import open_source
from mmssl.draws import Draws, key_of
from mmssl.evaluation.knn import knn_predict
from mmssl.evaluation.rank import rankme
from mmssl.losses.regularisers import deviations
from mmssl.modality import Inputs, load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.dispatch import f32_products_by_onednn
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives.base import load_objective
from mmssl.objectives.pretraining import Pretraining
from mmssl.recipe.config import LoopConfig
from mmssl.recipe.loading import load_recipe
from mmssl.schedules import Rate
from mmssl.training.optimizer import make_optimizer

COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
]
HELD_OUT = 4000


def load(path: str) -> tuple[Any, Inputs, Tensor]:
    """(fitted preprocessor, all rows collated, income as 0 or 1)."""
    rows = read_rows(open_source(path, split="train"), [*COLUMNS, "income"], 20_000)
    package = load_modality("tabular")
    values = [{c: row[c] for c in COLUMNS} for row in rows]
    preprocessor = package.Preprocessor(package.Config()).fit(values[HELD_OUT:])
    inputs = preprocessor.collate([preprocessor.read(v) for v in values])
    return preprocessor, inputs, torch.tensor([">50K" in row["income"] for row in rows]).long()


def build(preprocessor: Any, prefix: int, seed: int, momentum: float) -> Pretraining:
    torch.manual_seed(seed)
    tower = TowerConfig(width=32, depth=2, heads=4, prefix=prefix)
    model = MMSSLModel(
        MMSSLConfig(
            modalities={"tabular": {"type": "tabular", **preprocessor.sizes()}}, towers={"tabular": tower_spec(tower)}
        )
    )
    recipe = load_recipe(
        {
            "data": {"path": "adult.csv"},
            "modalities": {"tabular": {}},
            "model": {"towers": {"tabular": {}}},
            "masks": {"subsets": {"type": "feature-subsets"}},
            "train": {"steps": 1},
            "objectives": {
                "jepa": {
                    "tower": "tabular",
                    "mask": "subsets",
                    "loss": "l2",
                    "normalise_targets": False,
                    "momentum": [momentum, 1.0],
                    "predictor": {"width": 16, "depth": 1, "heads": 2},
                }
            },
        }
    )
    objective = load_objective("jepa")[1](recipe.objectives["jepa"].config, model)
    return Pretraining(model, {"jepa": objective}, {}, {"subsets": recipe.masks["subsets"].config})


@torch.no_grad()
def measure(model: MMSSLModel, inputs: Inputs, income: Tensor) -> dict[str, float]:
    """Of the held-out rows: half of them are the neighbours of the other half."""
    model.eval()
    output = model.encode_batch({"tabular": {k: v[:HELD_OUT] for k, v in inputs.items()}})
    model.train()
    assert output.tokens is not None and output.pooled is not None
    tokens, pooled = output.tokens["tabular"], output.pooled["tabular"]
    unit = torch.nn.functional.normalize(tokens.flatten(1), dim=1)
    half = HELD_OUT // 2
    pooled = pooled - pooled.mean(0)
    said = knn_predict(pooled[half:], income[half:HELD_OUT], pooled[:half], classes=2)
    return {
        "spread": float((unit - unit.mean(0)).square().sum(1).mean().sqrt()),
        "std": float(deviations(tokens.flatten(1)).mean()),
        "rankme": rankme(pooled),
        "knn": float((said == income[:half]).float().mean()),
    }


def train(prefix: int, seed: int, args: argparse.Namespace, data: tuple[Any, Inputs, Tensor]) -> None:
    preprocessor, inputs, income = data
    work = build(preprocessor, prefix, seed, args.momentum).train()
    optimizer = make_optimizer(work, args.lr, 0.05, (0.9, 0.999), 1e-8)
    count = len(income) - HELD_OUT
    order = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    for step in range(args.steps + 1):
        if step % args.every == 0 or step == args.steps:
            found = "  ".join(f"{k} {v:.3f}" for k, v in measure(work.model, inputs, income).items())
            seconds = time.perf_counter() - start
            print(f"REG {prefix} seed {seed} step {step:5d}: {found}  ({seconds:.0f} s)", flush=True)
        if step == args.steps:
            return
        rows = HELD_OUT + torch.randint(count, (args.batch,), generator=order)
        draws = Draws(key_of(seed, step), args.batch)
        work({"tabular": {k: v[rows] for k, v in inputs.items()}}, draws).total.backward()
        for group in optimizer.param_groups:
            group["lr"] = Rate(LoopConfig(lr=args.lr, warmup=0.1), args.steps).at(step)
        optimizer.step()
        optimizer.zero_grad()
        work.after_step((step + 1) / args.steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--momentum", type=float, default=0.996)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prefix", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    f32_products_by_onednn()
    data = load(args.data)
    for seed in args.seeds:
        for prefix in args.prefix:
            train(prefix, seed, args, data)


if __name__ == "__main__":
    main()
