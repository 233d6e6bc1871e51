"""Is one method better than another on the same rows? Resampled rows, and intervals of paired differences."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scoring import Array, Score

Rows = NDArray[np.int64]


def resamples(n: int, groups: Sequence[Hashable] | None, seed: int, count: int) -> Iterator[Rows]:
    """`count` bootstrap draws of n rows with replacement, or of whole groups where a name a row says which they are."""
    rng = np.random.default_rng(seed)
    if groups is None:
        for _ in range(count):
            yield rng.integers(n, size=n)
        return
    names = np.unique([str(group) for group in groups], return_inverse=True)[1]
    members = [np.flatnonzero(names == k) for k in range(int(names.max()) + 1)]
    for _ in range(count):
        yield np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])


def resampled_scores(
    score: Score, predicted: Array, truth: Array, groups: Sequence[Hashable] | None, seed: int, count: int
) -> Array:
    """(count,) the score on every resample: the same rows for all predictions of these test rows, so that they pair."""
    return np.array([score(predicted[rows], truth[rows]) for rows in resamples(len(truth), groups, seed, count)])


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % interval; nan where it is not defined."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def paired_difference(ours: Array, theirs: Array, our_rows: Array, their_rows: Array) -> Difference:
    """The mean over draws of (ours - theirs), both fitted on the same labelled rows and measured on the same test rows.

    Two things could have come out otherwise: which rows were drawn to learn from, and which to measure on. The square
    of the standard error is the sum of both variances, that of the mean over draws and that of the resampled mean, and
    its degrees of freedom are those of Satterthwaite (1946): of five draws the interval is as wide as Student's t with
    four has it where the draws are what varies, and as narrow as the normal one where the test rows are.

    Args:
        ours: (draws,) scores.
        theirs: (draws,) scores of the other one.
        our_rows: (draws, R) the scores on R resamples of the test rows.
        their_rows: (draws, R) on the same resamples.
    """
    from scipy.stats import t

    each = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    draws = len(each)
    by_rows = (np.asarray(our_rows, np.float64) - np.asarray(their_rows, np.float64)).mean(0)
    known = by_rows[~np.isnan(by_rows)]
    if np.isnan(each).any() or len(known) < 2:
        return Difference(float("nan"), float("nan"), float("nan"))
    of_draws = float(each.var(ddof=1)) / draws if draws > 1 else 0.0
    total = of_draws + float(known.var(ddof=1))
    freedom = (draws - 1) * (total / of_draws) ** 2 if of_draws > 0 else float("inf")
    half = float(t.ppf(0.975, min(freedom, 1e9))) * total**0.5
    mean = float(each.mean())
    return Difference(mean, mean - half, mean + half)
