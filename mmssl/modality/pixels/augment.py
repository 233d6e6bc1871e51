"""Augmented views of a batch of images or clips, on the batch's device, every sample with parameters of its own.

All parameters come from `mmssl.draws.Draws`: a sample's view depends on the key and its global row, not on the batch
size, the process or the device. Order: crop, flip, brightness, contrast, saturation, hue, gray, blur, solarize, noise
(SimCLR, Chen et al. 2020; solarize from BYOL, Grill et al. 2020); before all of them the style of another picture, and
before the noise a backdoor's trigger (`.trigger`).

Cropping does not use `grid_sample`, which does not antialias: it would alias wherever a crop is larger than its
output, as local crops are. Resampling along an axis is a linear map, so each sample gets two small matrices (rows,
columns) and a batched product applies them. The weights are those of antialiased bilinear resizing in Pillow and in
`F.interpolate(antialias=True)`: a triangle as wide as the larger of an input and an output pixel. A box may lie
between pixels. Blur is the same product with Gaussian weights.

What a reader cut out of the pictures as they were recorded (`.cutting`) is cropped and flipped already: `augment_cut`.

All frames of a clip undergo the same.

Shapes: B batch, C channels, T frames (of clips only), H, W input, h, w output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...draws import Draws
from ...errors import UserError
from ..view import check_rows
from .boxes import box_of
from .colour import change_contrast, change_hue, change_saturation, per_sample, to_gray
from .options import View
from .style import standardise_style
from .trigger import with_trigger


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
        return _with_noise(pixels, hole, draws, view)


def augment_cut(
    cut: Tensor, draws: Draws, view: View, mean: Sequence[float], std: Sequence[float], unit_range: bool
) -> Tensor:
    """What a reader cut out for a view (B, C, h, w), uint8 or float32 before normalisation, to the view (B, C, h, w),
    normalised: colour, blur and noise. The other arguments, NaN and errors are those of `augment`."""
    check_rows(draws.rows, len(cut))
    _check(view, cut.shape[1], unit_range)
    with torch.autocast(cut.device.type, enabled=False):
        pixels, whole = cut.float(), cut.dtype == torch.uint8
        centre, scale = (pixels.new_tensor(values).view(-1, 1, 1) for values in (mean, std))
        hole = None if whole else pixels.isnan()
        if hole is not None:
            pixels = torch.where(hole, centre, pixels)
        if view.changes_values:
            pixels = _change_values(pixels.div_(255) if whole else pixels, draws, view, unit_range)
        elif whole:
            centre, scale = centre * 255, scale * 255
        return _with_noise(pixels.sub_(centre).div_(scale), hole, draws, view)


def _with_noise(pixels: Tensor, hole: Tensor | None, draws: Draws, view: View) -> Tensor:
    """The last step: noise, and NaN again where nothing is."""
    if view.noise_std:
        pixels = pixels + view.noise_std * draws("noise").normal(*pixels.shape[1:]).to(pixels.device)
    return pixels if hole is None else pixels.masked_fill(hole, torch.nan)


def _check(view: View, channels: int, unit_range: bool) -> None:
    for name in ("saturation", "hue", "gray"):
        if getattr(view, name) and channels != 3:
            raise UserError(f"{name}: needs images of 3 channels, these have {channels}")
    for name in ("hue", "solarize", "trigger"):
        if getattr(view, name) and not unit_range:
            raise UserError(f"{name}: needs 8- or 16-bit images or values in 0..1, these have others")


# -------------------------------------------------------------------------------------------------------- resampling


def _crop_weights(view: View, draws: Draws, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows' weights (B, h, H) and the columns' (B, w, W) of each sample's box; flipped where it is mirrored."""
    box = box_of(view, draws, size, device)
    rows = resize_weights(box.top, box.height, size[0], box.out[0])
    columns = resize_weights(box.left, box.width, size[1], box.out[1])
    if box.mirrored is not None:
        columns = torch.where(box.mirrored[:, None, None], columns.flip(1), columns)
    return rows, columns


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
    return with_trigger(x, view.trigger, view.trigger_bands) if view.trigger else x


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
