"""One decoded image to the size of the model's input. Pillow's resampling, which antialiases when it shrinks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from .decode import Array, pillow
from .in_place import with_fourth

Box = tuple[float, float, float, float]


def fit_size(
    array: Array,
    size: tuple[int, int],
    how: str,
    interpolation: str,
    background: Sequence[int],
    cover: tuple[int, int] | None = None,
) -> Array:
    """(h, w, C) uint8, uint16 or float32 to (H, W, C): uint8 stays, uint16 becomes float32 / 65535.

    Args:
        array: (h, w, C); NaN says that a pixel does not exist.
        size: (H, W).
        how: "squash" stretches; "crop" covers the target and cuts what is over on both sides, in whole pixels of what
            was resized, as stock processors do; "pad" fits the whole image in and fills both sides with the background
            (NaN, "no such pixel", in arrays that were no 8- or 16-bit image: their units have no background).
        interpolation: "bicubic", "bilinear" or "nearest", as Pillow has them.
        background: 1 or 3 numbers of 0..255.
        cover: what "crop" covers, where that is larger than the target.
    """
    padding: Sequence[float] = [float("nan")]
    if array.dtype != np.float32:
        padding = _per_channel(background, array.shape[2])
    if array.dtype == np.uint16:
        padding = [p / 255 for p in padding]
    h, w = array.shape[:2]
    height, width = size
    whole = (0.0, 0.0, float(w), float(h))
    if how == "squash":
        return _resize(array, size, whole, interpolation)
    if how == "crop":
        return _resize(array, size, _cut((h, w), size, cover or size), interpolation)
    if how != "pad":
        raise ValueError(f"unknown way to resize '{how}'")
    inner = _inner((h, w), size)
    out = np.empty((height, width, array.shape[2]), dtype=np.uint8 if array.dtype == np.uint8 else np.float32)
    out[:] = padding
    y, x = (height - inner[0]) // 2, (width - inner[1]) // 2
    out[y : y + inner[0], x : x + inner[1]] = _resize(array, inner, whole, interpolation)
    return out


def _inner(whole: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of what is padded."""
    scale = min(wanted / side for wanted, side in zip(size, whole, strict=True))
    first, last = (max(1, min(most, round(side * scale))) for most, side in zip(size, whole, strict=True))
    return first, last


def shown(whole: tuple[int, int], size: tuple[int, int], how: str) -> Box:
    """The box of an image (h, w) that `fit_size` brings to `size`; it reaches beyond the image where that is padded."""
    if how == "squash":
        return 0.0, 0.0, float(whole[1]), float(whole[0])
    if how == "crop":
        return _cut(whole, size, size)
    sides = []
    for side, wanted, inner in zip(whole, size, _inner(whole, size), strict=True):
        first = -((wanted - inner) // 2) * side / inner
        sides.append((first, first + wanted * side / inner))
    (top, bottom), (left, right) = sides
    return left, top, right, bottom


def resize_part(array: Array, size: tuple[int, int], box: Box, interpolation: str, fill: Sequence[float]) -> Array:
    """The box of (h, w, C), as `fit_size` would resample it: (H, W, C) uint8, or float32 where the array is no uint8.

    A box of whole pixels of an 8-bit picture is resampled by torch, whose integer code is several times as fast as
    Pillow's and the same to within a level. NaN counts as the channel's `fill` (C,), and is NaN again where most of the
    weight came from it.
    """
    left, top, right, bottom = (int(edge) for edge in box)
    if array.dtype == np.uint8 and interpolation != "nearest" and box == (left, top, right, bottom):
        part = torch.from_numpy(with_fourth(array[top:bottom, left:right]).copy()).permute(2, 0, 1)[None]
        out: Array = F.interpolate(part, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
        return out[..., : array.shape[2]]
    if array.dtype != np.float32 or not (hole := np.isnan(array)).any():
        return _resize(array, size, box, interpolation)
    filled = _resize(np.where(hole, np.asarray(fill, np.float32), array), size, box, interpolation)
    return np.where(_resize(hole.astype(np.float32), size, box, "bilinear") > 0.5, np.float32("nan"), filled)


def _cut(whole: tuple[int, int], size: tuple[int, int], cover: tuple[int, int]) -> Box:
    """The box of an image (h, w) that a stock processor's resizing to `cover` and its cut of `size` come to.

    It resizes the tighter side to `cover`, the other in proportion, rounded down, and cuts at half of what is over,
    rounded down.
    """
    scale = max(over / side for over, side in zip(cover, whole, strict=True))
    first, last = [], []
    for side, wanted, over in zip(whole, size, cover, strict=True):
        resized = over if over / side == scale else int(side * scale + 1e-6)
        start = (resized - wanted) // 2
        first.append(start * side / resized)
        last.append(min((start + wanted) * side / resized, float(side)))
    return first[1], first[0], last[1], last[0]


def _per_channel(background: Sequence[int], channels: int) -> Sequence[float]:
    """One background number a channel: colour for three channels, else its mean for each."""
    if channels == len(background):
        return background
    return [sum(background) / len(background)] * channels


def _resize(array: Array, size: tuple[int, int], box: Box, interpolation: str) -> Array:
    """The box (left, top, right, bottom) of (h, w, C), in pixels, resampled to size (H, W); uint16 becomes float32."""
    h, w, channels = array.shape
    if (h, w) == size and box == (0.0, 0.0, float(w), float(h)):
        return _in_units(array)
    image_module = pillow()
    resample = image_module.Resampling[interpolation.upper()]
    target = (size[1], size[0])
    if array.dtype == np.uint8 and channels == 3:
        image = image_module.fromarray(np.ascontiguousarray(array))
        return np.asarray(image.resize(target, resample, box=box))
    planes = [
        np.asarray(image_module.fromarray(np.ascontiguousarray(_in_units(part))).resize(target, resample, box=box))
        for part in (array[..., c] for c in range(channels))  # one at a time, for floats of a large picture take room
    ]
    out = np.stack(planes, axis=-1)
    if array.dtype != np.uint8 and interpolation == "bicubic":
        # cubic weights overshoot at edges; 8-bit images are clipped to their range by Pillow, the others here
        least, most = (_in_units(np.asarray(end)) for end in (np.nanmin(array), np.nanmax(array)))
        out = np.clip(out, least, most)
    return out


def _in_units(array: Array) -> Array:
    """uint16 as float32 in 0..1, anything else as it is."""
    return array.astype(np.float32) / np.float32(65535) if array.dtype == np.uint16 else array
