"""Patches laid out again as the raster they were cut from: what convolutions, and encoders of the user's own, look at.

Shapes: B batch, n patches at hand, G sizes of their grid, P numbers of a patch, S sizes of the raster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from ..errors import UserError
from ..modality import Modality
from ..patches import Patches


def raster_tile(modality: Modality, where: str, else_: str) -> tuple[int, ...]:
    """`modality.tile()`; UserError where its patches are no parts of a raster, or are not what tokens are made of.

    Args:
        modality: of the patches.
        where: what looks at rasters, for the message.
        else_: what is expected of a modality without them.
    """
    tile = modality.tile()
    if not tile:
        raise UserError(
            f"{where}, but its patches are no parts of a picture, clip or signal that can be laid out again; expected "
            f"{else_}"
        )
    if not modality.plain:
        raise UserError(
            f"{where}, which looks at the samples themselves and would pass over tokens: spectrum or both; expected "
            f"tokens: values, or {else_}"
        )
    return tile


def places(p: Patches) -> Tensor:
    """(B, n) int64 number of the place of each patch on its grid, row by row; of invalid ones the first behind it."""
    assert p.grid is not None and p.place is not None
    number = p.place[..., 0] * 0
    for axis, size in enumerate(p.grid):
        number = number * size + p.place[..., axis]
    return number if p.full else number.masked_fill(~p.valid, math.prod(p.grid))


def scattered(x: Tensor, at: Tensor, grid: Sequence[int]) -> Tensor:
    """x (B, n, C) laid out by the numbers of their places (B, n), zero where none is: (B, *G, C)."""
    count = math.prod(grid)
    out = x.new_zeros(x.shape[0], count + 1, x.shape[2]).scatter(1, at[..., None].expand_as(x), x)
    return out[:, :count].unflatten(1, tuple(grid))


def laid_out(cells: Tensor, tile: Sequence[int]) -> Tensor:
    """Patches on their grid, cells (B, *G, P) -> (B, *S, channels). tile: channels, then numbers along each axis."""
    channels, *sides = tile
    axes = len(sides)
    x = cells.unflatten(-1, (channels, *sides))  # (B, *G, channels, *sides)
    order = [axis for a in range(axes) for axis in (1 + a, 2 + axes + a)]
    x = x.permute(0, *order, 1 + axes)
    return x.reshape(x.shape[0], *(cells.shape[1 + a] * sides[a] for a in range(axes)), channels)
