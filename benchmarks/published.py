"""What papers report, tried on the same public data: `python -m benchmarks.published [NAME ...] [--seeds 0 1 2]`.

T-JEPA (Thimonier et al., ICLR 2025): a multilayer perceptron learns from the cells of a table, from what the encoder of
`tabular_jepa` makes of them (frozen, columns side by side), and from the same encoder before it was trained. The paper
has other rows to test on and a search of each model's settings; here every arm has one setting, so that the direction
and its interval are told and not the record. Results go to results/published.json and docs/benchmarks/mechanisms.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmssl.data.sources import open_source
from mmssl.evaluation.embedding import embed_source
from mmssl.models.opening import open_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model
from mmssl.training.pretrain import pretrain
from mmssl.training.process import prepare_process

from . import pages
from .machine import machine

DATA = Path(os.environ.get("MMSSL_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "published.json"
PAGE = pages.REPO / "docs" / "benchmarks" / "mechanisms.md"
MARKS = ("<!-- published: python -m benchmarks.published -->", "<!-- /published -->")
ARMS = ("cells", "pretrained", "untrained")
Array = NDArray[Any]

SETS: dict[str, dict[str, Any]] = {
    "california": {
        "data": "california_housing/housing.csv",
        "label": "median_house_value",
        "unit": 1e5,
        "score": "RMSE, 100,000 USD",
        "paper": "0.518 to 0.468",
    },
    "adult": {"data": "adult/adult.csv", "label": "income", "unit": None, "score": "accuracy", "paper": "better"},
}
"""Name -> table, label, what a number of it is divided by (None: classes), what is told, and what the paper says."""


def features(name: str, seed: int, steps: int, folder: Path) -> tuple[dict[str, list[Array]], list[Array]]:
    """Arm -> features of the rows to learn from and of those to test on, and their labels."""
    entry = SETS[name]
    path = str(DATA / entry["data"])
    settings = {
        "seed": seed,
        "data": {"path": path},
        "model": {"towers": {"tabular": {"readout": "flat"}}},
        "evaluation": {"tasks": [], "label": entry["label"]},
        "train": {"steps": steps, "trackers": [], "report": False, "log_every": 500},
    }
    recipe = load_recipe("tabular_jepa", settings)
    run = pretrain(recipe, output=folder / f"{name}-{seed}")
    model, processor = open_model(run.model_folder)
    encoders = {"pretrained": model.eval(), "untrained": build_model(recipe, processor).eval()}
    found: dict[str, list[Array]] = {arm: [] for arm in ARMS}
    labels = []
    columns = {"tabular": [column.name for column in processor.preprocessors["tabular"].columns]}
    for split in ("train", "test"):
        source = open_source(path, split=split, columns=columns)
        seen = embed_source(encoders, processor.preprocessors, source, columns, describe=model, batch_size=512)
        found["cells"].append(seen.raw["tabular"].numpy())
        for arm in encoders:
            found[arm].append(seen.features(arm, "tabular").numpy())
        labels.append(np.array(source.with_format(None)[entry["label"]]))
    return found, labels


def judged(train: Array, test: Array, y: list[Array], unit: float | None, seed: int) -> Array:
    """What a perceptron says of each test row, as its error: squared, in the unit; or 1 where the class is wrong."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.preprocessing import StandardScaler

    shape = {"hidden_layer_sizes": (256, 256), "early_stopping": True, "random_state": seed, "max_iter": 60}
    scaler = StandardScaler().fit(train)
    train, test = np.nan_to_num(scaler.transform(train)), np.nan_to_num(scaler.transform(test))
    if unit is None:
        said = MLPClassifier(**shape).fit(train, y[0]).predict(test)
        return np.asarray(said != y[1], np.float64)
    known = [part.astype(np.float64) / unit for part in y]
    shift, scale = known[0].mean(), known[0].std()
    said = MLPRegressor(**shape).fit(train, (known[0] - shift) / scale).predict(test) * scale + shift
    return np.square(said - known[1])


def one(name: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Scores of each arm, and the difference to the cells with its interval over the test rows (1,000 resamples)."""
    unit = SETS[name]["unit"]
    found, y = features(name, seed, steps, folder)
    errors = {arm: judged(*found[arm], y, unit, seed) for arm in ARMS}

    def told(error: Array) -> float:
        return float(1 - error.mean() if unit is None else np.sqrt(error.mean()))

    rng, count = np.random.default_rng(seed), len(y[1])
    drawn = [rng.integers(count, size=count) for _ in range(1000)]
    out: dict[str, Any] = {"steps": steps, "tested": count, "learned": len(y[0])}
    for arm, error in errors.items():
        out[arm] = told(error)
        if arm != "cells":
            less = [told(error[rows]) - told(errors["cells"][rows]) for rows in drawn]
            out[f"{arm} less cells"] = [out[arm] - out["cells"], *np.quantile(less, [0.025, 0.975]).tolist()]
    return out


def table(runs: dict[str, Any]) -> str:
    """The page's table: a line a set, the seeds side by side."""
    lines = [
        "| set | score | of the cells | of `tabular_jepa` | of its twin | less cells, 95 % interval | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(key.partition("/")[0] for key in runs):
        mine = [run for key, run in runs.items() if key.partition("/")[0] == name]
        arms = [" ".join(f"{run[arm]:.3f}" for run in mine) for arm in ARMS]
        less = ", ".join("{:+.3f} ({:+.3f} to {:+.3f})".format(*run["pretrained less cells"]) for run in mine)
        lines.append(f"| {name} | {SETS[name]['score']} | {' | '.join(arms)} | {less} | {SETS[name]['paper']} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    prepare_process()
    with tempfile.TemporaryDirectory() as place:
        for name in args.names:
            for seed in args.seeds:
                found = one(name, seed, args.steps, Path(place))
                print(name, seed, json.dumps(found), flush=True)
                stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
                stored.setdefault("runs", {})[f"{name}/{seed}"] = found
                stored["machine"] = machine()
                RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    pages.write(PAGE, table(json.loads(RESULTS.read_text())["runs"]), MARKS)


if __name__ == "__main__":
    main()
