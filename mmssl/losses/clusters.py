"""Losses of cluster posteriors. Pure functions; SwAV's balanced targets are `mmssl.losses.distillation.sinkhorn`;
and the k-means of DeepCluster.

Sums over several processes are the caller's: `total` adds up a tensor over them, with gradients.
Shapes: n samples, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .regularisers import Total, alone


def agreement(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-sum_k p_k log q_k: (n,), the cross-entropy of two posteriors given as logarithms (n, K), with a gradient for
    both: the clustering bound of GEDI (Sansone & Manhaeve 2022, arXiv 2212.13425)."""
    return -(log_p.exp() * log_q).sum(-1)


def uniformity(log_p: Tensor, valid: Tensor, total: Total = alone) -> Tensor:
    """-1/K sum_k log mean_i p_ik of the valid rows (n,): the cross-entropy of a uniform prior with the mean posterior,
    least (log K) where all clusters are used alike. 0 where no row is valid.

    log_p: (n, K) logarithms of posteriors; total: the sum over processes.
    """
    count = total(valid.to(log_p.dtype).sum())
    mean = total(torch.where(valid[:, None], log_p.exp(), 0.0).sum(0)) / count.clamp(min=1)
    # no cluster is ever empty but by rounding; of nothing all are, and the path of the gradient stays
    return torch.where(count > 0, -mean.clamp(min=torch.finfo(mean.dtype).tiny).log().mean(), 0.0 * mean.sum())


@torch.no_grad()
def spherical_means(rows: Tensor, start: Tensor, rounds: int = 10) -> Tensor:
    """Spherical k-means: rows go to the centre of greatest cosine, centres become the mean of their rows, brought to
    length 1, `rounds` times; a centre without rows stays where it is (as in DeepCluster-v2, Caron et al. 2020;
    facebookresearch/swav `main_deepclusterv2.py`).

    rows: (n, D) and start: (K, D), both of length 1. Returns (K, D).
    """
    centres = start
    for _ in range(rounds):
        member = F.one_hot((rows @ centres.T).argmax(1), len(centres)).to(rows.dtype)
        moved = F.normalize(member.T @ rows, dim=-1)
        centres = torch.where(member.any(0)[:, None], moved, centres)
    return centres
