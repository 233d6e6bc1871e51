"""How alike two models' features of the same rows are: centred kernel alignment.

Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019 (arXiv 1905.00414), with the
linear kernel and the unbiased estimator of HSIC (Song et al. 2012, JMLR 13, equation 5) of Nguyen et al. 2021 (arXiv
2010.15327): the plain estimator nears 1 for any two features as wide as there are rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 2000
"""Rows that are looked at: the products of all pairs are kept."""


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of features x (n, D) and y (n, E) of the same n >= 4 rows, in float64.

    1 for features that are alike up to rotation, shift and one scale; around 0, and also below it, for independent
    ones; nan where either is the same in all rows. Raises ValueError for fewer rows, different rows, or values that are
    not finite.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise ValueError(f"CKA needs features of the same rows, at least four, got {tuple(x.shape)}, {tuple(y.shape)}")
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("CKA: the features hold values that are not finite")
    k, m = _gram(x), _gram(y)
    within = _hsic(k, k) * _hsic(m, m)
    return float(_hsic(k, m)) / float(within.sqrt()) if float(within) > 0 else float("nan")


def cka_interval(x: Tensor, y: Tensor, draws: int = 20) -> list[float]:
    """[low, high]: about 95 % around `debiased_cka`, from its spread over random halves of the rows.

    Halves, because a row that is drawn twice is alike to itself, which the estimator leaves out; and a mean over half
    of n rows spreads as far among the halves as the mean over n rows does among samples.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(draws):
        half = torch.randperm(len(x), generator=generator)[: max(len(x) // 2, 4)]
        found.append(debiased_cka(x[half], y[half]))
    spread, value = 1.96 * float(torch.tensor(found, dtype=torch.float64).std()), debiased_cka(x, y)
    return [value - spread, value + spread]


def _gram(x: Tensor) -> Tensor:
    """(n, n) products of the centred rows over their mean square, so that no scale is lost in rounding; the diagonal
    is 0, as the estimator wants it."""
    centred = x.detach().to("cpu", torch.float64)
    centred = centred - centred.mean(0)
    square = float(centred.square().sum(1).mean())
    gram = centred @ centred.T / (square if square > 0 else 1.0)
    return gram.fill_diagonal_(0.0) if square > 1e-24 * float(x.double().square().sum(1).mean()) else gram * 0.0


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion; k, m (n, n) with an empty diagonal."""
    n = len(k)
    # k and m are symmetric: 1' k m 1 is the product of their sums of rows
    rows, others = k.sum(0), m.sum(0)
    middle = rows.sum() * others.sum() / ((n - 1) * (n - 2))
    return ((k * m).sum() + middle - 2 * (rows @ others) / (n - 2)) / (n * (n - 3))
