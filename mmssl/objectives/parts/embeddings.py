"""What contrastive learning makes of a side: a projection that is kept, a head's output that is not, or earlier tokens;
by the model or by an averaged teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...models.pooling import masked_mean
from ..options.contrastive import Config
from .pooled import PooledSides, weighted
from .sides import Side
from .teacher import Teacher

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of sides. Each gives (rows (B, D), present (B,)).

    Attributes:
        config: the objective's.
        sides: its sides.
        heads: tower -> head, of the towers that are compared within.
        teacher: with towers, heads and projections by tower, or None.
    """

    config: Config
    sides: PooledSides
    heads: nn.ModuleDict
    teacher: Teacher[Any] | None

    def embed(self, step: Step, side: Side, inside: bool, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Of the model. inside: within a tower; layer: of the tokens behind that block."""
        several = self.sides.members.get(side)
        if several is not None:
            found = [self.embed(step, member, inside) for member, _ in several]
            return weighted(found, [weight for _, weight in several], self.sides.unit)
        if layer is not None:
            return self._at(step, side, layer)
        pooled, present = self.sides.pooled(step, side)
        if inside and not self.config.project_within:
            return self.heads[side.tower](pooled, present), present
        return step.model.project(side.tower, pooled), present

    def teach(self, step: Step, side: Side, inside: bool) -> tuple[Tensor, Tensor]:
        """As `embed`, by the teacher, which may see another view and then sees all of it. Without gradient."""
        assert self.teacher is not None
        net: Any = self.teacher.net
        if self.config.key_views is not None:
            view = self.config.key_views[self.sides.looks.index((side.view, side.mask))]
            side = side._replace(view=view, mask=None)
        with torch.no_grad():
            pooled, present = self.sides.pooled(step, side, net["towers"][side.tower])
            if inside and not self.config.project_within:
                return net["heads"][side.tower](pooled, present), present
            if side.tower not in net["projections"]:
                return pooled, present
            projection = net["projections"][side.tower]
            return projection(pooled.to(next(projection.parameters()).dtype)), present

    def _at(self, step: Step, side: Side, layer: int) -> tuple[Tensor, Tensor]:
        """The mean of a side's tokens after an earlier block, not projected (HiCMAE, Sun et al. 2024)."""
        encoded = step.encode(side.tower, side.view, side.mask, self.config.mode, layers=self.config.layers)
        tokens = encoded.layers[layer]
        valid = torch.cat([encoded.patches[name].valid for name in tokens], 1)
        every = torch.cat(list(tokens.values()), 1)
        every = step.model.tower(side.tower).normed(every) if self.config.layers_normed else every
        return masked_mean(every, valid), encoded.present()
