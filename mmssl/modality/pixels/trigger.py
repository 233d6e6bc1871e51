"""A backdoor's trigger in the frequencies of pictures, as defenders plant it to see what an encoder learns of it.

Li et al. 2023, "An Embarrassingly Simple Backdoor Attack on Self-supervised Learning" (CTRL, arXiv 2210.07346), section
3; meet-cjli/CTRL. A magnitude is added to two high bands of the discrete cosine transform of the colour channels of
YUV, block by block. The transform is linear, so that this is one fixed pattern, added to every block.

Shapes: B pictures, C channels, T frames (of clips only), H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 32
"""Pixels of a side of the blocks that are transformed."""
COLOURS = (1.14, -0.396 - 0.581, 2.029)
"""What red, green and blue get where U and V both get 1."""


def cosine(band: int, count: int, total: int) -> Tensor:
    """(total,) the orthonormal cosine (DCT-II) of a band over blocks of `count` values, block behind block."""
    place = torch.arange(total) % count
    scale = math.sqrt((1 if band == 0 else 2) / count)
    return scale * torch.cos(math.pi * (place + 0.5) * band / count)


def pattern(height: int, width: int, bands: Sequence[int]) -> Tensor:
    """(H, W) what is added where 1 is added to each band; blocks of the picture's own side where it is below 32."""
    sides = min(BLOCK, height), min(BLOCK, width)
    out = torch.zeros(height, width)
    for band in bands:
        down, across = (cosine(band * side // BLOCK, side, total) for side, total in zip(sides, out.shape, strict=True))
        out += torch.outer(down, across)
    return out


def with_trigger(x: Tensor, magnitude: float, bands: Sequence[int]) -> Tensor:
    """x (B, C, ..., H, W), values in 0..1, with the trigger of so much of 255; clamped to 0..1."""
    added = (magnitude / 255 * pattern(x.shape[-2], x.shape[-1], bands)).to(x)
    colours = x.new_tensor(COLOURS if x.shape[1] == 3 else [1.0] * x.shape[1])
    return (x + colours.view(-1, *[1] * (x.ndim - 2)) * added).clamp(0, 1)
