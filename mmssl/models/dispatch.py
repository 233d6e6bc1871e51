"""Where attention and matrix products are sent: chosen by device, dtype and length, in this one place.

Measured on AMD Zen 4 (2 cores, torch 2.14), forward and backward: torch's CPU `scaled_dot_product_attention` against
two plain products around a softmax takes 20x the time in f32 and 6x in bf16 at 17 tokens, 6x and 4x at 50, 0.9x and
1.1x at 197 (head 32; 3x in bf16 with head 64). Within a whole f32 step at 197 tokens the plain products still come out
ahead (the step's ratio to transformers is 1.14 with them, 1.01 without). Longer sequences go head by head through the
same products: on one core `scaled_dot_product_attention` takes 1.6-2.1x its time in bf16 and 1.0-1.3x in f32 (512
tokens of 16 heads of 32 or 6 of 64, 1,568 of 3 of 64), and plain products of all heads at once up to 1.8x, because
their scores leave the cache and are mapped anew by each call. On accelerators
`scaled_dot_product_attention` always wins. `benchmarks/mae_step.py` shows what this brings to a step.

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

PLAIN_LENGTH = 256
"""On a CPU, sequences up to this go through plain products of all heads at once."""
KEPT_WEIGHTS = 1 << 26
"""Up to so many attention weights a layer are kept for the backward pass of longer sequences: 128 MiB in bf16."""


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v.

    q: (B, H, n, d); k, v: (B, H, m, d). bias: bool (True = may look) or additive float, broadcastable to (B, H, n, m).
    """
    if torch.compiler.is_exporting():
        return _plain(q, k, v, bias)  # the length may be open
    if q.device.type == "cpu":
        if k.shape[2] <= PLAIN_LENGTH:
            return _plain(q, k, v, bias)
        if (bias is None or bias.dtype == torch.bool) and not torch.compiler.is_compiling():
            out: Tensor = OneHeadAtATime.apply(q, k, v, bias)
            return out
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias.to(scores.dtype)
    return scores.softmax(-1) @ v


class OneHeadAtATime(torch.autograd.Function):
    """`_plain` for long sequences: the scores (n, m) of one head of one sample at a time stay in the cache.

    The weights are kept for the backward pass where all together are no more than `KEPT_WEIGHTS`; otherwise all heads
    share the memory of one, and they are computed again, so that memory grows with B H n d as in the fused kernel.
    bias: bool, or None. A gradient that is to be differentiated itself is that of `_plain`.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        given, q = q, q * q.shape[-1] ** -0.5
        shape = (*q.shape[:3], k.shape[2])
        kept = any(ctx.needs_input_grad) and math.prod(shape) <= KEPT_WEIGHTS
        weights = q.new_empty(shape) if kept else q.new_empty(shape[2:]).expand(shape)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for at in _heads(q):
            torch.mm(_weights(q, k, bias, at, weights[at]), v[at].contiguous(), out=out[at])
        ctx.save_for_backward(given, k, v, bias, weights if kept else None)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, kept = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            q, k, v = (x.view_as(x) for x in (q, k, v))  # they may be one tensor
            wanted = [x for x in (q, k, v) if x.requires_grad]
            found = iter(torch.autograd.grad(_plain(q, k, v, bias), wanted, grad, create_graph=True))
            return *(next(found) if x.requires_grad else None for x in (q, k, v)), None
        q = q * q.shape[-1] ** -0.5
        dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        change = q.new_empty(q.shape[2], k.shape[2])
        again = torch.empty_like(change) if kept is None else change
        for at in _heads(q):
            weights = _weights(q, k, bias, at, again) if kept is None else kept[at]
            g = grad[at].contiguous()
            torch.mm(weights.T, g, out=dv[at])
            torch.mm(g, v[at].T, out=change)
            torch.ops.aten._softmax_backward_data.out(change, weights, -1, q.dtype, grad_input=change)
            torch.mm(change, k[at].contiguous(), out=dq[at])
            torch.mm(change.T, q[at].contiguous(), out=dk[at])
        return dq.mul_(q.shape[-1] ** -0.5), dk, dv, None


def _heads(q: Tensor) -> Iterator[tuple[int, int]]:
    return itertools.product(range(q.shape[0]), range(q.shape[1]))


def _weights(q: Tensor, k: Tensor, bias: Tensor | None, at: tuple[int, int], out: Tensor) -> Tensor:
    """softmax(q k') (n, m) of one head of one sample, written into `out`; q is scaled."""
    torch.mm(q[at].contiguous(), k[at].contiguous().T, out=out)
    if bias is not None:
        out.masked_fill_(~bias.expand(*q.shape[:3], k.shape[2])[at], -torch.inf)
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
