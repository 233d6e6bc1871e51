"""The same places in two views of a modality, which may read different columns (`mmssl.modality.columns`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import UserError
from ...patches import gather

if TYPE_CHECKING:
    from ...patches import Patches, Split
    from ..step import Step


def found_in(step: Step, name: str, view: str, index: Tensor, of: str) -> Tensor:
    """index (B, k) of patches of the view `of` -> of those at their places in `view`, -1 where it has none there: it is
    shorter, or reads a column that the sample lacks.

    Views with as many patches are of one grid, or of the same nodes whatever edges were dropped: the numbers are the
    same. Else patches are told by their coordinates. UserError for nodes of different graphs, which have no places.
    """
    if len({v for v in (view, of) if v != "clean" and name in step.views[v]}) == 0 or view == of:
        return index  # the views show this modality alike
    own, other = step.patches(name, of), step.patches(name, view)
    if other.count == own.count:
        return index.masked_fill(~(gather(other.valid, index) & (index >= 0)), -1)
    if own.links is not None:
        raise UserError(
            f"views '{of}' and '{view}' of {name} have {own.count} and {other.count} nodes, none of which is "
            "another's: without a mask all of the one are predicted from the other"
        )
    return other.found(own.take(index))


def hidden_target(
    step: Step, name: str, view: str, kind: str | None, split: Split, queries: Patches, queries_view: str
) -> Tensor:
    """(B, m, ...) reconstruction targets of the hidden patches, where the view has them.

    Args:
        step: the batch.
        name: of the modality.
        view: what is reconstructed.
        kind: of target.
        split: what is hidden.
        queries: those patches, in `queries_view`.
        queries_view: what the encoder sees.
    """
    hide, modality = split.hide.flatten(1), step.model.modality(name)
    here = found_in(step, name, view, hide, queries_view)
    if not modality.local_targets:
        return gather(step.target(name, view, kind), here)
    with torch.no_grad():
        own = queries if here is hide else step.patches(name, view).take(here)
        return modality.target(step.inputs(name, view), own, kind)
