"""Contrastive learning: across towers (CLIP, SigLIP), between two views of one tower (SimCLR, DCL), or both (SLIP).

CLIP: symmetric InfoNCE over the global batch with a learned, clamped scale (Radford et al. 2021; mlfoundations/
open_clip). Sigmoid: SigLIP (Zhai et al. 2023). NT-Xent: SimCLR (Chen et al. 2020), InfoNCE with the other samples of
the query's own view among the negatives. DCL and DCLW: decoupled contrastive learning (Yeh et al. 2022), NT-Xent
without the positive in its denominator, which makes small batches do; the weight of DCLW gets no gradient, own-view
negatives are in, both directions are averaged. Across towers "own view" is the query's own modality.

More than two towers: all pairs, or with `hub_tower` every tower against one (ImageBind, Girdhar et al. 2023). Two
views need no augmentations: `masks: [a, b]` makes them from one clean view by hiding different patches.

Other processes' rows are gathered with gradients. A sample that lacks one side is no pair: its row asks nothing and is
nobody's negative. Large batches in little memory are had by `chunk` (similarities) and `cache_rows` or
`train.accumulation` (encoders), which change no number.

Example::

    objectives:
      clip: {type: contrastive, towers: [image, text], loss: infonce, chunk: 512, cache_rows: 64}
      bind: {type: contrastive, towers: [image, audio, ecg], hub_tower: image}
      simclr: {type: contrastive, towers: [image], views: [a, b], loss: nt_xent, temperature: 0.2}
      dcl: {type: contrastive, towers: [ecg], masks: [some, others], loss: dclw}
      slip: {type: contrastive, towers: [image, text], views: [a, b], pairs: both, within_towers: [image]}
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import gather_rows, global_mean, rank, world_size
from ..errors import UserError
from ..losses.contrastive import dcl, dclw_weight, info_nce, info_nce_both, sigmoid_pairs, softmax_rows
from ..models.initialization import init_weights
from ..models.pooling import masked_mean
from .base import Loss, Objective
from .options.contrastive import Config
from .parts.heads import Head
from .parts.sides import Pair, Side, Sides

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

Embedding = tuple[Tensor, Tensor]
"""(rows (B, D), present (B,))."""


class Contrastive(Objective):
    """Pairs of the same sample attract, all others of the global batch repel.

    Across towers the model's projections are compared, which are kept; within a tower an own head, which is not.
    """

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.sides = Sides(config, model, "contrastive")
        self.learned = config.learns
        self.start = config.temperature or (0.07 if config.loss == "infonce" else 0.1)
        self.least = 0.0 if config.loss == "sigmoid" else 1.0  # of a learned 1 / temperature, as in CLIP
        self._refuse(config, model)
        widths = {name: model.tower(name).pooled_width for name in self.sides.within}
        self.heads = nn.ModuleDict({name: Head.of(width, config) for name, width in widths.items()})
        init_weights(self.heads)
        if self.learned:
            self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / self.start)))
        if config.loss == "sigmoid":
            # as in SigLIP: only n of n^2 pairs belong together, and the first steps should not go into learning that
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def _refuse(self, config: Config, model: MMSSLModel) -> None:
        if self.learned and config.loss in ("dcl", "dclw"):
            raise UserError(
                f"objective contrastive: loss {config.loss} has no lower bound in its temperature, so it cannot be "
                "learned: leave out learn_temperature"
            )
        self._refuse_layers(config, model)
        if self.learned and not self.least <= 1 / self.start <= config.max_scale:
            raise UserError(
                f"objective contrastive: temperature: found {self.start:g}, but a learned 1 / temperature is kept "
                f"between {self.least:g} and max_scale = {config.max_scale:g}"
            )
        widths = {name: model.projected_width(name) for name in self.sides.across}
        if len(set(widths.values())) > 1:
            raise UserError(f"objective contrastive: embeddings differ in width {widths}; set model.projection")

    def _refuse_layers(self, config: Config, model: MMSSLModel) -> None:
        if not config.layers:
            return
        if self.sides.within or config.cache_rows is not None:
            raise UserError("objective contrastive: layers are compared across towers and without cache_rows")
        towers = {name: model.tower(name) for name in config.towers}
        one_width = len({tower.width for tower in towers.values()}) == 1
        if not one_width or max(config.layers) > min(tower.depth for tower in towers.values()):
            found = {name: (tower.width, tower.depth) for name, tower in towers.items()}
            raise UserError(
                f"objective contrastive: layers {config.layers}: towers need one width and those blocks, "
                f"found (width, blocks) {found}"
            )

    def forward(self, step: Step) -> Loss:
        """The mean over pairs across towers, plus the weighted mean within; logs the pairs and a learned scale."""
        across, within = self.sides.plan(step)
        scale = self._scale()
        parts: dict[str, Tensor] = {}
        totals: list[Tensor] = []
        for pairs, inside, weight in ((across, False, 1.0), (within, True, self.config.within_weight)):
            # within a tower alone: there is nothing to weigh it against
            weight = weight if across else 1.0
            for layer in self.config.layers or [None]:
                losses = self._losses(step, pairs, inside, scale, layer)
                parts |= losses
                if losses:
                    totals.append(weight * torch.stack(list(losses.values())).mean())
        total = torch.stack(totals).sum()
        log = {name: loss.detach() for name, loss in parts.items()} if len(parts) > 1 else {}
        return Loss(total=total, parts=log | ({"scale": scale.detach()} if self.learned else {}))

    def _scale(self) -> Tensor:
        if not self.learned:
            return torch.tensor(1 / self.start)
        with torch.autocast(self.logit_scale.device.type, enabled=False):
            return self.logit_scale.float().exp().clamp(max=self.config.max_scale)

    def _losses(
        self, step: Step, pairs: list[Pair], inside: bool, scale: Tensor, layer: int | None
    ) -> dict[str, Tensor]:
        embeddings: dict[Side, Embedding] = {}
        out = {}
        for pair in pairs:
            for side in pair:
                if side not in embeddings:
                    embeddings[side] = self._embed(step, side, inside) if layer is None else self._at(step, side, layer)
            a, b = (embeddings[side] for side in pair)
            with torch.autocast(a[0].device.type, enabled=False):
                at = "" if layer is None else f".{layer}"
                out[f"{pair[0].label}-{pair[1].label}{at}"] = self._pair(a, b, scale.to(a[0].device))
        return out

    def _embed(self, step: Step, side: Side, inside: bool) -> Embedding:
        pooled, present = self.sides.pooled(step, side)
        if inside:
            return self.heads[side.tower](pooled, present), present
        return step.model.project(side.tower, pooled), present

    def _at(self, step: Step, side: Side, layer: int) -> Embedding:
        """The mean of a side's tokens after an earlier block, not projected (HiCMAE, Sun et al. 2024)."""
        encoded = step.encode(side.tower, side.view, side.mask, self.config.mode, layers=self.config.layers)
        tokens = encoded.layers[layer]
        valid = torch.cat([encoded.patches[name].valid for name in tokens], 1)
        every = torch.cat(list(tokens.values()), 1)
        every = step.model.tower(side.tower).normed(every) if self.config.layers_normed else every
        return masked_mean(every, valid), encoded.present()

    def _pair(self, a: Embedding, b: Embedding, scale: Tensor) -> Tensor:
        """The loss of two sides, averaged over both directions and over the pairs of all processes."""
        c = self.config
        x, y = F.normalize(a[0].float(), dim=-1), F.normalize(b[0].float(), dim=-1)
        both = a[1] & b[1]
        # in one process rows and columns of the same similarities are both directions: one pass does
        if c.loss == "infonce" and c.chunk is not None and world_size() == 1:
            forth, back = info_nce_both(x, y, scale, both, c.chunk, c.label_smoothing)
            return (global_mean(forth, both) + global_mean(back, both)) / 2
        all_x, all_y, all_both = gather_rows(x), gather_rows(y), gather_rows(both)
        # where the rows of this process are among the gathered ones
        here = torch.arange(len(x), device=x.device) + rank() * len(x)
        if c.loss == "sigmoid":  # every question is asked once, from whichever side
            bias = self.logit_bias.float()
            return global_mean(sigmoid_pairs(x, all_y, here, scale, bias, all_both, c.chunk), both)
        weight = None
        if c.loss == "dclw":
            weight = dclw_weight((all_x * all_y).sum(-1), all_both, c.sigma)[here]
        forth = self._one_way(x, all_y, all_x, here, scale, all_both, weight)
        back = self._one_way(y, all_x, all_y, here, scale, all_both, weight)
        return (global_mean(forth, both) + global_mean(back, both)) / 2

    def _one_way(
        self,
        query: Tensor,
        theirs: Tensor,
        mine: Tensor,
        here: Tensor,
        scale: Tensor,
        valid: Tensor,
        weight: Tensor | None,
    ) -> Tensor:
        """(n,) for the queries against the other side's rows and, but for InfoNCE, those of their own side."""
        chunk = self.config.chunk
        if self.config.loss == "infonce":
            return info_nce(query, theirs, here, scale, valid, chunk, self.config.label_smoothing)
        # the query itself is among the keys of its own side, where it is neither positive nor negative
        keys, own, valid = torch.cat([theirs, mine]), here + len(theirs), valid.repeat(2)
        if self.config.loss == "nt_xent":
            return softmax_rows(query, keys, here, scale, own=own, valid=valid, chunk=chunk)
        return dcl(query, keys, here, own, scale, valid, weight, chunk)

    def looks(self, tower: str) -> list[str] | None:
        """As `Objective.looks`: pooled outputs, of all but masked views and earlier layers."""
        if tower not in self.config.towers:
            return []
        if self.config.layers or any(mask is not None for _, mask in self.sides.looks):
            return None
        return [view for view, _ in self.sides.looks]

    def constants(self) -> dict[str, float]:
        """The temperature across towers, as log(1 / temperature), and SigLIP's bias."""
        if not self.sides.across:
            return {}
        found = {"logit_scale": math.log(float(self._scale().detach()))}
        return found | ({"logit_bias": float(self.logit_bias)} if self.config.loss == "sigmoid" else {})

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Keep the learned scale within its bound, so that its gradient does not die there (CLIP clamps likewise)."""
        if self.learned:
            low = math.log(self.least) if self.least else -math.inf
            self.logit_scale.clamp_(low, math.log(self.config.max_scale))
