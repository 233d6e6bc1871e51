"""Rows near to a target: SimCore, and the classes that a target falls into most often (DP4TL).

SimCore (Kim et al. 2023, arXiv 2303.11101; sungnyun/openssl-simcore) takes from an open set what is most alike to a
target: the target's embeddings are clustered, and in each round every centre takes the row nearest to it that is not
taken yet. It stops where a round's mean similarity is below a share of that of a reference round, which is the first
one in the paper and the twentieth in the authors' code.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..saying import told
from .embeddings import Embeddings
from .kmeans import BATCH, Labels, Rows, cluster, unit

Similarities = NDArray[np.float32]


def target_centres(target: Embeddings, clusters: int, seed: int) -> Rows:
    """(k, D) centres of length 1 of a target's rows, `clusters` of them or as many as there are rows."""
    _, x = target.load()
    return cluster(x, None, len(x), min(clusters, len(x)), spherical=True, seed=seed).centres


def similarities(embeddings: Embeddings, centres: Rows) -> Similarities:
    """(rows, k) cosine of each row with each centre; -inf where a row has no embedding."""
    found = np.full((embeddings.rows, len(centres)), -np.inf, np.float32)
    for numbers, x in told(embeddings, "comparing the embeddings with the target", embeddings.rows, size=BATCH):
        found[numbers] = unit(x) @ centres.T
    return found


def simcore(alike: Similarities, stop: float, reference: int, most: int | None = None) -> tuple[Labels, list[float]]:
    """(rows that are taken, in the order of the rounds; the mean similarity of each round).

    A row that several centres want in one round is taken once.

    Args:
        alike: (n, k) cosines; rows at -inf are never taken.
        stop: share of the reference round's mean similarity below which a round is not taken any more.
        reference: its number, from 1.
        most: rows to take at most; of the last round then the most alike.
    """
    n, k = alike.shape
    queues = np.argsort(-alike, axis=0, kind="stable").astype(np.int32)
    place, used = np.zeros(k, np.int64), np.asarray(np.isneginf(alike).all(1))
    free = int(n - used.sum())
    taken: list[Labels] = []
    means: list[float] = []
    count, centre = 0, np.arange(k)
    while count < free and (most is None or count < most):
        while (waiting := used[queues[place, centre]]).any():
            place += waiting
        wanted = queues[place, centre].astype(np.int64)
        mean = float(alike[wanted, centre].mean(dtype=np.float64))
        if len(means) >= reference and mean < stop * means[reference - 1]:
            break
        best = np.argsort(-alike[wanted, centre], kind="stable")
        rows = wanted[best][np.sort(np.unique(wanted[best], return_index=True)[1])]
        rows = rows if most is None else rows[: most - count]
        means.append(mean)
        taken.append(rows)
        used[rows] = True
        count += len(rows)
    return (np.concatenate(taken) if taken else np.empty(0, np.int64)), means


def hits(
    embeddings: Embeddings, classes: Sequence[Hashable], there: NDArray[np.bool_], target: Embeddings
) -> dict[Hashable, int]:
    """Class -> rows of the target whose embedding is nearest, by cosine, to the mean of that class's rows.

    DP4TL's feature mapping (Zhang et al. 2023, arXiv 2310.08782): with clusters as classes it needs no labels. Rows
    without a class, and those that are not `there`, count nothing.
    """
    named = {name for name, is_there in zip(classes, there, strict=True) if is_there and name not in (None, "")}
    known = sorted(named, key=str)
    number = {name: i for i, name in enumerate(known)}
    sums: Rows | None = None
    for numbers, x in embeddings:
        own = np.array([number.get(classes[row], -1) if there[row] else -1 for row in numbers.tolist()], np.int64)
        if len(x):
            sums = np.zeros((len(known), x.shape[1])) if sums is None else sums
            np.add.at(sums, own[own >= 0], unit(x)[own >= 0])
    counts = np.zeros(len(known), np.int64)
    if sums is not None and len(known):
        means = unit(sums)
        for x in target.vectors():
            counts += np.bincount((unit(x) @ means.T).argmax(1), minlength=len(known))
    return dict(zip(known, counts.tolist(), strict=True))
