"""Labels for rows that have none: what says them, how sure it is, and which of them are learned from.

All of it is of features and answers alone, so that the label of an unlabelled row is never asked for.

- confidence: the teacher's likeliest class, by its probability (Lee 2013, "Pseudo-Label").
- neighbours: the teacher's class where most of the nearest labelled rows have it (HAST, Yang et al. 2023).
- propagation: labels spread along the graph of nearest neighbours of all rows (Zhou et al. 2003, "Learning with Local
  and Global Consistency"; with few labels on frozen features: AutoWS-Bench-101, Roberts et al. 2022).
- label_model: many weak rules, each of few features, whose votes a model of their accuracies puts together (Dawid and
  Skene 1979; AutoWS-Bench-101).

Shapes: n labelled rows, m unlabelled ones, D features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .label_model import label_model

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
Array = NDArray[Any]
SPREAD = 0.9
"""Share of a row's scores that comes from its neighbours (alpha of Zhou et al.)."""
TOLERANCE, SPREADS = 1e-6, 1000
"""When the spreading ends: relative residual, steps of conjugate gradients."""


@dataclass
class Guess:
    """What is said of the unlabelled rows.

    Attributes:
        labels: (m,) class numbers.
        sure: (m,) how sure, 0 to 1; 0: of no use.
        worth: (m,) what each counts among those that are kept (`mmssl.finetuning.reweighing`); None: all alike.
    """

    labels: Classes
    sure: Floats
    worth: Floats | None = None


@dataclass
class Known:
    """The labelled rows.

    Attributes:
        x: (n, D) features.
        y: (n,) class numbers.
        classes: C.
    """

    x: Array
    y: Classes
    classes: int

    @property
    def counts(self) -> Classes:
        """(C,) rows of each class."""
        return np.bincount(self.y, minlength=self.classes)


def guess(by: str, known: Known, x: Array, logits: Array, neighbours: int, seed: int = 0) -> Guess:
    """What one of the ways says of rows with features x (m, D), of which the teacher says logits (m, C)."""
    if by == "propagation":
        return _of_shares(propagate(known, x, neighbours))
    if by == "label_model":
        return _of_shares(label_model(known.x, known.y, x, known.classes, seed))
    answered = _of_shares(probabilities(logits))
    if by == "confidence":
        return answered
    share = votes(known, x, neighbours)[np.arange(len(x)), answered.labels]
    return Guess(answered.labels, np.where(share > 0.5, share, 0.0))


def _of_shares(shares: Floats) -> Guess:
    return Guess(shares.argmax(1), shares.max(1))


def probabilities(logits: Array) -> Floats:
    """(m, C) the softmax."""
    z = logits.astype(np.float64)
    e: Floats = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def votes(known: Known, x: Array, neighbours: int) -> Floats:
    """(m, C) shares of the nearest labelled rows, by the cosine, that have each class.

    As many as are asked for, but at most twice the rows of the rarest class there is, less one: else that class could
    never have most of them.
    """
    counts = known.counts
    k = max(min(neighbours, 2 * int(counts[counts > 0].min()) - 1, len(known.y)), 1)
    near, _ = nearest_rows(known.x, x, k)
    return np.eye(known.classes)[known.y[near]].mean(1)


def nearest_rows(x: Array, of: Array, k: int) -> tuple[Classes, Floats]:
    """(m, k) numbers of the rows of x (n, D) with the largest cosine to those of `of` (m, D), and the cosines."""
    a, b = _units(x), _units(of)
    numbers, cosines = np.empty((len(b), k), np.int64), np.empty((len(b), k))
    for first in range(0, len(b), 1024):  # n numbers a row at a time, not n x m
        close = b[first : first + 1024] @ a.T
        found = np.argpartition(-close, k - 1, axis=1)[:, :k]
        numbers[first : first + 1024], cosines[first : first + 1024] = found, np.take_along_axis(close, found, 1)
    return numbers, cosines


def near_rows(known: Array, x: Array, present: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """(m,) which of x (m, D) that are present are among the `count` nearest, by the cosine, of any row of known (n, D):
    SSLD (Cui et al. 2021, arXiv 2103.05959) so retrieves what is learned from out of a larger collection."""
    rows, chosen = np.flatnonzero(present), np.zeros(len(x), bool)
    if len(rows):
        near, _ = nearest_rows(x[rows], known, min(count, len(rows)))
        chosen[rows[near.ravel()]] = True
    return chosen


def _units(x: Array) -> Floats:
    z = x.astype(np.float64)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)


def propagate(known: Known, x: Array, neighbours: int) -> Floats:
    """(m, C) shares of each class after spreading: F = (1 - a) (I - a S)^-1 Y with S = D^-1/2 W D^-1/2.

    W joins each row with its `neighbours` nearest of all rows, by max(cosine, 0) of features about their mean. A class
    begins with the same mass whatever its rows are, and of a row that no label reaches nothing is said (all shares 0).
    """
    from scipy.sparse import coo_matrix, diags, identity
    from scipy.sparse.linalg import cg

    everything = np.concatenate([known.x, x]).astype(np.float64)
    everything -= everything.mean(0)
    n, total = len(known.y), len(everything)
    k = min(neighbours + 1, total)
    near, cosine = nearest_rows(everything, everything, k)
    rows = np.repeat(np.arange(total), k)
    joined = coo_matrix((np.maximum(cosine, 0).ravel(), (rows, near.ravel())), (total, total)).tocsr()
    joined = joined - diags(joined.diagonal())
    joined = joined.maximum(joined.T)
    degree = np.maximum(np.asarray(joined.sum(1)).ravel(), 1e-12)
    scaled = diags(degree**-0.5) @ joined @ diags(degree**-0.5)
    system = identity(total, format="csr") - SPREAD * scaled
    begin = np.zeros((total, known.classes))
    begin[np.arange(n), known.y] = 1 / known.counts[known.y]
    spread = np.stack(
        [(1 - SPREAD) * cg(system, column, rtol=TOLERANCE, maxiter=SPREADS)[0] for column in begin.T], axis=1
    )[n:]
    spread = np.maximum(spread, 0)
    mass = spread.sum(1, keepdims=True)
    return np.where(mass > 1e-12, spread / np.maximum(mass, 1e-12), 0.0)


def kept(found: Guess, known: Known, share: float, together: float, balance: bool) -> Floats:
    """(m,) what each unlabelled row counts, where a labelled one counts 1; 0: it is not learned from.

    Args:
        found: what is said of them.
        known: the labelled rows.
        share: of the rows said to be of a class that are kept, the surest.
        together: what all that are kept count, as a multiple of the labelled rows.
        balance: those of a class count together as it does among the labelled rows; else as many as they are.
    """
    weights = np.zeros(len(found.labels))
    for number in range(known.classes):
        rows = np.flatnonzero((found.labels == number) & (found.sure > 0))
        # of equally sure ones the first, so that the result is one
        rows = rows[np.argsort(-found.sure[rows], kind="stable")][: int(np.ceil(share * len(rows)))]
        own = np.ones(len(rows)) if found.worth is None else found.worth[rows]
        weights[rows] = own * (known.counts[number] / max(own.sum(), 1e-12) if balance else 1.0)
    if weights.sum() > 0:
        weights *= together * len(known.y) / weights.sum()
    return weights
