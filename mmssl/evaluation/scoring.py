"""How good predictions are: the scores of a task from (logits, truth), for probes, fine-tuned heads and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Score = Callable[[Array, Array], float]
"""(logits or predicted numbers (n, C), truth (n,) or (n, C)) -> a number, larger is better; nan where undefined."""


AT_ONCE = 1 << 20
"""Scores that are ranked together: the arrays beside them take eight bytes a score each."""


def auroc(score: Array, positive: Array) -> float:
    """The probability that a positive row scores above a negative one, ties counting half; nan without both.

    score (n,), positive (n,) bool.
    """
    return float(_aurocs(score[:, None], positive[:, None])[0])


def aurocs(scores: Array, positive: Array) -> list[float]:
    """The `auroc` of each column of scores (n, C), of which the rows in positive (n, C) are the positive ones."""
    columns = max(AT_ONCE // max(len(scores), 1), 1)
    parts = range(0, scores.shape[1], columns)
    return [float(v) for k in parts for v in _aurocs(scores[:, k : k + columns], positive[:, k : k + columns])]


def _aurocs(scores: Array, positive: Array) -> Array:
    """(C,) Mann-Whitney's statistic of ranks counted here, for all columns at once: scikit-learn's `roc_auc_score` and
    scipy's `rankdata`, which give the same number, examine one column anew in every call, and the intervals of one
    report need it 200 times an encoder and class."""
    rows, n = len(scores), positive.sum(0)
    order = scores.argsort(0)
    ordered, place = np.take_along_axis(scores, order, 0), np.arange(rows)[:, None]
    first, last = np.ones((2, *scores.shape), bool)  # of the rows with equal scores
    first[1:] = ordered[1:] != ordered[:-1]
    last[:-1] = first[1:]
    lowest = np.maximum.accumulate(np.where(first, place, 0), 0)
    highest = np.minimum.accumulate(np.where(last, place, rows)[::-1], 0)[::-1]
    ranks = (lowest + highest) / 2 + 1
    above = np.where(np.take_along_axis(positive, order, 0), ranks, 0.0).sum(0) - n * (n + 1) / 2
    pairs = n * (rows - n)
    unknown = (pairs == 0) | np.isnan(scores).any(0)
    return np.where(unknown, np.nan, above / np.maximum(pairs, 1))


def accuracy(logits: Array, truth: Array) -> float:
    """The share of rows whose largest logit is that of their class."""
    return float((logits.argmax(1) == truth).mean())


def balanced_accuracy(logits: Array, truth: Array) -> float:
    """The mean over the classes in `truth` of the share of their rows that are recognised."""
    right = logits.argmax(1) == truth
    return float(np.mean([right[truth == c].mean() for c in np.unique(truth)]))


def class_auroc(logits: Array, truth: Array) -> float:
    """AUROC of the second of two classes; of more classes the mean of each against the rest, by its probability."""
    if logits.shape[1] == 2:
        return auroc(logits[:, 1] - logits[:, 0], truth == 1)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    chances = odds / odds.sum(1, keepdims=True)
    return mean_of_known(aurocs(chances, truth[:, None] == np.arange(logits.shape[1])))


def label_auroc(logits: Array, truth: Array) -> float:
    """The mean AUROC of several labels a row, of those that some rows have and some have not."""
    return mean_of_known(aurocs(logits, truth > 0.5))


def f1(logits: Array, truth: Array) -> float:
    """The mean F1 of several labels a row, each said of a row where its logit is above zero."""
    return mean_of_known([_f1(logits[:, c] > 0, truth[:, c] > 0.5) for c in range(truth.shape[1])])


def r2(predicted: Array, truth: Array) -> float:
    """Mean over the targets of 1 - residual / total sum of squares."""
    total = np.square(truth - truth.mean(0)).sum(0)
    share = np.where(total > 0, 1 - np.square(predicted - truth).sum(0) / np.maximum(total, 1e-300), np.nan)
    return mean_of_known([float(v) for v in share])


def scores_of(task: str) -> dict[str, Score]:
    """name -> score of classification, multilabel or regression; the first is what a report leads with."""
    if task == "regression":
        return {"r2": r2}
    if task == "multilabel":
        return {"auroc": label_auroc, "f1": f1}
    return {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "auroc": class_auroc}


def _f1(predicted: Array, positive: Array) -> float:
    if not positive.any():
        return float("nan")
    return 2 * float((predicted & positive).sum()) / float(predicted.sum() + positive.sum())


def mean_of_known(values: Sequence[float]) -> float:
    """Of those that are defined."""
    known = [v for v in values if v == v]
    return float(np.mean(known)) if known else float("nan")
