"""`train.gradient_checkpointing`: what the backward pass computes again in place of keeping it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers.modeling_layers import GradientCheckpointingLayer

_aten = torch.ops.aten
PRODUCTS = frozenset(
    {
        _aten.mm.default,
        _aten.addmm.default,
        _aten.convolution.default,
        _aten._scaled_dot_product_flash_attention.default,
        _aten._scaled_dot_product_efficient_attention.default,
        _aten._scaled_dot_product_cudnn_attention.default,
        _aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
)
"""What takes long for the memory of its output."""
BATCHED = frozenset({_aten.bmm.default, _aten.baddbmm.default})
"""Likewise, but for the scores of attention, which are larger than what they are made of."""


def checkpoint_blocks(module: nn.Module, selective: bool = False) -> None:
    """Recompute every block in the backward pass: the model's, and the objectives' decoders, which see all patches.

    selective: all but products and attention, whose outputs are kept (Korthikanti et al. 2022, arXiv 2205.05198, keep
    the products outside of attention): norms, activations, sums and softmax cost memory and hardly any time.
    """
    again: Any = partial(checkpoint, use_reentrant=False)
    if selective:
        again = partial(again, context_fn=partial(create_selective_checkpoint_contexts, _policy))
    for part in module.modules():
        if isinstance(part, GradientCheckpointingLayer):
            part._gradient_checkpointing_func = again
            part.gradient_checkpointing = True


def _policy(ctx: object, op: object, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether the output of an operation is kept."""
    kept = op in PRODUCTS or (op in BATCHED and _no_larger(*args[-2:]))
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _no_larger(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether a @ b, (B, n, k) and (B, k, m), has no more numbers than the larger of the two."""
    return a.shape[0] * a.shape[1] * b.shape[2] <= max(a.numel(), b.numel())
