"""Where the last block of a tower of mmssl's own looks.

The scores are computed again from what the attention was given: the kernels that train give none out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.rotary import turn
from ..models.tower import Tower
from ..models.trunk import Attention, Trunk
from ..patches import Patches


def weights(attention: Attention, x: Tensor, bias: Tensor | None, rotation: Any) -> Tensor:
    """(B, H, n, n) how much each token (row) looks at each (column), of x (B, n, D) as `Attention.forward` has it."""
    batch, n, width = x.shape
    q, k, _ = attention.qkv(x).view(batch, n, 3, attention.heads, width // attention.heads).permute(2, 0, 3, 1, 4)
    if rotation is not None:
        q, k = turn(q, rotation, 0), turn(k, rotation)
    scores = q.float() @ k.float().transpose(-2, -1) / (width // attention.heads) ** 0.5
    if bias is not None:
        scores = scores.masked_fill(~bias, -torch.inf) if bias.dtype == torch.bool else scores + bias.float()
    return scores.softmax(-1)


@contextmanager
def seen_by(tower: Tower) -> Iterator[list[Tensor]]:
    """Within the block every forward of the tower leaves the `weights` of its last block in the list; nothing, where
    the tower is none of mmssl's transformers."""
    found: list[Tensor] = []
    trunk = getattr(tower, "trunk", None)
    if not isinstance(trunk, Trunk) or not len(trunk.blocks):
        yield found
        return
    last: Any = trunk.blocks[-1]

    def note(module: Any, args: tuple[Any, ...]) -> None:
        x, bias, _, rotation = args  # as a block calls it
        found.append(weights(module, x, bias, rotation))

    handle = last.attention.register_forward_pre_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def looked_at(found: Tensor, patches: Patches, reads_prefix: bool) -> Tensor:
    """(B, n) how much is looked at each patch, the mean over heads, each sample's largest 1: by the first token of the
    prefix where the tower is read out by that, else by all its patches together.

    found: (B, H, r + n, r + n) with r tokens of prefix.
    """
    n = patches.count
    prefix = found.shape[-1] - n
    mean = found.mean(1)
    if prefix and reads_prefix:
        row = mean[:, 0, prefix:]
    else:
        asks = F.pad(patches.valid, (prefix, 0))[..., None].to(mean.dtype)
        row = ((mean * asks).sum(1) / asks.sum(1).clamp(min=1))[:, prefix:]
    row = row.masked_fill(~patches.valid, 0.0)
    return row / row.amax(1, keepdim=True).clamp(min=1e-12)
