"""Scores of an encoder that need no labels, beside RankMe (`rank`): what `mmssl tune` chooses recipes by.

All are computed in float64 and depend on the number of rows: only values for the same rows may be compared.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7
"""Added to each share of the spectrum in LiDAR, as RankMe has it."""
DELTA = 1e-4
"""LiDAR's: added to the diagonal of the scatter within samples."""
FIT = (3, 100)
"""First and last eigenvalue, from 1, that the power law of alpha-ReQ is fitted to: the first few are set by the data's
coarsest classes, the last ones by noise and by the number of rows."""


def alpha_req(z: Tensor, fit: tuple[int, int] = FIT) -> float:
    """Exponent of the power law that the eigenvalues of the covariance of z (n, D) follow; the nearer to 1, the better.

    Agrawal et al., "alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by Measuring Eigenspectrum
    Decay", NeurIPS 2022 (arXiv 2202.05808). The line through (ln j, ln eigenvalue j) is fitted by least squares with
    weights 1/j, as in the code of Stringer et al. (Nature 2019) that theirs goes by, over the eigenvalues `fit` that
    are there (not smaller than 1e-12 of the largest). nan with fewer than three of them.
    """
    _check(z, "alpha_req", 2)
    x = z.detach().to("cpu", torch.float64)
    spectrum = torch.linalg.svdvals(x - x.mean(0)).square() / len(x)
    known = int((spectrum > 1e-12 * spectrum[0]).sum()) if float(spectrum[0]) > 0 else 0
    first, last = fit[0], min(fit[1], known)
    if last - first < 2:
        return float("nan")
    place = torch.arange(first, last + 1, dtype=torch.float64)
    weight, a, b = 1 / place, place.log(), spectrum[first - 1 : last].log()
    a, b = a - (weight * a).sum() / weight.sum(), b - (weight * b).sum() / weight.sum()
    return -float((weight * a * b).sum() / (weight * a * a).sum())


def lidar(z: Tensor, delta: float = DELTA, eps: float = EPS) -> float:
    """Effective rank of what tells samples apart, measured in what their looks differ by; the larger, the better.

    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures", ICLR 2024 (arXiv
    2312.04000), equations 1 to 5: linear discriminant analysis with each sample as a class of its own. z (n, q, D) are
    the embeddings of q looks (views, or what masks leave) at each of n samples. exp(-sum p ln p) of p = eigenvalues of
    W^-1/2 B W^-1/2 over their sum + eps, with B the scatter of the samples' means around theirs and W that of the looks
    around their sample's mean, plus delta on its diagonal. Between 1 and min(n - 1, D); 0.0 where all samples are one.
    """
    _check(z, "lidar", 3)
    x = z.detach().to("cpu", torch.float64)
    means = x.mean(1)
    apart, looks = means - means.mean(0), (x - means[:, None]).flatten(0, 1)
    within = looks.T @ looks / len(looks) + delta * torch.eye(x.shape[2], dtype=torch.float64)
    # W = L L': the singular values of L^-1 A', squared, are the eigenvalues of W^-1/2 B W^-1/2
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(within), apart.T / len(x) ** 0.5, upper=False)
    spectrum = torch.linalg.svdvals(whitened).square()
    total = float(spectrum.sum())
    if total == 0.0:
        return 0.0
    p = spectrum / total + eps
    return math.exp(-float((p * p.log()).sum()))


def _check(z: Tensor, name: str, ndim: int) -> None:
    """ValueError for a wrong shape, and for values that are not finite."""
    if z.ndim != ndim or 0 in z.shape or len(z) < 2:
        shape = "(n, D)" if ndim == 2 else "(n, looks, D)"
        raise ValueError(f"{name} needs embeddings {shape} of at least two samples, got {tuple(z.shape)}")
    if not bool(torch.isfinite(z).all()):
        raise ValueError(f"{name}: the embeddings hold values that are not finite")
