"""Contrastive losses of queries that have several positives, or not all others as negatives: SupCon, LOOK, list-wise.

Shapes: n queries, m keys, D embedding width, c queries of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Relate = Callable[[slice], tuple[Tensor, Tensor, Tensor]]
"""(weight (c, m) of each key that is a positive of these queries, else 0; negatives (c, m) bool; keys (c, m) bool of
the queries' own samples, which are compared however far they are)."""


def several(
    logits: Tensor, weights: Tensor, negatives: Tensor, form: str = "outside", decoupled: bool = False
) -> tuple[Tensor, Tensor]:
    """(loss (n,), number of positives (n,)) of similarities that are divided by the temperature. Without a positive the
    loss is 0 and means nothing.

    Over a query's positives p of weight w and its negatives:

    - "outside": sum w (log sum over all of exp(s) - s_p) / sum w, the loss L_out of SupCon (Khosla et al. 2020,
      equation 2; HobbitLong/SupContrast);
    - "inside": log sum over all of exp(s) - log sum_p w exp(s_p). With w = 1 it is LOOK's, 0 where all that is compared
      is positive, and SupCon's L_in (equation 3) but for the constant log |P|;
    - "each": sum w (log(exp(s_p) + sum over the negatives of exp(s)) - s_p) / sum w: other positives are not in a
      positive's denominator (domain-specific contrastive learning, Chaitanya et al. 2020, equation 2).

    decoupled: positives are in no denominator (DCL); a query without negatives has the loss 0.

    logits: (n, m); weights: (n, m), 0 for what is no positive; negatives: (n, m) bool.
    """
    positives, tiny = weights > 0, torch.finfo(weights.dtype).tiny
    share = weights / weights.sum(1, keepdim=True).clamp(min=tiny)
    among = negatives if decoupled else negatives | positives
    if form == "each" and not decoupled:
        each = _log_sum(logits, negatives)[:, None].logaddexp(logits) - logits
        loss = torch.where(positives, each, 0.0).mul(share).sum(1)
    elif form == "inside":
        loss = _log_sum(logits, among) - _log_sum(logits + weights.clamp(min=tiny).log(), positives)
    else:
        loss = _log_sum(logits, among) - torch.where(positives, logits, 0.0).mul(share).sum(1)
    return torch.where(positives.any(1) & among.any(1), loss, 0.0), positives.sum(1)


def _log_sum(logits: Tensor, there: Tensor) -> Tensor:
    """(n,) log sum of exp over what is there, without a gradient of nan where that is nothing: then -inf."""
    some = there.any(1)
    # of nothing it would have no gradient
    found = logits.masked_fill(~there & some[:, None], -torch.inf).logsumexp(1)
    return torch.where(some, found, -torch.inf)


def several_rows(
    query: Tensor,
    keys: Tensor,
    scale: Tensor | float,
    relate: Relate,
    *,
    apart: tuple[Tensor, Tensor] | None = None,
    neighbours: int | None = None,
    form: str = "outside",
    decoupled: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`several` of queries (n, D) among keys (m, D), both of length 1.

    relate: what is related to queries in these places; apart: (rows (n, D), weight (n,)) of one more positive of each
    query, which is no key; neighbours: of the other samples' keys only so many nearest to the query are compared;
    chunk: similarities of so many queries at a time, computed again in the backward pass.
    """

    def block(at: slice) -> tuple[Tensor, Tensor]:
        logits = scale * query[at] @ keys.T
        weights, negatives, mine = relate(at)
        if neighbours is not None:
            near = nearest(logits, ((weights > 0) | negatives) & ~mine, neighbours) | mine
            weights, negatives = weights * near, negatives & near
        if apart is not None:
            own = scale * (query[at] * apart[0][at]).sum(1, keepdim=True)
            logits, weights = torch.cat([own, logits], 1), torch.cat([apart[1][at][:, None], weights], 1)
            negatives = torch.cat([torch.zeros_like(negatives[:, :1]), negatives], 1)
        return several(logits, weights, negatives, form, decoupled)

    if chunk is None:
        return block(slice(0, len(query)))
    pieces = [slice(start, min(start + chunk, len(query))) for start in range(0, len(query), chunk)]
    if torch.is_grad_enabled():
        found = [checkpoint(block, at, use_reentrant=False) for at in pieces]
    else:
        found = [block(at) for at in pieces]
    return torch.cat([loss for loss, _ in found]), torch.cat([count for _, count in found])


def nearest(logits: Tensor, there: Tensor, count: int) -> Tensor:
    """(n, m) bool: of the keys that are there (n, m) the `count` of the largest logits (n, m), or all if fewer are."""
    with torch.no_grad():
        seen = logits.masked_fill(~there, -torch.inf)
        best = seen.topk(min(count, seen.shape[1]), 1).indices
        return torch.zeros_like(there).scatter(1, best, True) & there


def gaussian_wasserstein(x: Tensor, y: Tensor) -> Tensor:
    """(): the squared 2-Wasserstein distance of the normal distributions fitted to the rows of x and of y (n, m).

    |mean - mean'|^2 + tr(C + C' - 2 (C C')^1/2) with covariances over n - 1 rows. The last trace is the nuclear norm of
    X Y^T / (n - 1) of the centred rows, as the eigenvalues of C C' are its squared singular values: no root of a
    matrix, and gradients that stay finite. In float64, whatever comes in.
    """
    x, y = x.double(), y.double()
    centred = x - x.mean(0), y - y.mean(0)
    count = max(len(x) - 1, 1)
    spread = sum((part.square().sum() for part in centred), x.new_zeros(()))
    both = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    return (x.mean(0) - y.mean(0)).square().sum() + (spread - 2 * both) / count


def listwise(logits: Tensor, grades: Tensor, valid: Tensor) -> Tensor:
    """() `gaussian_wasserstein` of the softmax of each query's similarities and that of its grades.

    The list-wise loss of SyCL (Esfandiarpoor et al. 2025; BatsResearch/sycl), whose lists are the passages of all
    queries of the batch: those of other queries have the grade 0.

    logits: (n, m), divided by the temperature; grades: (n, m); valid: (n, m) bool, pairs that count: queries and keys
    without any are left out.
    """
    rows, columns = valid.any(1), valid.any(0)
    if not bool(rows.any()):
        return (logits * 0.0).sum().double()
    x, y, there = (part[rows][:, columns] for part in (logits.double(), grades.double(), valid))
    return gaussian_wasserstein(*(part.masked_fill(~there, -torch.inf).softmax(1) for part in (x, y)))


def weighted_negatives(
    query: Tensor, positive: Tensor, keys: Tensor, weights: Tensor, excluded: Tensor, scale: Tensor | float
) -> Tensor:
    """(n,) log(exp(s+) + sum_j w_j exp(s_j)) - s+, where keys that are told from weigh differently (ColloSSL).

    query, positive: (n, D); keys: (m, D); weights: (m,), 0 for what does not count; excluded: (n, e) int64 keys that a
    query leaves out.
    """
    near = scale * (query * positive).sum(1)
    there = (weights > 0).expand(len(query), -1).scatter(1, excluded, False)
    logits = scale * query @ keys.T + weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
    return _log_sum(logits, there).logaddexp(near) - near


WIDTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1, 5, 10, 15, 20, 25, 30, 100)
"""Variances of the Gaussian kernels that ColloSSL's discrepancy is the sum of."""


def mean_discrepancy(x: Tensor, y: Tensor, there: Tensor, here: Tensor) -> Tensor:
    """() squared maximum mean discrepancy of rows x (m, D) where `there` (m,) and y (k, D) where `here` (k,), by the
    sum of Gaussian kernels exp(-d^2 / (2 v)) of `WIDTHS` (Gretton et al. 2012); infinite where either has no row."""

    def kernel(a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Tensor:
        distance = torch.cdist(a.double(), b.double()).square()
        weight = left[:, None].double() * right[None]
        total = sum(((-distance / (2 * width)).exp() * weight).sum() for width in WIDTHS)
        return total / weight.sum().clamp(min=1)

    found = kernel(x, x, there, there) + kernel(y, y, here, here) - 2 * kernel(x, y, there, here)
    return torch.where(there.any() & here.any(), found.clamp(min=0), torch.inf)
