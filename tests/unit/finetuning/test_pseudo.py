"""What says the label of a row without one: against formulas in float64, row by row."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from mmssl.evaluation.linear import fit_probe
from mmssl.finetuning.label_model import label_model, rule, tables, together
from mmssl.finetuning.pseudo import SPREAD, Guess, Known, guess, kept, near_rows, nearest_rows, propagate, votes


@pytest.fixture(scope="module")
def blobs():
    """(labelled rows, features of the others, their classes): 12 and 60 rows of 3 classes in 5 dimensions."""
    x, y = make_blobs(72, 5, centers=3, cluster_std=2.5, random_state=1)
    x = x.astype(np.float32)
    return Known(x[:12], y[:12], 3), x[12:], y[12:]


def test_votes_are_those_of_the_nearest_by_the_cosine(blobs):
    known, x, _ = blobs
    k = min(5, 2 * min(np.bincount(known.y)) - 1)
    found = votes(known, x, 5)
    for row, shares in zip(x.astype(np.float64), found, strict=True):
        cosines = [row @ a / np.linalg.norm(row) / np.linalg.norm(a) for a in known.x.astype(np.float64)]
        near = sorted(range(12), key=lambda i: -cosines[i])[:k]
        assert shares == pytest.approx([sum(known.y[i] == c for i in near) / k for c in range(3)])
    rare = Known(known.x[:6], np.array([0, 0, 0, 0, 0, 1]), 3)
    assert set(votes(rare, x, 5)[:, 1]) == {0.0, 1.0}, "a class with one row is asked of the nearest alone"
    numbers, cosines = nearest_rows(known.x, known.x, 1)
    assert numbers[:, 0].tolist() == list(range(12)) and cosines == pytest.approx(1)


def test_rows_near_any_labelled_one_are_found(blobs):
    known, x, _ = blobs
    present = np.arange(60) % 7 != 0
    unit = [row / np.linalg.norm(row) for row in x.astype(np.float64)]
    wanted = set()
    for a in known.x.astype(np.float64):
        rows = sorted(np.flatnonzero(present), key=lambda row: -float(unit[row] @ a))
        wanted |= set(rows[:3])
    assert set(np.flatnonzero(near_rows(known.x, x, present, 3))) == wanted and len(wanted) < present.sum()
    assert near_rows(known.x, x, present, 100).tolist() == present.tolist()
    assert not near_rows(known.x, x, np.zeros(60, bool), 3).any()


def test_a_row_is_labelled_by_the_teacher_and_kept_where_most_neighbours_agree(blobs):
    known, x, _ = blobs
    logits = np.random.default_rng(0).normal(size=(60, 3))
    found, shares = guess("neighbours", known, x, logits, 5), votes(known, x, 5)
    for row in range(60):
        label = int(logits[row].argmax())
        share = shares[row, label]
        assert found.labels[row] == label and found.sure[row] == (share if share > 0.5 else 0)
    sure = guess("confidence", known, x, logits, 5).sure
    assert sure == pytest.approx((np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1))


def test_propagation_is_the_solution_of_its_equation(blobs):
    known, x, truth = blobs
    rows = np.concatenate([known.x, x]).astype(np.float64)
    rows -= rows.mean(0)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    joined = np.zeros((72, 72))
    for i in range(72):
        for j in [j for j in np.argsort(-(unit @ unit[i])) if j != i][:4]:
            joined[i, j] = max(unit[i] @ unit[j], 0)
    joined = np.maximum(joined, joined.T)
    scale = np.diag(joined.sum(1) ** -0.5)
    begin = np.zeros((72, 3))
    for i, c in enumerate(known.y):
        begin[i, c] = 1 / (known.y == c).sum()
    spread = (1 - SPREAD) * np.linalg.solve(np.eye(72) - SPREAD * scale @ joined @ scale, begin)[12:]
    found = propagate(known, x, 4)
    assert found == pytest.approx(spread / spread.sum(1, keepdims=True), abs=1e-5)
    assert (found.argmax(1) == truth).mean() > 0.85
    island = propagate(Known(np.eye(4)[:1] * 9 + 1e-3, np.array([0]), 2), np.stack([np.eye(4)[0] * 9, *-np.eye(4)]), 1)
    assert island[0].tolist() == [1, 0] and (island.sum(1) == 0).any(), "no label reaches a row: nothing is said"


def test_the_label_model_is_dawid_and_skenes(blobs):
    rng = np.random.default_rng(2)
    truth = rng.integers(3, size=50)
    votes_of = np.stack([np.where(rng.random(50) < p, truth, rng.integers(-1, 3, size=50)) for p in (0.9, 0.6, 0.2)], 1)
    fixed, shares = np.eye(3)[truth[:9]], np.zeros((50, 3))
    table, often = tables(votes_of[:9], fixed), (fixed.sum(0) + 1) / 12
    shares[:9] = fixed
    for _ in range(101):
        before = shares.copy()
        for row in range(9, 50):
            for c in range(3):
                likely = [table[r, c, v] for r, v in enumerate(votes_of[row]) if v >= 0]
                shares[row, c] = often[c] * np.prod(likely)
            shares[row] /= shares[row].sum()
        if np.abs(shares - before).max() < 1e-6:
            break
        often = (shares.sum(0) + 1) / (50 + 3)
        for r in range(3):
            for c in range(3):
                said = [shares[votes_of[:, r] == v, c].sum() for v in range(3)]
                counts = [1 / 3 + (v == c) + said[v] for v in range(3)]
                table[r, c] = np.array(counts) / sum(counts)
    assert together(votes_of[9:], votes_of[:9], fixed) == pytest.approx(shares[9:], abs=1e-6)
    known, x, y = blobs
    first, second = rule(known.x[:, :2], known.y, x[:, :2])
    assert set(first) | set(second) <= {-1, 0, 1, 2} and (second < 0).mean() == pytest.approx(0.3, abs=0.02)
    found = label_model(known.x, known.y, x, 3)
    assert (found.argmax(1) == y).mean() > 0.7 and set(found.sum(1).round(6)) <= {0.0, 1.0}


@pytest.mark.parametrize("balance", [True, False])
def test_what_is_kept_counts_as_said(blobs, balance):
    known = Known(blobs[0].x[:8], np.array([0, 0, 0, 0, 0, 0, 1, 1]), 3)
    said = Guess(np.array([0, 0, 0, 0, 1, 1, 2, 1]), np.array([0.9, 0.5, 0.9, 0.2, 0.4, 0.0, 0.3, 0.8]))
    weights = kept(said, known, 0.5, 2.0, balance)
    if (
        balance
    ):  # two of the first class, as of the labelled rows three quarters; one of the second; none is of the third
        assert weights == pytest.approx([6, 0, 6, 0, 0, 0, 0, 4])
    else:
        assert weights == pytest.approx([4, 0, 4, 0, 0, 0, 4, 4])
    assert weights.sum() == 2 * 8
    assert not kept(Guess(said.labels, np.zeros(8)), known, 1.0, 2.0, balance).any()


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_a_row_that_counts_twice_is_two_rows(task):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    y = {"classification": rng.integers(3, size=40), "multilabel": (rng.random((40, 2)) < 0.5) * 1.0}.get(
        task, rng.normal(size=(40, 2))
    )
    times = rng.integers(1, 4, size=40)
    options = {"task": task, "outputs": None if task != "classification" else 3, "strength": 0.5}
    a = fit_probe(x, y, weights=times.astype(float), **options)
    b = fit_probe(np.repeat(x, times, 0), np.repeat(y, times, 0), **options)
    assert a.weight == pytest.approx(b.weight, abs=1e-3) and a.bias == pytest.approx(b.bias, abs=1e-3)
    assert a.penalty == pytest.approx(b.penalty)
