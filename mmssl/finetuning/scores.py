"""How good predictions are, each with a 95 % interval: Wilson's for a share of independent rows, else a bootstrap of
the rows, or of whole groups where a column names them (rows of one patient are not independent).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from torch import Tensor

from ..data.labels import Target
from ..evaluation.baselines import wilson
from ..evaluation.differences import resamples
from ..evaluation.scoring import Array, Score, balanced_accuracy, r2, scores_of
from ..evaluation.tasks import ENCODERS, Metrics, metric

RESAMPLES = 200


def score_functions(target: Target) -> dict[str, Score]:
    """Metric -> function of (logits (n, C), truth)."""
    functions = scores_of(target.task)
    if target.task == "regression":
        functions["mae"] = lambda p, y: float((np.abs(p - y) * np.array(target.std)).mean())
    return functions


def by_frequency(counts: Array, truth: Array, shots: Sequence[int]) -> dict[str, Score]:
    """Scores of the classes that have few training rows, a medium number and many: the mean over these classes of the
    share of their rows that is recognised (Liu et al. 2019, "Large-Scale Long-Tailed Recognition", who part them at 20
    and 100). None where all classes that are measured are of one kind.

    Args:
        counts: (C,) training rows of each class.
        truth: (n,) classes of the rows that are measured.
        shots: from how many on a class is medium, and above how many it is one of many.
    """
    names = np.array(["few", "medium", "many"])
    kind = names[(counts >= shots[0]).astype(int) + (counts > shots[1])]
    there = [name for name in names.tolist() if (kind[np.unique(truth)] == name).any()]

    def of(name: str) -> Score:
        def score(logits: Array, y: Array) -> float:
            rows = kind[y] == name
            return balanced_accuracy(logits[rows], y[rows]) if rows.any() else float("nan")

        return score

    return {f"recall_{name}": of(name) for name in there} if len(there) > 1 else {}


def intervals(
    functions: dict[str, Score], logits: Array, truth: Array, groups: Sequence[Hashable] | None, seed: int = 0
) -> dict[str, list[float]]:
    """Metric -> [low, high]: percentiles of `RESAMPLES` bootstrap draws; Wilson's for accuracy without groups."""
    drawn: dict[str, list[float]] = {name: [] for name in functions}
    for rows in resamples(len(truth), groups, seed, RESAMPLES):
        for name, function in functions.items():
            drawn[name].append(function(logits[rows], truth[rows]))
    out = {}
    for name, values in drawn.items():
        if name == "accuracy" and groups is None:
            out[name] = list(wilson(functions[name](logits, truth), len(truth)))
        elif not all(v != v for v in values):
            out[name] = [float(v) for v in np.nanpercentile(values, [2.5, 97.5])]
    return out


LOWER = ("mae",)
"""Scores of which the smaller is the better."""


def chance(target: Target, train: Array, truth: Array) -> dict[str, float]:
    """What needs no input: the commonest class of the training labels, their mean."""
    if target.task == "regression":
        return {
            "r2": r2(np.broadcast_to(train.mean(0), truth.shape), truth),
            "spearman": 0.0,
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
    shots: Sequence[int] | None = None,
) -> Metrics:
    """The metrics of a report (as `mmssl.evaluation.tasks.metric`).

    Args:
        target: what the label is.
        logits: encoder -> (n, C), by the name of its column: `model` (the frozen encoder under a probe), `untrained`,
            `raw`, `finetuned` (what a fine-tuning made of it), `teacher`.
        truth: (n,) or (n, C) labels of the test rows.
        train: labels of the training rows, which say what chance is.
        groups: (n,) whose rows are drawn together for the intervals (patients, say); None: each by itself.
        prefix: of the metrics' names.
        seed: of the intervals' draws.
        shots: see `by_frequency`; None: no such scores.
    """
    y = truth.numpy()
    functions = score_functions(target)
    if shots is not None and target.task == "classification":
        functions |= by_frequency(np.bincount(train.numpy(), minlength=target.outputs), y, shots)
    by_chance = chance(target, train.numpy(), y)
    bounds = {name: intervals(functions, p.numpy(), y, groups, seed) for name, p in logits.items()}
    out: Metrics = {}
    for name, function in functions.items():
        found = {encoder: function(p.numpy(), y) for encoder, p in logits.items()}
        values = {encoder: value if value == value else None for encoder, value in found.items()}
        beside = {encoder: value for encoder, value in values.items() if encoder not in ENCODERS}
        spans = {e: b[name] for e, b in bounds.items() if name in b and values[e] is not None}
        judged = metric({**values, "chance": by_chance.get(name)}, len(y), share=False)
        out[f"{prefix}{name}"] = {**beside, **judged, "interval": spans}
    return out
