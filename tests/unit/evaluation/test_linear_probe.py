"""The one linear probe and its scores, against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmssl.data.splits import folds, hold_out, parts_of, strata
from mmssl.evaluation import linear, scoring
from mmssl.evaluation.linear import STRENGTHS, Protocol, fit_probe
from mmssl.losses.supervised import row_losses

pytestmark = pytest.mark.usefixtures("whole_probe")
RNG = np.random.default_rng(0)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rows = np.random.default_rng(0).permutation(len(x))[:900]
    x, y = x[rows].astype(np.float32), y[rows]
    return x[:150], y[:150], x[600:], y[600:]


def two_classes(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different size and place, and classes that two of them tell."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5))
    y = (x[:, 0] + x[:, 1] + 0.3 * rng.normal(size=n) > 0).astype(int)
    return x * np.array([1, 10, 0.1, 5, 1]) + 7, y


@pytest.mark.parametrize("few", [True, False])
def test_it_is_a_grid_search_over_fifths(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "FEW", 151 if few else 150)
    x, y, x_test, y_test = digits()
    rng = np.random.default_rng(0)
    y = np.where(rng.random(150) < 0.3, rng.integers(10, size=150), y)  # so the penalty matters
    probe = fit_probe(x, y)
    counts, part = strata("classification", y, 10), np.full(150, -1)
    if few:
        for number, (learned, held) in enumerate(parts_of(counts, 5)):
            assert len(held) == 30 and not set(learned) & set(held)
            part[held] = number
    else:
        part[hold_out(counts, 0.2)] = 0
        assert [(part[y == c] + 1).sum() for c in range(10)] == [math.ceil(0.2 * (y == c).sum()) for c in range(10)]
    scaler = StandardScaler().fit(x)
    split = PredefinedSplit(part)
    judge = GridSearchCV(LogisticRegression(max_iter=500), {"C": STRENGTHS}, cv=split)
    judge.fit(scaler.transform(x), y)
    assert probe.strength == judge.best_params_["C"] != STRENGTHS[-1]
    assert probe.chosen_at == pytest.approx(judge.best_score_)
    z = scaler.transform(x_test)
    assert (probe(x_test).argmax(1) == judge.predict(z)).all() and (probe(x_test).argmax(1) == y_test).mean() > 0.6
    odds = np.exp(probe(x_test))
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), judge.predict_proba(z), atol=1e-5)


def test_two_classes_and_balanced_ones_are_scikit_learns() -> None:
    x, y = two_classes()
    y[np.flatnonzero(y)[10:]] = 0
    for balanced in (False, True):
        probe = fit_probe(x, y, balanced=balanced)
        weight = "balanced" if balanced else None
        reference = LogisticRegression(C=probe.strength, max_iter=500, class_weight=weight)
        reference.fit(StandardScaler().fit_transform(x), y)
        chances = reference.predict_proba(StandardScaler().fit_transform(x))
        np.testing.assert_allclose(1 / (1 + np.exp(probe(x)[:, 0] - probe(x)[:, 1])), chances[:, 1], atol=1e-6)


def test_several_labels_and_numbers_are_scikit_learns() -> None:
    x, y = two_classes()
    both = np.stack([y, RNG.integers(2, size=200), np.zeros(200, int)], 1).astype(float)
    probe = fit_probe(x, both, task="multilabel")
    pair = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, max_iter=500)).fit(x, y)
    np.testing.assert_allclose(probe(x)[:, 0], pair.decision_function(x), atol=1e-6)
    assert (probe(x)[:, 2] < -4).all(), "a label that no row has is never said"
    numbers = np.stack([x[:, 0] / 3, RNG.normal(size=200)], 1)
    fitted = fit_probe(x, numbers, task="regression")
    ridge = make_pipeline(StandardScaler(), Ridge(alpha=1 / fitted.strength)).fit(x, numbers)
    np.testing.assert_allclose(fitted(x), ridge.predict(x), atol=1e-9)


@pytest.mark.parametrize("task", ["classification", "two classes", "multilabel", "regression"])
def test_it_is_where_its_loss_with_its_penalty_is_least(task: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(60, 5)) * [1, 2, 30, 0.1, 1]
    numbers = x[:, :2] + rng.normal(size=(60, 2))
    signs = (numbers > 0).astype(int)
    y = {"classification": signs.sum(1), "two classes": signs[:, 0], "multilabel": signs * 1.0, "regression": numbers}[
        task
    ]
    name = "classification" if task == "two classes" else task
    probe = fit_probe(x, y, task=name, outputs=3 if name == "classification" else None, strength=0.3)
    assert probe.strength == 0.3
    weight = torch.from_numpy(probe.weight).requires_grad_()
    logits = torch.from_numpy(x) @ weight.T + torch.from_numpy(probe.bias)
    loss = row_losses(name, logits, torch.from_numpy(y)).mean()
    penalty = (torch.from_numpy(probe.penalty) * weight.square()).sum()
    # of standardised weights, as they are fitted: to a gradient of 1e-4 a row in C's units
    pulls = [torch.autograd.grad(part, weight, retain_graph=True)[0].numpy() / x.std(0) for part in (loss, penalty)]
    assert np.abs(pulls[0]).max() > 1e-2
    np.testing.assert_allclose(pulls[0] + pulls[1], 0, atol=2e-4)


def test_of_equal_scores_the_most_regularised_wins() -> None:
    x = np.repeat([[-1.0], [1.0]], 50, 0)
    assert fit_probe(x, np.repeat([0, 1], 50)).strength == STRENGTHS[0]


def test_groups_are_held_out_together() -> None:
    # a feature that names the patient looks perfect unless whole patients are held out
    rng = np.random.default_rng(3)
    patient = np.repeat(np.arange(40), 6)
    y = rng.integers(2, size=40)[patient]
    x = np.concatenate([np.eye(40)[patient], y[:, None] + rng.normal(size=(240, 1))], 1)
    alone, together = fit_probe(x, y), fit_probe(x, y, groups=patient)
    assert together.chosen_at < 0.9 < alone.chosen_at == 1


def test_a_protocol_of_its_own() -> None:
    x, y = two_classes()
    parts = folds(y, 3, seed=1)
    probe = fit_probe(x, y, protocol=Protocol(parts=parts, score=scoring.class_auroc, scale="common"))
    z = (x - x.mean(0)) / np.sqrt(x.var(0).mean())
    judge = GridSearchCV(LogisticRegression(max_iter=500), {"C": STRENGTHS}, cv=parts, scoring="roc_auc").fit(z, y)
    assert probe.strength == judge.best_params_["C"] and probe.chosen_at == pytest.approx(judge.best_score_)
    np.testing.assert_allclose(np.diff(probe(x), axis=1)[:, 0], judge.decision_function(z), atol=1e-6)


def test_a_class_that_training_lacks_never_wins_and_one_row_a_class_is_enough() -> None:
    x = RNG.normal(size=(40, 3)) * 100
    assert 1 not in fit_probe(x, np.array([0, 2] * 20), outputs=3)(x).argmax(1)
    probe = fit_probe(np.eye(4), np.arange(4))
    assert probe(np.eye(4)).argmax(1).tolist() == [0, 1, 2, 3] and math.isnan(probe.chosen_at)
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(x, np.zeros(40, int))


# ------------------------------------------------------------------------------------------------------------ scores


def test_auroc_is_scikit_learns_with_ties() -> None:
    y, score = RNG.random(300) < 0.3, np.round(RNG.normal(size=300), 1)
    assert scoring.auroc(score, y) == pytest.approx(roc_auc_score(y, score), abs=1e-12)
    assert math.isnan(scoring.auroc(score, np.zeros(300, bool)))


def test_scores_are_scikit_learns() -> None:
    logits, y = RNG.normal(size=(300, 4)), RNG.integers(4, size=300)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert scoring.class_auroc(logits, y) == pytest.approx(roc_auc_score(y, chances, multi_class="ovr"))
    assert scoring.class_auroc(logits[:, :2], y > 1) == pytest.approx(roc_auc_score(y > 1, logits[:, 1] - logits[:, 0]))
    assert scoring.balanced_accuracy(logits, y) == pytest.approx(balanced_accuracy_score(y, logits.argmax(1)))
    several = RNG.random((300, 4)) < 0.3
    assert scoring.label_auroc(logits, several) == pytest.approx(roc_auc_score(several, logits))
    assert scoring.f1(logits, several) == pytest.approx(f1_score(several, logits > 0, average="macro"))
    numbers = logits + RNG.normal(size=(300, 4))
    assert scoring.r2(logits, numbers) == pytest.approx(r2_score(numbers, logits))
