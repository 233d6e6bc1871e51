"""How good predictions are: the scores of a task from (logits, truth), for probes, fine-tuned heads and benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Score = Callable[[Array, Array], float]
"""(logits or predicted numbers (n, C), truth (n,) or (n, C)) -> a number, larger is better; nan where undefined."""


def auroc(score: Array, positive: Array) -> float:
    """The probability that a positive row scores above a negative one, ties counting half; nan without both.

    score (n,), positive (n,) bool.
    """
    return aurocs(score[:, None], positive[:, None])[0]


def aurocs(scores: Array, positive: Array) -> list[float]:
    """The `auroc` of each column of scores (n, C), of which the rows in positive (n, C) are the positive ones.

    Mann-Whitney's statistic of scipy's ranks, of all columns at once. It equals scikit-learn's `roc_auc_score`, which
    is 25 times slower (it examines its inputs anew in every call): the intervals of one report need it 200 times an
    encoder and class, on ten classes half a minute instead of one second.
    """
    from scipy.stats import rankdata

    n = positive.sum(0)
    pairs = n * (len(scores) - n)
    above = np.where(positive, rankdata(scores, axis=0), 0.0).sum(0) - n * (n + 1) / 2
    unknown = (pairs == 0) | np.isnan(scores).any(0)
    return [float(v) for v in np.where(unknown, np.nan, above / np.maximum(pairs, 1))]


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


def spearman(predicted: Array, truth: Array) -> float:
    """Mean over the targets of Spearman's rank correlation, ties sharing their ranks; nan where either is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(part, axis=0) for part in (predicted, truth)]
    a, b = (part - part.mean(0) for part in ranks)
    spread = np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
    share = np.where(spread > 0, (a * b).sum(0) / np.maximum(spread, 1e-300), np.nan)
    return mean_of_known([float(v) for v in share])


def scores_of(task: str) -> dict[str, Score]:
    """name -> score of classification, multilabel or regression; the first is what a report leads with."""
    if task == "regression":
        return {"r2": r2, "spearman": spearman}
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
