"""k-means over rows in batches: against computations of its own, sizes, nesting, and where it begins."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmssl.curation.kmeans import KMeans, beginnings, cluster, fair_prices, fill, lloyd, unit


def blobs(n: int, k: int, width: int = 8, seed: int = 0) -> Any:
    """(n, width) rows around k directions, in an order sorted by these, as class folders are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, width))
    return centres[np.arange(n) * k // n] + 0.3 * rng.normal(size=(n, width))


def plain_lloyd(x: Any, centres: Any, spherical: bool, rounds: int) -> tuple[Any, Any]:
    """Lloyd's algorithm row by row, with one assignment a round."""
    for _ in range(rounds):
        labels = np.array(
            [
                max(range(len(centres)), key=lambda j: float(row @ centres[j]))
                if spherical
                else min(range(len(centres)), key=lambda j: float(((row - centres[j]) ** 2).sum()))
                for row in x
            ]
        )
        for j in range(len(centres)):
            if (labels == j).any():
                mean = x[labels == j].mean(0)
                centres[j] = mean / np.sqrt((mean**2).sum()) if spherical else mean
    return centres, labels


@pytest.mark.parametrize("spherical", [True, False])
def test_it_is_lloyds_algorithm_in_whatever_batches_rows_come(spherical: bool) -> None:
    x = blobs(90, 4)
    x = unit(x) if spherical else x
    start = x[[0, 1, 50, 80]].copy()
    more: Any = {"spherical": spherical, "balanced": False, "sample": x}
    for cut in (7, 90):
        found = lloyd(start, lambda cut=cut: [x[i : i + cut] for i in range(0, 90, cut)], 90, iterations=3, **more)
        centres, _ = plain_lloyd(x.copy(), start.copy(), spherical, 3)
        np.testing.assert_allclose(found.centres, centres, atol=1e-12)
    done = lloyd(start, lambda: [x], 90, iterations=100, **more)
    np.testing.assert_allclose(done.centres, plain_lloyd(x, start.copy(), spherical, 30)[0], atol=1e-12)


class Flat:
    """What is used of faiss's indices, where it is not installed."""

    def __init__(self, distance: bool) -> None:
        self.distance = distance

    def add(self, centres: Any) -> None:
        self.centres = centres

    def search(self, x: Any, k: int) -> tuple[Any, Any]:
        assert x.dtype == self.centres.dtype == np.float32 and k == 1
        product = x @ self.centres.T
        costs = (self.centres**2).sum(1) - 2 * product if self.distance else -product
        return costs.min(1, keepdims=True), costs.argmin(1)[:, None]


@pytest.mark.parametrize("spherical", [True, False])
def test_faiss_finds_the_same_clusters(spherical: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("faiss") is None:
        made = SimpleNamespace(IndexFlatIP=lambda width: Flat(False), IndexFlatL2=lambda width: Flat(True))
        monkeypatch.setitem(sys.modules, "faiss", made)
    x = blobs(90, 4)
    found, usual = (cluster(x, None, 90, 4, spherical=spherical, search=search) for search in ("faiss", "products"))
    np.testing.assert_allclose(found.centres, usual.centres, atol=1e-9)
    rows = unit(x) if spherical else x
    assert np.array_equal(found.assigning()(rows), usual.assigning()(rows))
    assert found.assigning().index is not None and usual.assigning().index is None


def test_spherical_clusters_do_not_see_lengths() -> None:
    x = blobs(120, 5)
    scaled = x * np.random.default_rng(1).uniform(0.1, 9, size=(120, 1))
    one, other = (cluster(rows, None, 120, 5) for rows in (x, scaled))
    np.testing.assert_allclose(one.centres, other.centres, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(one.centres, axis=1), 1)


@pytest.mark.parametrize("k", [3, 7, 20])
def test_balanced_clusters_have_one_size(k: int) -> None:
    x = np.concatenate([blobs(180, 2), blobs(20, 1, seed=3)])  # three heaps of unlike sizes
    found = cluster(x, None, len(x), k, balanced=True)
    sizes = np.bincount(found.assigning()(unit(x)), minlength=k)
    assert sizes.sum() == 200 and sizes.max() - sizes.min() <= 1
    free = np.bincount(cluster(x, None, len(x), k).assigning()(unit(x)), minlength=k)
    assert free.max() - free.min() > 1


def test_balanced_rows_go_where_they_cost_least() -> None:
    """Against the best assignment that there is (scipy's Hungarian algorithm)."""
    from scipy.optimize import linear_sum_assignment

    cost = np.random.default_rng(0).uniform(size=(60, 4))
    rows, columns = linear_sum_assignment(np.repeat(cost, 15, axis=1))
    best = cost[rows, columns // 15].sum()
    room = np.full(4, 15)
    label = fill(cost - fair_prices(cost, np.zeros(4)), room)
    assert (np.bincount(label) == 15).all() and (room == 0).all()
    assert best <= cost[np.arange(60), label].sum() < best + 0.02 * abs(best)


def test_full_centres_keep_those_that_would_lose_most() -> None:
    cost = np.array([[0.0, 0.1], [0.0, 5.0], [0.0, 0.2], [1.0, 0.0]])
    room = np.array([2, 3])
    assert fill(cost, room).tolist() == [1, 0, 0, 1] and room.tolist() == [0, 1]


def test_sorted_rows_beyond_the_sample_are_clustered_as_all_in_memory() -> None:
    x = blobs(400, 4)
    held = cluster(x, None, 400, 4, seed=3)
    sample = x[np.sort(np.random.default_rng(0).permutation(400)[:60])]
    passed = cluster(sample, lambda: [x[i : i + 50] for i in range(0, 400, 50)], 400, 4, seed=3)
    one, other = (found.assigning()(unit(x)) for found in (held, passed))
    assert len({*zip(one, other, strict=True)}) == 4, "the same clusters under other numbers"


def test_the_seed_says_where_it_begins() -> None:
    x = blobs(100, 6)
    first, again, other = (next(beginnings(x, 6, 1, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_centre_without_rows_stays() -> None:
    x = unit(blobs(20, 1))
    start = np.stack([x[0], -x[0]])
    found: KMeans = lloyd(start, lambda: [x], 20, spherical=True, balanced=False, iterations=5, sample=x)
    np.testing.assert_allclose(found.centres[1], start[1], atol=1e-12)
