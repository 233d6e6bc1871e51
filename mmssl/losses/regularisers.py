"""Regularisers of a batch of embeddings: VICReg's variance and covariance, LeJEPA's SIGReg. They replace a teacher.

They are statistics of the whole batch. With several processes `total` is `mmssl.distributed.all_sum`, which adds up
over processes with gradients: every process then returns the same number, and gradients that DDP averages are those of
one process with all rows. Rows that are not valid count nowhere; without any valid row the value is a constant with a
zero gradient.

Shapes: n local rows, D embedding width, S slices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from ..draws import Draws

Total = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """The sum over processes when there is one."""
    return x


def moments(rows: Tensor, valid: Tensor | None = None, total: Total = alone) -> tuple[Tensor, Tensor, Tensor]:
    """(count (), mean (D,), centred rows (n, D), zero where not valid) of rows (n, D), valid (n,) bool."""
    weight = rows.new_ones(len(rows), 1) if valid is None else valid.to(rows.dtype)[:, None]
    rows = rows if valid is None else torch.where(valid[:, None], rows, 0.0)
    count = total(weight.sum().detach())
    mean = total(rows.sum(0)) / count.clamp(min=1)
    return count, mean, (rows - mean) * weight


def deviations(rows: Tensor, valid: Tensor | None = None, total: Total = alone, eps: float = 0.0) -> Tensor:
    """(D,) standard deviation of each dimension, sqrt(unbiased variance + eps)."""
    count, _, centred = moments(rows, valid, total)
    return (total(centred.square().sum(0)) / (count - 1).clamp(min=1) + eps).sqrt()


def variance(
    rows: Tensor, valid: Tensor | None = None, total: Total = alone, target: float = 1.0, eps: float = 1e-4
) -> Tensor:
    """VICReg's variance term (Bardes et al. 2022, eq. 1): mean over dimensions of max(0, target - deviation)."""
    return torch.relu(target - deviations(rows, valid, total, eps)).mean()


def covariance(rows: Tensor, valid: Tensor | None = None, total: Total = alone) -> Tensor:
    """VICReg's covariance term (eq. 3 and 4): the squared off-diagonal covariances, summed, over D."""
    count, _, centred = moments(rows, valid, total)
    matrix = total(centred.T @ centred) / (count - 1).clamp(min=1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / rows.shape[1]


def whitening(rows: Tensor, valid: Tensor | None = None, total: Total = alone) -> Tensor:
    """|C - I|^2 / D of the covariance C of the rows: (1/D) sum_i (s_i^2 - 1)^2 for the singular values s_i of the
    centred rows over sqrt(n - 1). 0 for whitened rows; every dimension that has collapsed adds 1/D. It is the
    singular-value loss of MSBReg (arXiv 2207.03552), as far as it is known: no reference was at hand."""
    count, _, centred = moments(rows, valid, total)
    matrix = total(centred.T @ centred) / (count - 1).clamp(min=1)
    error = (matrix - torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)).square().sum() / rows.shape[1]
    # of fewer than two rows there is no covariance; the gradient's path stays
    return torch.where(count >= 2, error, 0.0 * error)


def brownian(rows: Tensor, motion: Tensor) -> Tensor:
    """Squared distance of rows (n, D), brought to length 1, from random directions (n, D) of length 1 that are drawn
    anew each step: (n,). The diffusion of MSBReg (arXiv 2207.03552): only what the other terms hold stays together."""
    return 2 - 2 * (F.normalize(rows, dim=-1) * motion).sum(-1)


def directions(draws: Draws, width: int, count: int) -> Tensor:
    """(width, count) random slices of unit length for `sigreg`, the same on all processes."""
    # one row of draws a dimension, whatever the rows of a process are
    alike = dataclasses.replace(draws, rows=width, first=0, total=width)
    return F.normalize(alike.normal(count), dim=0)


def sigreg(
    rows: Tensor,
    directions: Tensor,
    valid: Tensor | None = None,
    total: Total = alone,
    knots: int = 17,
    bound: float = 5.0,
) -> Tensor:
    """SIGReg of LeJEPA (Balestriero & LeCun 2025): how far the embeddings are from an isotropic standard normal.

    Mean over random slices of the Epps-Pulley statistic, N times the integral of |ecf(t) - exp(-t^2 / 2)|^2 *
    exp(-t^2 / 2) over [-bound, bound] by the trapezoid rule with `knots` (odd) equidistant knots; ecf is the
    characteristic function of the N projected rows. The integrand is even, so only t >= 0 is computed.

    directions: (D, S) slices of unit length, the same on all processes.
    """
    if knots % 2 == 0 or knots < 3:
        raise ValueError(f"sigreg: knots must be odd and at least 3, got {knots}")
    half = knots // 2
    weight = rows.new_ones(len(rows)) if valid is None else valid.to(rows.dtype)
    rows = rows if valid is None else torch.where(valid[:, None], rows, 0.0)
    count = total(weight.sum().detach())
    projected = rows @ directions.to(rows.dtype)  # (n, S)
    normal = torch.tensor([math.exp(-0.5 * (bound * i / half) ** 2) for i in range(half + 1)]).to(rows)
    # one sum over processes for all knots: (2, half + 1, S)
    waves = projected[None] * torch.linspace(0, bound, half + 1, dtype=rows.dtype, device=rows.device)[:, None, None]
    sums = torch.stack([torch.einsum("knm,n->km", wave, weight) for wave in (waves.cos(), waves.sin())])
    real, imaginary = total(sums) / count.clamp(min=1)
    error = ((real - normal[:, None]).square() + imaginary.square()) * normal[:, None]
    step = bound / half
    # trapezoid rule over [0, bound], doubled for the even half; the two ends count half
    integral = 2 * step * (error.sum(0) - (error[0] + error[-1]) / 2)
    return integral.mean() * count
