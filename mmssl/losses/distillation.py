"""Self-distillation losses: soft targets, balanced assignments, spread features, anchored similarities. Pure functions.

Sums over several processes are the caller's: `sinkhorn` takes a function `total` that adds up a tensor over them.
Shapes: n local rows, m rows of the global batch, K prototypes, D width, B batch, N patches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(logits: Tensor, target: Tensor, temperature: Tensor | float) -> Tensor:
    """-sum_k target_k log softmax(logits / temperature)_k: (n,), least (target's entropy) where both are equal.

    DINO's loss (Caron et al. 2021, eq. 1) and iBOT's (Zhou et al. 2022, eq. 2). logits, target: (n, K); the rows of
    `target` sum to 1.
    """
    return -(target * F.log_softmax(logits / temperature, dim=-1)).sum(-1)


def centred_softmax(logits: Tensor, centre: Tensor, temperature: Tensor | float) -> Tensor:
    """softmax((logits - centre) / temperature): (n, K). DINO's targets: the centre (K,), a running mean of the
    teacher's logits, keeps one prototype from winning everywhere, the low temperature keeps all from being equal."""
    return F.softmax((logits - centre) / temperature, dim=-1)


def sinkhorn(
    logits: Tensor,
    temperature: Tensor | float,
    valid: Tensor | None = None,
    iterations: int = 3,
    total: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Balanced soft assignments (n, K): rows sum to 1, and all prototypes get about equal shares of all valid rows.

    The Sinkhorn-Knopp iteration of SwAV (Caron et al. 2020) that DINOv2 takes in place of the centre: exp(logits /
    temperature) with its columns, then its rows, scaled to equal sums, `iterations` times.

    logits: (n, K) cosines: 1 is taken off them, which changes nothing but keeps the exponential finite; valid: (n,)
    bool, other rows come out as zeros; total: adds up over processes, so that columns are balanced globally.
    """
    tiny = torch.finfo(logits.dtype).tiny
    share = ((logits - 1) / temperature).exp()
    there = torch.ones(len(logits), dtype=torch.bool, device=logits.device) if valid is None else valid
    share = share * there[:, None]
    rows = total(there.sum().to(logits.dtype)).clamp(min=1)
    for _ in range(iterations):
        share = share / (total(share.sum(0)) * logits.shape[1]).clamp(min=tiny)
        share = share / (share.sum(1, keepdim=True) * rows).clamp(min=tiny)
    return share * rows


def koleo(query: Tensor, keys: Tensor, own: Tensor, valid: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """-log of the distance of each row to its nearest other row: (n,).

    The Kozachenko-Leonenko estimate of (minus) the entropy (Sablayrolles et al. 2019), with which DINOv2 spreads
    features. query: (n, D), keys: (m, D), both L2-normalised; own: (n,) the key that is the query itself; valid: (m,)
    bool, keys that count. A row without any neighbour gives 0.
    """
    # which row is nearest has no gradient, only how far it is
    with torch.no_grad():
        closeness = query @ keys.T
        if valid is not None:
            closeness = closeness.masked_fill(~valid[None], -torch.inf)
        closeness = closeness.scatter(1, own[:, None], -torch.inf)
        best, nearest = closeness.max(1)
    distance = (query - keys[nearest]).norm(dim=1)
    return torch.where(best > -torch.inf, -(distance + eps).log(), 0.0)


def gram_mse(student: Tensor, teacher: Tensor, valid: Tensor | None = None, clamp: str = "none") -> Tensor:
    """Mean squared difference of the patch-by-patch cosine similarities of two encoders: (B,).

    Gram anchoring (DINOv3, Simeoni et al. 2025, eq. 2, divided by the number of pairs): it fixes how patches relate
    and leaves features free to turn, being 0 where the student's patches are any rotation of the teacher's.

    student, teacher: (B, N, D), widths may differ; valid: (B, N) bool, patches that count; clamp: negative similarities
    become 0 in "both", or in the teacher's and, where those are negative, in the student's ("teacher"), or "none".
    """
    own, fixed = (x @ x.transpose(1, 2) for x in (F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)))
    if clamp == "teacher":
        own = torch.where((own < 0) & (fixed < 0), 0.0, own)
    elif clamp == "both":
        own = own.clamp(min=0)
    if clamp != "none":
        fixed = fixed.clamp(min=0)
    error = (own - fixed).square()
    if valid is None:
        return error.mean((1, 2))
    pairs = valid[:, :, None] & valid[:, None, :]
    return torch.where(pairs, error, 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
