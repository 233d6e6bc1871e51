"""Options of the image modality, and its `Preprocessor`: raw images to normalised pixels."""

# No `from __future__ import annotations` here: @strict does not check types that are strings.

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mmssl import modality as base
from mmssl.errors import BadSample, UserError
from mmssl.modality import Inputs
from mmssl.modality.pixels.decode import Array, adapt_channels, decode
from mmssl.modality.pixels.moments import Moments, per_channel
from mmssl.modality.pixels.resample import fit_size, pair
from mmssl.options import option, strict

ENOUGH_WHEN_CONFIGURED = 100


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for images; one number for a side means a square."""

    size: int | list[int] = option(224, min=1, help="height and width of the model's input in pixels")
    patch: int | list[int] = option(16, min=1, help="height and width of a patch in pixels")
    channels: int | None = option(None, min=1, help="channels of the model's input; null: as the data has")
    mean: list[float] | None = option(None, help="subtracted from each channel; null: measured on the data")
    std: list[float] | None = option(None, above=0, help="each channel is divided by it; null: measured on the data")
    resize: str = option("crop", choices=("crop", "squash", "pad"), help="how an image of another shape is made to fit")
    interpolation: str = option("bicubic", choices=("bicubic", "bilinear", "nearest"))
    background: int | list[int] = option(255, min=0, max=255, help="0..255, behind transparent pixels and in padding")
    positions: str = option("sincos", choices=("sincos", "learned"))

    def __post_init__(self) -> None:
        for name in ("size", "patch"):
            _one_or_two(getattr(self, name), name)
        size, patch = pair(self.size), pair(self.patch)
        for side, cut, axis in zip(size, patch, ("height", "width"), strict=True):
            if side % cut:
                raise UserError(f"size: found a {axis} of {side}, expected a multiple of the patch's {cut}")
        if isinstance(self.background, list) and len(self.background) not in (1, 3):
            raise UserError(f"background: found {len(self.background)} numbers, expected 1 or 3")
        counts = {len(v) for v in (self.mean, self.std) if v is not None and len(v) != 1}
        if self.channels is not None:
            counts.add(self.channels)
        if 0 in counts or len(counts) > 1:
            raise UserError("mean, std: expected one number, or one a channel")


def _one_or_two(value: int | list[int], name: str) -> None:
    if isinstance(value, list) and len(value) not in (1, 2):
        raise UserError(f"{name}: found {len(value)} numbers, expected one, or height and width")


class Preprocessor(base.Preprocessor):
    """Images to {"pixel_values": (B, C, H, W) float32 normalised, "present": (B,) bool, left out when all are}.

    state: channels, mean and std of each channel, and unit_range: all values seen lay in 0..1.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.size = pair(config.size)
        background = config.background
        self.background = [background] if isinstance(background, int) else list(background)
        if config.channels is not None and config.mean is not None and config.std is not None:
            mean, std = (per_channel(v, config.channels) for v in (config.mean, config.std))
            self.state = {"channels": config.channels, "mean": mean, "std": std, "unit_range": True}

    def fit(self, samples: Iterable[Any]) -> Self:
        """Find the channel count, and mean and standard deviation of each channel after resizing.

        Grey and colour images mixed are seen as colour; of other counts the most frequent wins, and images that do
        not fit it are broken samples later. Raises UserError when no sample can be read.
        """
        counts: dict[int, int] = {}
        moments: dict[int, Moments] = {}
        low, high = math.inf, -math.inf
        tried, reason = 0, ""
        configured = None not in (self.config.channels, self.config.mean, self.config.std)
        for raw in samples:
            tried += 1
            try:
                image = self._decode(raw)
            except BadSample as error:  # the data pipeline meets it again, and puts it into quarantine
                reason = reason or str(error)
                continue
            if image is None:
                continue
            pixels = image / np.float32(255) if image.dtype == np.uint8 else image
            channels = image.shape[2]
            counts[channels] = counts.get(channels, 0) + 1
            moments.setdefault(channels, Moments(channels)).add(pixels)
            low, high = min(low, float(np.nanmin(pixels))), max(high, float(np.nanmax(pixels)))
            if configured and sum(counts.values()) >= ENOUGH_WHEN_CONFIGURED:
                break
        if not counts:
            raise UserError(f"none of {tried} samples could be read as an image" + (f": {reason}" if reason else ""))
        self._learn(counts, moments, unit_range=low >= 0 and high <= 1)
        return self

    def _learn(self, counts: dict[int, int], moments: dict[int, Moments], unit_range: bool) -> None:
        channels = 3 if set(counts) == {1, 3} else max(counts, key=lambda c: (counts[c], c))
        channels = self.config.channels or channels
        known = moments.get(channels, Moments(channels))
        if channels == 3 and 1 in moments:
            grey = moments[1]
            known.merge(grey.count.repeat(3), grey.mean.repeat(3), grey.squares.repeat(3))
        if not known.count.any() and (self.config.mean is None or self.config.std is None):
            raise UserError(f"channels: found images of {sorted(counts)} channels only, expected {channels}")
        mean = self.config.mean if self.config.mean is not None else known.mean.tolist()
        std = self.config.std if self.config.std is not None else known.std().tolist()
        mean, std = per_channel(mean, channels), per_channel(std, channels)
        self.state = {"channels": channels, "mean": mean, "std": std, "unit_range": unit_range}

    def _decode(self, raw: Any) -> Array | None:
        """Raw to (H, W, C) uint8 or float32 of the model's size; C is that of the image unless it is configured."""
        image = decode(raw, self.background, self.config.channels)
        if image is None:
            return None
        if self.config.channels is not None:
            image = adapt_channels(image, self.config.channels)
        return fit_size(image, self.size, self.config.resize, self.config.interpolation, self.background)

    def read(self, raw: Any, choice: int = 0) -> Array | None:
        """One raw image to (H, W, C) uint8, or float32 where it was no 8-bit image, of the model's size.

        Raises BadSample when it cannot be decoded or its channels do not fit. None when it is null.
        """
        image = self._decode(raw)
        return None if image is None else adapt_channels(image, self._fitted()["channels"])

    def collate(self, samples: Sequence[Any]) -> Inputs:
        """What `read` returned (None = absent) to normalised pixels; absent rows are zero."""
        state = self._fitted()
        pixels = torch.zeros(len(samples), state["channels"], *self.size)
        for row, image in zip(pixels, samples, strict=True):
            if image is not None:
                row.copy_(_channels_first(image))
                if image.dtype == np.uint8:
                    row.div_(255)
        pixels.sub_(torch.tensor(state["mean"])[:, None, None]).div_(torch.tensor(state["std"])[:, None, None])
        present = torch.tensor([image is not None for image in samples], dtype=torch.bool)
        if bool(present.all()):
            return {"pixel_values": pixels}
        pixels[~present] = 0
        return {"pixel_values": pixels, "present": present}

    def sizes(self) -> dict[str, Any]:
        return {
            "size": list(self.size),
            "patch": list(pair(self.config.patch)),
            "positions": self.config.positions,
            **self._fitted(),
        }

    def _fitted(self) -> dict[str, Any]:
        if not self.state:
            raise UserError("the image preprocessor is not fitted: call fit(samples), or set channels, mean and std")
        return self.state


def _channels_first(image: Array) -> Tensor:
    image = np.ascontiguousarray(image)
    if not image.flags.writeable:  # Pillow's own memory; torch warns about sharing it
        image = image.copy()
    return torch.from_numpy(image).permute(2, 0, 1)
