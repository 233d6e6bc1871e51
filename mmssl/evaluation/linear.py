"""The linear probe: logistic (or ridge) regression on frozen, standardised features, folded into one linear map.

One probe judges everything: `mmssl evaluate`, the baselines of a fine-tuning and the head it starts from ("LP-FT",
Kumar et al., ICLR 2022), the look at labelled rows while a run trains, and the benchmarks.

How its regularisation C is chosen is part of the number, so there is one way. A fifth of the training rows is held
out, by class and by group; the C with the best score there wins, of equal scores the most regularised; then the probe
is fitted on all training rows. So it is done for CLIP (Radford et al. 2021, arXiv 2103.00020, appendix A.3). Of fewer
than `FEW` rows each fifth is held out once and the mean over the fifths counts: 20 rows alone choose by chance, and the
penalty of a regression that they choose too weak can ruin it. The score
is the one that reports lead with (accuracy, AUROC of several labels, R2), not the loss: a probe is there to say how
much of it the features allow, while the loss asks for calibrated probabilities too and so picks another C. Training
rows alone are used, never those that an early stopping looks at, because `mmssl evaluate` has no such rows and the
number must be the same there. A benchmark that compares arms by another protocol (cross-validation, another score)
says so with a `Protocol`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.splits import Counts, Fold, Groups, hold_out, parts_of, strata, without
from .scoring import Score, balanced_accuracy, mean_of_known, scores_of

logger = logging.getLogger("mmssl")

Array = NDArray[Any]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse regularisation strengths C that are tried."""
HELD_OUT = 0.2
"""Share of the training rows that C is chosen on."""
FEW = 500
"""Of fewer training rows every fifth is held out in its turn."""
NEVER, RARELY = -20.0, -5.0
"""Logits of a class without training rows, below all that standardised features give, and of a label without any."""


@dataclass(frozen=True)
class Protocol:
    """How C is chosen; the default is what every command of mmssl does.

    Attributes:
        parts: (rows to fit on, rows to choose on), the mean over the parts counts; None: those of `fifths`.
        score: what is chosen by; None is the task's first score, of balanced classes the balanced accuracy.
        scale: "each" feature by its own deviation, or all by one "common" number, which leaves rare words and weak
            bands as small as they are.
        max_iter: of one logistic regression.
    """

    parts: Sequence[Fold] | None = None
    score: Score | None = None
    scale: str = "each"
    max_iter: int = 500


@dataclass(frozen=True)
class Probe:
    """scores = x @ weight.T + bias: logits, or the numbers of a regression.

    Attributes:
        weight: (C, D) float64, of features as they are: the standardisation is folded in.
        bias: (C,) float64.
        strength: the C that was chosen.
        chosen_at: the mean score it had where it was chosen, nan where nothing could be held out.
        penalty: (D,) float64: the probe is where the mean over its rows of `mmssl.losses.supervised.row_losses`, plus
            the sum of penalty * weight**2, is least.
    """

    weight: Array
    bias: Array
    strength: float
    chosen_at: float
    penalty: Array

    def __call__(self, x: Array) -> Array:
        """(n, C) float64 for x (n, D)."""
        scores: Array = x.astype(np.float64) @ self.weight.T + self.bias
        return scores


def fit_probe(
    x: Array,
    y: Array,
    *,
    task: str = "classification",
    outputs: int | None = None,
    groups: Groups | None = None,
    balanced: bool = False,
    seed: int = 0,
    protocol: Protocol | None = None,
    strength: float | None = None,
    weights: Array | None = None,
) -> Probe:
    """The probe of frozen features.

    Args:
        x: (n, D) training features.
        y: (n,) class numbers, or (n, C) of 0 and 1 or of numbers.
        task: classification, multilabel or regression.
        outputs: classes, also those that no row has (default: as many as y shows).
        groups: a name a row; rows of one name are held out together.
        balanced: each class weighs the same.
        seed: of the fifths.
        protocol: how C is chosen.
        strength: C, where it is known already; None: it is chosen.
        weights: (n,) what each row counts in the loss; None: one.

    Raises:
        ValueError: there are fewer than two classes.
    """
    if task == "classification" and len(np.unique(y)) < 2:
        raise ValueError("a linear probe needs training rows of at least two classes")
    protocol = protocol or Protocol()
    outputs = outputs or (int(y.max()) + 1 if task == "classification" else y.shape[1])
    shift, deviation = _scale(x, protocol.scale, weights)
    z = _standardised(x, shift, deviation)
    parts = protocol.parts
    if parts is None:
        parts = fifths(strata(task, y, outputs), groups, seed)
    score = protocol.score or (balanced_accuracy if balanced and task == "classification" else _first(task))
    fitting = _Fitting(task, outputs, balanced, protocol.max_iter)
    best, chosen_at = strength or STRENGTHS[len(STRENGTHS) // 2], float("nan")
    tried = STRENGTHS if strength is None else ()
    means = [mean_of_known([fitting.scored(z, y, part, c, score, weights) for part in parts]) for c in tried]
    if means and not np.isnan(means).all():
        first = int(np.nanargmax(means))  # in rising order of C: of equal scores the most regularised wins
        best, chosen_at = STRENGTHS[first], means[first]
    weight, bias = fitting.fit(z, y, best, weights)
    folded = weight / deviation
    penalty = fitting.penalty(y, best, len(y) if weights is None else float(weights.sum())) * np.square(deviation)
    return Probe(folded, bias - folded @ shift, best, chosen_at, penalty)


def fifths(counts: Counts, groups: Groups | None = None, seed: int = 0) -> list[Fold]:
    """What a setting of a baseline is chosen on: one held-out fifth, each of five where rows are few, or nothing.

    counts: (n, C) how much of each label a row has; groups: a name a row, rows of one name stay together.
    """
    held = hold_out(counts, HELD_OUT, groups, seed)
    if not len(held):
        return []
    if len(counts) >= FEW:
        return [(without(len(counts), held), held)]
    return parts_of(counts, round(1 / HELD_OUT), groups, seed)


def _first(task: str) -> Score:
    return next(iter(scores_of(task).values()))


def _scale(x: Array, scale: str, weights: Array | None = None) -> tuple[Array, Array]:
    """(mean (D,), what is divided by (D,)), float64."""
    from sklearn.preprocessing import StandardScaler

    fitted = StandardScaler().fit(x, sample_weight=weights)
    if scale == "common":
        return fitted.mean_, np.full(x.shape[1], max(float(np.sqrt(fitted.var_.mean())), 1e-12))
    return fitted.mean_, fitted.scale_


def _standardised(x: Array, shift: Array, deviation: Array) -> Array:
    """In the precision of x, as StandardScaler does."""
    z = x - shift.astype(x.dtype)
    z /= deviation.astype(x.dtype)
    return z


@dataclass(frozen=True)
class _Fitting:
    task: str
    outputs: int
    balanced: bool
    max_iter: int

    def scored(
        self, z: Array, y: Array, part: Fold, strength: float, score: Score, weights: Array | None = None
    ) -> float:
        """The score on the second rows of a part of what is fitted on the first."""
        learned, held = part
        weight, bias = self.fit(z[learned], y[learned], strength, None if weights is None else weights[learned])
        return score(z[held] @ weight.T + bias, y[held])

    def penalty(self, y: Array, strength: float, count: float) -> float:
        """What the mean loss of `count` rows is increased by for a standardised weight of 1."""
        if self.task == "classification":
            # of two classes one logit is fitted, their difference, whose square is twice the sum of their squares
            return 1 / (strength * count) if len(np.unique(y)) == 2 else 0.5 / (strength * count)
        # of several labels or numbers the loss of a row is their mean
        return (0.5 if self.task == "multilabel" else 1.0) / (strength * count * self.outputs)

    def fit(self, z: Array, y: Array, strength: float, weights: Array | None = None) -> tuple[Array, Array]:
        """weight (C, D), bias (C,) on standardised features. A class without rows gets a logit that never wins."""
        if self.task == "regression":
            from sklearn.linear_model import Ridge

            # in single precision the equations of many features that say the same cannot be solved
            ridge = Ridge(alpha=1 / strength).fit(z.astype(np.float64), y, sample_weight=weights)
            return np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
        if self.task == "multilabel":
            pairs = [self._label(z, y[:, c] > 0.5, strength, weights) for c in range(self.outputs)]
            return np.stack([w for w, _ in pairs]), np.array([b for _, b in pairs])
        there = np.unique(y)
        weight, bias = np.zeros((self.outputs, z.shape[1])), np.full(self.outputs, NEVER)
        if len(there) == 1:
            bias[there] = 0.0
        elif len(there) == 2:  # one logit for both: half of it for either
            fitted = self._regression(z, y == there[1], strength, weights)
            w, b = fitted.coef_[0], fitted.intercept_[0]
            weight[there], bias[there] = np.stack([-w / 2, w / 2]), np.array([-b / 2, b / 2])
        else:
            fitted = self._regression(z, y, strength, weights)
            weight[there], bias[there] = fitted.coef_, fitted.intercept_
        return weight, bias

    def _label(
        self, z: Array, positive: NDArray[np.bool_], strength: float, weights: Array | None
    ) -> tuple[Array, float]:
        if positive.all() or not positive.any():  # nothing to tell apart
            return np.zeros(z.shape[1]), -RARELY if positive.all() else RARELY
        fitted = self._regression(z, positive, strength, weights)
        return fitted.coef_[0], float(fitted.intercept_[0])

    def _regression(self, z: Array, y: Array, strength: float, weights: Array | None) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        probe = LogisticRegression(
            C=strength, max_iter=self.max_iter, class_weight="balanced" if self.balanced else None
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            probe.fit(z, y, sample_weight=weights)
        for warning in caught:
            if issubclass(warning.category, ConvergenceWarning):
                # weak penalties converge slowly; the held-out rows judge them all the same
                logger.info("linear probe: C=%g not converged after %d iterations", strength, self.max_iter)
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return probe
