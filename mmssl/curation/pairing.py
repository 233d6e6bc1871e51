"""`mmssl cluster kind=neighbours`: rows that belong together although nobody said so, in groups of a few.

Two rows are neighbours where each is among the nearest of the other, of those of other instances. An instance are the
rows of one value of a column, as of one track, patient or recording; else each row is one. Neighbours join their
instances, the nearest ones first, until a group has as many instances as it may. So what is joined goes over: of A and
A' of one instance, B and B' of another, and A near to B, all four belong together, A' and B' too, however unlike they
are (Wang et al. 2017, arXiv 1708.02901).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..saying import told
from .kmeans import Labels

BLOCK = 1024
Cosines = NDArray[np.float32]


def nearest_of_others(x: Cosines, instances: Labels, neighbours: int) -> tuple[Labels, Cosines]:
    """((n, k) rows of other instances that each row is nearest to, in any order; (n, k) their cosines, -inf where there
    are not so many). x: (n, D) of length 1. Compares each with all."""
    k = min(neighbours, len(x) - 1)
    rows, cosines = np.zeros((len(x), k), np.int64), np.zeros((len(x), k), np.float32)
    for low in told(range(0, len(x), BLOCK), "comparing rows with all others", len(x), size=BLOCK):
        alike = x[low : low + BLOCK] @ x.T
        alike[instances[low : low + BLOCK, None] == instances[None]] = -np.inf
        found = np.argpartition(-alike, k - 1, axis=1)[:, :k]
        rows[low : low + BLOCK], cosines[low : low + BLOCK] = found, np.take_along_axis(alike, found, 1)
    return rows, cosines


def mutual(rows: Labels, cosines: Cosines, least: float) -> tuple[Labels, Cosines]:
    """((m, 2) pairs of rows, the first one less, each of which is among the other's; (m,) their cosines, at least
    `least`), the most alike first, of equal ones those of the first rows."""
    n, k = rows.shape
    own = np.repeat(np.arange(n), k)
    flat, alike = rows.reshape(-1), cosines.reshape(-1)
    fits = alike >= least
    there = own[fits] * n + flat[fits]
    back = flat[fits] * n + own[fits]
    both = np.isin(there, back) & (own[fits] < flat[fits])
    pairs, values = there[both], alike[fits][both]
    order = np.lexsort((pairs, -values))
    return np.stack([pairs[order] // n, pairs[order] % n], 1), values[order]


def joined(pairs: Labels, instances: Labels, most: int) -> tuple[Labels, Labels]:
    """Join instances pair by pair.

    Args:
        pairs: (m, 2) rows, in the order in which they are joined.
        instances: (n,) of each row, from 0 on.
        most: instances of a group.

    Returns:
        ((n,) the group of each row, by the order of its first row, -1 where its instance is alone; numbers of the pairs
        that joined two groups).
    """
    parent = np.arange(int(instances.max()) + 1)
    size = np.ones(len(parent), np.int64)

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = int(parent[one])
        return one

    used = []
    for number, (a, b) in enumerate(instances[pairs].tolist()):
        a, b = root(a), root(b)
        if a != b and size[a] + size[b] <= most:
            parent[b] = a
            size[a] += size[b]
            used.append(number)
    roots = np.array([root(one) for one in range(len(parent))])[instances]
    roots[size[roots] < 2] = -1
    known: dict[int, int] = {}
    groups = [-1 if one < 0 else known.setdefault(one, len(known)) for one in roots.tolist()]
    return np.array(groups, np.int64), np.array(used, np.int64)


def mined(
    x: Cosines, instances: Sequence[Hashable] | None, *, nearest: int, least: float, most: int
) -> tuple[Labels, NDArray[np.float64]]:
    """Find rows that belong together.

    Args:
        x: (n, D) embeddings of length 1.
        instances: (n,) the instance of each row; None or an unknown one: it is one by itself.
        nearest: so many of the nearest of each row count.
        least: the cosine that neighbours have at least.
        most: instances of a group.

    Returns:
        ((n,) the group of each row, -1 of those alone; (n,) 1 - cosine of the nearest of its neighbours that are in its
        group, nan of rows without one).

    Raises:
        UserError: there are no two rows.
    """
    if len(x) < 2:
        raise UserError(f"kind: found neighbours of {len(x)} row, expected at least two with an embedding")
    known: dict[Hashable, int] = {}
    told_of = range(len(x)) if instances is None else instances
    keys = [(row, None) if one in (None, "") else (one,) for row, one in enumerate(told_of)]
    codes = np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
    pairs, cosines = mutual(*nearest_of_others(x, codes, nearest), least)
    groups, _ = joined(pairs, codes, most)
    apart = np.full(len(x), np.nan)
    mine = groups[pairs[:, 0]] == groups[pairs[:, 1]] if len(pairs) else np.zeros(0, bool)
    for (a, b), cosine in zip(pairs[mine][::-1].tolist(), cosines[mine][::-1].tolist(), strict=True):
        if groups[a] >= 0:  # the most alike come last, and stay
            apart[a] = apart[b] = 1 - cosine
    return groups, apart
