"""Contrastive losses. Pure functions over rows; every one returns a loss per row, so that absent samples and other
processes' rows can be weighed by the caller (`mmssl.distributed.global_mean`).

With `chunk` the similarities are worked off in pieces of that many queries, forward and backward, and the n x m matrix
never exists (`mmssl.losses.chunked`); the result is the same.

Shapes: n local rows (queries), m rows of the global batch (keys), D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from . import chunked


def softmax_rows(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    *,
    own: Tensor | None = None,
    decoupled: bool = False,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
    chunk: int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """log sum_j exp(scale q.k_j) - weight scale q.k_positive: (n,). What all losses with a softmax are made of.

    positive: (n,) int64 key of each query, or (n, D) rows that are no keys (MoCo's, whose keys are a queue) and are
    added to the sum; own: (n,) the key that is the query itself, left out of the sum; decoupled: the positive is left
    out as well; weight: (n,) factor of the attraction; valid: (m,) bool, keys that count; smoothing: see `smoothed`,
    for a positive among the keys. A row without any key in its sum is 0.
    """
    apart = positive if positive.ndim == 2 else None
    theirs = keys[positive] if apart is None else apart
    attraction = plain = scale * (query * smoothed(keys, theirs, valid, smoothing)).sum(-1)
    if weight is not None:
        attraction = weight * attraction
    left_out = [index for index in (own, positive if decoupled and apart is None else None) if index is not None]
    excluded = torch.stack(left_out, 1) if left_out else None
    repulsion, some = _sum_of_keys(query, keys, scale, excluded, valid, chunk)
    if apart is not None and not decoupled:
        repulsion = torch.where(some, repulsion, -torch.inf).logaddexp(plain)
    return torch.where(some, repulsion - attraction, 0.0)


def _sum_of_keys(
    query: Tensor, keys: Tensor, scale: Tensor | float, excluded: Tensor | None, valid: Tensor | None, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """(log sum_j exp(scale q.k_j) (n,), whether there was a key in it (n,)), see `chunked.log_sum_exp`."""
    if chunk is not None:
        found = chunked.log_sum_exp(query, keys, scale, excluded, valid, chunk=chunk)
        return found, found != -torch.inf
    logits = scale * query @ keys.T
    if excluded is not None:
        # the query itself, and for decoupled losses its positive, leave the denominator
        logits = logits.scatter(1, excluded, -torch.inf)
    if valid is not None:
        logits = logits.masked_fill(~valid[None], -torch.inf)
    some = (logits != -torch.inf).any(1)
    return logits.masked_fill(~some[:, None], 0.0).logsumexp(1), some  # of nothing it would have no gradient


def info_nce(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    valid: Tensor | None = None,
    chunk: int | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of each query's similarity to its positive key among all keys: (n,).

    The mean over both directions is CLIP's loss (Radford et al. 2021; `open_clip.loss.ClipLoss`).

    query: (n, D), keys: (m, D), both L2-normalised; positive: (n,) int64 key of each query; scale: 1 / temperature;
    valid: (m,) bool, keys that count (a row's own positive must, for its loss to mean something); smoothing: as torch's
    `cross_entropy` has it.
    """
    return softmax_rows(query, keys, positive, scale, valid=valid, chunk=chunk, smoothing=smoothing)


def smoothed(keys: Tensor, positive: Tensor, valid: Tensor | None, smoothing: float) -> Tensor:
    """What a query is drawn to with label smoothing: its positive's row of `positive` (n, D) to the share
    1 - smoothing, and all keys (m, D) that are valid (m,) to equal parts of the rest: (n, D).

    Logits are linear in the key, so that the smoothed label's cross-entropy needs no further n x m products.
    """
    if not smoothing:
        return positive
    if valid is None:
        return (1 - smoothing) * positive + smoothing * keys.mean(0)
    weight = valid.to(keys.dtype)[:, None]
    return (1 - smoothing) * positive + smoothing * (keys * weight).sum(0) / weight.sum().clamp(min=1)


def info_nce_both(
    x: Tensor, y: Tensor, scale: Tensor | float, valid: Tensor | None = None, chunk: int = 512, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """`info_nce` of x among y and of y among x, each (n,), where row i of x (n, D) belongs to row i of y: the same
    numbers from one pass over the similarities instead of two. valid: (n,) bool, pairs that count; others get 0."""
    there = back = scale * (x * y).sum(-1)
    if smoothing:
        there, back = (scale * (a * smoothed(b, b, valid, smoothing)).sum(-1) for a, b in ((x, y), (y, x)))
    rows, columns = chunked.log_sum_exp_both(x, y, scale, valid, chunk=chunk)
    forth = torch.where(rows != -torch.inf, rows - there, 0.0)
    return forth, torch.where(columns != -torch.inf, columns - back, 0.0)


def sigmoid_pairs(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    valid: Tensor | None = None,
    chunk: int | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Every pair is its own yes/no question: -sum_j log sigmoid(+-(scale q.k_j + bias)): (n,).

    SigLIP (Zhai et al. 2023; `open_clip.loss.SigLipLoss`); the mean over rows is their loss. own: (n,) the key that
    is the query itself, about which nothing is asked.
    """
    if chunk is not None:
        return chunked.sigmoid_pairs(query, keys, positive, scale, bias, valid, own, chunk=chunk)
    logits = scale * query @ keys.T + bias
    sign = torch.full_like(logits, -1.0).scatter_(1, positive[:, None], 1.0)
    loss = -F.logsigmoid(sign * logits)
    if valid is not None:
        loss = loss * valid[None]
    if own is not None:
        loss = loss.scatter(1, own[:, None], 0.0)
    return loss.sum(1)


def nt_xent(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    own: Tensor,
    temperature: float,
    valid: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """SimCLR's loss (Chen et al. 2020): InfoNCE among the keys of both views, the query itself left out: (n,).

    keys: (m, D) of both views of the global batch; positive: (n,) the key of the same sample in the other view;
    own: (n,) the key that is the query itself.
    """
    return softmax_rows(query, keys, positive, 1 / temperature, own=own, valid=valid, chunk=chunk)


def dcl(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    own: Tensor | None,
    scale: Tensor | float,
    valid: Tensor | None = None,
    weight: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """Decoupled contrastive loss (Yeh et al. 2022): the positive is no part of the sum it is compared with: (n,).

    -weight s+ + log sum_negatives exp(s), which without weight is InfoNCE + log(1 - p+), p+ being the positive's share
    in InfoNCE's softmax. As in the paper the negatives are the other samples' rows of both views, so `keys` holds both
    and `own` is the query itself; with own = None and the other side's keys only, those of the other side.
    weight: (n,) of `dclw_weight` for DCLW. A row without any negative is 0.
    """
    return softmax_rows(query, keys, positive, scale, own=own, decoupled=True, weight=weight, valid=valid, chunk=chunk)


def dclw_weight(similarity: Tensor, valid: Tensor, sigma: float = 0.5) -> Tensor:
    """DCLW's weight of each pair, 2 - N softmax(similarity / sigma) over the N valid pairs of the whole batch: (m,).

    The negative von Mises-Fisher weight of Yeh et al. 2022: pairs that agree already attract less. Its mean is 1 (and
    it is negative for a pair that agrees more than twice as well as the average one, by exp). Constant under the
    gradient: the paper does not say; lightly's implementation detaches it, the authors' lets gradient through. With it
    attached a pair could lower its loss by making its weight small.

    similarity: (m,) cosine of the two views of each sample.
    """
    s = (similarity.detach() / sigma).masked_fill(~valid, -torch.inf)
    if not len(s):
        return s
    share = s.masked_fill(~valid.any(), 0.0).softmax(0)
    return 2 - valid.sum() * share
