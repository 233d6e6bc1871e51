"""T-JEPA (Thimonier et al., ICLR 2025): a multilayer perceptron learns from the cells of a table, from what the encoder
of `tabular_jepa` makes of them (frozen, columns side by side), and from the same encoder before it was trained. The
paper has other rows to test on and a search of each model's settings.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.sources import open_source
from mmssl.evaluation.embedding import embed_source
from mmssl.models.opening import open_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model
from mmssl.training.pretrain import pretrain

from .claims import DATA, Array, Claim, accuracy, measured

STEPS = 2000
PAIRS = (("pretrained", "cells"), ("pretrained", "untrained"))


def features(data: str, label: str, seed: int, folder: Path) -> tuple[dict[str, list[Array]], list[Array]]:
    """Arm -> features of the rows to learn from and of those to test on, and their labels."""
    path = str(DATA / data)
    settings = {
        "seed": seed,
        "data": {"path": path},
        "model": {"towers": {"tabular": {"readout": "flat"}}},
        "evaluation": {"tasks": [], "label": label},
        "train": {"steps": STEPS, "trackers": [], "report": False, "log_every": 500},
    }
    recipe = load_recipe("tabular_jepa", settings)
    run = pretrain(recipe, output=folder / f"{label}-{seed}")
    model, processor = open_model(run.model_folder)
    encoders = {"pretrained": model.eval(), "untrained": build_model(recipe, processor).eval()}
    found: dict[str, list[Array]] = {arm: [] for arm in ("cells", *encoders)}
    labels = []
    columns = {"tabular": [column.name for column in processor.preprocessors["tabular"].columns]}
    for split in ("train", "test"):
        source = open_source(path, split=split, columns=columns)
        seen = embed_source(encoders, processor.preprocessors, source, columns, describe=model, batch_size=512)
        found["cells"].append(seen.raw["tabular"].numpy())
        for arm in encoders:
            found[arm].append(seen.features(arm, "tabular").numpy())
        labels.append(np.array(source.with_format(None)[label]))
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


def _rmse(squared: Array) -> float:
    return float(np.sqrt(squared.mean()))


def run(data: str, label: str, unit: float | None, seed: int, folder: Path) -> dict[str, Any]:
    """One seed."""
    found, y = features(data, label, seed, folder)
    errors = {arm: judged(*parts, y, unit, seed) for arm, parts in found.items()}
    told = measured(errors, accuracy if unit is None else _rmse, PAIRS, seed)
    return told | {"learned": len(y[0]), "steps": STEPS}


CLAIMS = {
    "california": Claim(
        "T-JEPA, California housing, a perceptron on the frozen encoder against one on the cells",
        "RMSE, 100,000 USD",
        PAIRS,
        ".518 to .468",
        partial(run, "california_housing/housing.csv", "median_house_value", 1e5),
        less_is_better=True,
    ),
    "adult": Claim(
        "T-JEPA, Adult, likewise", "accuracy", PAIRS, "better", partial(run, "adult/adult.csv", "income", None)
    ),
}
