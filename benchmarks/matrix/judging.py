"""How the matrix judges: its folds, and the linear probe of `mmssl.evaluation` by a protocol of its own.

Truth y (n,) is class numbers, -1 where unknown, or float64 numbers, nan where unknown: then all judges regress.

C is chosen by three-fold cross-validation over the training rows and by the metric that is reported, the same way for
every arm: the data sets are so small that one held-out fifth would decide little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsRegressor

from mmssl.data.splits import Fold, folds, strata
from mmssl.evaluation.boosting import fit_boosting
from mmssl.evaluation.differences import resamples
from mmssl.evaluation.knn import knn_votes, standardised
from mmssl.evaluation.linear import Protocol, fit_probe
from mmssl.evaluation.scoring import Score, accuracy, balanced_accuracy, class_auroc, r2

Array = NDArray[Any]


def _r2(predicted: Array, truth: Array) -> float:
    return r2(predicted, truth.reshape(len(truth), -1))


SCORES: dict[str, Score] = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "auc": class_auroc, "r2": _r2}
"""Metric -> score of (logits or chances (m, C), classes (m,)), or of (numbers (m, 1), numbers (m,))."""
ITERATIONS = 200
"""Of one logistic regression: there are many, and weakly regularised fits need not end to be compared."""
RAW_SCALES = ("each", "common")
"""Raw features may also be left on their common scale: spectra and SGC are worse baselines otherwise."""
RAW_UNSCALED = ("graph",)
"""Modalities whose raw features always enter at their common scale, as SGC does in its field."""
NEIGHBOURS = 20
"""Of a regression; as many as of a classification."""
RESAMPLES = 300
"""Of the test rows, for the interval of a difference."""
MANY = 600
"""With more training rows than this, C is chosen on one held-out fifth instead of by three-fold cross-validation."""


def regresses(y: Array) -> bool:
    """Whether y is numbers and not classes."""
    return bool(np.issubdtype(y.dtype, np.floating))


def known_rows(y: Array) -> Array:
    """Numbers of the rows whose truth is known."""
    return np.flatnonzero(~np.isnan(y) if regresses(y) else y >= 0)


def make_folds(y: Array, splits: Array, columns: Mapping[str, Array], protocol: Mapping[str, Any]) -> list[Fold]:
    """The folds of a protocol (see cells.yaml): the same ones for every seed and arm.

    y: (n,) truth; splits: (n,) number of each row's split; columns: what `group` and `column`
    name. Rows without a label are in no fold.
    """
    known = known_rows(y)
    kind, rng = protocol["kind"], np.random.default_rng(0)
    if kind == "folds":
        if "column" in protocol:
            value = columns[protocol["column"]][known]
            return [(known[value != v], known[value == v]) for v in np.unique(value)]
        groups = columns[protocol["group"]][known] if "group" in protocol else None
        return [(known[a], known[b]) for a, b in folds(_kinds(y[known]), protocol["folds"], groups, 0)]
    train, test = known[splits[known] == splits.min()], known[splits[known] == splits.max()]
    test = _some(test, protocol.get("test"), rng)
    if kind == "standard":
        return [(_some(train, protocol.get("train"), rng), test)]
    draws = [np.random.default_rng(draw) for draw in range(protocol["draws"])]
    return [(_few(train, y, protocol["labels"], draw), test) for draw in draws]


def _some(rows: Array, limit: int | None, rng: np.random.Generator) -> Array:
    return rows if limit is None or limit >= len(rows) else np.sort(rng.permutation(rows)[:limit])


def _kinds(y: Array) -> Array:
    """(n,) what rows are shared out by: their class, or the fifth that their number lies in."""
    return strata("regression", y[:, None], 1).argmax(1) if regresses(y) else y


def _few(rows: Array, y: Array, count: int, rng: np.random.Generator) -> Array:
    """`count` random rows, with at least five of every class, so that a probe and its own validation can be."""
    while True:
        chosen = np.sort(rng.permutation(rows)[:count])
        if regresses(y) or np.bincount(y[chosen], minlength=int(y.max()) + 1).min() >= 5:
            return chosen


def chance(metric: str, y: Array, parts: Sequence[Fold]) -> float:
    """What answering without looking gives: the commonest training class, or 1 / classes, or 0.5; R2 of a mean."""
    if metric == "r2":
        return 0.0
    if metric == "auc":
        return 0.5
    if metric == "balanced_accuracy":
        return 1.0 / len(np.unique(y[y >= 0]))
    return float(np.mean([(y[test] == np.bincount(y[train]).argmax()).mean() for train, test in parts]))


def probed(
    x: Array, y: Array, groups: Array | None, fold: Fold, metric: str, scales: Sequence[str] = ("each",)
) -> Array:
    """(m, C) logits of the probe for the test rows of one fold. x: (n, D) features, groups: (n,) or None.

    scales: how features may be scaled (see `Protocol`), chosen together with C.
    """
    train, test = fold
    kinds, numbers = _kinds(y[train]), regresses(y)
    inner = folds(kinds, _inner(kinds, groups, train), None if groups is None else groups[train], 1)
    if len(train) > MANY:
        inner = inner[:1]
    fitted = [
        fit_probe(
            x[train],
            y[train, None] if numbers else y[train],
            task="regression" if numbers else "classification",
            outputs=1 if numbers else int(y.max()) + 1,
            protocol=Protocol(parts=inner, score=SCORES[metric], scale=scale, max_iter=ITERATIONS),
        )
        for scale in scales
    ]
    # of equal scores the first scale wins
    best = max(fitted, key=lambda probe: -np.inf if np.isnan(probe.chosen_at) else probe.chosen_at)
    return best(x[test])


def neighbours(x: Array, y: Array, fold: Fold) -> Array:
    """(m, C) votes of the nearest training rows by the cosine of standardised features (`mmssl.evaluation.knn`), or
    (m, 1) the mean of their numbers."""
    train, test = fold
    first, second = standardised(x[train], x[test])
    if regresses(y):
        nearest = KNeighborsRegressor(min(NEIGHBOURS, len(train)), metric="cosine").fit(first, y[train])
        return nearest.predict(second)[:, None]
    shown = [torch.from_numpy(part) for part in (first, second)]
    votes = knn_votes(shown[0], torch.from_numpy(y[train]), shown[1], classes=int(y.max()) + 1)
    return votes.double().numpy()


def boosted(x: Array, y: Array, groups: Array | None, fold: Fold) -> Array:
    """(m, C) log probabilities, or numbers, of boosting on raw features (`mmssl.evaluation.boosting`), which need no
    scale."""
    train, test = fold
    own = None if groups is None else groups[train].tolist()
    if regresses(y):
        return fit_boosting(x[train], y[train, None], task="regression", outputs=1, groups=own)(x[test])
    return fit_boosting(x[train], y[train], outputs=int(y.max()) + 1, groups=own)(x[test])


def mean_score(outputs: Sequence[Array], y: Array, parts: Sequence[Fold], metric: str) -> float:
    """Mean over the folds of the score of their outputs (m, C)."""
    return float(np.mean([SCORES[metric](out, y[test]) for out, (_, test) in zip(outputs, parts, strict=True)]))


def difference(
    ours: Sequence[Array], theirs: Sequence[Array], y: Array, parts: Sequence[Fold], groups: Array | None, metric: str
) -> list[float]:
    """[mean, low, high]: how much better one arm's outputs are than another's on the same test rows.

    low, high: the 95 % percentile interval over resamples of the test rows (of the groups, where rows of one belong
    together), drawn for both arms and all folds alike.
    """
    rows = np.unique(np.concatenate([test for _, test in parts]))
    own = None if groups is None else groups[rows].tolist()
    found = []
    for drawn in resamples(len(rows), own, 0, RESAMPLES):
        times = np.bincount(drawn, minlength=len(rows))
        one = []
        for a, b, (_, test) in zip(ours, theirs, parts, strict=True):
            here = np.repeat(np.arange(len(test)), times[np.searchsorted(rows, test)])
            truth = y[test][here]
            known = len(here) and (metric in ("accuracy", "r2") or len(np.unique(truth)) > 1)
            one.append(SCORES[metric](a[here], truth) - SCORES[metric](b[here], truth) if known else np.nan)
        found.append(np.nanmean(one))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return [mean_score(ours, y, parts, metric) - mean_score(theirs, y, parts, metric), float(low), float(high)]


def _inner(target: Array, groups: Array | None, train: Array) -> int:
    """Three parts, or as many as there are groups, or rows of the rarest class."""
    most = len(np.unique(groups[train])) if groups is not None else int(np.unique(target, return_counts=True)[1].min())
    return max(min(3, most), 2)


def varying(x: Array) -> Array:
    """float64 features without those that are the same in every row."""
    x = x.astype(np.float64)
    return x[:, x.std(0) > 0]


def judge(
    arms: Mapping[str, Array],
    y: Array,
    groups: Array | None,
    parts: Sequence[Fold],
    metric: str,
    tell: Callable[[str], None] = lambda text: None,
    raw_scales: Sequence[str] = RAW_SCALES,
) -> dict[str, list[Array]]:
    """Outputs (m, C) of the probe in every fold, of every arm (name -> features (n, D)). The arm "raw" has one more
    choice."""
    out = {}
    for name, x in arms.items():
        scales = raw_scales if name == "raw" else ("each",)
        kept = varying(x)
        out[name] = [probed(kept, y, groups, fold, metric, scales) for fold in parts]
        tell(f"{name}: {mean_score(out[name], y, parts, metric):.4f}")
    return out
