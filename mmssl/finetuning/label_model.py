"""Many weak rules, each of a few features, and a model of how often each is right.

As in AutoWS-Bench-101 (Roberts et al. 2022, arXiv 2208.14362) rules are made from the few labelled rows: a classifier
of every few principal components alone, which abstains of the rows that it is least sure of. Votes are put together by
Dawid and Skene's model (1979), every rule with its own table of what it says of each class, fitted by EM on all rows,
of which the labelled ones stay what they are.

Shapes: n labelled rows, m unlabelled ones, D features, C classes, R rules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Classes = NDArray[np.int64]
DIRECTIONS, WIDTH = 16, 4
"""Principal components that rules are made of, and those of each."""
ABSTAIN = 0.3
"""Share of the unlabelled rows of which a rule says nothing."""
ROUNDS, CLOSE = 100, 1e-6
"""Of EM, at most; the largest change of a probability at which it ends."""
PRIOR = 1.0
"""What is added to every count of a table, so that no rule is ever quite sure."""


def label_model(x: NDArray[Any], y: Classes, unlabelled: NDArray[Any], classes: int, seed: int = 0) -> Floats:
    """(m, C) what the rules together say of each unlabelled row; of one where all abstain nothing (all 0)."""
    from sklearn.decomposition import PCA

    count = min(DIRECTIONS, x.shape[1], len(x) + len(unlabelled))
    directions = PCA(count, whiten=True, random_state=seed, svd_solver="full").fit(np.concatenate([x, unlabelled]))
    known, asked = directions.transform(x), directions.transform(unlabelled)
    parts = [slice(first, first + WIDTH) for first in range(0, count, WIDTH)]
    said = [rule(known[:, part], y, asked[:, part]) for part in parts]
    of_known = np.stack([votes for votes, _ in said], 1)
    of_asked = np.stack([votes for _, votes in said], 1)
    shares = together(of_asked, of_known, np.eye(classes)[y])
    shares[(of_asked < 0).all(1)] = 0.0
    return shares


def rule(known: Floats, y: Classes, asked: Floats) -> tuple[Classes, Classes]:
    """What a classifier of these few features says of the rows that it was fitted on and of others: (n,) and (m,)
    class numbers, -1 where it abstains."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1.0).fit(known, y)
    chances = [fitted.predict_proba(rows) for rows in (known, asked)]
    least = np.quantile(chances[1].max(1), ABSTAIN)
    first, second = (np.where(p.max(1) >= least, fitted.classes_[p.argmax(1)], -1) for p in chances)
    return first.astype(np.int64), second.astype(np.int64)


def tables(votes: Classes, shares: Floats) -> Floats:
    """(R, C, C) of each rule, how often it says (last axis) which class of rows that are of a class (middle axis).

    votes: (n, R), -1 abstains. shares: (n, C) what the rows are. A rule is taken to be a little better than chance.
    """
    classes = shares.shape[1]
    counts = np.full((votes.shape[1], classes, classes), PRIOR / classes) + PRIOR * np.eye(classes)
    for vote in range(classes):
        counts[:, :, vote] += (votes == vote).T.astype(np.float64) @ shares
    found: Floats = counts / counts.sum(2, keepdims=True)
    return found


def together(votes: Classes, known: Classes, shares: Floats) -> Floats:
    """(m, C) chances of each class given votes (m, R), by EM on these rows and those of which the class is known.

    known: (n, R) votes of the latter. shares: (n, C) one-hot what they are.
    """
    both = np.concatenate([known, votes])
    found = _expected(votes, tables(known, shares), shares.sum(0) + PRIOR)
    for _ in range(ROUNDS):
        before, everything = found, np.concatenate([shares, found])
        found = _expected(votes, tables(both, everything), everything.sum(0) + PRIOR)
        if np.abs(found - before).max() < CLOSE:
            break
    return found


def _expected(votes: Classes, chances: Floats, prior: Floats) -> Floats:
    scores = np.tile(np.log(prior / prior.sum()), (len(votes), 1))
    for number, table in enumerate(np.log(chances)):
        there = votes[:, number] >= 0
        scores[there] += table.T[votes[there, number]]
    e: Floats = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)
