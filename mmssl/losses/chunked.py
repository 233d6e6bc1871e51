"""The sums over all pairs that contrastive losses are made of, without the matrix of all pairs.

Similarities are computed for `chunk` queries at a time, once in the forward and once more in the backward pass, so
memory grows with chunk * m instead of n * m while the result stays that of the dense formula. That recomputing
similarities is cheap beside an encoder, and makes very large batches possible, is the observation of GradCache
(Gao et al. 2021) and of the tile-wise losses after it (Cheng et al. 2024).

All in float32 or float64. Shapes: n queries, m keys, D width, c queries of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _Tiles:
    """The masked logits of one chunk of queries after another; the buffer is used again."""

    def __init__(
        self, query: Tensor, keys: Tensor, scale: Tensor, excluded: Tensor | None, mask: Tensor | None, chunk: int
    ) -> None:
        """excluded: (n, e) int64 keys that a query leaves out; mask: (m,) bool, keys that count."""
        self.query, self.keys, self.excluded, self.chunk = query * scale, keys, excluded, chunk
        self.mask = None if mask is None else torch.zeros_like(keys[:, 0]).masked_fill_(~mask, -torch.inf)
        self.buffer = query.new_empty(min(chunk, len(query)), len(keys))

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.query), self.chunk):
            at = slice(start, min(start + self.chunk, len(self.query)))
            logits = torch.mm(self.query[at], self.keys.T, out=self.buffer[: at.stop - at.start])
            if self.mask is not None:
                logits += self.mask
            if self.excluded is not None:
                logits.scatter_(1, self.excluded[at], -torch.inf)
            yield at, logits


class _LogSumExp(torch.autograd.Function):
    """Over the keys for every query and, if asked, over the queries for every key."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        scale: Tensor,
        excluded: Tensor | None,
        mask: Tensor | None,
        query_mask: Tensor | None,
        chunk: int,
        columns: bool,
    ) -> tuple[Tensor, Tensor]:
        rows = query.new_empty(len(query))
        low = torch.finfo(query.dtype).min
        top, total = keys.new_full((len(keys),), low), keys.new_zeros(len(keys))
        for at, logits in _Tiles(query, keys, scale, excluded, mask, chunk):
            if query_mask is not None:
                logits.masked_fill_(~query_mask[at, None], -torch.inf)
            largest = logits.amax(1).clamp_(min=low)
            if columns:
                higher = torch.maximum(top, logits.amax(0))
                total = total * (top - higher).exp_() + (logits - higher).exp_().sum(0)
                top = higher
            rows[at] = logits.sub_(largest[:, None]).exp_().sum(1).log_().add_(largest)
        down = total.log_().add_(top) if columns else total
        ctx.save_for_backward(query, keys, scale, excluded, mask, query_mask, rows, down)
        ctx.chunk, ctx.columns = chunk, columns
        return rows, down

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, scale, excluded, mask, query_mask, rows, down = ctx.saved_tensors
        grad_rows, grad_down = grads
        # where nothing was summed up the exponentials below are of -inf: 0, if only what is taken off is finite
        rows, down = (x.masked_fill(x == -torch.inf, 0.0) for x in (rows, down))
        grad_query, grad_keys = torch.empty_like(query), torch.zeros_like(keys)
        tiles = _Tiles(query, keys, scale, excluded, mask, ctx.chunk)
        other = torch.empty_like(tiles.buffer) if ctx.columns else None
        for at, logits in tiles:
            if query_mask is not None:
                logits.masked_fill_(~query_mask[at, None], -torch.inf)
            if other is not None:
                share = torch.sub(logits, down, out=other[: len(logits)]).exp_().mul_(grad_down)
                weight = logits.sub_(rows[at, None]).exp_().mul_(grad_rows[at, None]).add_(share)
            else:
                weight = logits.sub_(rows[at, None]).exp_().mul_(grad_rows[at, None])
            torch.mm(weight, keys, out=grad_query[at])
            grad_keys.addmm_(weight.T, tiles.query[at])
        grad_scale = (grad_query * query).sum().reshape(scale.shape)
        return grad_query * scale, grad_keys, grad_scale, None, None, None, None, None


def _number(scale: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(scale, dtype=like.dtype, device=like.device)


def log_sum_exp(
    query: Tensor,
    keys: Tensor,
    scale: Tensor | float,
    excluded: Tensor | None = None,
    valid: Tensor | None = None,
    *,
    chunk: int,
) -> Tensor:
    """log sum_j exp(scale q_i.k_j) over the keys that are valid (m,) and that query i does not leave out: (n,).

    excluded: (n, e) int64. -inf, without gradient, where no key is left.
    """
    out: Tensor = _LogSumExp.apply(query, keys, _number(scale, query), excluded, valid, None, chunk, False)[0]
    return out


def log_sum_exp_both(
    x: Tensor, y: Tensor, scale: Tensor | float, valid: Tensor | None = None, *, chunk: int
) -> tuple[Tensor, Tensor]:
    """(n,) over y for every x and (n,) over x for every y, of scale x_i.y_j with i and j valid (n,); else -inf."""
    rows, columns = _LogSumExp.apply(x, y, _number(scale, x), None, valid, valid, chunk, True)
    return rows, columns


class _SigmoidPairs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        positive: Tensor,
        scale: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        own: Tensor | None,
        chunk: int,
    ) -> Tensor:
        out = query.new_empty(len(query))
        excluded = None if own is None else own[:, None]
        for at, logits in _Tiles(query, keys, scale, excluded, mask, chunk):
            logits += bias  # what does not count is -inf: no to it costs nothing
            yes = logits.gather(1, positive[at, None])[:, 0]
            if mask is not None:
                yes = yes.masked_fill(~mask[positive[at]], torch.inf)
            logits.scatter_(1, positive[at, None], -torch.inf)
            out[at] = F.softplus(logits).sum(1) + F.softplus(-yes)
        ctx.save_for_backward(query, keys, positive, scale, bias, mask, own)
        ctx.chunk = chunk
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, positive, scale, bias, mask, own = ctx.saved_tensors
        grad = grads[0]
        grad_query, grad_keys, grad_bias = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(bias)
        tiles = _Tiles(query, keys, scale, None if own is None else own[:, None], mask, ctx.chunk)
        for at, logits in tiles:
            weight = logits.add_(bias).sigmoid_()
            there = torch.ones_like(weight[:, 0]) if mask is None else mask[positive[at]].to(weight.dtype)
            weight.scatter_add_(1, positive[at, None], -there[:, None])
            weight.mul_(grad[at, None])
            torch.mm(weight, keys, out=grad_query[at])
            grad_keys.addmm_(weight.T, tiles.query[at])
            grad_bias += weight.sum()
        grad_scale = (grad_query * query).sum().reshape(scale.shape)
        return grad_query * scale, grad_keys, None, grad_scale, grad_bias, None, None, None


def sigmoid_pairs(
    query: Tensor,
    keys: Tensor,
    positive: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    valid: Tensor | None = None,
    own: Tensor | None = None,
    *,
    chunk: int,
) -> Tensor:
    """`mmssl.losses.contrastive.sigmoid_pairs` chunk by chunk: (n,)."""
    out: Tensor = _SigmoidPairs.apply(
        query, keys, positive, _number(scale, query), _number(bias, query), valid, own, chunk
    )
    return out
