"""What `fit` measures of images and clips: mean and standard deviation of each channel, and the range of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from ...errors import UserError
from ..raw import Array
from .options import PixelConfig


class PixelState(TypedDict):
    """What a fitted preprocessor of pixels knows, as JSON.

    mean, std: of each of the `channels`. unit_range: all values seen lay in 0..1.
    """

    channels: int
    mean: list[float]
    std: list[float]
    unit_range: bool


class Moments:
    """Running count, mean and sum of squared deviations of each channel, in float64 (Chan et al. 1983)."""

    def __init__(self, channels: int) -> None:
        self.count = np.zeros(channels)
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, pixels: Array) -> None:
        """Add those of pixels (..., C) that are not NaN."""
        pixels = pixels.reshape(-1, pixels.shape[-1]).astype(np.float64)
        there = ~np.isnan(pixels)
        count = there.sum(0)
        mean = np.where(there, pixels, 0).sum(0) / np.maximum(count, 1)
        squares = (np.where(there, pixels - mean, 0) ** 2).sum(0)
        self.merge(count, mean, squares)

    def merge(self, count: Array, mean: Array, squares: Array) -> None:
        """Add a set of pixels of which (C,) count, mean and sum of squared deviations are known."""
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


class Survey:
    """Images or clips as they are met: how many have how many channels, their moments, and the range of values.

    Moments are kept by channel count, as it is known only in the end which count the model has.
    """

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.moments: dict[int, Moments] = {}
        self.low, self.high = math.inf, -math.inf

    @property
    def seen(self) -> int:
        """How many were added."""
        return sum(self.counts.values())

    def add(self, values: Array) -> None:
        """Add an image or a clip (..., C); uint8 counts as 0..1."""
        pixels = values / np.float32(255) if values.dtype == np.uint8 else values
        channels = values.shape[-1]
        self.counts[channels] = self.counts.get(channels, 0) + 1
        self.moments.setdefault(channels, Moments(channels)).add(pixels)
        self.low, self.high = min(self.low, float(np.nanmin(pixels))), max(self.high, float(np.nanmax(pixels)))

    def state(self, config: PixelConfig, nouns: str, grey_joins_colour: bool) -> PixelState:
        """What the model is to know: of channel counts the most frequent wins, of equally frequent ones the larger.

        Args:
            config: channels, mean and std stand where they are set.
            nouns: what was added, for the message: "images".
            grey_joins_colour: grey and colour mixed are all seen as colour.

        Raises:
            UserError: nothing that was added has the configured channels.
        """
        mixed = grey_joins_colour and set(self.counts) == {1, 3}
        channels = config.channels or (3 if mixed else max(self.counts, key=lambda c: (self.counts[c], c)))
        known = self.moments.get(channels, Moments(channels))
        if grey_joins_colour and channels == 3 and 1 in self.moments:
            grey = self.moments[1]
            known.merge(grey.count.repeat(3), grey.mean.repeat(3), grey.squares.repeat(3))
        if not known.count.any() and (config.mean is None or config.std is None):
            raise UserError(f"channels: found {nouns} of {sorted(self.counts)} channels only, expected {channels}")
        mean = config.mean if config.mean is not None else known.mean.tolist()
        std = config.std if config.std is not None else known.std().tolist()
        unit_range = self.low >= 0 and self.high <= 1
        return _state(channels, mean, std, unit_range)


def configured(config: PixelConfig) -> PixelState | None:
    """What the model is to know where the user says it all, else None."""
    if config.channels is None or config.mean is None or config.std is None:
        return None
    return _state(config.channels, config.mean, config.std, True)


def _state(channels: int, mean: Sequence[float], std: Sequence[float], unit_range: bool) -> PixelState:
    return {
        "channels": channels,
        "mean": per_channel(mean, channels),
        "std": per_channel(std, channels),
        "unit_range": unit_range,
    }


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """One number a channel, where one number may stand for all of them; UserError for another count."""
    if len(values) not in (1, channels):
        raise UserError(f"mean, std: found {len(values)} numbers, expected one, or one for each of {channels} channels")
    return [float(v) for v in (values if len(values) == channels else list(values) * channels)]
