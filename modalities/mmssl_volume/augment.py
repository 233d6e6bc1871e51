"""Augmented views of a batch of volumes, on the batch's device, every sample with parameters of its own.

All parameters come from `mmssl.draws.Draws`: a sample's view depends on the key and its global row. Crops and flips are
three small matrices a sample, antialiased, as those of pictures are; turning takes the eight voxels around a place, in
units of voxels, so that a cube stays a cube, and beyond the border what lies on it.

Shapes: B batch, C channels, D, H, W voxels of the input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmssl.draws import Draws
from mmssl.modality.pixels.augment import blur_weights, resize_weights
from mmssl.modality.places import Places
from mmssl.modality.view import check_rows

from .options import Three, View, three


@dataclass(frozen=True)
class Boxes:
    """The part of each volume that a view shows: (B, 3) starts and sizes in voxels along slices, rows and columns,
    which axes run backwards in the view (B, 3), and the view's size in voxels."""

    start: Tensor
    size: Tensor
    mirrored: Tensor
    out: Three


def augment_volumes(voxels: Tensor, draws: Draws, view: View) -> Tensor:
    """Voxels (B, C, D, H, W), normalised, to their view (B, C, d, h, w).

    NaN ("no such voxel") counts as 0 on the way, moves along, and is NaN again where most of the weight came from NaN.
    """
    check_rows(draws.rows, len(voxels))
    with torch.autocast(voxels.device.type, enabled=False):
        voxels = voxels.float()
        # an accelerator would wait for the answer
        hole = None if voxels.device.type == "cpu" and bool(voxels.isfinite().all()) else voxels.isnan()
        x = voxels if hole is None else voxels.nan_to_num(0.0)
        gone = None if hole is None else hole.to(x.dtype)
        if view.rotate:
            grid = _turned(view, draws, x)
            x = _sampled(x, grid)
            gone = None if gone is None else _sampled(gone, grid)
        if view.resamples:
            boxes = boxes_of(view, draws, (x.shape[2], x.shape[3], x.shape[4]), x.device)
            weights = [_weights(boxes, axis, x.shape[2 + axis]) for axis in range(3)]
            x = _apply(x, weights)
            gone = None if gone is None else _apply(gone, weights)
        x = _values(x, draws, view)
        if gone is not None:
            x = x.masked_fill(gone > 0.5, torch.nan)
        return _dropped(x, draws, view) if view.drop and x.shape[1] > 1 else x


def boxes_of(view: View, draws: Draws, size: Three, device: torch.device) -> Boxes:
    """The box that is drawn for each sample: a share of the volume drawn uniformly, each side longer or shorter by a
    log-uniform ratio, and cut to the volume's.

    Args:
        view: what is done.
        draws: random numbers of the B samples.
        size: (D, H, W).
        device: of the numbers.
    """
    whole = torch.tensor(size, device=device, dtype=torch.float32).expand(draws.rows, -1)
    start, box = torch.zeros_like(whole), whole
    if view.crop_scale is not None:
        share, *rest = draws("crop").uniform(7).to(device).unbind(1)
        low, high = view.crop_scale
        side = (low + (high - low) * share) ** (1 / 3)
        low, high = (math.log(bound) for bound in view.crop_ratio)
        ratio = torch.exp(low + (high - low) * torch.stack(rest[:3], 1))
        box = (whole * side[:, None] * ratio).minimum(whole)
        start = torch.stack(rest[3:], 1) * (whole - box)
    chances = [draws("flip", axis).chance(p) if p else None for axis, p in enumerate(view.flips)]
    none = torch.zeros(draws.rows, dtype=torch.bool, device=device)
    mirrored = torch.stack([none if chance is None else chance.to(device) for chance in chances], 1)
    return Boxes(start, box, mirrored, size if view.crop_size is None else three(view.crop_size))


def places_in(coords: Tensor, boxes: Boxes, patch: tuple[int, ...]) -> Places:
    """Where the patches at coords (B, N, 3) of a view lie in the volume, in patches."""
    cut = torch.tensor(patch, device=coords.device, dtype=torch.float32)
    count = torch.tensor(boxes.out, device=coords.device) / cut
    place = torch.where(boxes.mirrored[:, None], count - 1 - coords, coords)
    size = boxes.size / torch.tensor(boxes.out, device=coords.device)
    return Places(boxes.start[:, None] / cut + (place + 0.5) * size[:, None], size[:, None].expand_as(coords))


def _weights(boxes: Boxes, axis: int, count: int) -> Tensor:
    weights = resize_weights(boxes.start[:, axis], boxes.size[:, axis], count, boxes.out[axis])
    return torch.where(boxes.mirrored[:, axis, None, None], weights.flip(1), weights)


def _apply(x: Tensor, weights: list[Tensor]) -> Tensor:
    """x (B, C, D, H, W) by a matrix (B, out, in) along each of the three axes."""
    for axis, matrix in enumerate(weights, 2):
        moved = x.movedim(axis, -1)
        x = (moved @ matrix[:, None, None].transpose(-2, -1)).movedim(-1, axis)
    return x


def _turned(view: View, draws: Draws, x: Tensor) -> Tensor:
    """(B, D, H, W, 3) places that the voxels of the turned volume are taken from, as `grid_sample` wants them: column,
    row, slice in -1 .. 1."""
    angles = math.radians(view.rotate) * draws("rotate").uniform(3, low=-1.0, high=1.0).to(x.device)
    turn = torch.eye(3, device=x.device).expand(len(x), -1, -1)
    for axis in range(3):
        one, other = (k for k in range(3) if k != axis)
        c, s = angles[:, axis].cos(), angles[:, axis].sin()
        about = torch.eye(3, device=x.device).repeat(len(x), 1, 1)
        about[:, one, one], about[:, one, other], about[:, other, one], about[:, other, other] = c, -s, s, c
        turn = about @ turn
    sides = torch.tensor(x.shape[2:][::-1], device=x.device, dtype=x.dtype)  # columns, rows, slices
    turn = turn * (sides / sides[:, None])  # in voxels, and back to shares of each side
    theta = torch.cat([turn, turn.new_zeros(len(x), 3, 1)], 2)
    return F.affine_grid(theta, list(x.shape), align_corners=False)


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _values(x: Tensor, draws: Draws, view: View) -> Tensor:
    """Blur, gain, shift and noise."""
    if view.blur:
        low, high = view.blur_sigma
        sigma = draws("blur sigma").uniform(low=low, high=high) * draws("blur").chance(view.blur)
        x = _apply(x, [blur_weights(sigma.to(x.device), side) for side in x.shape[2:]])
    each = (x.shape[0], x.shape[1], 1, 1, 1)
    if view.gain:
        x = x * draws("gain").uniform(x.shape[1], low=max(0.0, 1 - view.gain), high=1 + view.gain).to(x).view(each)
    if view.shift:
        x = x + draws("shift").uniform(x.shape[1], low=-view.shift, high=view.shift).to(x).view(each)
    if view.noise_std:
        x = x + view.noise_std * draws("noise").normal(*x.shape[1:]).to(x)
    return x


def _dropped(x: Tensor, draws: Draws, view: View) -> Tensor:
    """Without the channels that are drawn; of each sample one of those that it has stays."""
    there = ~x.isnan().flatten(2).all(2)
    drawn = draws("drop").uniform(x.shape[1]).to(x.device)
    last = drawn.masked_fill(~there, -1.0).argmax(1, keepdim=True)
    gone = (drawn < view.drop).scatter(1, last, False)
    return x.masked_fill(gone[:, :, None, None, None], torch.nan)
