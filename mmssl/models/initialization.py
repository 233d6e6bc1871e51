"""Initial weights, in one place: for the model (where transformers asks) and for objectives' heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def init_module(module: nn.Module) -> None:
    """Initialise one module's own parameters and buffers.

    Linear: Xavier uniform, zero bias (MAE's choice; it suits narrow models better than a fixed 0.02). Embedding:
    normal 0.02. Norms: one and zero. mmssl's own modules say it in `reset_parameters`. While transformers loads a
    checkpoint it patches `torch.nn.init`, so that what was loaded stays.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        if module.weight is not None:
            nn.init.ones_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif hasattr(module, "build_causal_mask"):
        refill_causal_mask(module)
    elif not type(module).__module__.startswith("torch.") and hasattr(module, "reset_parameters"):
        reset: Any = module.reset_parameters
        reset()


def refill_causal_mask(module: Any) -> None:
    """open_clip keeps its causal mask in a non-persistent buffer, which transformers reloads as garbage."""
    mask = getattr(module, "attn_mask", None)
    if mask is not None:
        with torch.no_grad():
            mask.copy_(module.build_causal_mask().to(mask.device))


def init_weights(module: nn.Module) -> None:
    """Initialise a module and all below it."""
    module.apply(init_module)
