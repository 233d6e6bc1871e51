"""Optimisers by name, with the usual groups.

AdamW, SGD and Muon are torch's, LARS (You et al. 2017, arXiv 1708.03888) and Lion (Chen et al. 2023, arXiv 2302.06675)
timm's, AdamW with a state of 8 bits (Dettmers et al. 2022, arXiv 2110.02861) that of bitsandbytes. Muon (Jordan et al.
2024, https://kellerjordan.github.io/posts/muon/) is for the matrices of blocks alone, the rest is AdamW's; its step of
a matrix is as long as one of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one rate and one weight decay do for
both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import UserError, one_line
from ..modality import MaskToken
from ..models.positions import LearnedGrid
from ..models.quantisers import Codebooks
from ..models.tower import Prefix
from ..recipe.config import LoopConfig
from ..recipe.train import EIGHT_BIT

Scale = Callable[[str], float]
"""Parameter name -> factor of the learning rate."""
L = TypeVar("L", bound=LoopConfig)
BETAS = {"adamw": [0.9, 0.95], EIGHT_BIT: [0.9, 0.95], "muon": [0.9, 0.95], "lion": [0.9, 0.99]}
EIGHT_BIT_FROM = 4096
"""Numbers of a tensor from which on its state has 8 bits; smaller ones have 32 (bitsandbytes' `min_8bit_size`)."""
MOMENTUM = {"sgd": 0.9, "lars": 0.9, "muon": 0.95}


def settle_optimizer(train: L) -> L:
    """`train` with what its optimiser takes in place of null, a copy."""
    betas = train.betas if train.betas is not None else BETAS.get(train.optimizer)
    momentum = train.momentum if train.momentum is not None else MOMENTUM.get(train.optimizer)
    return replace(train, betas=betas, momentum=momentum)


def no_decay_names(module: nn.Module) -> set[str]:
    """Names of the parameters that weight decay leaves alone: vectors (biases, norms, scales), learned tokens,
    positions and codebooks."""
    names = set()
    for prefix, part in module.named_modules():
        whole = isinstance(part, (Prefix, MaskToken, LearnedGrid, Codebooks))
        for name, parameter in part.named_parameters(recurse=False):
            if whole or parameter.ndim < 2:
                names.add(f"{prefix}.{name}" if prefix else name)
    return names


def hidden_matrices(module: nn.Module) -> set[nn.Parameter]:
    """The trainable matrices of blocks (what gradient checkpointing recomputes), but for tables that ids look up."""
    return {
        p
        for block in module.modules()
        if isinstance(block, GradientCheckpointingLayer)
        for part in block.modules()
        if not isinstance(part, nn.Embedding)
        for p in part.parameters(recurse=False)
        if p.ndim == 2 and p.requires_grad
    }


def parameter_groups(
    module: nn.Module, weight_decay: float, scale: Scale | None = None, apart: Collection[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """The trainable parameters, by what is done to them.

    Args:
        module: has them.
        weight_decay: of those that decay.
        scale: kept as `scale` of a group (layer-wise decay); None: 1.
        apart: these stand in groups of their own.

    Returns:
        Groups with `params`, `weight_decay`, `scale`, and `decays` and `apart`: whether that is so of its parameters.
    """
    spared = no_decay_names(module)
    parts: dict[tuple[float, bool, bool, bool], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            factor = 1.0 if scale is None else scale(name)
            # shares of tensors by themselves: what is done to many at once mixes them with no whole ones
            parts.setdefault((factor, name not in spared, p in apart, isinstance(p, DTensor)), []).append(p)
    return [
        {"params": ps, "weight_decay": weight_decay * decays, "scale": factor, "decays": decays, "apart": own}
        for (factor, decays, own, _), ps in parts.items()
    ]


def make_optimizer(
    module: nn.Module,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    eps: float,
    scale: Scale | None = None,
) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters (a third of the default loop's time on a CPU).

    scale: see `parameter_groups`.
    """
    return torch.optim.AdamW(parameter_groups(module, weight_decay, scale), lr=lr, betas=betas, eps=eps, fused=True)


def optimizer_of(module: nn.Module, settings: LoopConfig, scale: Scale | None = None) -> torch.optim.Optimizer:
    """The optimiser that the options name, over the trainable parameters. UserError where it has nothing to work on.

    scale: see `parameter_groups`.
    """
    s = settle_optimizer(settings)
    betas = (s.betas[0], s.betas[1]) if s.betas is not None else (0.0, 0.0)
    momentum = s.momentum or 0.0
    if s.optimizer == "adamw":
        return make_optimizer(module, s.lr, s.weight_decay, betas, s.eps, scale)
    if s.optimizer == "muon":
        return _muon(module, s, betas, momentum, scale)
    groups = parameter_groups(module, s.weight_decay, scale)
    if s.optimizer == EIGHT_BIT:
        eight: torch.optim.Optimizer = _adamw_8bit()(groups, lr=s.lr, betas=betas, eps=s.eps)
        return eight
    if s.optimizer == "sgd":
        # not fused: that knows no shares of tensors (torch 2.14)
        return torch.optim.SGD(groups, lr=s.lr, momentum=momentum, nesterov=s.nesterov)
    from timm.optim import Lars, Lion

    if s.optimizer == "lion":
        lion: torch.optim.Optimizer = Lion(groups, lr=s.lr, betas=betas)
        return lion
    # biases, norms, tokens are left out (SimCLR, BYOL); timm would leave out all where nothing decays
    groups = [group | {"always_adapt": group["decays"]} for group in groups]
    lars: torch.optim.Optimizer = Lars(groups, lr=s.lr, momentum=momentum, nesterov=s.nesterov, trust_coeff=s.trust)
    return lars


def _adamw_8bit() -> Any:
    """bitsandbytes' class. UserError where it is not installed."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UserError(
            f"train.optimizer: found {EIGHT_BIT}, which needs bitsandbytes: pip install 'mmssl[bitsandbytes]'; "
            "expected adamw"
        ) from error
    return AdamW8bit


def check_optimizer(name: str, device: torch.device) -> None:
    """UserError where an optimiser cannot be had on this device: a step of it is tried."""
    if name != EIGHT_BIT:
        return
    weights = nn.Parameter(torch.zeros(EIGHT_BIT_FROM, device=device))
    weights.grad = torch.ones_like(weights)
    optimizer = _adamw_8bit()([weights])
    try:
        optimizer.step()
    except (RuntimeError, ValueError, AttributeError) as error:
        raise UserError(
            f"train.optimizer: found {name}, which bitsandbytes does not know how to do on {device} "
            f"({one_line(error)}); expected adamw"
        ) from error


def _muon(
    module: nn.Module, s: LoopConfig, betas: tuple[float, float], momentum: float, scale: Scale | None
) -> torch.optim.Optimizer:
    groups = parameter_groups(module, s.weight_decay, scale, hidden_matrices(module))
    hidden = [group for group in groups if group["apart"]]
    if not hidden:
        raise UserError(
            "train.optimizer: found muon, but no block of what is trained has a matrix for it; expected adamw"
        )
    rest = [group for group in groups if not group["apart"]]
    muon = torch.optim.Muon(
        hidden, lr=s.lr, weight_decay=s.weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
    )
    if not rest:
        return muon
    return Several([muon, torch.optim.AdamW(rest, lr=s.lr, betas=betas, eps=s.eps, fused=True)])


class Several(torch.optim.Optimizer):
    """Optimisers of different parameters as one, which has the groups and the state of all of them."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """A step of each."""
        assert closure is None
        first = 0
        for part in self.parts:
            # those of this one, which what loads a state replaces
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            part.step()
            first = last


def default_optimizer(module: nn.Module, settings: LoopConfig) -> torch.optim.Optimizer:
    """`optimizer_of`, one learning rate for all."""
    return optimizer_of(module, settings)


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
        # the step too: a fused optimiser counts on the device, that of 8 bits in Python
        whole = value.ndim == 0 and not value.is_floating_point()
        optimizer.state[p][entry] = value.item() if whole else value.to(p.device, copy=True)
