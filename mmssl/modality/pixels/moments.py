"""Mean and standard deviation of each channel over many images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import UserError
from .decode import Array


class Moments:
    """Running count, mean and sum of squared deviations of each channel, in float64 (Chan et al. 1983)."""

    def __init__(self, channels: int) -> None:
        self.count = np.zeros(channels)
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, image: Array) -> None:
        """Add the pixels of (H, W, C) that are not NaN."""
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
        there = ~np.isnan(pixels)
        count = there.sum(0)
        mean = np.where(there, pixels, 0).sum(0) / np.maximum(count, 1)
        squares = (np.where(there, pixels - mean, 0) ** 2).sum(0)
        self.merge(count, mean, squares)

    def merge(self, count: Array, mean: Array, squares: Array) -> None:
        total = np.maximum(self.count + count, 1)
        shift = mean - self.mean
        self.squares = self.squares + squares + shift**2 * self.count * count / total
        self.mean = self.mean + shift * count / total
        self.count = self.count + count

    def std(self) -> Array:
        """Population standard deviation; 1 for a channel that is constant but for rounding."""
        std = np.sqrt(self.squares / np.maximum(self.count, 1))
        out: Array = np.where(std > 1e-6 * np.abs(self.mean), std, 1.0)
        return out


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """One number a channel, where one number may stand for all of them."""
    if len(values) not in (1, channels):
        raise UserError(f"mean, std: found {len(values)} numbers, expected one, or one for each of {channels} channels")
    return [float(v) for v in (values if len(values) == channels else list(values) * channels)]
