"""Latent regression and the regularisers against own float64 computations from the papers' formulas."""

import numpy as np
import pytest
import torch

from mmssl.losses.latent import average_layers, latent_loss, normalised_latents
from mmssl.losses.regularisers import covariance, deviations, sigreg, variance

N, D, S = 60, 12, 20


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


@pytest.mark.parametrize("kind", ["l1", "l2", "smooth_l1", "cosine"])
def test_latent_losses_are_their_formulas(kind):
    pred, target = numbers(3, 5, D), 2 * numbers(3, 5, D, seed=1)
    p, t = (x.double().numpy() for x in (pred, target))
    for beta in (1.0, 0.5):
        d = np.abs(p - t)
        expected = {
            "l1": d.mean(-1),
            "l2": (d**2).mean(-1),
            "smooth_l1": np.where(d < beta, d**2 / (2 * beta), d - beta / 2).mean(-1),
            "cosine": (
                (p / np.linalg.norm(p, axis=-1, keepdims=True) - t / np.linalg.norm(t, axis=-1, keepdims=True)) ** 2
            ).sum(-1),
        }[kind]
        np.testing.assert_allclose(latent_loss(pred, target, kind, beta).numpy(), expected, rtol=0, atol=1e-6)
    if kind != "cosine":
        assert (latent_loss(target, target, kind) == 0).all()


def test_normalised_targets_and_layer_averages():
    layers = [3 * numbers(2, 4, D, seed=i) + i for i in range(3)]

    def norm(x):
        x = x.double().numpy()
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    np.testing.assert_allclose(normalised_latents(layers[2]).numpy(), norm(layers[2]), rtol=0, atol=1e-6)
    expected = np.mean([norm(x) for x in layers], 0)
    np.testing.assert_allclose(average_layers(layers).numpy(), expected, rtol=0, atol=1e-6)


def test_variance_and_covariance_are_vicregs():
    rows = 0.8 * numbers(N, D) + 1
    z = rows.double().numpy()
    std = np.sqrt(z.var(0, ddof=1) + 1e-4)
    cov = np.cov(z.T)
    assert abs(variance(rows).item() - np.maximum(0, 1 - std).mean()) < 1e-6
    assert abs(covariance(rows).item() - ((cov**2).sum() - (np.diag(cov) ** 2).sum()) / D) < 1e-6
    np.testing.assert_allclose(deviations(rows).numpy(), z.std(0, ddof=1), rtol=0, atol=1e-6)
    assert variance(3 * rows).item() == 0
    whitened = torch.linalg.qr(rows - rows.mean(0))[0]
    assert covariance(whitened).item() < 1e-9


def epps_pulley(rows: torch.Tensor, directions: torch.Tensor, knots: int = 17, bound: float = 5.0) -> float:
    """The statistic from its definition, complex, over the whole interval, in float64."""
    x, a = rows.double().numpy(), directions.double().numpy()
    t = np.linspace(-bound, bound, knots)
    total = 0.0
    for s in range(a.shape[1]):
        ecf = np.exp(1j * (x @ a[:, s])[:, None] * t).mean(0)
        total += len(x) * np.trapezoid(np.abs(ecf - np.exp(-(t**2) / 2)) ** 2 * np.exp(-(t**2) / 2), t)
    return total / a.shape[1]


def slices() -> torch.Tensor:
    return torch.nn.functional.normalize(numbers(D, S, seed=2), dim=0)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_sigreg_is_the_epps_pulley_statistic(shift):
    rows = 1.3 * numbers(N, D, seed=3) + shift
    expected = epps_pulley(rows, slices())
    assert abs(sigreg(rows, slices()).item() - expected) < 1e-6 * max(1, expected)
    assert abs(sigreg(rows, slices(), knots=9, bound=3.0).item() - epps_pulley(rows, slices(), 9, 3.0)) < 1e-6 * N


def test_sigreg_tells_a_standard_normal_from_what_is_not():
    normal = sigreg(numbers(2000, D, seed=5), slices())
    uniform = (torch.rand(2000, D, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 3**0.5
    line = numbers(2000, 1, seed=6) * torch.ones(D)
    assert normal < 2.2  # about 1.06 is expected of a true normal
    assert sigreg(torch.zeros(2000, D), slices()) > 500 and sigreg(line, slices()) > 50
    one = torch.eye(D)[:, :1]
    assert sigreg(uniform, one) > 3 * sigreg(numbers(2000, D, seed=5), one)


def test_rows_that_are_not_valid_count_nowhere():
    rows, valid = numbers(N, D), torch.arange(N) % 3 != 0
    spoiled = torch.where(valid[:, None], rows, torch.nan).requires_grad_()
    for function in (variance, covariance, lambda r, v=None: sigreg(r, slices(), v)):
        torch.testing.assert_close(function(spoiled, valid), function(rows[valid]), rtol=0, atol=1e-5)
        nothing = function(spoiled, torch.zeros(N, dtype=torch.bool))
        (gradient,) = torch.autograd.grad(nothing, spoiled)
        assert torch.isfinite(nothing) and (gradient == 0).all()
