"""The losses of labels against own float64 computations."""

import numpy as np
import pytest
import torch

from mmssl.losses.supervised import row_losses

RNG = np.random.default_rng(0)
LOGITS = torch.from_numpy(RNG.normal(size=(40, 4))).float()
L = LOGITS.double().numpy()


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_smoothed_class_is_a_mixture_with_all_classes(smoothing):
    y = torch.from_numpy(RNG.integers(0, 4, 40))
    wanted = (1 - smoothing) * np.eye(4)[y.numpy()] + smoothing / 4
    found = row_losses("classification", LOGITS, y, smoothing=smoothing)
    np.testing.assert_allclose(found.numpy(), -(wanted * log_softmax(L)).sum(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("positive", "negative", "margin"), [(1.0, 4.0, 0.05), (0.0, 2.0, 0.0), (0.0, 0.0, 0.0)])
def test_absent_labels_that_are_easy_count_less(positive, negative, margin):
    """ASL's equations 5 to 7, with nothing of the kind the binary cross-entropy."""
    y = torch.from_numpy(RNG.integers(0, 2, (40, 4))).float()
    p = 1 / (1 + np.exp(-L))
    q = np.maximum(p - margin, 0)
    loss = np.where(y == 1, -((1 - p) ** positive) * np.log(p), -(q**negative) * np.log(1 - q)).mean(1)
    found = row_losses("multilabel", LOGITS, y, asymmetry=[positive, negative, margin])
    np.testing.assert_allclose(found.numpy(), loss, rtol=0, atol=1e-6)
    if not (positive or negative or margin):
        np.testing.assert_allclose(found.numpy(), row_losses("multilabel", LOGITS, y).numpy(), rtol=0, atol=1e-6)


def test_a_grade_lies_above_every_lower_threshold():
    """CORAL's equation 4 with equal importance of the thresholds, over 5 grades."""
    grades = torch.from_numpy(RNG.integers(0, 5, 40))
    expected = np.zeros(40)
    for i, grade in enumerate(grades.tolist()):
        for k in range(4):
            expected[i] -= log_sigmoid(L[i, k]) if grade > k else log_sigmoid(L[i, k]) - L[i, k]
    np.testing.assert_allclose(row_losses("ordinal", LOGITS, grades).numpy(), expected, rtol=0, atol=2e-6)
