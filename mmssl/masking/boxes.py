"""Target boxes in coordinate space, and what they leave as context: I-JEPA's multi-block masks, V-JEPA's tubes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..draws import Draws
from ..options import option, strict
from ..patches import Patches, Split
from .splits import axis_of, dense_rank, maskable_of, rising
from .targets import drawn_share, order_ranks, share_of, share_width, split_ranked


@strict
@dataclass(kw_only=True)
class MultiBlock:
    """Several boxes as targets; the context is a large box without them: I-JEPA (Assran et al. 2023).

    A box has a size drawn from `scale` (a share of the sample), a log-uniform ratio of its sides (relative to the
    sample's) in `aspect`, and a place drawn uniformly inside the sample; per sample and box, only the size is common
    to a step. It holds exactly the asked number of places: they are taken outwards from its middle, so that on a grid
    it is a rectangle but for its outermost row, and always connected.

    `axes` names the coordinates that a box extends over; it holds all others whole. With the two of the picture it is
    a tube through all times: V-JEPA (Bardes et al. 2024) uses 8 tubes of 0.15 (short-range) and 2 of 0.7 (long-range),
    each kind with a context of its own, its targets predicted together.
    """

    targets: int = option(4, min=1, help="target boxes")
    scale: list[float] = option(factory=lambda: [0.15, 0.2], above=0, below=1, help="share of a target box, range")
    aspect: list[float] = option(factory=lambda: [0.75, 1.5], above=0, help="ratio of a target's sides, range")
    context: list[float] = option(factory=lambda: [0.85, 1.0], above=0, max=1, help="share of the context box, range")
    keep: float | None = option(
        None, above=0, max=1, help="share of the patches that the context has at most; null: all that is left"
    )
    axes: list[int] | None = option(None, min=0, help="coordinates the boxes extend over; null: all")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        return {name: self._split(p, name, draws(name)) for name, p in patches.items()}

    def _split(self, p: Patches, name: str, draws: Draws) -> Split:
        count = p.coords.shape[2]
        axes = list(range(count)) if self.axes is None else [
            axis_of(axis, p, name, "multi-block", "axes") for axis in self.axes
        ]  # fmt: skip
        scale, extent = drawn_share(self.scale, draws("scale")), drawn_share(self.context, draws("extent"))
        maskable = maskable_of(p)
        ranked = [dense_rank(rising(p.coords[:, :, axis]), maskable) for axis in axes]
        cells, sizes = torch.stack([r for r, _ in ranked], 2), torch.stack([n for _, n in ranked], 1)
        keys = box_keys(cells, sizes, scale, self.aspect, self.targets, draws("targets"))
        if extent < 1:
            around = box_keys(cells, sizes, extent, (1.0, 1.0), 1, draws("context"))
            keys = torch.cat([keys, around], 1)
        keys = keys.masked_fill(~maskable[:, None], torch.inf)
        whole = len(set(axes)) == count
        if whole:  # every patch is a place of its own
            rank, places = order_ranks(keys), maskable.sum(1)
        else:
            among = maskable[:, None].expand_as(keys).flatten(0, 1)
            flat, number = dense_rank(keys.flatten(0, 1).contiguous().view(torch.int64), among)
            rank, places = flat.view_as(keys), number.view(keys.shape[:2])[:, 0]
        context = maskable
        if extent < 1:
            context = rank[:, -1] < share_of(places, extent)[:, None]
            rank = rank[:, :-1]
        width = share_width(p.count, scale, spare=1) if whole and p.fixed is None else None
        return split_ranked(p, rank, share_of(places, scale, spare=1), width, context, self.keep, draws)


def box_keys(
    cells: Tensor, sizes: Tensor, scale: float, aspect: Sequence[float], boxes: int, draws: Draws
) -> Tensor:
    """(B, boxes, N) float64 >= 0: how far each patch lies from the middle of each box, different for different cells.

    cells: (B, N, A) int64 place of each patch along each axis, of `sizes` (B, A). Below 1 inside the box. On a full
    grid the patches up to any distance are connected: from each, one step towards the middle is nearer, because the
    largest of its distances along the axes, in units of half the box's sides, does not grow and their sum shrinks.
    """
    axes = cells.shape[2]
    sizes = sizes.to(torch.float64)[:, None].clamp(min=1)  # (B, 1, A)
    low, high = math.log(aspect[0]), math.log(aspect[-1])
    ratios = draws("aspect").uniform(boxes, axes).to(torch.float64) * (high - low) + low
    ratios[..., -1] = 0  # relative to the last axis
    stretch = (ratios - ratios.mean(-1, keepdim=True)).exp() if axes > 1 else torch.ones_like(ratios)
    sides = (sizes * scale ** (1 / axes) * stretch).round().clamp(min=1).minimum(sizes)  # (B, boxes, A)
    first = (draws("place").uniform(boxes, axes).to(torch.float64) * (sizes - sides + 1)).floor()
    middle = first + (sides - 1) / 2
    offset = (cells[:, None] - middle[:, :, None]).abs() / (sides[:, :, None] / 2)  # (B, boxes, N, A)
    # cells that are equally far follow one another along the axes, each from an end that is drawn
    flip = draws("flip").chance(0.5, boxes, axes)[:, :, None]
    ordinal = torch.where(flip, sizes[:, :, None] - 1 - cells[:, None], cells[:, None].to(torch.float64))
    flat = ordinal[..., 0]
    for axis in range(1, axes):
        flat = flat * sizes[:, :, None, axis] + ordinal[..., axis]
    ties = flat / sizes.prod(-1)[:, :, None]
    return offset.amax(-1) + 1e-6 * offset.sum(-1) + 1e-10 * ties
