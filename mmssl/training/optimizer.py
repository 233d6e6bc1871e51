"""AdamW with the usual groups, and the learning-rate schedule as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ..modality import MaskToken
from ..models.positions import LearnedGrid
from ..models.tower import Prefix
from ..recipe.config import LoopConfig


def no_decay_names(module: nn.Module) -> set[str]:
    """Names of the parameters that weight decay leaves alone: vectors (biases, norms, scales) and learned tokens and
    positions."""
    names = set()
    for prefix, part in module.named_modules():
        whole = isinstance(part, (Prefix, MaskToken, LearnedGrid))
        for name, parameter in part.named_parameters(recurse=False):
            if whole or parameter.ndim < 2:
                names.add(f"{prefix}.{name}" if prefix else name)
    return names


def make_optimizer(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    scale: Callable[[str], float] | None = None,
) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters (a third of the default loop's time on a CPU).

    scale: parameter name -> factor of the learning rate (layer-wise decay), kept as `scale` of its group.
    """
    spared = no_decay_names(module)
    parts: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            factor = 1.0 if scale is None else scale(name)
            # shares of tensors by themselves: what is done to many at once mixes them with no whole ones
            parts.setdefault((factor, 0.0 if name in spared else weight_decay, isinstance(p, DTensor)), []).append(p)
    groups = [{"params": ps, "weight_decay": decay, "scale": factor} for (factor, decay, _), ps in parts.items()]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, fused=True)


def default_optimizer(module: nn.Module, settings: LoopConfig) -> torch.optim.AdamW:
    """`make_optimizer` as the options say, one learning rate for all."""
    s = settings
    return make_optimizer(module, s.lr, s.weight_decay, (s.betas[0], s.betas[1]), s.eps)


def learning_rate(step: int, steps: int, peak: float, warmup: float, floor: float = 0.0) -> float:
    """Linear warm-up to `peak`, then half a cosine down to `floor` at `steps`.

    Args:
        step: number of the optimiser step, from 0.
        steps: of the whole run.
        peak: the rate after the warm-up.
        warmup: steps, or a share of all when below 1.
        floor: the rate at the end.
    """
    warm = int(warmup * steps) if warmup < 1 else int(warmup)
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(steps - warm, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, torch.Tensor]]:
    """The optimiser's state as (`<parameter>::<entry>`, tensor), independent of parameter order."""
    names = {p: name for name, p in module.named_parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            for entry, value in optimizer.state.get(p, {}).items():
                yield f"{names[p]}::{entry}", torch.as_tensor(value)


def restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `optimizer_tensors`: what is not among `tensors` is gone."""
    optimizer.state.clear()
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        name, _, entry = key.rpartition("::")
        p = parameters[name]
        # the step too: a fused optimiser counts on the device
        optimizer.state[p][entry] = value.to(p.device, copy=True)
