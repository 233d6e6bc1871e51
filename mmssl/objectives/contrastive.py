"""Contrastive learning: across towers (CLIP, SigLIP) or, within one tower, between two views (SimCLR).

CLIP: symmetric InfoNCE over the global batch with a learned, clamped scale (Radford et al. 2021; mlfoundations/
open_clip). Sigmoid: SigLIP (Zhai et al. 2023). NT-Xent: SimCLR (Chen et al. 2020). Other processes' rows are gathered
with gradients. A sample that lacks one side is no pair: its row asks nothing and is nobody's negative. Under gradient
accumulation the negatives are those of a micro-batch.

Example::

    objectives:
      clip: {type: contrastive, towers: [image, text], loss: infonce}
      simclr: {type: contrastive, towers: [image], views: [a, b], loss: nt_xent, temperature: 0.2}
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import gather_rows, global_mean, rank
from ..errors import UserError
from ..losses.contrastive import info_nce, nt_xent, sigmoid_pairs
from ..models.initialization import init_weights
from ..options import option, strict
from .base import Loss, Objective, ObjectiveConfig

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from ..step import Step


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    towers: list[str] = option(help="two or more: across towers, all pairs; one: between its two views")
    views: list[str] = option(factory=lambda: ["clean"], help="one view for all towers, or the two views of one tower")
    mask: str | None = option(None, help="encode only what this mask leaves visible")
    mode: str = option("drop", choices=("drop", "replace"))
    loss: str = option("infonce", choices=("infonce", "sigmoid", "nt_xent"))
    temperature: float | None = option(None, above=0, help="initial value; default 0.07, sigmoid and nt_xent 0.1")
    max_scale: float = option(100.0, above=0, help="upper bound of 1 / temperature (across towers, learned)")
    head_hidden: int = option(2048, min=1, help="hidden width of the projection head between views")
    head_width: int = option(128, min=1, help="output width of that head")


class ProjectionHead(nn.Module):
    """SimCLR's head: dense, norm, ReLU, dense. A layer norm instead of SimCLR's batch norm, which two processes would
    not share."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.norm(self.fc1(x))))


class Contrastive(Objective):
    """Pairs of the same sample attract, all others of the global batch repel."""

    papers = (
        "CLIP, Radford et al. 2021, arXiv 2103.00020; SigLIP, Zhai et al. 2023, arXiv 2303.15343; "
        "SimCLR, Chen et al. 2020, arXiv 2002.05709"
    )
    when = "Retrieval, zero-shot or few labels are wanted, and pairs or good augmentations exist; big batches help."
    suits = "pairs of modalities (image-text, audio-video, ECG-report); or one modality that has augmented views"

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.within = len(config.towers) == 1
        self._refuse(config, model)
        start = config.temperature or (0.07 if config.loss == "infonce" else 0.1)
        self.head: nn.Module | None = None
        if self.within:
            self.temperature = start
            width = model.tower(config.towers[0]).width
            self.head = ProjectionHead(width, config.head_hidden, config.head_width)
            init_weights(self)
        else:
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / start)))
            if config.loss == "sigmoid":
                self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def _refuse(self, config: Config, model: MMSSLModel) -> None:
        if self.within and (config.loss != "nt_xent" or len(config.views) != 2):
            raise UserError(
                f"objective contrastive: one tower is contrasted between two views with loss: nt_xent, found "
                f"views {config.views} and loss '{config.loss}'; name two towers to contrast across modalities"
            )
        if not self.within and (config.loss == "nt_xent" or len(config.views) != 1):
            raise UserError(
                f"objective contrastive: towers {config.towers} are contrasted in one view with loss infonce or "
                f"sigmoid, found views {config.views} and loss '{config.loss}'"
            )
        if not self.within:
            widths = {name: model.embedding_width(name) for name in config.towers}
            if len(set(widths.values())) > 1:
                raise UserError(f"objective contrastive: embeddings differ in width {widths}; set model.projection")

    def forward(self, step: Step) -> Loss:
        return self._between_views(step) if self.within else self._across_towers(step)

    def _across_towers(self, step: Step) -> Loss:
        c = self.config
        sides: dict[str, tuple[Tensor, Tensor]] = {}
        for name in c.towers:
            encoded = step.encode(name, c.views[0], c.mask, c.mode)
            sides[name] = (step.model.project(name, encoded.pooled()), encoded.present())
        parts: dict[str, Tensor] = {}
        with torch.autocast(self.logit_scale.device.type, enabled=False):
            scale = self.logit_scale.float().exp().clamp(max=c.max_scale)
            for a, b in combinations(c.towers, 2):
                pair = self._pair(sides[a], sides[b], scale)
                parts[f"{a}-{b}" if len(c.towers) > 2 else "loss"] = pair
        total = torch.stack(list(parts.values())).mean()
        log = {n: p.detach() for n, p in parts.items()} if len(parts) > 1 else {}
        return Loss(total=total, parts=log | {"scale": scale.detach()})

    def _pair(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], scale: Tensor) -> Tensor:
        x, y = F.normalize(a[0].float(), dim=-1), F.normalize(b[0].float(), dim=-1)
        both = a[1] & b[1]
        all_x, all_y, all_both = gather_rows(x), gather_rows(y), gather_rows(both)
        positive = torch.arange(len(x), device=x.device) + rank() * len(x)
        if self.config.loss == "sigmoid":
            return global_mean(sigmoid_pairs(x, all_y, positive, scale, self.logit_bias.float(), all_both), both)
        forth = global_mean(info_nce(x, all_y, positive, scale, all_both), both)
        back = global_mean(info_nce(y, all_x, positive, scale, all_both), both)
        return (forth + back) / 2

    def _between_views(self, step: Step) -> Loss:
        c = self.config
        assert self.head is not None
        encoded = [step.encode(c.towers[0], view, c.mask, c.mode) for view in c.views]
        z = [self.head(e.pooled()) for e in encoded]
        valid = encoded[0].present() & encoded[1].present()
        with torch.autocast(valid.device.type, enabled=False):
            x, y = (F.normalize(v.float(), dim=-1) for v in z)
            keys = torch.cat([gather_rows(x), gather_rows(y)])
            keys_valid = gather_rows(valid).repeat(2)
            here = torch.arange(len(x), device=x.device) + rank() * len(x)
            there = here + len(keys) // 2
            forth = global_mean(nt_xent(x, keys, there, here, self.temperature, keys_valid), valid)
            back = global_mean(nt_xent(y, keys, here, there, self.temperature, keys_valid), valid)
        return Loss(total=(forth + back) / 2, parts={})

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Keep the learned scale within its bound, so that its gradient does not die there (CLIP clamps likewise)."""
        if not self.within:
            low = 0.0 if self.config.loss == "infonce" else -math.inf
            self.logit_scale.clamp_(low, math.log(self.config.max_scale))
