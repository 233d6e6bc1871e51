"""Where attention and matrix products are sent: chosen by device, dtype and length, in this one place.

Measured on AMD Zen 4 (2 cores, torch 2.14), forward and backward: torch's CPU `scaled_dot_product_attention` against
two plain products around a softmax takes 20x the time in f32 and 6x in bf16 at 17 tokens, 6x and 4x at 50, 0.9x and
1.1x at 197 (head 32; 3x in bf16 with head 64), 0.4x and 1.2x at 512. Within a whole f32 step at 197 tokens the plain
products still come out ahead (the step's ratio to transformers is 1.14 with them, 1.01 without). On accelerators
`scaled_dot_product_attention` always wins. `benchmarks/mae_step.py` shows what this brings to a step.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

PLAIN_F32_LENGTH = 256
"""On a CPU in f32, sequences shorter than this go through plain products (they keep (B, H, n, m) scores)."""
PLAIN_BF16_LENGTH = 1024


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + bias) v.

    q: (B, H, n, d); k, v: (B, H, m, d). bias: bool (True = may look) or additive float, broadcastable to (B, H, n, m).
    """
    if q.device.type == "cpu":
        limit = PLAIN_F32_LENGTH if q.dtype == torch.float32 else PLAIN_BF16_LENGTH
        if k.shape[2] <= limit:
            return _plain(q, k, v, bias)
    if bias is not None and bias.dtype != torch.bool:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


def _plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias.to(scores.dtype)
    return scores.softmax(-1) @ v


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
