"""alpha-ReQ and LiDAR against computations of their own in float64, and on data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from mmssl.evaluation.label_free import DELTA, EPS, FIT, alpha_req, lidar


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def power_law(alpha: float, n: int = 120, width: int = 40) -> torch.Tensor:
    """Embeddings whose covariance has the eigenvalues j^-alpha, up to rounding."""
    left, right = np.linalg.qr(draws(n, width).numpy())[0], np.linalg.qr(draws(width, width).numpy())[0]
    left = np.linalg.qr(left - left.mean(0))[0]  # centred, and orthonormal
    return torch.from_numpy(left * np.arange(1, width + 1) ** (-alpha / 2) @ right * n**0.5)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_alpha_is_the_exponent_of_a_power_law(alpha: float) -> None:
    assert alpha_req(power_law(alpha)) == pytest.approx(alpha, abs=1e-6)
    assert alpha_req(3 + 100 * power_law(alpha)) == pytest.approx(alpha, abs=1e-6), (
        "of scale and shift it knows nothing"
    )


def test_alpha_is_the_weighted_line_through_the_logarithms() -> None:
    x = draws(300, 40) * torch.linspace(0.1, 3, 40, dtype=torch.float64)
    spectrum = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    first, last = FIT[0], min(FIT[1], 40)
    places = np.arange(first, last + 1)
    # polyfit takes the square roots of the weights
    slope = np.polyfit(np.log(places), np.log(spectrum[first - 1 : last]), 1, w=np.sqrt(1 / places))[0]
    assert alpha_req(x) == pytest.approx(-slope, abs=1e-9)
    assert alpha_req(x.float()) == pytest.approx(-slope, abs=1e-4)


def test_alpha_of_too_few_eigenvalues_is_unknown() -> None:
    assert math.isnan(alpha_req(draws(50, 4))) and math.isnan(alpha_req(torch.ones(50, 30)))
    assert alpha_req(draws(50, 5)) > 0


def test_lidar_is_the_entropy_of_the_generalised_eigenvalues() -> None:
    z = draws(30, 1, 8) * torch.arange(1, 9) + 0.3 * draws(30, 5, 8) @ draws(8, 8)
    x, means = z.numpy(), z.numpy().mean(1)
    between = np.cov(means.T, bias=True)
    within = sum(np.cov(sample.T, bias=True) for sample in x) / len(x) + DELTA * np.eye(8)
    values = eigh(between, within, eigvals_only=True)
    p = values / values.sum() + EPS
    assert lidar(z) == pytest.approx(float(np.exp(-(p * np.log(p)).sum())), rel=1e-9)
    assert 1 < lidar(z) < 8


def test_lidar_counts_directions_that_tell_samples_apart() -> None:
    """Looks that differ in a direction as much as samples do say nothing by it; RankMe would count it."""
    apart = torch.zeros(4, 1, 6, dtype=torch.float64)
    apart[:, 0, 0], apart[:, 0, 1] = torch.tensor([1.0, -1, 1, -1]), torch.tensor([1.0, 1, -1, -1])
    assert lidar(apart.expand(4, 3, 6)) == pytest.approx(2.0, abs=1e-4)
    blurred = apart.expand(4, 2, 6).clone()
    blurred[:, 0, 1] += 50
    blurred[:, 1, 1] -= 50
    assert lidar(blurred) == pytest.approx(1.0, abs=1e-3)
    assert lidar(torch.ones(5, 3, 4)) == 0.0


@pytest.mark.parametrize("score", [alpha_req, lidar])
def test_what_is_no_embedding_is_refused(score) -> None:
    shape = (5, 4) if score is alpha_req else (5, 3, 4)
    broken = torch.ones(shape)
    broken.view(-1)[3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        score(broken)
    for wrong in (torch.ones(shape)[:1], torch.ones(shape)[..., :0], torch.ones(5)):
        with pytest.raises(ValueError, match="at least two samples"):
            score(wrong)
