"""Where attention and matrix products are sent: chosen by device, dtype and length, in this one place.

Measured on AMD Zen 4 (2 cores, torch 2.14), forward and backward: torch's CPU `scaled_dot_product_attention` against
two plain products around a softmax takes 20x the time in f32 and 6x in bf16 at 17 tokens, 6x and 4x at 50, 0.9x and
1.1x at 197 (head 32; 3x in bf16 with head 64). Within a whole f32 step at 197 tokens the plain products still come out
ahead (the step's ratio to transformers is 1.14 with them, 1.01 without). Longer sequences go through the same products
by a few heads of one sample at a time: on one core `scaled_dot_product_attention` takes 1.6-2.1x the time of one head
at a time in bf16 and 1.0-1.3x in f32 (512 tokens of 16 heads of 32 or 6 of 64, 1,568 of 3 of 64), and plain products of
all heads at once up to 1.8x, because their scores leave the cache and are mapped anew by each call. All six heads of
a sample together, and the gradient written where queries, keys and values lie, take another 7-10 % off the step of
`benchmarks/audio_mae_step.py` at 512 tokens in bf16; at 1,216 they change nothing. Where the two ways cross depends on
the bytes of a head's scores: at 197 tokens a few heads at a time take 0.83-0.93x of the plain products' time in f32 (a
whole step 0.98x) and 1.0-1.07x in bf16, at 128 tokens 1.06-1.28x and 1.2-1.7x. On accelerators
`scaled_dot_product_attention` always wins.

Both kinds of plain products round bf16 scores and weights to bf16, as transformers' eager attention does: of outputs of
random queries and keys the relative error is 0.5 % (eager 0.6 %, `scaled_dot_product_attention` 0.2 %), 1.3 % (1.9 %,
0.2 %) where both are three times as large.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

At = tuple[int, slice]
"""Where a group of heads lies: its sample and the heads."""

PLAIN_BYTES = 128 << 10
"""On a CPU, sequences whose scores of one head have no more bytes than this go through plain products of all heads at
once: up to 181 tokens in float32, 256 in bf16."""
CACHED = 24 << 20
"""Bytes of scores that longer sequences compute at a time: whole heads, at least one."""
KEPT_WEIGHTS = 1 << 26
"""Up to so many attention weights a layer are kept for the backward pass of longer sequences: 128 MiB in bf16."""


def plain_length(dtype: torch.dtype) -> int:
    """The longest sequence that goes through plain products of all heads at once on a CPU."""
    return math.isqrt(PLAIN_BYTES // dtype.itemsize)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v: (B, H, n, d).

    Args:
        q: (B, H, n, d).
        k: (B, H, m, d).
        v: (B, H, m, d).
        bias: bool (True = may look) or additive float, broadcastable to (B, H, n, m).
    """
    if torch.compiler.is_exporting():
        return _plain(q, k, v, bias)  # the length may be open
    if q.device.type == "cpu":
        if k.shape[2] <= plain_length(q.dtype):
            return _plain(q, k, v, bias)
        if _few_heads_do(bias):
            out: Tensor = FewHeadsAtATime.apply(bias, q, k, v)
            return out
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def self_attention(qkv: Tensor, bias: Tensor | None = None) -> Tensor:
    """`attention` of queries, keys and values that lie beside each other, qkv (B, n, 3, H, d) -> (B, H, n, d).

    Long sequences on the CPU write the gradient of all three in place, where `attention` has them joined afterwards.
    """
    if qkv.device.type == "cpu" and qkv.shape[1] > plain_length(qkv.dtype) and _few_heads_do(bias):
        out: Tensor = FewHeadsAtATime.apply(bias, qkv)
        return out
    return attention(*_apart(qkv), bias)


def _few_heads_do(bias: Tensor | None) -> bool:
    known = bias is None or bias.dtype == torch.bool
    return known and not torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def _apart(*given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, n, 3, H, d) -> three views (B, H, n, d); three tensors as they are."""
    q, k, v = given if len(given) == 3 else given[0].permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias.to(scores.dtype)
    return scores.softmax(-1) @ v


class FewHeadsAtATime(torch.autograd.Function):
    """`_plain` for long sequences: the scores (n, m) of a few heads of one sample at a time stay in the cache.

    Products read and write the tensors where they lie; only a transposed factor is laid out anew first. The weights are
    kept for the backward pass where all together are no more than `KEPT_WEIGHTS`; otherwise all groups of heads share
    the memory of one, and they are computed again, so that memory grows with B H n d as in the fused kernel.
    bias: bool, or None. given: q, k, v as `attention` takes them, or one tensor as `self_attention` does, whose
    gradient is then one tensor, too. A gradient that is to be differentiated itself is that of `_plain`.
    """

    @staticmethod
    def forward(ctx: Any, bias: Tensor | None, *given: Tensor) -> Tensor:
        """(B, H, n, d): attention of `given`, scored one group of heads after the other."""
        q, k, v = _apart(*given)
        shape = (*q.shape[:3], k.shape[2])
        kept = any(ctx.needs_input_grad) and math.prod(shape) <= KEPT_WEIGHTS
        heads = _heads_at_a_time(shape, q.dtype)
        weights = q.new_empty(shape if kept else (heads, *shape[2:]))
        out = _beside(q)
        score = _Scores(q, k, bias, heads)
        for at in _groups(shape, heads):
            part = weights[at] if kept else weights[: out[at].shape[0]]
            torch.bmm(score(at, part), v[at], out=out[at])
        ctx.save_for_backward(bias, weights if kept else None, *given)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `forward`: None for bias, then one for each of `given`."""
        bias, kept, *given = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            given = [x.view_as(x) for x in given]  # they may be one tensor
            wanted = [x for x in given if x.requires_grad]
            again = _plain(*_apart(*given), bias)
            found = iter(torch.autograd.grad(again, wanted, grad, create_graph=True))
            return None, *(next(found) if x.requires_grad else None for x in given)
        gradients = [torch.empty_like(given[0])] if len(given) == 1 else [_beside(x) for x in given]
        (q, k, v), (dq, dk, dv) = _apart(*given), _apart(*gradients)
        shape = (*q.shape[:3], k.shape[2])
        heads = _heads_at_a_time(shape, q.dtype)
        changes = q.new_empty(heads, *shape[2:])
        weights = torch.empty_like(changes) if kept is None else kept
        score = _Scores(q, k, bias, heads)
        values = v.new_empty(heads, *v.shape[2:])
        for at in _groups(shape, heads):
            g = grad[at]
            change, value = changes[: g.shape[0]], values[: g.shape[0]].copy_(v[at])
            part = score(at, weights[: g.shape[0]]) if kept is None else weights[at]
            torch.bmm(part.transpose(1, 2), g, out=dv[at])
            torch.bmm(g, value.transpose(1, 2), out=change)
            torch.ops.aten._softmax_backward_data.out(change, part, -1, q.dtype, grad_input=change)
            _scaled(change, k[at], score.scale, dq[at])
            _scaled(change.transpose(1, 2), q[at], score.scale, dk[at])
        return None, *gradients


def _beside(x: Tensor) -> Tensor:
    """(B, H, n, d) uninitialised, whose heads lie beside each other, so that joining them again copies nothing."""
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


def _heads_at_a_time(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return max(1, min(shape[1], CACHED // max(1, shape[2] * shape[3] * dtype.itemsize)))


def _groups(shape: tuple[int, ...], heads: int) -> Iterator[At]:
    return itertools.product(range(shape[0]), (slice(i, i + heads) for i in range(0, shape[1], heads)))


def _scaled(a: Tensor, b: Tensor, scale: float, out: Tensor) -> Tensor:
    """scale a b, written into `out`; rounded once."""
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


class _Scores:
    """softmax(q k' / sqrt(d)) of a group of heads, in buffers that all groups share."""

    def __init__(self, q: Tensor, k: Tensor, bias: Tensor | None, heads: int) -> None:
        self.q, self.k, self.scale = q, k, q.shape[-1] ** -0.5
        self.hidden = None if bias is None else (~bias).expand(*q.shape[:3], k.shape[2])
        self.queries, self.keys = (x.new_empty(heads, *x.shape[2:]) for x in (q, k))

    def __call__(self, at: At, out: Tensor) -> Tensor:
        """(h, n, m), written into `out`."""
        q, k = (buffer[: out.shape[0]].copy_(x[at]) for buffer, x in ((self.queries, self.q), (self.keys, self.k)))
        torch.bmm(q.mul_(self.scale), k.transpose(1, 2), out=out)
        if self.hidden is not None:
            out.masked_fill_(self.hidden[at], -torch.inf)
        return torch.softmax(out, -1, out=out)


@functools.cache
def cpu_has_amx() -> bool:
    """True where oneDNN would take a lower float32 precision literally (bf16 tiles), so that it must stay off."""
    try:
        with open("/proc/cpuinfo") as file:
            return "amx" in file.read()
    except OSError:
        return True  # unknown processor: leave torch's default alone


def f32_products_by_onednn() -> bool:
    """Send CPU float32 products to oneDNN where that is faster at the same accuracy; True when it was switched on.

    torch's default (MKL) leaves AVX-512 unused on AMD. `set_float32_matmul_precision("medium")` reaches oneDNN, which
    without AMX still computes in float32 (relative error 4-6e-7 measured). On a GPU or with AMX it would round to
    bf16, so it is left alone there. A global switch: the training loop and benchmarks call it, an import never does.
    """
    if torch.cuda.is_available() or cpu_has_amx() or torch.backends.mkldnn.is_available() is False:
        return False
    torch.set_float32_matmul_precision("medium")
    return True
