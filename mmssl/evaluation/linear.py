"""Linear probe: multinomial logistic regression on frozen, standardised features.

The regularisation is chosen on a held-out part of the training rows, as in CLIP (Radford et al. 2021, arXiv
2103.00020, appendix A.3), so that no encoder is favoured by one fixed value.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("mmssl")

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse regularisation strengths C that are tried."""


def _fit(x: NDArray[np.floating[Any]], y: NDArray[np.integer[Any]], c: float, max_iter: int) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=c, max_iter=max_iter)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe.fit(x, y)
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            logger.info("linear probe: C=%g not converged after %d iterations", c, max_iter)
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return probe


def _held_out(y: NDArray[np.integer[Any]], share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) bool: about `share` of every class, but never a class's last row, so that each stays in training."""
    order = np.random.default_rng(seed).permutation(len(y))
    out = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        rows = order[y[order] == label]
        out[rows[: min(int(np.ceil(share * len(rows))), len(rows) - 1)]] = True
    return out


def linear_probe(
    train: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    test: NDArray[np.floating[Any]],
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    max_iter: int = 500,
) -> tuple[NDArray[np.integer[Any]], float]:
    """Predictions (m,) for test (m, D), from train (n, D) with labels (n,), and the strength C that was chosen.

    A fifth of every class is held out to choose C, then the probe is fitted on all training rows. Raises ValueError
    when there are fewer than two classes.
    """
    probe, x_test, best = _chosen(train, labels, test, strengths, seed, max_iter)
    predictions: NDArray[np.integer[Any]] = probe.predict(x_test)
    return predictions, best


def linear_confidence(
    train: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    test: NDArray[np.floating[Any]],
    *,
    seed: int = 0,
) -> tuple[NDArray[np.integer[Any]], NDArray[np.floating[Any]]]:
    """Predictions (m,) as of `linear_probe`, and the probability (m,) that the probe gives each of them."""
    probe, x_test, _ = _chosen(train, labels, test, STRENGTHS, seed, 500)
    chances = probe.predict_proba(x_test)
    return probe.classes_[chances.argmax(1)], chances.max(1)


def _chosen(
    train: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    test: NDArray[np.floating[Any]],
    strengths: Sequence[float],
    seed: int,
    max_iter: int,
) -> tuple[Any, NDArray[np.floating[Any]], float]:
    """(the fitted probe, standardised test rows, the strength C that was chosen on the held-out fifth)."""
    if len(np.unique(labels)) < 2:
        raise ValueError("a linear probe needs training rows of at least two classes")
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    x, x_test = scaler.transform(train), scaler.transform(test)
    held = _held_out(labels, 0.2, seed)
    best = strengths[len(strengths) // 2]
    if held.any():
        # strictly better only, in rising order of C: of equal scores the most regularised wins
        scores = [float(_fit(x[~held], labels[~held], c, max_iter).score(x[held], labels[held])) for c in strengths]
        best = strengths[int(np.argmax(scores))]
    return _fit(x, labels, best, max_iter), x_test, best
