"""k-means in passes over rows that need not fit into memory: plain, spherical, and with clusters of one size.

A pass gives every row to a centre and moves the centres to the means of their rows (Lloyd 1982), in float64; so nothing
but the order of a sum depends on how the rows are cut into batches. Spherical: rows and centres have length 1, and the
nearest is the one of greatest cosine (Dhillon and Modha 2001). Balanced: every centre has a price that all rows pay, of
which the best are found by Sinkhorn's iteration on a sample (Cuturi 2013), and room for n / k rows, to within one;
where it is full, the rows that lose least by it go on to their next choice. Without prices the nearest centre may be
found by faiss in place of a product (`search: faiss`): in float32, on all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..saying import doing, told

Rows = NDArray[np.float64]
Labels = NDArray[np.int64]
Pass = Callable[[], Iterable[Rows]]
"""Begins a pass: batches (b, D) of all rows, the same ones in the same order each time."""
BATCH = 8192
"""Rows that are worked off at a time."""
PRICED = 4096
"""Rows of the sample that prices are found on."""
ROUNDS = 30
"""Of Sinkhorn's iteration, at each of its temperatures."""


def unit(x: Rows) -> Rows:
    """Rows (n, D) brought to length 1; zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def costs(x: Rows, centres: Rows, spherical: bool) -> Rows:
    """(n, k) what it costs a row to go to a centre, up to a number of its own: minus the cosine, or the squared
    distance less the row's squared length."""
    product = x @ centres.T
    return -product if spherical else (centres**2).sum(1) - 2 * product


def distances(x: Rows, own: Rows, spherical: bool) -> Rows:
    """(n,) of rows (n, D) to their centres (n, D): 1 - cosine, or the Euclidean distance."""
    return 1 - (x * own).sum(1) if spherical else np.linalg.norm(x - own, axis=1)


def require_search(search: str) -> None:
    """UserError where what is to find the nearest centres is not installed."""
    if search == "faiss" and find_spec("faiss") is None:
        raise UserError("search: found faiss, which is not installed: pip install 'mmssl[faiss]', or leave search out")


def flat_index(centres: Rows, spherical: bool) -> Any:
    """faiss's index of the centres (Douze et al. 2024, arXiv 2401.08281), which looks at all of them."""
    import faiss

    index = (faiss.IndexFlatIP if spherical else faiss.IndexFlatL2)(centres.shape[1])
    index.add(np.ascontiguousarray(centres, np.float32))
    return index


@dataclass
class Assigning:
    """Gives rows to centres, batch after batch of one pass.

    Attributes:
        room: (k,) how many more rows each centre takes; None: any number.
        prices: (k,) what is taken off the cost of each centre.
        wanted: (k,) rows that would have gone there, had there been room.
        index: what finds the nearest centre, without room and prices; None: a product of all rows and centres.
    """

    centres: Rows
    spherical: bool
    prices: Rows
    room: Labels | None
    wanted: Labels
    index: Any = None

    def __call__(self, x: Rows) -> Labels:
        """(n,) the centre of each row."""
        if self.index is not None:
            nearest: Labels = self.index.search(np.ascontiguousarray(x, np.float32), 1)[1][:, 0].astype(np.int64)
            self.wanted += np.bincount(nearest, minlength=len(self.centres))
            return nearest
        cost = costs(x, self.centres, self.spherical) - self.prices
        best = cost.argmin(1)
        self.wanted += np.bincount(best, minlength=len(self.centres))
        return best if self.room is None else fill(cost, self.room)


def fill(cost: Rows, room: Labels) -> Labels:
    """(n,) a centre for each row, of those that have room left; changes `room`.

    Rows choose the cheapest. Of more than there is room for those stay that would lose most elsewhere.
    """
    out = np.full(len(cost), -1, np.int64)
    left = np.arange(len(cost))
    while len(left):
        open_ones = np.flatnonzero(room > 0)
        mine = cost[np.ix_(left, open_ones)]
        best = mine.argmin(1)
        if len(open_ones) > 1:
            two = np.partition(mine, 1, axis=1)
            order = np.argsort(-(two[:, 1] - two[:, 0]), kind="stable")
        else:
            order = np.arange(len(left))
        chosen = best[order]
        by_centre = np.argsort(chosen, kind="stable")
        counts = np.bincount(chosen, minlength=len(open_ones))
        rank = np.empty(len(left), np.int64)
        rank[by_centre] = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
        taken = rank < room[open_ones[chosen]]
        out[left[order[taken]]] = open_ones[chosen[taken]]
        room -= np.bincount(open_ones[chosen[taken]], minlength=len(room))
        left = np.sort(left[order[~taken]])
    return out


def fair_prices(cost: Rows, prices: Rows) -> Rows:
    """(k,) prices at which about equally many of these rows (n, k) choose each centre, from those before."""
    spread = float(cost.std()) or 1.0
    for temperature in (spread, spread / 8, spread / 64):
        for _ in range(ROUNDS):
            scores = (prices - cost) / temperature
            scores -= scores.max(1, keepdims=True)
            share = np.exp(scores)
            share /= share.sum(1, keepdims=True)
            prices = prices - temperature * np.log(np.maximum(share.mean(0) * len(prices), 1e-12))
        prices = prices - prices.mean()
    return prices


@dataclass
class KMeans:
    """What was found.

    Attributes:
        centres: (k, D).
        spherical: whether they are compared by cosine.
        prices: (k,) of balanced ones, else zeros.
        rows: how many rows were given to them in a pass.
        cost: the mean squared distance of a row to its centre, or 1 - cosine.
        balanced: whether clusters are of one size.
        wanted: (k,) rows that chose each centre in the last pass.
        search: what finds the nearest centre: "products", or "faiss".
    """

    centres: Rows
    spherical: bool
    prices: Rows
    rows: int
    cost: float
    balanced: bool
    wanted: Labels
    search: str = "products"

    def assigning(self) -> Assigning:
        """Begins a pass."""
        k, room = len(self.centres), None
        if self.balanced:
            room = np.full(k, self.rows // k)
            room[np.argsort(-self.wanted, kind="stable")[: self.rows % k]] += 1
        index = flat_index(self.centres, self.spherical) if self.search == "faiss" else None
        return Assigning(self.centres, self.spherical, self.prices, room, np.zeros(k, np.int64), index)


def lloyd(
    start: Rows,
    begin: Pass,
    rows: int,
    *,
    spherical: bool,
    balanced: bool,
    iterations: int,
    sample: Rows,
    search: str = "products",
) -> KMeans:
    """Passes until no centre moves, or the cost falls by less than a millionth, or there were `iterations`.

    Args:
        start: (k, D) centres to begin with, of length 1 where they are spherical. One without rows stays.
        begin: gives the rows, of length 1 where they are spherical.
        rows: how many there are.
        spherical: see `costs`.
        balanced: clusters are of one size.
        iterations: passes at most.
        sample: rows in memory that prices are found on.
        search: what finds the nearest centre.
    """
    from scipy.sparse import csr_matrix

    k, priced = len(start), sample[:: -(-len(sample) // PRICED)]
    found = KMeans(start, spherical, np.zeros(k), rows, np.inf, balanced, np.zeros(k, np.int64), search)
    for number in range(iterations):
        if balanced:
            found.prices = fair_prices(costs(priced, found.centres, spherical), found.prices)
        give, sums, counts, cost = found.assigning(), np.zeros_like(start), np.zeros(k), 0.0
        for x in told(begin(), f"pass {number + 1} of at most {iterations} over the rows", rows, size=BATCH):
            label = give(x)
            member = csr_matrix((np.ones(len(x)), (label, np.arange(len(x)))), shape=(k, len(x)))
            sums += member @ x
            counts += np.bincount(label, minlength=k)
            apart = distances(x, found.centres[label], spherical)
            cost += float(apart.sum() if spherical else (apart**2).sum())
        moved = np.divide(sums, counts[:, None], out=found.centres.copy(), where=counts[:, None] > 0)
        moved = unit(moved) if spherical else moved
        still, before = np.array_equal(moved, found.centres), found.cost
        found.centres, found.cost, found.wanted = moved, cost / rows, give.wanted
        if still or (before < np.inf and before - found.cost <= 1e-6 * abs(before)):
            break
    return found


def beginnings(sample: Rows, k: int, restarts: int, seed: int) -> Iterator[Rows]:
    """(k, D) rows of a sample that lie apart (k-means++, Arthur and Vassilvitskii 2007), so many times."""
    from sklearn.cluster import kmeans_plusplus

    for number in range(restarts):
        yield kmeans_plusplus(sample, k, random_state=np.random.RandomState([seed, number]))[0]


def cluster(
    sample: Rows,
    begin: Pass | None,
    rows: int,
    k: int,
    *,
    spherical: bool = True,
    balanced: bool = False,
    iterations: int = 50,
    restarts: int = 3,
    seed: int = 0,
    search: str = "products",
) -> KMeans:
    """k-means of all rows: the best of several beginnings on a sample, gone on with on all rows.

    Args:
        sample: (s, D) rows in memory, at least k.
        begin: gives all rows; None: the sample is all of them.
        rows: how many there are.
        k: clusters.
        spherical, balanced, iterations, search: see `lloyd`; rows need not have length 1 here.
        restarts: beginnings.
        seed: of them.
    """
    sample = unit(sample) if spherical else sample
    more: Any = {"spherical": spherical, "balanced": balanced, "iterations": iterations, "sample": sample}
    more["search"] = search

    def held() -> Iterator[Rows]:
        yield from (sample[low : low + BATCH] for low in range(0, len(sample), BATCH))

    def every() -> Iterator[Rows]:
        yield from (unit(x) if spherical else x for x in (begin or held)())

    found = []
    with doing(f"beginnings of {k:,} clusters on {len(sample):,} rows", restarts) as advance:
        for start in beginnings(sample, k, restarts, seed):
            found.append(lloyd(start, held, len(sample), **more))
            advance(len(found))
    best = min(found, key=lambda one: one.cost)
    return best if begin is None else lloyd(best.centres, every, rows, **more)
