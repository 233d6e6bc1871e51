"""A theory oracle: on deep linear networks our JEPA and MAE losses learn as Littwin et al. 2024 say they do.

"How JEPA avoids noisy features: the implicit bias of deep linear self distillation networks". Input x and target y have
diagonal moments: E[x_i y_i] = lambda, E[x_i^2] = lambda / rho_i. The encoder is a product of L square matrices, the
predictor (or decoder) one more, all starting at the same multiple of the identity. Under gradient flow on half the
squared error each feature's encoder weight w follows, in units of 1 / L of the time,

    JEPA (targets from the same encoder, without gradient)   dw/dt = lambda w^(3 - 1/L) - (lambda / rho) w^3
    MAE                                                      dw/dt = lambda w^(2 - 1/L) - (lambda / rho) w^3

to rho^L and rho^(L / (L + 1)): JEPA learns the feature with the high rho first, the more so the deeper it is; for MAE
rho hardly matters.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from mmssl.distributed import global_mean
from mmssl.losses.latent import latent_loss
from mmssl.losses.reconstruction import patch_mse

RHO = np.array([0.9, 0.6])
LAMBDA, START, REACHED, SAMPLES = 1.0, 0.05, 0.9, 16
RATIOS = {"jepa": [1.06, 1.33, 1.78, 2.40], "mae": [1.0, 1.0, 1.0, 1.0]}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """x and y (SAMPLES, 2) whose sample moments are exactly those of the theory."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(SAMPLES, 4)))[0] * SAMPLES**0.5
    x = q[:, :2] * np.sqrt(LAMBDA / RHO)
    return torch.from_numpy(x), torch.from_numpy(RHO * x + 0.3 * q[:, 2:])


def gradient_flow(kind: str, depth: int):
    """d(weights)/dt from autograd through our loss; weights: (depth + 1, 2, 2), the last one the predictor's."""
    x, y = data()
    counts = torch.ones(SAMPLES, dtype=torch.bool)

    def flow(_, flat: np.ndarray) -> np.ndarray:
        weights = torch.from_numpy(flat.copy()).view(depth + 1, 2, 2).requires_grad_()
        encoder = weights[0]
        for layer in weights[1:-1]:
            encoder = layer @ encoder
        prediction = x @ encoder.T @ weights[-1].T
        if kind == "jepa":
            loss = latent_loss(prediction, (y @ encoder.T).detach(), "l2")
        else:
            loss = patch_mse(prediction, y)
        half_squared_error = global_mean(loss, counts) * 2 / 2  # both losses are means over 2 numbers
        (gradient,) = torch.autograd.grad(half_squared_error, weights)
        return -gradient.flatten().numpy()

    return flow


def products(flat: np.ndarray, depth: int) -> np.ndarray:
    """(2, 2) of the encoder."""
    out = np.eye(2)
    for layer in flat.reshape(depth + 1, 2, 2)[:-1]:
        out = layer @ out
    return out


def theory(kind: str, depth: int):
    power = (3 if kind == "jepa" else 2) - 1 / depth
    return lambda _, w: depth * (LAMBDA * w**power - LAMBDA / RHO * w**3)


@pytest.mark.parametrize("kind", ["jepa", "mae"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_losses_follow_the_papers_dynamics(kind, depth):
    limit = RHO**depth if kind == "jepa" else RHO ** (depth / (depth + 1))
    end = {"jepa": [60, 150, 250, 400], "mae": [25, 20, 30, 60]}[kind][depth - 1]
    settings = {"rtol": 1e-8, "atol": 1e-10, "dense_output": True}
    layers = np.tile(np.eye(2) * START ** (1 / depth), (depth + 1, 1, 1))
    ours = solve_ivp(gradient_flow(kind, depth), (0, end), layers.flatten(), **settings).sol
    paper = solve_ivp(theory(kind, depth), (0, end), np.full(2, START), **settings).sol
    times = np.linspace(0, end, 400)
    found = np.array([products(ours(t), depth) for t in times])
    assert np.abs(found[:, [0, 1], [1, 0]]).max() < 1e-9  # it stays diagonal
    weights = found[:, [0, 1], [0, 1]]
    np.testing.assert_allclose(weights, paper(times).T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(weights[-1], limit, rtol=0.03)
    fine = np.linspace(0, end, 20_000)
    learned = [fine[np.argmax(paper(fine)[i] >= REACHED * limit[i])] for i in range(2)]
    mine = []
    for i in range(2):
        low, high = 0.0, float(end)
        for _ in range(40):
            middle = (low + high) / 2
            reached = products(ours(middle), depth)[i, i] >= REACHED * limit[i]
            low, high = (low, middle) if reached else (middle, high)
        mine.append(high)
    ratio = mine[1] / mine[0]
    assert ratio == pytest.approx(learned[1] / learned[0], rel=1e-2)
    assert ratio == pytest.approx(RATIOS[kind][depth - 1], rel=0.02 if kind == "jepa" else 0.06)
