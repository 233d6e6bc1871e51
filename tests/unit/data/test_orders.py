"""`data.sampler`: what is in which batch, how often it comes, and that nothing but (seed, epoch) says so."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from toys.refusals import refused

from mmssl.data.orders import (
    Balanced,
    Distinct,
    Kept,
    Order,
    Paced,
    Same,
    Together,
    Weighted,
    codes_of,
    shared_out,
    times,
    turns,
)
from mmssl.data.sampler import Sampler

CODES = np.repeat([0, 1, 2, 3, 4, 5], [30, 20, 20, 15, 10, 5])
"""100 rows of six groups, sorted."""
EVERY: dict[str, Any] = {
    "distinct": lambda seed: Distinct.of(seed, 4, CODES),
    "same": lambda seed: Same.of(seed, 4, CODES),
    "balanced": lambda seed: Balanced.of(seed, 4, CODES),
    "weighted": lambda seed: Weighted.of(seed, 4, np.linspace(0, 1, 100)),
    "paced": lambda seed: Paced.of(seed, 4, np.arange(100.0), 0.2, 3, False),
    "together": lambda seed: Together.of(seed, 4, CODES),
    "kept": lambda seed: Kept.of(seed, 4, np.arange(100.0), 0.5, False, CODES),
}


def batches(by: Order, epoch: int) -> Any:
    """(steps, batch_size) rows."""
    return by.epoch(epoch)[0].reshape(by.steps, by.batch_size)


@pytest.mark.parametrize("kind", EVERY)
def test_an_epoch_is_a_function_of_seed_and_number(kind: str) -> None:
    first, again, other = (EVERY[kind](seed) for seed in (1, 1, 2))
    assert [*map(list, first.epoch(3))] == [*map(list, again.epoch(3))]
    assert list(first.epoch(3)[0]) != list(first.epoch(4)[0]) != list(other.epoch(4)[0])
    rows, numbers = first.epoch(3)
    assert len({*zip(rows.tolist(), numbers.tolist(), strict=True)}) == len(rows), "comings are told apart"
    assert {*(numbers & 0xFFFFFFFF).tolist()} == {3}


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize(("world", "accumulation"), [(1, 2), (2, 1), (4, 1)])
def test_processes_and_a_resumed_run_read_the_same_batches(kind: str, world: int, accumulation: int) -> None:
    by = EVERY[kind](5)
    alone = itertools.islice(Sampler(100, batch_size=4, seed=5, by=by), 2 * by.steps + 3)
    expected = [sorted(batch) for batch in alone]
    count = len(expected)
    found: list[list[Any]] = [[] for _ in range(count)]
    kept: list[list[Any]] = []
    for rank in range(world):
        more: Any = {"batch_size": 4, "seed": 5, "rank": rank, "world": world, "accumulation": accumulation}
        for start in (0, 7):
            parts = Sampler(100, by=EVERY[kind](5), start=start * accumulation, **more)
            taken = list(itertools.islice(parts, (count - start) * accumulation))
            own = [list(itertools.chain(*taken[i : i + accumulation])) for i in range(0, len(taken), accumulation)]
            if start:
                assert own == kept[7:]
            kept = own
            if not start:
                for step, rows in enumerate(own):
                    found[step] += rows
    assert [sorted(batch) for batch in found] == expected


def test_distinct_batches_hold_a_group_once_and_fill_as_many_as_can_be() -> None:
    by = Distinct.of(0, 4, CODES)
    # three large groups cannot give more than a row each: the least T with sum(min(n, T)) < 4 T is 21
    fits = [t for t in range(1, 26) if np.minimum([30, 20, 20, 15, 10, 5], t).sum() >= 4 * t]
    assert by.steps == max(fits)
    for epoch in range(3):
        found = batches(by, epoch)
        assert all(len({*CODES[batch].tolist()}) == 4 for batch in found)
        assert len(np.unique(found)) == found.size, "no row twice"
    seen = np.unique(np.concatenate([batches(by, epoch).reshape(-1) for epoch in range(12)]))
    assert len(seen) == 100, "other rows are left out each time"


def test_distinct_rows_of_no_group_stand_for_themselves_and_all_rows_come_where_groups_allow() -> None:
    alone = Distinct.of(0, 5, np.full(23, -1))
    assert alone.steps == 4
    even = Distinct.of(0, 5, np.arange(100) // 4)
    assert even.steps == 20 and len(np.unique(even.epoch(0)[0])) == 100
    mixed = np.array([-1, -1, 0, 0, 0, 0, 1, 1])
    found = batches(Distinct.of(0, 2, mixed), 0)
    assert all(not {*batch} <= {2, 3, 4, 5} for batch in found.tolist())


def test_a_batch_of_the_same_is_of_one_group_and_small_groups_never_come() -> None:
    by = Same.of(0, 8, CODES)
    assert by.steps == 3 + 2 + 2 + 1 + 1
    seen: Counter[int] = Counter()
    for epoch in range(6):
        for batch in batches(by, epoch):
            assert len({*CODES[batch].tolist()}) == 1 and len({*batch.tolist()}) == 8
            seen.update(batch.tolist())
    assert set(seen) == set(range(95))
    assert [CODES[b[0]] for b in batches(by, 0)] != sorted(CODES[b[0]] for b in batches(by, 0)), "shuffled"


def test_balanced_groups_are_alike_in_each_batch_and_none_repeats_before_its_turn() -> None:
    by = Balanced.of(0, 12, np.concatenate([CODES, [-1] * 8]))
    assert by.steps == 8
    comings: Counter[int] = Counter()
    for epoch in range(5):
        for batch in batches(by, epoch):
            counts = np.bincount(CODES[batch], minlength=6)
            assert counts.max() - counts.min() <= 1
        comings.update(by.epoch(epoch)[0].tolist())
    for group in range(6):
        counts = [comings[row] for row in np.flatnonzero(CODES == group).tolist()]
        assert max(counts) - min(counts) <= 1 and sum(counts) == 80
    assert not set(comings) & set(range(100, 108))


def test_weighted_rows_come_in_proportion_to_within_one() -> None:
    weights = np.array([0.0, 1, 2, 3, np.nan, 6] * 10)
    by = Weighted.of(0, 6, weights)
    for epoch in range(4):
        counts = np.bincount(by.epoch(epoch)[0], minlength=60)
        exact = np.nan_to_num(weights) / np.nansum(weights) * 60
        assert (np.abs(counts - exact) < 1).all() and counts[weights == 0].sum() == counts[np.isnan(weights)].sum() == 0


def test_the_pace_grows_from_the_best_rows_to_all() -> None:
    scores = np.random.default_rng(0).permutation(100).astype(float)
    scores[7] = np.nan
    by = Paced.of(0, 10, scores, 0.2, 4, False)
    for epoch, count in enumerate([20, 40, 60, 80, 100, 100]):
        rows = by.epoch(epoch)[0]
        best = np.argsort(-np.nan_to_num(scores, nan=-1))[:count]
        assert {*rows.tolist()} == {*best.tolist()} and len(rows) == 100
        assert np.ptp(np.bincount(rows)[best]) <= 1
    low = Paced.of(0, 10, scores, 0.2, 4, True)
    assert np.nanmax(scores[low.epoch(0)[0]]) < np.nanmin(np.delete(scores, np.unique(low.epoch(0)[0])))


def test_the_parts() -> None:
    assert times(np.array([3, 1, 3, 3, 1])).tolist() == [0, 0, 1, 2, 1]
    assert codes_of(["b", None, "a", "b", "", float("nan"), 0]).tolist() == [0, -1, 1, 0, -1, -1, 2]
    long = turns(4, 0, 14, 7)
    assert all(sorted(long[i : i + 4].tolist()) == [0, 1, 2, 3] for i in (0, 4, 8))
    assert turns(4, 5, 6, 7).tolist() == long[5:11].tolist()


def test_what_fills_no_batch_is_refused() -> None:
    for facts, make in (
        (("6 groups", "train.batch_size", "7"), lambda: Distinct.of(0, 7, CODES)),
        (("no group", "31"), lambda: Same.of(0, 31, CODES)),
        (("101",), lambda: Balanced.of(0, 101, CODES)),
        (("weights",), lambda: Weighted.of(0, 2, np.array([1.0, -1.0]))),
        (("weights",), lambda: Weighted.of(0, 2, np.zeros(3))),
        (("weights",), lambda: Weighted.of(0, 2, np.array([1.0, np.inf]))),
        (("3 samples", "4"), lambda: Paced.of(0, 4, np.ones(3), 0.5, 1, False)),
    ):
        with refused(*facts):
            make()


def test_rows_of_a_group_are_together() -> None:
    codes = np.concatenate([np.repeat(np.arange(30), 2), np.full(40, -1)])
    by = Together.of(3, 8, codes)
    assert by.steps == 12
    for epoch in range(3):
        found = batches(by, epoch)
        assert len({*found.reshape(-1).tolist()}) == 96, "each row once"
        cut = sum(1 for batch in found for row in batch if codes[row] >= 0 and (codes[batch] == codes[row]).sum() == 1)
        assert cut <= 2 * 12, "only what lies at the end of a batch is apart"
        assert sum((codes[batch] == code).sum() == 2 for batch in found for code in range(30)) >= 30 - 12 - 2


def test_the_best_of_each_group_are_kept() -> None:
    scores = np.arange(100.0)
    scores[CODES == 5] = np.nan
    by = Kept.of(0, 4, scores, 0.4, True, CODES)  # 38 of the 95 that have a score: 8 of each, but 6 of 10 at least
    assert np.array_equal(np.bincount(CODES[by.kept]), [8, 8, 8, 7, 7])
    for code in range(5):
        mine = np.flatnonzero(CODES == code)
        assert np.array_equal(by.kept[CODES[by.kept] == code], mine[: (CODES[by.kept] == code).sum()]), "the lowest"
    assert by.steps == 9 and {*batches(by, 0).reshape(-1).tolist()} <= {*by.kept.tolist()}
    assert (
        Kept.of(0, 4, np.zeros(100), 0.1, False).kept.tolist() != Kept.of(1, 4, np.zeros(100), 0.1, False).kept.tolist()
    )
    assert Kept.of(0, 4, np.arange(100.0), 0.1, False).kept.tolist() == [*range(90, 100)]
    with refused("data.sampler", 3, "train.batch_size 4"):
        Kept.of(0, 4, np.arange(100.0), 0.03, False)


@pytest.mark.parametrize(
    ("sizes", "count"), [([30, 20, 5], 20), ([30, 20, 5], 40), ([1, 1, 1], 2), ([4, 4], 8), ([7], 0)]
)
def test_groups_give_alike_as_far_as_they_have(sizes: list[int], count: int) -> None:
    given = shared_out(np.array(sizes), count)
    assert given.sum() == count and (given <= sizes).all()
    short = given[given < sizes]
    assert not len(short) or given.max() <= short.min() + 1, "none gives more than another could have"
