"""Transformed views: each sample is turned, reversed, cut and put together anew, by a number that is drawn and known.

What was done can then be learned (`objectives/pretext.py`): rotations (Gidaris et al. 2018, arXiv 1803.07728), jigsaws
(Noroozi & Favaro 2016, arXiv 1603.09246, whose permutations lie far apart), the direction of time, the order of two
clips (Misra et al. 2016, arXiv 1603.08561), the order of the colours (Lee et al. 2020, arXiv 1910.05872), or which of
several such things was done, if any (transformation prediction, as in E4SelfLearning). Samples are moved about along
the axes that `Modality.raster` names, within what each of them has, so that padding stays where it is. The number
follows the sample: two processes transform as one does.

Shapes: B batch, A axes, S places along all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from ..draws import Draws
from ..errors import UserError
from ..lazy import later
from ..options import needs, option, strict
from ..options.schema import build
from .corruption import extent_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)

KINDS = ("rotation", "reversal", "permutation", "channels")
WHICH = "which"
MOST_PIECES = 64
TRIED = 2000
"""Permutations that are looked at for the next one to take."""


@strict
@dataclass(kw_only=True)
class Transform:
    """How a view is transformed: `views: {turned: {image: {transform: {kind: rotation}}}}`."""

    kind: str = option(
        "rotation",
        choices=(*KINDS, WHICH),
        help="quarter turns; an axis or not backwards; parts in another order; channels in another order; or one of "
        "those in `of`, or none, of which it is told which",
    )
    of: list[str] = option(factory=list, choices=KINDS, help="of which: the kinds, each in any way but as it is")
    view: str = option("clean", help="the view that is transformed")
    parts: int = option(2, min=2, max=16, help="of permutation: parts along each axis; of channels: how many there are")
    axes: list[int] = option(
        factory=lambda: [-1],
        min=-3,
        max=2,
        help="of reversal and permutation: along which of the modality's axes (rows and columns; time), -1 the last; "
        "several: a jigsaw",
    )
    most: int = option(24, min=2, max=1000, help="of all orders so many, which differ most from each other")
    number: int | None = option(None, min=0, max=999, help="always this one (0: as it is); null: drawn for each sample")

    NEEDS = (
        needs("of", kind=WHICH),
        needs("parts", "most", kind="permutation or channels", holds=lambda c: c.is_any("permutation", "channels")),
        needs("axes", kind="reversal or permutation", holds=lambda c: c.is_any("reversal", "permutation")),
    )

    def __post_init__(self) -> None:
        if self.kind == WHICH and (not self.of or len(set(self.of)) < len(self.of)):
            raise UserError(f"of: found {self.of}, expected different kinds")
        if not self.axes or len(set(self.axes)) < len(self.axes):
            raise UserError(f"axes: found {self.axes}, expected different ones")
        if self.pieces > MOST_PIECES:
            raise UserError(f"parts: found {self.pieces} parts of all axes together, expected at most {MOST_PIECES}")
        if self.number is not None and self.number >= self.count:
            raise UserError(f"number: found {self.number}, expected at most {self.count - 1}: there are {self.count}")

    def is_any(self, *kinds: str) -> bool:
        """Whether one of these is done to some sample."""
        return bool({self.kind, *self.of} & set(kinds))

    @property
    def each(self) -> list[tuple[int, Transform]]:
        """Of which: (the number of its first way, the kind by itself), in the order of `of`."""
        found, start = [], 1
        for kind in self.of:
            one = replace(self, kind=kind, of=[], number=None)
            found.append((start, one))
            start += one.count - 1
        return found

    @property
    def count(self) -> int:
        """How many transformations there are; number 0 changes nothing."""
        if self.kind == WHICH:
            return 1 + sum(one.count - 1 for _, one in self.each)
        if self.kind in ("rotation", "reversal"):
            return 4 if self.kind == "rotation" else 2
        return min(math.factorial(self.pieces), self.most)

    @property
    def pieces(self) -> int:
        """Of a permutation: how many things are put in order."""
        return self.parts ** (len(self.axes) if self.kind == "permutation" else 1)

    def drawn(self, draws: Draws) -> Tensor:
        """(B,) int64: the number of each sample's transformation."""
        if self.number is not None:
            return torch.full((draws.rows,), self.number, device=draws.device)
        if self.kind != WHICH:
            return draws("transform").integers(self.count)
        each = self.each
        ways = [draws("way", kind).integers(one.count - 1) + start for kind, (start, one) in enumerate(each)]
        which = draws("transform").integers(1 + len(each))  # kinds of few ways come as often as others
        return torch.stack([torch.zeros_like(which), *ways], 1).gather(1, which[:, None])[:, 0]

    @property
    def labels(self) -> int:
        """How many of them are told apart: all, or of which the kinds, and none."""
        return 1 + len(self.of) if self.kind == WHICH else self.count

    def label(self, number: Tensor) -> Tensor:
        """Of each number (B,) which of `labels` it is."""
        if self.kind != WHICH:
            return number
        return torch.stack([number >= start for start, _ in self.each]).sum(0)

    @property
    def cyclic(self) -> bool:
        """Whether numbers add up, modulo `count`: after number a and number b it is number a + b."""
        return self.kind in ("rotation", "reversal")


def transform_faults(spec: Mapping[str, object], where: str) -> list[str]:
    """What is wrong with `{transform: {...}}`, one line each; what `view` names is looked at with all derived views."""
    faults = [
        f"{where}.{key}: found beside 'transform', expected it in a view of its own that transform.view names"
        for key in spec
        if key != "transform"
    ]
    build(Transform, spec["transform"], f"{where}.transform", faults)
    return faults


@cache
def orders(pieces: int, most: int) -> tuple[tuple[int, ...], ...]:
    """Up to `most` orders of so many pieces, first the usual one; where there are more, each next one is that of many
    tried ones whose least Hamming distance to those before it is greatest (Noroozi & Favaro 2016, algorithm 1)."""
    if math.factorial(pieces) <= most:
        return tuple(itertools.permutations(range(pieces)))
    tried = Draws(pieces, TRIED).uniform(pieces).argsort(1)
    if math.factorial(pieces) <= TRIED:
        tried = torch.tensor(list(itertools.permutations(range(pieces))))
    found = [torch.arange(pieces)]
    nearest = torch.full((len(tried),), pieces)
    while len(found) < most:
        nearest = nearest.minimum((tried != found[-1]).sum(1))
        found.append(tried[int(nearest.argmax())])
    return tuple(tuple(order.tolist()) for order in found)


def transformed(x: Tensor, axes: tuple[int, ...], number: Tensor, options: Transform) -> Tensor:
    """x (B, ...) with sample b transformed by number[b]; axes: of the modality's `raster`. NaN: nothing is there.

    Raises:
        UserError: the samples cannot be transformed so.
    """
    if options.kind == WHICH:
        for start, one in options.each:
            own = (number >= start) & (number < start + one.count - 1)
            x = transformed(x, axes, torch.where(own, number - start + 1, 0), one)
        return x
    rest = [axis for axis in range(1, x.ndim) if axis not in axes]
    if options.kind == "channels":
        return _channels(x, rest, number, options)
    there = ~x.isnan()
    grid = there.any(dim=rest) if rest else there
    extent = torch.stack([extent_of(grid, axis + 1) for axis in range(len(axes))], 1).long()  # (B, A)
    places = torch.meshgrid(*(torch.arange(x.shape[a], device=x.device) for a in axes), indexing="ij")
    place = torch.stack([p.flatten() for p in places], -1)[None]  # (1, S, A)
    source = _source(place, extent[:, None], number[:, None], options)
    sizes = [x.shape[a] for a in axes]
    flat = source[..., 0]
    for axis, size in enumerate(sizes[1:], 1):
        flat = flat * size + source[..., axis]
    moved = x.movedim(axes, tuple(range(x.ndim - len(axes), x.ndim)))
    rows = moved.flatten(-len(axes))  # (B, ..., S)
    index = flat.view(len(x), *[1] * (rows.ndim - 2), -1).expand_as(rows)
    return rows.gather(-1, index).view_as(moved).movedim(tuple(range(x.ndim - len(axes), x.ndim)), axes)


def _source(place: Tensor, extent: Tensor, number: Tensor, options: Transform) -> Tensor:
    """(B, S, A) where each place (1, S, A) takes from. extent: (B, 1, A) how far samples reach; number: (B, 1)."""
    if options.kind == "rotation":
        return _turned(place, extent, number)
    count = place.shape[-1]
    if not all(-count <= axis < count for axis in options.axes):
        raise UserError(f"transform.axes: found {options.axes}, but the modality has {count} of them, from 0")
    axes = [axis % count for axis in options.axes]
    out = place.expand(len(extent), -1, -1).clone()
    if options.kind == "reversal":
        back = (number[..., None] == 1) & (place < extent).all(-1, keepdim=True)
        out[..., axes] = torch.where(back, extent[..., axes] - 1 - place[..., axes], place[..., axes])
        return out
    size = extent[..., axes] // options.parts  # of a part; what is left over at the end stays
    inside = (place[..., axes] < size * options.parts).all(-1, keepdim=True)
    size = size.clamp(min=1)
    part, offset = place[..., axes] // size, place[..., axes] % size
    steps = torch.tensor([options.parts ** (len(axes) - 1 - i) for i in range(len(axes))], device=place.device)
    table = torch.tensor(orders(options.pieces, options.most), device=place.device)
    which = (part * steps).sum(-1).clamp(max=table.shape[1] - 1)
    taken = table[number[:, 0]].gather(1, which)[..., None]
    out[..., axes] = torch.where(inside, taken // steps % options.parts * size + offset, place[..., axes])
    return out


def _turned(place: Tensor, extent: Tensor, number: Tensor) -> Tensor:
    """Quarter turns against the clock in the last two axes, as `torch.rot90`."""
    if place.shape[-1] < 2:
        raise UserError("transform.kind: found rotation, but the modality has one axis, expected two")
    height, width = extent[..., -2], extent[..., -1]
    if bool((height != width).any()):
        raise UserError("transform.kind: found rotation, but samples are not square: expected as many rows as columns")
    i, j = place[..., -2], place[..., -1]
    last = height - 1
    rows = torch.stack([i.expand_as(j - last), j.expand_as(j - last), last - i, last - j])
    columns = torch.stack([j.expand_as(j - last), last - i, last - j, i.expand_as(j - last)])
    chosen = number.expand(-1, place.shape[1])[None]
    out = place.expand(len(extent), -1, -1).clone()
    out[..., -2], out[..., -1] = rows.gather(0, chosen)[0], columns.gather(0, chosen)[0]
    return torch.where((place < extent).all(-1, keepdim=True), out, place)


def _channels(x: Tensor, rest: list[int], number: Tensor, options: Transform) -> Tensor:
    """Along the first axis that is none of the modality's: the colours of a picture, the leads of a signal."""
    if not rest or x.shape[rest[0]] != options.parts:
        found = x.shape[rest[0]] if rest else 0
        raise UserError(f"transform.parts: found {options.parts}, but the samples have {found} channels")
    table = torch.tensor(orders(options.parts, options.most), device=x.device)
    moved = x.movedim(rest[0], 1)
    index = table[number].view(len(x), -1, *[1] * (moved.ndim - 2)).expand_as(moved)
    return moved.gather(1, index).movedim(1, rest[0])


def source_of(spec: Mapping[str, Any]) -> str | None:
    """The view that a view is made from, where it is a corrupted or transformed one."""
    for kind in ("corrupt", "transform"):
        if kind in spec:
            options = spec[kind]
            return str(options.get("view", "clean")) if isinstance(options, Mapping) else "clean"
    return None
