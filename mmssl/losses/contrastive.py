"""Contrastive losses. Pure functions over rows; every one returns a loss per row, so that absent samples and other
processes' rows can be weighed by the caller (`mmssl.distributed.global_mean`).

Shapes: n local rows (queries), m rows of the global batch (keys), D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(
    query: Tensor, keys: Tensor, positive: Tensor, scale: Tensor | float, valid: Tensor | None = None
) -> Tensor:
    """Cross-entropy of each query's similarity to its positive key among all keys: (n,).

    The mean over both directions is CLIP's loss (Radford et al. 2021; `open_clip.loss.ClipLoss`).

    query: (n, D), keys: (m, D), both L2-normalised; positive: (n,) int64 key of each query; scale: 1 / temperature;
    valid: (m,) bool, keys that count (a row's own positive must, for its loss to mean something).
    """
    logits = scale * query @ keys.T
    if valid is not None:
        own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, positive[:, None], True)
        logits = logits.masked_fill(~(valid[None] | own), -torch.inf)
    return F.cross_entropy(logits, positive, reduction="none")


def sigmoid_pairs(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    valid: Tensor | None = None,
) -> Tensor:
    """Every pair is its own yes/no question: -sum_j log sigmoid(+-(scale q.k_j + bias)): (n,).

    SigLIP (Zhai et al. 2023; `open_clip.loss.SigLipLoss`); the mean over rows is their loss.
    """
    logits = scale * query @ keys.T + bias
    sign = torch.full_like(logits, -1.0).scatter_(1, positive[:, None], 1.0)
    loss = -F.logsigmoid(sign * logits)
    if valid is not None:
        loss = loss * valid[None]
    return loss.sum(1)


def nt_xent(
    query: Tensor, keys: Tensor, positive: Tensor, own: Tensor, temperature: float, valid: Tensor | None = None
) -> Tensor:
    """SimCLR's loss (Chen et al. 2020): InfoNCE among the keys of both views, the query itself left out: (n,).

    keys: (m, D) of both views of the global batch; positive: (n,) the key of the same sample in the other view;
    own: (n,) the key that is the query itself.
    """
    logits = query @ keys.T / temperature
    itself = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, own[:, None], True)
    logits = logits.masked_fill(itself, -torch.inf)
    if valid is not None:
        partner = torch.zeros_like(itself).scatter_(1, positive[:, None], True)
        logits = logits.masked_fill(~(valid[None] | partner), -torch.inf)
    return F.cross_entropy(logits, positive, reduction="none")
