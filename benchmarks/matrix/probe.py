"""Folds, and the one probe that all arms are judged by: logistic regression on standardised frozen features.

Its regularisation is chosen on training rows only, by the metric that is reported, the same way for every arm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Fold = tuple[Array, Array]
"""(row numbers the probe is fitted on, row numbers it is tested on)"""

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse regularisation strengths C that are tried."""
RAW_SCALES = ("each", "common")
"""Raw features may also be left on their common scale: spectra and SGC are worse baselines otherwise."""
RAW_UNSCALED = ("graph",)
"""Modalities whose raw features always enter at their common scale, as SGC does in its field."""
MANY = 600
"""With more training rows than this, C is chosen on one held-out fifth instead of by three-fold cross-validation."""


def make_folds(y: Array, splits: Array, columns: Mapping[str, Array], protocol: Mapping[str, Any]) -> list[Fold]:
    """The folds of a protocol (see cells.yaml): the same ones for every seed and arm.

    y: (n,) class numbers, -1 unknown; splits: (n,) number of each row's split; columns: what `group` and `column`
    name. Rows without a label are in no fold.
    """
    known = np.flatnonzero(y >= 0)
    kind, rng = protocol["kind"], np.random.default_rng(0)
    if kind == "folds":
        if "column" in protocol:
            value = columns[protocol["column"]][known]
            return [(known[value != v], known[value == v]) for v in np.unique(value)]
        groups = columns[protocol["group"]][known] if "group" in protocol else None
        return [(known[a], known[b]) for a, b in _parts(y[known], groups, protocol["folds"], 0)]
    train, test = known[splits[known] == splits.min()], known[splits[known] == splits.max()]
    test = _some(test, protocol.get("test"), rng)
    if kind == "standard":
        return [(_some(train, protocol.get("train"), rng), test)]
    draws = [np.random.default_rng(draw) for draw in range(protocol["draws"])]
    return [(_few(train, y, protocol["labels"], draw), test) for draw in draws]


def _some(rows: Array, limit: int | None, rng: np.random.Generator) -> Array:
    return rows if limit is None or limit >= len(rows) else np.sort(rng.permutation(rows)[:limit])


def _few(rows: Array, y: Array, count: int, rng: np.random.Generator) -> Array:
    """`count` random rows with at least five of every class, so that a probe and its own validation can be."""
    while True:
        chosen = np.sort(rng.permutation(rows)[:count])
        if np.bincount(y[chosen], minlength=int(y.max()) + 1).min() >= 5:
            return chosen


def _parts(y: Array, groups: Array | None, parts: int, seed: int) -> list[Fold]:
    """Stratified folds; rows of a group stay together."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is None:
        return list(StratifiedKFold(parts, shuffle=True, random_state=seed).split(y, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # fewer rows of a class than folds
        return list(StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(y, y, groups))


def score(metric: str, truth: Array, chances: Array, classes: Array) -> float:
    """accuracy, balanced accuracy (mean recall of the classes in `truth`) or AUC of the second class.

    chances: (m, C) of the `classes` (C,).
    """
    if metric == "auc":
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(truth == classes[1], chances[:, 1]))
    right = classes[chances.argmax(1)] == truth
    if metric == "accuracy":
        return float(right.mean())
    return float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))


def chance(metric: str, y: Array, folds: Sequence[Fold]) -> float:
    """What answering without looking gives: the commonest training class, or 1 / classes, or 0.5."""
    if metric == "auc":
        return 0.5
    if metric == "balanced_accuracy":
        return 1.0 / len(np.unique(y[y >= 0]))
    return float(np.mean([(y[test] == np.bincount(y[train]).argmax()).mean() for train, test in folds]))


def _fit(x: Array, y: Array, c: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weakly regularised fits need not end to be compared
        return LogisticRegression(C=c, max_iter=200).fit(x, y)


def probe_fold(
    x: Array, y: Array, groups: Array | None, fold: Fold, metric: str, scales: Sequence[str] = ("each",)
) -> float:
    """Score of the probe on one fold. x: (n, D) features, groups: (n,) or None.

    scales: how features may be scaled, chosen together with C: "each" by its own mean and deviation, or "common", all
    centred and divided by one number, which leaves rare words and weak bands as small as they are.
    """
    train, test = fold
    target = y[train]
    inner = _parts(target, None if groups is None else groups[train], _inner(target, groups, train), 1)
    if len(train) > MANY:
        inner = inner[:1]
    # of equal scores the first scale and the most regularised wins
    best, chosen, strength = -np.inf, x, STRENGTHS[0]
    for scale in scales:
        scaled = _scaled(x, train, scale)
        for c in STRENGTHS:
            mean = float(np.mean([_score_of(scaled[train], target, part, c, metric) for part in inner]))
            if mean > best:
                best, chosen, strength = mean, scaled, c
    probe = _fit(chosen[train], target, strength)
    return score(metric, y[test], probe.predict_proba(chosen[test]), probe.classes_)


def _scaled(x: Array, train: Array, scale: str) -> Array:
    """x with the training rows' means taken off, over their deviations or the root of their mean variance."""
    deviation = x[train].std(0)
    if scale == "common":
        return np.asarray((x - x[train].mean(0)) / max(float(np.sqrt(np.square(deviation).mean())), 1e-12))
    return np.asarray((x - x[train].mean(0)) / np.where(deviation > 0, deviation, 1.0))


def _inner(target: Array, groups: Array | None, train: Array) -> int:
    """Three parts, or as many as there are groups, or rows of the rarest class."""
    most = len(np.unique(groups[train])) if groups is not None else int(np.unique(target, return_counts=True)[1].min())
    return max(min(3, most), 2)


def _score_of(x: Array, y: Array, part: Fold, c: float, metric: str) -> float:
    a, b = part
    if len(np.unique(y[b])) < 2 and metric == "auc":
        return 0.5  # nothing to rank: the same for every strength
    probe = _fit(x[a], y[a], c)
    return score(metric, y[b], probe.predict_proba(x[b]), probe.classes_)


def judge(
    arms: Mapping[str, Array],
    y: Array,
    groups: Array | None,
    folds: Sequence[Fold],
    metric: str,
    tell: Callable[[str], None] = lambda text: None,
    raw_scales: Sequence[str] = RAW_SCALES,
) -> dict[str, float]:
    """Mean score over the folds of every arm (name -> features (n, D)). The arm "raw" has one more choice."""
    out = {}
    for name, x in arms.items():
        x = x.astype(np.float64)
        x = x[:, x.std(0) > 0]
        scales = raw_scales if name == "raw" else ("each",)
        out[name] = float(np.mean([probe_fold(x, y, groups, fold, metric, scales) for fold in folds]))
        tell(f"{name} {out[name]:.3f}")
    return out
