"""Augmented views of a batch of images or clips, on the batch's device, every sample with parameters of its own.

All parameters come from `mmssl.draws.Draws`: a sample's view depends on the key and its global row, not on the batch
size, the process or the device. Order: crop, flip, brightness, contrast, saturation, hue, gray, blur, solarize, noise
(SimCLR, Chen et al. 2020; solarize from BYOL, Grill et al. 2020); before all of them the style of another picture.

Cropping does not use `grid_sample`, which does not antialias: it would alias wherever a crop is larger than its
output, as local crops are. Resampling along an axis is a linear map, so each sample gets two small matrices (rows,
columns) and a batched product applies them. The weights are those of antialiased bilinear resizing in Pillow and in
`F.interpolate(antialias=True)`: a triangle as wide as the larger of an input and an output pixel. A box may lie
between pixels. Blur is the same product with Gaussian weights.

All frames of a clip undergo the same.

Shapes: B batch, C channels, T frames (of clips only), H, W input, h, w output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...draws import Draws
from ...errors import UserError
from ..view import check_rows
from .colour import change_contrast, change_hue, change_saturation, per_sample, to_gray
from .options import View, pair
from .style import standardise_style


def augment(
    pixels: Tensor, draws: Draws, view: View, mean: Sequence[float], std: Sequence[float], unit_range: bool
) -> Tensor:
    """Pixels to their view.

    NaN ("no such pixel") counts as the channel's mean on the way, moves along with crop and flip, and is NaN again in
    the result where most of the weight came from NaN.

    Args:
        pixels: (B, C, H, W) or (B, C, T, H, W), normalised.
        draws: random numbers of the B samples.
        view: what is done.
        mean: of each channel, which was subtracted.
        std: of each channel, which was divided by.
        unit_range: before normalisation values lie in 0..1, and are clamped to it.

    Returns:
        (B, C, ..., h, w), normalised.

    Raises:
        UserError: a colour step that these images cannot have.
    """
    check_rows(draws.rows, len(pixels))
    _check(view, pixels.shape[1], unit_range)
    with torch.autocast(pixels.device.type, enabled=False):  # products below would round pixels to half precision
        # an accelerator would wait for the answer, which costs it more than holes that are not there
        hole = None if pixels.device.type == "cpu" and bool(pixels.isfinite().all()) else pixels.isnan()
        pixels = pixels.float()
        if hole is not None:
            pixels = pixels.nan_to_num(0.0)
        if view.style is not None:
            pixels = standardise_style(pixels, draws("style"), (view.style[0], view.style[1]))
        if view.alike:
            draws = draws.for_all()
        if view.resamples:
            rows, columns = _crop_weights(view, draws, (pixels.shape[-2], pixels.shape[-1]), pixels.device)
            pixels = _apply(pixels, rows, columns)
            if hole is not None:
                hole = _apply(hole.to(pixels.dtype), rows, columns) > 0.5
        if view.changes_values:
            ones = [1] * (pixels.ndim - 2)
            centre, scale = (pixels.new_tensor(values).view(-1, *ones) for values in (mean, std))
            pixels = (_change_values(pixels * scale + centre, draws, view, unit_range) - centre) / scale
        if view.noise_std:
            pixels = pixels + view.noise_std * draws("noise").normal(*pixels.shape[1:]).to(pixels.device)
        return pixels if hole is None else pixels.masked_fill(hole, torch.nan)


def _check(view: View, channels: int, unit_range: bool) -> None:
    for name in ("saturation", "hue", "gray"):
        if getattr(view, name) and channels != 3:
            raise UserError(f"{name}: needs images of 3 channels, these have {channels}")
    for name in ("hue", "solarize"):
        if getattr(view, name) and not unit_range:
            raise UserError(f"{name}: needs 8- or 16-bit images or values in 0..1, these have others")


# -------------------------------------------------------------------------------------------------------- resampling


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
    """The box that is drawn for each sample.

    It has a share of the area drawn uniformly and a log-uniform ratio of its sides; a side that would stick out is cut
    to the image's (torchvision draws again instead, which a batch cannot).

    Args:
        view: what is done.
        draws: random numbers of the B samples.
        size: (H, W) of the pictures.
        device: of the numbers.
    """
    draws = draws.for_all() if view.alike else draws
    height, width = size
    out = size if view.crop_size is None else pair(view.crop_size)
    top = left = torch.zeros(draws.rows, device=device)
    box_h, box_w = top + height, top + width
    if view.crop_scale is not None:
        share, ratio, y, x = draws("crop").uniform(4).to(device).unbind(1)
        low, high = view.crop_scale
        area = (low + (high - low) * share) * (height * width)
        low, high = (math.log(bound) for bound in view.crop_ratio)
        ratio = torch.exp(low + (high - low) * ratio)
        box_h = (area / ratio).sqrt().clamp(max=height)
        box_w = (area * ratio).sqrt().clamp(max=width)
        top, left = y * (height - box_h), x * (width - box_w)
    mirrored = draws("flip").chance(view.flip).to(device) if view.flip else None
    return Box(top, left, box_h, box_w, mirrored, out)


def _crop_weights(view: View, draws: Draws, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows' weights (B, h, H) and the columns' (B, w, W) of each sample's box; flipped where it is mirrored."""
    box = box_of(view, draws, size, device)
    rows = resize_weights(box.top, box.height, size[0], box.out[0])
    columns = resize_weights(box.left, box.width, size[1], box.out[1])
    if box.mirrored is not None:
        columns = torch.where(box.mirrored[:, None, None], columns.flip(1), columns)
    return rows, columns


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


def resize_weights(start: Tensor, length: Tensor, count: int, out: int) -> Tensor:
    """(B, out, count): weights by which each of `out` pixels averages the `count` pixels of one axis.

    Args:
        start: (B,) where the stretch of the axis begins that the output covers, in pixels.
        length: (B,) of that stretch, in pixels.
        count: pixels of the axis.
        out: pixels of the output.
    """
    step = (length / out)[:, None, None]
    centre = start[:, None, None] + (torch.arange(out, device=start.device)[:, None] + 0.5) * step
    distance = (torch.arange(count, device=start.device) + 0.5 - centre).abs()
    weights = (1 - distance / step.clamp(min=1)).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def blur_weights(sigma: Tensor, count: int) -> Tensor:
    """(B, count, count): a Gaussian of sigma (B,) pixels, cut and renormalised at the borders; 0 blurs nothing."""
    place = torch.arange(count, device=sigma.device, dtype=torch.float32)
    squared = (place[:, None] - place).square()
    # exp(-inf) = 0 off the diagonal where sigma is 0, and 0 * inf would be NaN on it: hence the floor
    weights = torch.exp(-squared / (2 * sigma[:, None, None].square()).clamp(min=1e-12))
    return weights / weights.sum(2, keepdim=True)


def _apply(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """x (B, C, ..., H, W) by rows (B, h, H) and columns (B, w, W): (B, C, ..., h, w)."""
    ones = [1] * (x.ndim - 3)
    rows, columns = (m.reshape(len(m), *ones, *m.shape[1:]) for m in (rows, columns))
    return (rows @ x) @ columns.transpose(-2, -1)


# ------------------------------------------------------------------------------------------------------------ values


def _change_values(x: Tensor, draws: Draws, view: View, unit_range: bool) -> Tensor:
    """Jitter, gray, blur and solarize of un-normalised values x (B, C, ..., h, w)."""
    if view.jitters:
        x = _jitter(x, draws, view, unit_range)
    if view.gray:
        x = torch.where(per_sample(draws("gray").chance(view.gray), x), to_gray(x), x)
    if view.blur:
        low, high = view.blur_sigma
        sigma = draws("blur sigma").uniform(low=low, high=high) * draws("blur").chance(view.blur)
        sigma = sigma.to(x.device)
        x = _apply(x, blur_weights(sigma, x.shape[-2]), blur_weights(sigma, x.shape[-1]))
    if view.solarize:
        chosen = per_sample(draws("solarize").chance(view.solarize), x)
        x = torch.where(chosen & (x >= 0.5), 1 - x, x)
    return x


def _jitter(x: Tensor, draws: Draws, view: View, unit_range: bool) -> Tensor:
    chosen = draws("jitter").chance(view.jitter)

    def factor(name: str, strength: float) -> Tensor:
        drawn = draws(name).uniform(low=max(0.0, 1.0 - strength), high=1.0 + strength)
        return per_sample(torch.where(chosen, drawn, 1.0), x)

    def limited(values: Tensor) -> Tensor:
        return values.clamp(0, 1) if unit_range else values

    if view.brightness:
        x = limited(x * factor("brightness", view.brightness))
    if view.contrast:
        x = limited(change_contrast(x, factor("contrast", view.contrast)))
    if view.saturation:
        x = limited(change_saturation(x, factor("saturation", view.saturation)))
    if view.hue:
        shift = draws("hue").uniform(low=-view.hue, high=view.hue) * chosen
        x = change_hue(x, per_sample(shift, x))
    return x
