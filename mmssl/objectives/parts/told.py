"""What an objective asks its encoder to tell of what a modality knows (`mmssl.modality.known`): of samples, of patches,
or of pairs of patches, which are drawn.

Shapes: B batch, N patches, k things that are asked of each sample, W numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...draws import Draws
from ...errors import UserError
from ...modality.known import Property
from ...patches import gather

if TYPE_CHECKING:
    from ..step import Step


@dataclass(frozen=True)
class Asked:
    """value: (B, k, W) float32, 0 where unknown; known: (B, k) bool; pairs: (B, k, 2) int64 which patches, of pairs."""

    value: Tensor
    known: Tensor
    pairs: Tensor | None = None

    def features(self, pooled: Tensor | None, tokens: Tensor | None) -> Tensor:
        """(B, k, D) what a head sees: of samples the pooled output (B, D), of patches their tokens (B, N, D), of pairs
        |difference| of their tokens, which does not depend on the order (SelfTask-GNN; ChandlerBang/SelfTask-GNN)."""
        if pooled is not None:
            return pooled[:, None]
        assert tokens is not None
        if self.pairs is None:
            return tokens
        return (gather(tokens, self.pairs[..., 0]) - gather(tokens, self.pairs[..., 1])).abs()


@torch.no_grad()
def asked(step: Step, name: str, what: str, of: Property, view: str, seen: str, pairs: int) -> Asked:
    """What is asked of each sample of modality `name`.

    Args:
        step: the batch.
        name: the modality.
        what: the property.
        of: its declaration.
        view: the view that it is known of.
        seen: the view that the encoder is given.
        pairs: how many of each class, or of numbers, are asked at most.
    """
    patches, shown = step.patches(name, view), step.patches(name, seen)
    if of.level != "sample" and patches.valid.shape != shown.valid.shape:
        raise UserError(
            f"objective pretext: views: found '{seen}' with {shown.count} patches of '{name}', but '{view}' has "
            f"{patches.count}, expected a view that keeps them"
        )
    value = step.model.modality(name).known(what, step.inputs(name, view), patches, shown).float()
    if of.level == "sample":
        known = ~value.isnan().any(1) & shown.present
        return Asked(value.nan_to_num(0.0)[:, None], known[:, None])
    valid = patches.valid & shown.valid
    if of.level == "patch":
        return Asked(value.nan_to_num(0.0), valid & ~value.isnan().any(2))
    return _pairs(value, valid, of.classes, step.draws("pairs", name, what), pairs)


def _pairs(value: Tensor, valid: Tensor, classes: int, draws: Draws, most: int) -> Asked:
    """Up to `most` pairs of each class, drawn among all of a sample's; as many of each, however rare it is."""
    count = value.shape[1]
    upper = torch.ones(count, count, dtype=torch.bool, device=value.device).triu(1)
    there = (valid[:, :, None] & valid[:, None] & upper & ~value.isnan()).flatten(1)
    luck, flat = draws.uniform(count, count).to(value.device).flatten(1), value.flatten(1)
    found, known = [], []
    for number in range(max(classes, 1)):
        mine = there & (flat == number) if classes else there
        score, index = luck.masked_fill(~mine, -1.0).topk(min(most, luck.shape[1]), dim=1)
        found.append(index)
        known.append(score >= 0)
    index, there = torch.cat(found, 1), torch.cat(known, 1)
    pairs = torch.stack([index // max(count, 1), index % max(count, 1)], -1)
    return Asked(flat.gather(1, index).nan_to_num(0.0)[..., None], there, pairs)
