"""Target boxes in coordinate space, and what they leave as context: I-JEPA's multi-block masks, V-JEPA's tubes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import TYPE_CHECKING

from ..draws import Draws, uniforms
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .splits import axis_of, dense_rank, maskable_of, rising
from .targets import drawn_share, order_ranks, share_of, share_width, split_ranked

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)

Kind = tuple[float, Sequence[float], int, Draws]
"""(scale, aspect, how many, draws) of a kind of box."""


@strict
@dataclass(kw_only=True)
class MultiBlock:
    """Several boxes as targets; the context is a large box without them: I-JEPA (Assran et al. 2023).

    A box has a size drawn from `scale` (a share of the sample), a log-uniform ratio of its sides (relative to the
    sample's) in `aspect`, and a place drawn uniformly inside the sample; per sample and box, only the size is common
    to a step. It holds exactly the asked number of places: they are taken outwards from its middle, so that on a grid
    it is a rectangle but for its outermost row, and always connected.

    In I-JEPA's code one number of a step gives size and aspect (uniform, not log-uniform) of all blocks, an area is
    that of the rectangle of rounded sides, and no block touches the last row or column. Of 14 x 14 patches with four
    targets a block there has 17.1 % (here 17.6), all four together 45 (48), and 41 % (45) are left as context.

    `axes` names the coordinates that a box extends over; it holds all others whole. With the two of the picture it is
    a tube through all times: V-JEPA (Bardes et al. 2024) uses 8 tubes of 0.15 (short-range) and 2 of 0.7 (long-range),
    each kind with a context of its own, its targets predicted together. Its tubes share one size a step and are hidden
    together in 63 +- 8 % (here 62 +- 7) and 82 +- 7 % (83 +- 6) of 14 x 14 places.
    """

    targets: int = option(4, min=1, max=1_024, help="target boxes")
    scale: list[float] = option(factory=lambda: [0.15, 0.2], above=0, below=1, help="share of a target box, range")
    aspect: list[float] = option(
        factory=lambda: [0.75, 1.5], above=0, max=1_000, help="ratio of a target's sides, range"
    )
    context: list[float] = option(factory=lambda: [0.85, 1.0], above=0, max=1, help="share of the context box, range")
    keep: float | None = option(
        None, above=0, max=1, help="share of the patches that the context has at most; null: all that is left"
    )
    axes: list[int] | None = option(None, min=0, max=16, help="coordinates the boxes extend over; null: all")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        return {name: self._split(p, name, draws(name)) for name, p in patches.items()}

    def _split(self, p: Patches, name: str, draws: Draws) -> Split:
        count = p.coords.shape[2]
        axes = (
            list(range(count))
            if self.axes is None
            else [axis_of(axis, p, name, "multi-block", "axes") for axis in self.axes]
        )
        scale, extent = drawn_share(self.scale, draws("scale")), drawn_share(self.context, draws("extent"))
        maskable = maskable_of(p)
        regular = p.full and p.fixed is None
        coords = p.coords if axes == list(range(count)) else p.coords[:, :, axes]
        if regular and p.batch and coords.device.type == "cpu" and bool((coords == coords[:1]).all()):
            # the look at the data is cheap there
            one, length = _grid(coords[0].to(torch.float32).numpy().tobytes(), len(axes))
            cells, sizes = one.expand(coords.shape), length.expand(p.batch, -1)
        else:
            cells, sizes = _places(coords, maskable)
        kinds: list[Kind] = [(scale, self.aspect, self.targets, draws("targets"))]
        if extent < 1:
            kinds.append((extent, (1.0, 1.0), 1, draws("context")))
        keys = box_keys(cells, sizes, *drawn_boxes(sizes, kinds))
        if not regular:
            keys = keys.masked_fill(~maskable[:, None], torch.inf)
        whole = len(set(axes)) == count
        if whole:  # every patch is a place of its own
            rank, places = order_ranks(keys), maskable.sum(1)
        else:
            among = maskable[:, None].expand_as(keys).flatten(0, 1)
            flat, number = dense_rank(keys.flatten(0, 1).contiguous().view(torch.int64), among)
            rank, places = flat.view_as(keys), number.view(keys.shape[:2])[:, 0]
        width = share_width(p.count, scale, spare=1) if whole and p.fixed is None else None
        known = width is not None and regular  # every sample has `width` places
        size = places.new_full((p.batch,), width) if known and width is not None else share_of(places, scale, spare=1)
        context = maskable
        if extent < 1:
            within = share_width(p.count, extent) if known else share_of(places, extent)[:, None]
            context, rank = rank[:, -1] < within, rank[:, :-1]
        return split_ranked(p, rank, size, width, context, self.keep, draws)


def _places(coords: Tensor, maskable: Tensor) -> tuple[Tensor, Tensor]:
    """(place (B, N, A) int64 of each patch along each axis of coords (B, N, A), how many there are (B, A))."""
    batch, count, axes = coords.shape
    columns = rising(coords).permute(2, 0, 1).reshape(axes * batch, count)
    rank, sizes = dense_rank(columns, maskable.repeat(axes, 1))
    return rank.view(axes, batch, count).permute(1, 2, 0), sizes.view(axes, batch).T


@lru_cache(maxsize=32)
def _grid(coords: bytes, axes: int) -> tuple[Tensor, Tensor]:
    """`_places` of one sample whose patches all count, (1, N, A) and (1, A): grids come again in every step."""
    found = torch.frombuffer(bytearray(coords), dtype=torch.float32).view(1, -1, axes)
    return _places(found, torch.ones(found.shape[:2], dtype=torch.bool))


def drawn_boxes(sizes: Tensor, kinds: Sequence[Kind]) -> tuple[Tensor, Tensor, Tensor]:
    """(middle, half of the sides, flip), (B, boxes, A) each, of boxes in samples with `sizes` (B, A) places an axis.

    kinds: one after the other. flip: whether places that are equally far are counted from the other end.
    """
    axes, count = sizes.shape[1], [n for _, _, n, _ in kinds]
    streams = [draws(name) for _, _, _, draws in kinds for name in ("aspect", "place", "flip")]
    found = uniforms(streams, max(count), axes)
    drawn = [u[:, : count[i // 3]] for i, u in enumerate(found)]
    whole = sizes.to(torch.float64)[:, None].clamp(min=1)  # (B, 1, A)
    # of each side, so that the product of the sides is the share
    share = whole.new_tensor([scale ** (1 / axes) for scale, _, n, _ in kinds for _ in range(n)])
    stretch = whole.new_zeros(len(sizes), sum(count), axes)
    for (_, aspect, _, _), ratio, part in zip(kinds, drawn[::3], stretch.split(count, 1), strict=True):
        low, high = math.log(aspect[0]), math.log(aspect[-1])
        if axes > 1 and (low, high) != (0.0, 0.0):
            ratios = ratio.to(torch.float64) * (high - low) + low
            ratios[..., -1] = 0  # relative to the last axis
            # the logarithms sum to zero: a ratio of sides leaves the volume as it is
            torch.sub(ratios, ratios.mean(-1, keepdim=True), out=part)
    sides = (whole * share[:, None] * stretch.exp_()).round_().clamp_(min=1).minimum(whole)
    first = (torch.cat(drawn[1::3], 1).to(torch.float64) * (whole - sides + 1)).floor_()
    return first + (sides - 1) / 2, sides / 2, torch.cat(drawn[2::3], 1) < 0.5


def box_keys(cells: Tensor, sizes: Tensor, middle: Tensor, half: Tensor, flip: Tensor) -> Tensor:
    """(B, boxes, N) float64 >= 0: how far each patch lies from the middle of each box, different for different cells.

    cells: (B, N, A) int64 place of each patch along each axis, of `sizes` (B, A); boxes: see `drawn_boxes`. Below 1
    inside the box. On a full grid the patches up to any distance are connected: from each, one step towards the middle
    is nearer, because the largest of its distances along the axes, in units of half the box's sides, does not grow and
    their sum shrinks.
    """
    if cells.stride(0) == 0:  # one grid for all samples
        cells = cells[:1]
    place = cells.to(torch.float64).permute(2, 0, 1).contiguous()  # axis by axis: reductions over A are slow on a CPU
    length = sizes.to(torch.float64).clamp(min=1)[:, None]
    offsets: list[Tensor] = []
    flat: Tensor | None = None
    for axis in range(cells.shape[2]):
        at, size = place[axis][:, None], length[..., axis, None]
        offsets.append((at - middle[..., axis, None]).abs_().div_(half[..., axis, None]))
        # cells that are equally far follow one another along the axes, each from an end that is drawn
        ordinal = torch.where(flip[..., axis, None], size - 1 - at, at)
        flat = ordinal if flat is None else ordinal.add_(flat.mul_(size))
    assert flat is not None
    # the largest distance counts; their sum, and then the drawn order, are only there to break ties
    keys = reduce(torch.maximum, offsets).add(reduce(torch.add, offsets), alpha=1e-6)
    return keys.add_(flat.div_(length.prod(-1, keepdim=True)), alpha=1e-10)
