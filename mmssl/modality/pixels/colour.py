"""Colour operations on batches of images x (B, C, H, W) or clips (B, C, T, H, W), a parameter for each sample
(B, 1, 1, ...). RGB values lie in 0..1.

They compute what torchvision's `adjust_*` compute for one image at a time (and tests compare the two).
"""

from __future__ import annotations

import torch
from torch import Tensor


def per_sample(parameter: Tensor, x: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, ...), as many axes as x has, on its device."""
    return parameter.to(x.device).view(-1, *[1] * (x.ndim - 1))


def to_gray(x: Tensor) -> Tensor:
    """RGB to luma (B, 1, ...), ITU-R 601."""
    red, green, blue = x.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def change_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the mean of the image (of the clip): of its luma for RGB, otherwise of each channel by
    itself, as the channels of a multispectral image have scales of their own."""
    axes = tuple(range(2, x.ndim))
    mean = to_gray(x).mean(axes, keepdim=True) if x.shape[1] == 3 else x.mean(axes, keepdim=True)
    return mean + factor * (x - mean)


def change_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards each pixel's luma."""
    gray = to_gray(x)
    return gray + factor * (x - gray)


def change_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` of the colour circle, keeping HSV's saturation and value."""
    x = x.clamp(0, 1)
    high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    chroma = high - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    red, green, blue = x.split(1, dim=1)
    sector = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * shift
    # each channel is a trapezium over the circle of six sectors (Smith 1978, in closed form)
    offset = torch.tensor([5.0, 3.0, 1.0], device=x.device).view(3, *[1] * (x.ndim - 2))
    k = (offset + sector) % 6
    return high - chroma * torch.minimum(k, 4 - k).clamp(0, 1)
