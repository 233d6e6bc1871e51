"""Which patches of two views belong together: by their place in the sample, or by what they show.

Shapes: B samples, N or n patches of one view, m of the other, M matches of each sample, A axes, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...modality.places import Places
from ...patches import Patches


@dataclass(frozen=True)
class Regions:
    """Patches of a view, or means over blocks of them.

    Attributes:
        tokens: (B, N, D) what the tower made of them.
        valid: (B, N) bool.
        places: where they lie in the sample; None where nobody asks.
    """

    tokens: Tensor
    valid: Tensor
    places: Places | None


def regions(tokens: Tensor, patches: Patches, places: Places | None, side: int) -> Regions:
    """The patches, or with `side` above 1 the means over the valid patches of each block of so many along each axis of
    the grid; a region is valid where one of its patches is, and lies where they do on the average.

    Args:
        tokens: (B, N, D), one a patch.
        patches: what they came from, on a grid.
        places: of the patches.
        side: of a block.
    """
    if side == 1:
        return Regions(tokens, patches.valid, places)
    assert patches.grid is not None and patches.place is not None
    number = torch.zeros_like(patches.valid, dtype=torch.int64)
    count = 1
    for axis, size in enumerate(patches.grid):
        blocks = -(-size // side)
        number, count = number * blocks + patches.place[..., axis] // side, count * blocks
    member = (number[:, None] == torch.arange(count, device=number.device)[:, None]) & patches.valid[:, None]
    weight = member.float() / member.sum(2, keepdim=True).clamp(min=1)  # (B, M, N)
    with torch.autocast(tokens.device.type, enabled=False):  # places are not to be rounded either
        where = None if places is None else Places(weight @ places.centre, side * (weight @ places.size))
        return Regions(weight @ tokens.float(), member.any(2), where)


def apart(a: Places, b: Places) -> Tensor:
    """(B, n, m) distance between middles, over the diagonal of the larger patch of the two (as in PixPro, Xie et al.
    2021, section 3.1): views of any scale, and patches of any units, have one measure."""
    diagonal = torch.maximum(a.size.norm(dim=-1)[:, :, None], b.size.norm(dim=-1)[:, None])
    # not cdist: for many patches it goes by products, which round what is near 0
    distance = (a.centre[:, :, None] - b.centre[:, None]).square().sum(-1).sqrt()
    return distance / diagonal.clamp(min=1e-12)


def unlike(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, m) one minus the cosine of tokens a (B, n, D) and b (B, m, D)."""
    with torch.autocast(a.device.type, enabled=False):
        return 1 - F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).transpose(1, 2)


def nearest(
    distance: Tensor, there: Tensor, other: Tensor, within: float | None, count: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of one view that have a match, and their matches: the nearest of the other view.

    Args:
        distance: (B, n, m) of each patch to those of the other view.
        there: (B, n) bool, patches that are looked at.
        other: (B, m) bool, those that may be matched.
        within: no match is further away; None: any.
        count: of each sample the closest so many are kept; None: all.

    Returns:
        (B, M) int64 the patches, in their order, those without a match behind them; (B, M) int64 their matches; (B, M)
        bool whether there is one.
    """
    closest, match = distance.masked_fill(~(there[:, :, None] & other[:, None]), torch.inf).min(2)
    found = closest < (torch.inf if within is None else within)
    chosen = closest.masked_fill(~found, torch.inf).argsort(dim=1, stable=True)[:, :count]
    # those without a match come last, wherever in the row a batch's padding lies
    last = found.shape[1] * ~found.gather(1, chosen)
    chosen = chosen.gather(1, (chosen + last).argsort(dim=1))
    return chosen, match.gather(1, chosen), found.gather(1, chosen)
