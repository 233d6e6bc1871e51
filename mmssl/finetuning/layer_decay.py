"""Layer-wise learning rates: the further a layer is from the head, the less it is changed."""

from __future__ import annotations

import re

import torch
from torch import nn

from ..recipe.config import LoopConfig
from ..training.optimizer import optimizer_of

_LAYER = re.compile(r"\.(?:blocks|layers?|resblocks|h)\.(\d+)\.")
_FIRST = re.compile(
    r"(?:embed|\.modalities\.|\.prefix\.|\.types\.|\.relations\.|cls_token|position|conv1|patch|trunk\.stem\.|\.placed\.)"
)


def layer_scale(names: list[str], decay: float) -> dict[str, float]:
    """Parameter name -> factor of the learning rate: decay ** (layers above it).

    Layer-wise decay as in BEiT (Bao et al. 2022, arXiv 2106.08254) and MAE's fine-tuning: the embedding is layer 0,
    block i is i + 1, what comes after the blocks and every head have the full rate. The depth is each tower's own.
    """

    def owner(name: str) -> str:
        return ".".join(name.split(".")[:3])  # model.towers.NAME

    depth: dict[str, int] = {}
    for name in names:
        found = _LAYER.search(name)
        if found:
            depth[owner(name)] = max(depth.get(owner(name), 0), int(found[1]) + 1)
    out = {}
    for name in names:
        above = depth.get(owner(name), 0) + 1
        found = _LAYER.search(name)
        if not name.startswith("model.towers."):
            level = above
        else:
            level = int(found[1]) + 1 if found else 0 if _FIRST.search(name) else above
        out[name] = decay ** (above - level)
    return out


def layered_optimizer(module: nn.Module, settings: LoopConfig, decay: float) -> torch.optim.Optimizer:
    """`optimizer_of` the options, with the rates of `layer_scale`."""
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    return optimizer_of(module, settings, layer_scale(names, decay).__getitem__)
