"""RankMe: how many directions of the embedding space are in use, without labels.

Garrido et al., "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations by Their
Rank", ICML 2023 (arXiv 2210.02885), equations 1 and 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rankme(z: Tensor, eps: float = 1e-7) -> float:
    """Effective rank exp(-sum p log p) of embeddings z (n, D), with p = singular values / their sum + eps.

    Between 1 (everything on one line through the origin) and min(n, D); 0.0 when every embedding is the zero vector.
    It depends on n, so only values for the same n may be compared. Not centred, as in the paper. Raises ValueError for
    values that are not finite.
    """
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"rankme needs embeddings (n, D) with n and D at least 1, got {tuple(z.shape)}")
    if not bool(torch.isfinite(z).all()):
        raise ValueError("rankme: the embeddings hold values that are not finite")
    # float64: singular values in float32 are only good to about 1e-7 of the largest, which is the size of eps
    sigma = torch.linalg.svdvals(z.detach().to("cpu", torch.float64))
    total = float(sigma.sum())
    if total == 0.0:
        return 0.0
    p = sigma / total + eps
    return math.exp(-float((p * p.log()).sum()))
