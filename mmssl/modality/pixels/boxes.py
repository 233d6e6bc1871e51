"""The part of a picture that a view shows: random resized crops, and where a view's patches lie in the picture.

Shapes: B batch, N patches, h, w a view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...draws import Draws, uniforms
from .options import View, pair

SMALL = 64
"""Pictures with a side of at most so many pixels are cut between pixels, larger ones at whole pixels."""


@dataclass(frozen=True)
class Box:
    """The part of each picture that a view shows, in pixels: (B,) each.

    Attributes:
        top: where its rows begin.
        left: where its columns begin.
        height: of it.
        width: of it.
        mirrored: left is right in the view; None: in none.
        out: (h, w) of the view.
    """

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor
    mirrored: Tensor | None
    out: tuple[int, int]


def box_of(view: View, draws: Draws, size: tuple[int, int], device: torch.device) -> Box:
    """The box that is drawn for each sample of a batch of pictures of one size.

    Args:
        view: what is done.
        draws: random numbers of the B samples.
        size: (H, W) of the pictures.
        device: of the numbers.
    """
    draws = draws.for_all() if view.alike else draws
    out = size if view.crop_size is None else pair(view.crop_size)
    height, width = (torch.full((draws.rows,), float(side), device=device) for side in size)
    top = left = torch.zeros_like(height)
    if view.crop_scale is not None:
        top, left, height, width = _cropped(view, draws("crop").uniform(4).to(device), height, width)
    mirrored = draws("flip").chance(view.flip).to(device) if view.flip else None
    return Box(top, left, height, width, mirrored, out)


def boxes_in(
    view: View, draws: Sequence[Draws], sizes: Sequence[tuple[int, int]], out: tuple[int, int]
) -> tuple[Box, list[bool]]:
    """The box that is drawn for each of B pictures of any `sizes` (H, W); at whole pixels, but in small ones.

    Args:
        view: what is done; it has a `crop_scale`.
        draws: of each picture, a row.
        sizes: (H, W) of each.
        out: (h, w) of the view.

    Returns:
        The boxes, and which of them are mirrored.
    """
    height, width = torch.tensor(sizes, dtype=torch.float32).unbind(1)
    four = uniforms([own("crop") for own in draws], 4)[:, 0]
    top, left, tall, wide = _cropped(view, four, height, width)
    large = torch.minimum(height, width) > SMALL
    rows, columns = tall.round().clamp(min=1), wide.round().clamp(min=1)
    y, x = four[:, 2], four[:, 3]
    top = torch.where(large, (y * (height - rows + 1)).floor(), top)
    left = torch.where(large, (x * (width - columns + 1)).floor(), left)
    mirrored = uniforms([own("flip") for own in draws])[:, 0] < view.flip if view.flip else None
    found = Box(top, left, torch.where(large, rows, tall), torch.where(large, columns, wide), mirrored, out)
    return found, [False] * len(sizes) if mirrored is None else mirrored.tolist()


def _cropped(view: View, four: Tensor, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(top, left, height, width) (B,) of crops that uniform numbers `four` (B, 4) say, in pictures of these sides (B,).

    The area is a share drawn uniformly, the ratio of the sides log-uniform; a side that would stick out is cut to the
    picture's (torchvision draws again instead, which a batch cannot).
    """
    assert view.crop_scale is not None
    share, ratio, y, x = four.unbind(1)
    low, high = view.crop_scale
    area = (low + (high - low) * share) * (height * width)
    low, high = (math.log(bound) for bound in view.crop_ratio)
    ratio = torch.exp(low + (high - low) * ratio)
    tall = torch.minimum((area / ratio).sqrt(), height)
    wide = torch.minimum((area * ratio).sqrt(), width)
    return y * (height - tall), x * (width - wide), tall, wide


def least_side(view: View, height: int, width: int) -> float:
    """The fewest pixels that a side of a crop may have in a picture of this size."""
    assert view.crop_scale is not None
    low, high = view.crop_ratio
    return min(math.sqrt(view.crop_scale[0] * height * width * min(low, 1 / high)), height, width)


def box_places(coords: Tensor, box: Box, patch: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(middle, size) (B, N, 2) in the picture, in patches of it, of the view's patches.

    Args:
        coords: (B, N, 2) row and column of each in the view, in patches.
        box: that the view shows.
        patch: (height, width) in pixels.
    """
    (height, width), (ph, pw) = box.out, patch
    row, column = coords.float().unbind(-1)
    if box.mirrored is not None:
        column = torch.where(box.mirrored[:, None], width / pw - 1 - column, column)
    tall, wide = box.height[:, None] / height, box.width[:, None] / width
    middle = torch.stack(
        [box.top[:, None] / ph + (row + 0.5) * tall, box.left[:, None] / pw + (column + 0.5) * wide], -1
    )
    return middle, torch.stack([tall, wide], -1).expand_as(middle)
