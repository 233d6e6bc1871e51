"""One volume to the grid of voxels of the model, antialiased, axis by axis.

Weights are those of `mmssl.modality.pixels.augment`: a triangle as wide as the larger of a voxel of the input and of
the output. Voxels whose middle lies outside the volume are NaN: nothing is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmssl.modality.pixels.augment import resize_weights

from .options import Three


def steps_of(
    shape: Sequence[int], spacing: Sequence[float] | None, size: Three, wanted: Sequence[float] | None, how: str
) -> list[float]:
    """How many voxels of the input a voxel of the output reaches over, along each axis.

    Args:
        shape: voxels of the input.
        spacing: mm between them; None: the same along all axes.
        size: voxels of the output.
        wanted: mm between those; None: as `how` says.
        how: "squash": all of the input along each axis; "pad": all of it in its proportions; "crop": as "pad", but
            nothing is left empty.
    """
    own = [1.0, 1.0, 1.0] if spacing is None else [float(s) for s in spacing]
    if wanted is not None:
        return [w / s for w, s in zip(wanted, own, strict=True)]
    if how == "squash":
        return [n / out for n, out in zip(shape, size, strict=True)]
    each = [n * s / out for n, s, out in zip(shape, own, size, strict=True)]  # mm of an output voxel that just fits
    common = max(each) if how == "pad" else min(each)
    return [common / s for s in own]


def resampled(volume: Tensor, size: Three, steps: Sequence[float]) -> Tensor:
    """(C, *size) of (C, slices, rows, columns) float32, about their common middle.

    Args:
        volume: NaN where a voxel does not exist.
        size: voxels of the output.
        steps: see `steps_of`.
    """
    there = ~volume.isnan()
    whole = bool(there.all())
    out, share = volume if whole else volume.nan_to_num(0.0), None if whole else there.to(volume.dtype)
    outside = []
    for axis, (count, step) in enumerate(zip(size, steps, strict=True), 1):
        own = volume.shape[axis]
        start = (own - count * step) / 2
        middle = start + (torch.arange(count, dtype=torch.float64) + 0.5) * step
        outside.append((middle < 0) | (middle > own))
        if count == own and step == 1:
            continue
        begin, length = (torch.tensor([value], dtype=torch.float64) for value in (start, count * step))
        weights = resize_weights(begin, length, own, count)[0].nan_to_num(0.0).to(volume.dtype)
        out = _along(out, weights, axis)
        share = None if share is None else _along(share, weights, axis)
    if share is not None:
        out = torch.where(share > 0.5, out / share.clamp(min=0.5), torch.nan)
    slices, rows, columns = outside
    gone = slices[:, None, None] | rows[:, None] | columns
    return out.masked_fill(gone, torch.nan) if bool(gone.any()) else out


def _along(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    return (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)
