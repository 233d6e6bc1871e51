"""Sides that are the mean of several: of a sample's towers (a picture and its text), or of several views (neighbours).

CLIPPINGS (Carlson et al. 2023, arXiv 2304.03464): what is compared is w image + (1 - w) text, both of length 1. The
grounding of GraphGPT (Tang et al. 2023, arXiv 2310.13023; HKUDS/GraphGPT, after G2P2, Wen & Fang 2023): a node and its
text are compared with the mean embedding of its neighbours' texts, which here are further columns, one a view.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import UserError
from ..options.contrastive import Config
from .sides import Pair, Side, Sides

if TYPE_CHECKING:
    from ...models.modeling_mmssl import MMSSLModel
    from ..step import Step

Members = list[tuple[Side, float]]
"""Sides that are taken together, with their weights."""


class PooledSides(Sides):
    """`Sides`, of which some are made of several.

    Attributes:
        members: side -> what it is made of, of those that are; known once a step was planned.
        unit: embeddings are brought to length 1 before they are added up.
    """

    def __init__(self, options: Config, model: MMSSLModel, objective: str) -> None:
        super().__init__(options, model, objective)
        self.weights, self.one, self.unit = options.pooled, options.pooled_views, bool(options.pooled)
        self.members: dict[Side, Members] = {}
        known = {view for view, _ in self.looks}
        for view in self.one:
            if view not in known:
                raise UserError(f"{self.where}: pooled_views: found '{view}', expected some of views {options.views}")
        if self.weights and len(self.looks) < 2:
            raise UserError(f"{self.where}: pooled: found views {options.views}, expected two views, or two masks")

    def different(self, step: Step) -> dict[str, list[Side]]:
        """As of `Sides`, with the views that count as one in the place of the first of them."""
        sides = super().different(step)
        return {tower: self._joined(tower, found) for tower, found in sides.items()} if self.one else sides

    def _joined(self, tower: str, sides: list[Side]) -> list[Side]:
        several = [side for side in sides if side.view in self.one]
        if len(several) < 2:
            return sides
        first = several[0]
        whole = Side(tower, "+".join(side.view for side in several), first.mask, f"{tower}.mean")
        self.members[whole] = [(side, 1.0) for side in several]
        return [whole if side is first else side for side in sides if side is first or side not in several]

    def plan(self, step: Step) -> tuple[list[Pair], list[Pair]]:
        """As of `Sides`; of pooled towers each two of their looks."""
        if not self.weights:
            return super().plan(step)
        together = []
        for number, (view, mask) in enumerate(self.looks, 1):
            side = Side("+".join(self.weights), view, mask, f"pooled.{number}")
            self.members[side] = [(Side(t, view, mask, t), weight) for t, weight in self.weights.items()]
            together.append(side)
        return list(combinations(together, 2)), []


def weighted(found: list[tuple[Tensor, Tensor]], weights: list[float], unit: bool) -> tuple[Tensor, Tensor]:
    """(sum or mean (B, D) float32, which samples have any (B,)) of embeddings (B, D) and who has them (B,).

    unit: the sum of rows of length 1 by their weights; else the weighted mean, over what a sample has, of rows as they
    are.
    """
    there = torch.stack([present for _, present in found])
    shares = there * torch.tensor(weights, device=there.device)[:, None]
    with torch.autocast(there.device.type, enabled=False):
        rows = torch.stack([F.normalize(x.float(), dim=-1) if unit else x.float() for x, _ in found])
        rows = torch.where(there[..., None], rows, 0.0)
        if not unit:
            shares = shares / shares.sum(0).clamp(min=torch.finfo(shares.dtype).tiny)
        return (rows * shares[..., None]).sum(0), there.any(0)
