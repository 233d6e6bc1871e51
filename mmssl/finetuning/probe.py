"""The linear probe with its coefficients: the baseline of every fine-tuning, and the head it starts from.

Starting from the fitted probe is "LP-FT" (Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform
Out-of-Distribution", ICLR 2022): the encoder is not torn about by the gradients of a random head. Features are
standardised, the regularisation is chosen on validation rows (or a held-out fifth), and everything is folded into one
linear map, so that the probe is a layer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..evaluation.linear import STRENGTHS
from .splits import take_share, without
from .supervised import row_losses

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """scores = x @ weight.T + bias; weight (C, D), bias (C,). strength: the chosen inverse regularisation."""

    weight: Tensor
    bias: Tensor
    strength: float

    def __call__(self, x: Tensor) -> Tensor:
        """(n, C) logits or standardised numbers for x (n, D)."""
        return (x.double() @ self.weight.double().T + self.bias.double()).float()


def fit_probe(
    task: str,
    x: Tensor,
    y: Tensor,
    outputs: int,
    validation: tuple[Tensor, Tensor] | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> Probe:
    """x (n, D) features; y (n,) classes or (n, C); validation: (x, y) to choose the regularisation on."""
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    std = torch.where(std > 1e-8, std, 1.0)
    z = ((x.double() - mean) / std).numpy()
    if validation is None:
        held = take_share(_strata(task, y, outputs), 0.2, seed=seed)
        rest = without(len(y), held)
        if not len(held) or not len(rest):
            held = rest = np.arange(len(y))
        inner, outer = (z[rest], y[rest]), (z[held], y[held])
    else:
        inner, outer = (z, y), (((validation[0].double() - mean) / std).numpy(), validation[1])
    losses = []
    for strength in STRENGTHS:
        w, b = _fit(task, inner[0], inner[1].numpy(), outputs, strength, balanced)
        logits = torch.from_numpy(outer[0] @ w.T + b)
        losses.append(
            float(row_losses(task, logits, outer[1] if task == "classification" else outer[1].double()).mean())
        )
    best = STRENGTHS[int(np.argmin(losses))]
    weight, bias = _fit(task, z, y.numpy(), outputs, best, balanced)
    folded = torch.from_numpy(weight) / std
    return Probe(folded.float(), (torch.from_numpy(bias) - folded @ mean).float(), best)


def _strata(task: str, y: Tensor, outputs: int) -> Array:
    if task == "classification":
        return np.eye(outputs)[y.numpy()]
    return y.numpy().astype(np.float64) if task == "multilabel" else np.ones((len(y), 1))


def _fit(task: str, z: Array, y: NDArray[Any], outputs: int, strength: float, balanced: bool) -> tuple[Array, Array]:
    """weight (C, D), bias (C,) on standardised features. A class without rows gets a score that never wins."""
    from sklearn.linear_model import Ridge

    if task == "regression":
        ridge = Ridge(alpha=1 / strength).fit(z, y)
        return np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
    if task == "multilabel":
        pairs = [_logistic(z, y[:, c] > 0.5, strength, balanced) for c in range(outputs)]
        return np.stack([w for w, _ in pairs]), np.array([b for _, b in pairs])
    there = np.unique(y)
    weight, bias = np.zeros((outputs, z.shape[1])), np.full(outputs, -20.0)
    if len(there) == 1:
        bias[there] = 0.0
        return weight, bias
    if len(there) == 2:  # one logit for both: half of it for either
        w, b = _logistic(z, y == there[1], strength, balanced)
        weight[there], bias[there] = np.stack([-w / 2, w / 2]), np.array([-b / 2, b / 2])
        return weight, bias
    fitted = _regression(z, y, strength, balanced)
    weight[there], bias[there] = fitted.coef_, fitted.intercept_
    return weight, bias


def _logistic(z: Array, y: NDArray[np.bool_], strength: float, balanced: bool) -> tuple[Array, float]:
    if y.all() or not y.any():  # nothing to tell apart: the prior
        return np.zeros(z.shape[1]), 5.0 if y.all() else -5.0
    fitted = _regression(z, y, strength, balanced)
    return fitted.coef_[0], float(fitted.intercept_[0])


def _regression(z: Array, y: NDArray[Any], strength: float, balanced: bool) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties converge slowly; validation judges them
        return LogisticRegression(C=strength, max_iter=500, class_weight="balanced" if balanced else None).fit(z, y)
