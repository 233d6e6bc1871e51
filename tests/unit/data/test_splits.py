"""Rows held out: by label, by group, with several labels a row; the same rows as were held out before."""

from __future__ import annotations

import numpy as np
import pytest

from mmssl.data.splits import few_of_each, folds, hold_out, parts_of, strata, take_share, without


def one_hot(labels: np.ndarray) -> np.ndarray:
    return strata("classification", labels, int(labels.max()) + 1)


def test_a_share_is_stratified_to_the_row() -> None:
    labels = np.repeat([0, 1, 2], [700, 250, 50])
    rows = take_share(one_hot(labels), 0.1, seed=3)
    assert np.bincount(labels[rows]).tolist() == [70, 25, 5]
    assert (rows == take_share(one_hot(labels), 0.1, seed=3)).all()
    assert set(rows) != set(take_share(one_hot(labels), 0.1, seed=4))


def test_every_class_is_in_a_share_and_in_what_is_left() -> None:
    labels = np.repeat([0, 1, 2], [998, 2, 1])
    taken = set(take_share(one_hot(labels), 0.01).tolist())
    assert len(taken & {998, 999}) == 1


def test_several_labels_a_row_keep_their_shares() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((2000, 4)) < [0.5, 0.2, 0.05, 0.01]).astype(float)
    for take in (take_share, hold_out):
        rows = take(strata("multilabel", labels, 4), 0.2)
        np.testing.assert_allclose(labels[rows].sum(0) / labels.sum(0), 0.2, atol=0.05)


@pytest.mark.parametrize("take", [take_share, hold_out])
def test_groups_stay_together_and_the_share_still_holds(take) -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(60, size=600).tolist()
    labels = rng.integers(2, size=600)
    rows = take(one_hot(labels), 0.25, groups, seed=1)
    inside = {groups[r] for r in rows}
    assert not inside & {groups[r] for r in without(600, rows)}
    assert abs(len(rows) / 600 - 0.25) < 0.04 and abs(labels[rows].mean() - labels.mean()) < 0.06


def test_a_row_of_no_group_is_alone() -> None:
    groups = [None] * 50 + ["a"] * 50
    rows = hold_out(np.ones((100, 1)), 0.2, groups)
    assert len(rows) == 20 and rows.max() < 50


@pytest.mark.parametrize("seed", [0, 7])
def test_held_out_rows_are_those_that_every_linear_score_was_chosen_on(seed: int) -> None:
    labels = np.random.default_rng(1).choice(5, size=333, p=[0.6, 0.3, 0.08, 0.015, 0.005])
    labels[-1] = 5  # a class with one row
    order, expected = np.random.default_rng(seed).permutation(len(labels)), []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        expected += own[: min(int(np.ceil(0.2 * len(own))), len(own) - 1)].tolist()
    held = hold_out(one_hot(labels), 0.2, seed=seed)
    assert held.tolist() == sorted(expected)
    assert set(labels[without(len(labels), held)]) == set(labels), "what is left knows every class"


def test_few_of_each_is_stratified_and_never_loses_a_class() -> None:
    labels = np.array([0] * 100 + [1] * 50 + [2] * 3)
    rows = few_of_each(one_hot(labels), 0.1, seed=0)
    order, expected = np.random.default_rng(0).permutation(len(labels)), []
    for label, count in ((0, 10), (1, 5), (2, 1)):
        expected += order[labels[order] == label][:count].tolist()
    assert rows.tolist() == sorted(expected)
    assert rows.tolist() != few_of_each(one_hot(labels), 0.1, seed=1).tolist()
    assert few_of_each(one_hot(labels), 1.0).tolist() == list(range(153))


def test_folds_hold_every_row_out_once() -> None:
    rng = np.random.default_rng(2)
    y, groups = rng.integers(3, size=90), rng.integers(12, size=90)
    for names in (None, groups):
        found = folds(y, 3, names, seed=1)
        assert sorted(np.concatenate([held for _, held in found])) == list(range(90))
        for learned, held in found:
            assert names is None or not set(names[learned]) & set(names[held])


def test_parts_hold_every_row_out_once_and_share_the_labels() -> None:
    y = np.array([0] * 40 + [1] * 7 + [2] * 2 + [3])
    parts = parts_of(strata("classification", y, 4), 4, seed=3)
    assert len(parts) == 4
    assert np.array_equal(np.sort(np.concatenate([held for _, held in parts])), np.arange(50))
    for learned, held in parts:
        assert np.array_equal(learned, without(50, held))
        assert abs((y[held] == 0).sum() - 10) <= 1 and 1 <= (y[held] == 1).sum() <= 2 and (y[held] == 2).sum() <= 1
    again = parts_of(strata("classification", y, 4), 4, seed=4)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(parts, again, strict=True))
    numbers = np.linspace(0, 1, 20)[:, None]
    for _, held in parts_of(strata("regression", numbers, 1), 4, seed=0):
        assert len(held) == 5 and 0.3 < numbers[held].mean() < 0.7


def test_parts_keep_groups_together_and_are_fewer_where_those_are() -> None:
    who = np.repeat([7, 8, 9], 6)
    parts = parts_of(np.eye(2)[np.tile([0, 1], 9)], 5, who.tolist(), seed=1)
    assert 2 <= len(parts) <= 3 and sum(len(held) for _, held in parts) == 18
    assert all(not set(who[learned]) & set(who[held]) for learned, held in parts)


def test_strata_of_every_task() -> None:
    assert strata("classification", np.array([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert strata("multilabel", np.array([[1.0, 0.0], [0.0, 0.0]]), 2).tolist() == [[1, 0, 0], [0, 0, 1]]
    fifths = strata("regression", np.arange(100.0)[:, None], 1)
    assert fifths.sum(0).tolist() == [20] * 5 and fifths[0].argmax() == 0 and fifths[99].argmax() == 4
