"""How good predictions are, each with a 95 % interval: Wilson's for a share of independent rows, else a bootstrap of
the rows, or of whole groups where a column names them (rows of one patient are not independent).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation.baselines import wilson
from .labels import Target

Array = NDArray[Any]
Score = Callable[[Array, Array], float]
RESAMPLES = 200


def auroc(score: Array, positive: Array) -> float:
    """The probability that a positive row scores above a negative one, ties counting half; nan without both."""
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of equal scores, from 1
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def _macro(per_label: Sequence[float]) -> float:
    known = [v for v in per_label if v == v]
    return float(np.mean(known)) if known else float("nan")


def score_functions(target: Target) -> dict[str, Score]:
    """Metric -> function of (logits (n, C), truth)."""
    if target.task == "regression":
        return {"r2": _r2, "mae": lambda p, y: float((np.abs(p - y) * np.array(target.std)).mean())}
    if target.task == "multilabel":
        columns = range(target.outputs)
        return {
            "auroc": lambda p, y: _macro([auroc(p[:, c], y[:, c] > 0.5) for c in columns]),
            "f1": lambda p, y: _macro([_f1(p[:, c] > 0, y[:, c] > 0.5) for c in columns]),
        }
    classes = range(target.outputs)
    functions: dict[str, Score] = {
        "accuracy": lambda p, y: float((p.argmax(1) == y).mean()),
        "balanced_accuracy": lambda p, y: _macro(
            [float((p.argmax(1)[y == c] == c).mean()) if (y == c).any() else float("nan") for c in classes]
        ),
    }
    if target.outputs == 2:
        functions["auroc"] = lambda p, y: auroc(p[:, 1] - p[:, 0], y == 1)
    else:
        functions["auroc"] = lambda p, y: _macro([auroc(_one_against_rest(p, c), y == c) for c in classes])
    return functions


def _one_against_rest(p: Array, c: int) -> Array:
    shifted = p - p.max(1, keepdims=True)
    probability: Array = np.exp(shifted[:, c]) / np.exp(shifted).sum(1)
    return probability


def _r2(p: Array, y: Array) -> float:
    """Mean over the targets of 1 - residual / total sum of squares."""
    total = np.square(y - y.mean(0)).sum(0)
    return _macro(
        [float(v) for v in np.where(total > 0, 1 - np.square(p - y).sum(0) / np.maximum(total, 1e-300), np.nan)]
    )


def _f1(predicted: Array, positive: Array) -> float:
    if not positive.any():
        return float("nan")
    both = float((predicted & positive).sum())
    return 2 * both / float(predicted.sum() + positive.sum())


def intervals(
    functions: dict[str, Score], logits: Array, truth: Array, groups: Sequence[Hashable] | None, seed: int = 0
) -> dict[str, list[float]]:
    """Metric -> [low, high]: percentiles of `RESAMPLES` bootstrap draws; Wilson's for accuracy without groups."""
    rng = np.random.default_rng(seed)
    names = np.arange(len(truth)) if groups is None else np.unique([str(g) for g in groups], return_inverse=True)[1]
    members = [np.flatnonzero(names == k) for k in range(int(names.max()) + 1)] if groups is not None else None
    drawn: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(RESAMPLES):
        if members is None:
            rows = rng.integers(len(truth), size=len(truth))
        else:
            rows = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
        for name, function in functions.items():
            drawn[name].append(function(logits[rows], truth[rows]))
    out = {}
    for name, values in drawn.items():
        if name == "accuracy" and groups is None:
            out[name] = list(wilson(functions[name](logits, truth), len(truth)))
        elif not all(v != v for v in values):
            out[name] = [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]
    return out


def chance(target: Target, train: Array, truth: Array) -> dict[str, float]:
    """What needs no input: the commonest class of the training labels, their mean."""
    if target.task == "regression":
        return {
            "r2": _r2(np.broadcast_to(train.mean(0), truth.shape), truth),
            "mae": float((np.abs(train.mean(0) - truth) * np.array(target.std)).mean()),
        }
    if target.task == "multilabel":
        return {"auroc": 0.5}
    commonest = int(np.bincount(train).argmax())
    here = len(np.unique(truth))
    return {"accuracy": float((truth == commonest).mean()), "balanced_accuracy": 1 / here, "auroc": 0.5}


def measure(
    target: Target,
    logits: dict[str, Tensor],
    truth: Tensor,
    train: Tensor,
    groups: Sequence[Hashable] | None = None,
    prefix: str = "",
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The metrics of a report (as `mmssl.evaluation.tasks.metric`) from each encoder's logits (n, C)."""
    y = truth.numpy()
    functions = score_functions(target)
    by_chance = chance(target, train.numpy(), y)
    bounds = {name: intervals(functions, p.numpy(), y, groups, seed) for name, p in logits.items()}
    out: dict[str, dict[str, Any]] = {}
    for name, function in functions.items():
        values: dict[str, Any] = {"model": None, "untrained": None, "raw": None}
        for encoder, p in logits.items():
            value = function(p.numpy(), y)
            values[encoder] = value if value == value else None
        metric = {**values, "chance": by_chance.get(name), "n": len(y)}
        metric["interval"] = {e: b[name] for e, b in bounds.items() if name in b and values[e] is not None}
        out[f"{prefix}{name}"] = metric
    return out
