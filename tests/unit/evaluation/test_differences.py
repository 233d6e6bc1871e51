"""Paired differences and boosting on raw features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from mmssl.data.splits import nested
from mmssl.evaluation import boosting
from mmssl.evaluation.boosting import fit_boosting
from mmssl.evaluation.differences import paired_difference, resampled_scores, resamples
from mmssl.evaluation.scoring import accuracy, auroc, r2


def test_an_interval_is_students_where_draws_vary_and_normal_where_rows_do():
    ours, theirs = np.array([0.8, 0.82, 0.79, 0.85, 0.81]), np.array([0.75, 0.78, 0.77, 0.8, 0.74])
    still = np.zeros((5, 50))
    found, each = paired_difference(ours, theirs, still, still), ours - theirs
    half = t.ppf(0.975, 4) * each.std(ddof=1) / 5**0.5
    np.testing.assert_allclose([found.mean, found.low, found.high], each.mean() + np.array([0, -half, half]))
    rows = np.random.default_rng(0).normal(0, 0.1, (1, 4000))
    found = paired_difference(ours[:1], theirs[:1], rows, np.zeros((1, 4000)))
    assert found.high - found.mean == pytest.approx(1.96 * 0.1, rel=0.05)


def test_the_same_rows_are_drawn_for_both_and_what_is_common_cancels():
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    hard = rng.random(400) < 0.3  # rows that both get wrong
    logits = np.eye(2)[np.where(hard, 1 - truth, truth)].astype(float)
    better = logits.copy()
    better[np.flatnonzero(hard)[:12]] = np.eye(2)[truth[np.flatnonzero(hard)[:12]]]
    one, two = (resampled_scores(accuracy, x, truth, None, 0, 300)[None] for x in (better, logits))
    score = np.array([accuracy(better, truth)]), np.array([accuracy(logits, truth)])
    paired = paired_difference(*score, one, two)
    other = resampled_scores(accuracy, logits, truth, None, 1, 300)[None]
    unpaired = paired_difference(*score, one, other)
    assert paired.excludes_zero and not unpaired.excludes_zero
    assert (unpaired.high - unpaired.low) > 2 * (paired.high - paired.low)


def test_groups_are_drawn_whole_and_what_is_not_defined_is_nan():
    groups = [f"p{i % 5}" for i in range(20)]
    for rows in resamples(20, groups, 0, 10):
        counts = np.bincount(rows, minlength=20)
        assert all(len(set(counts[g::5])) == 1 for g in range(5))
    nothing = np.full((2, 10), np.nan)
    found = paired_difference(np.array([0.5, np.nan]), np.array([0.5, 0.5]), nothing, nothing)
    assert found.mean != found.mean and not found.excludes_zero


def test_labels_are_bought_in_an_order_of_which_each_beginning_is_stratified():
    rng = np.random.default_rng(0)
    y = rng.choice(5, 1000, p=[0.6, 0.2, 0.1, 0.08, 0.02])
    counts = np.eye(5)[y]
    for seed in range(3):
        order = nested(counts, 400, seed)
        assert len(set(order.tolist())) == 400
        np.testing.assert_array_equal(nested(counts, 37, seed), order[:37])
        for size in (10, 20, 100, 400):
            found = np.bincount(y[order[:size]], minlength=5)
            assert found.min() >= 2 and found.sum() == size
        assert np.abs(found / 400 - counts.mean(0)).max() < 0.005
    assert set(nested(counts, 20, 0).tolist()) != set(nested(counts, 20, 1).tolist())
    assert sorted(nested(counts, 5000, 0).tolist()) == list(range(1000))
    several = (rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.03]).astype(float)
    assert several[nested(several, 12, 0)].sum(0).min() >= 2


def test_boosting_learns_what_is_not_linear_and_takes_empty_cells_and_categories():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4)).astype(np.float32)
    x[:, 3] = rng.integers(6, size=600)
    y = ((x[:, 0] * x[:, 1] > 0) ^ np.isin(x[:, 3], [1, 4])).astype(int)
    x[rng.random((600, 4)) < 0.03] = np.nan
    told = {"outputs": 2, "categories": [False, False, False, True]}
    fitted = fit_boosting(x[:400], y[:400], **told)
    logits = fitted(x[400:])
    assert logits.shape == (200, 2) and accuracy(logits, y[400:]) > 0.8
    np.testing.assert_allclose(np.exp(logits).sum(1), 1, atol=1e-6)


def test_boosting_of_few_rows_is_no_constant_and_unseen_classes_never_win():
    rng = np.random.default_rng(0)
    y = np.arange(20) % 2
    x = (y[:, None] + 0.3 * rng.normal(size=(20, 3))).astype(np.float32)
    fitted = fit_boosting(x, y, outputs=4)
    logits = fitted(x)
    assert accuracy(logits, y) == 1 and fitted.leaf == 2 and logits[:, 2:].max() <= -20


def test_boosting_of_numbers_several_labels_and_wide_features(monkeypatch):
    monkeypatch.setattr(boosting, "WIDEST", 12)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 40)).astype(np.float32)
    several = np.stack([x[:, 7] > 0, np.zeros(300)], 1).astype(float)
    fitted = fit_boosting(x[:200], several[:200], task="multilabel", outputs=2)
    out = fitted(x[200:])
    assert auroc(out[:, 0], several[200:, 0] > 0.5) > 0.9 and (out[:, 1] < 0).all()
    assert len(fitted.columns) == 12 and 7 in fitted.columns
    numbers = np.stack([x[:, 7], -2 * x[:, 7]], 1).astype(float)
    fitted = fit_boosting(x[:200, :10], numbers[:200], task="regression", outputs=2)
    assert r2(fitted(x[200:, :10]), numbers[200:]) > 0.8
