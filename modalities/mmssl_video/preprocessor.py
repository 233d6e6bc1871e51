"""Options of the video modality, and its `Preprocessor`: raw videos to clips of normalised pixels."""

# No `from __future__ import annotations` here: @strict does not check types that are strings.

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from mmssl import modality as base
from mmssl.errors import BadSample, UserError
from mmssl.modality import Inputs
from mmssl.modality.pixels.decode import Array, adapt_channels
from mmssl.modality.pixels.moments import Moments, per_channel
from mmssl.modality.pixels.resample import fit_size, pair
from mmssl.options import option, strict

from .decode import Wanted, read_clip

ENOUGH = 200
"""Clips that mean and standard deviation are measured on, at most: each holds many frames."""

Sample = tuple[Array, Array]
"""Frames (T, H, W, C), uint8 or float32, and their times (T,) in seconds from the clip's start."""


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for videos; one number for a side means a square."""

    frames: int = option(16, min=1, help="frames of a clip, at most; shorter videos give fewer")
    fps: float | None = option(8.0, above=0, help="frames a second, whatever the file has; null: each as it comes")
    size: int | list[int] = option(224, min=1, help="height and width of the model's input in pixels")
    tubelet: int = option(2, min=1, help="frames of a patch")
    patch: int | list[int] = option(16, min=1, help="height and width of a patch in pixels")
    channels: int | None = option(None, min=1, help="channels of the model's input; null: as the data has")
    mean: list[float] | None = option(None, help="subtracted from each channel; null: measured on the data")
    std: list[float] | None = option(None, above=0, help="each channel is divided by it; null: measured on the data")
    resize: str = option("crop", choices=("crop", "squash", "pad"), help="how frames of another shape are made to fit")
    margin: float = option(1.0, min=1, help="of resize: crop: frames cover so many times the size before it is cut out")
    interpolation: str = option("bilinear", choices=("bicubic", "bilinear", "nearest"))
    background: int | list[int] = option(0, min=0, max=255, help="0..255, behind transparent pixels and in padding")
    positions: str = option("sincos", choices=("sincos", "index"), help="of time, row, column; or number")
    default_fps: float = option(25.0, above=0, help="of frame folders, lists and arrays that come without a rate")

    def __post_init__(self) -> None:
        for name in ("size", "patch"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) not in (1, 2):
                raise UserError(f"{name}: found {len(value)} numbers, expected one, or height and width")
        for side, cut, axis in zip(pair(self.size), pair(self.patch), ("height", "width"), strict=True):
            if side % cut:
                raise UserError(f"size: found a {axis} of {side}, expected a multiple of the patch's {cut}")
        if self.frames % self.tubelet:
            raise UserError(f"frames: found {self.frames}, expected a multiple of the tubelet's {self.tubelet}")
        if isinstance(self.background, list) and len(self.background) not in (1, 3):
            raise UserError(f"background: found {len(self.background)} numbers, expected 1 or 3")
        counts = {len(v) for v in (self.mean, self.std) if v is not None and len(v) != 1}
        if self.channels is not None:
            counts.add(self.channels)
        if 0 in counts or len(counts) > 1:
            raise UserError("mean, std: expected one number, or one a channel")


class Preprocessor(base.Preprocessor):
    """Videos to {"pixel_values": (B, T, C, H, W) float32 normalised, "times": (B, T) float32 seconds from the clip's
    start, "length": (B,) int64 frames, 0 = absent}. "length" is left out when every sample has T frames.

    state: channels, mean and std of each channel, unit_range (all values seen lay in 0..1), and the frame rate.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.size = pair(config.size)
        self.cover = (int(self.size[0] * config.margin + 1e-6), int(self.size[1] * config.margin + 1e-6))
        background = config.background
        self.background = [background] if isinstance(background, int) else list(background)
        self.wanted = Wanted(config.frames, config.fps, 0, config.default_fps, config.channels, tuple(self.background))
        if config.channels is not None and config.mean is not None and config.std is not None and config.fps:
            mean, std = (per_channel(v, config.channels) for v in (config.mean, config.std))
            self.state = {
                "channels": config.channels,
                "mean": mean,
                "std": std,
                "unit_range": True,
                "fps": float(config.fps),
            }

    def fit(self, samples: Iterable[Any]) -> Self:
        """Find the channel count, the frame rate, and mean and standard deviation of each channel after resizing.

        Raises UserError when no sample can be read.
        """
        counts: dict[int, int] = {}
        moments: dict[int, Moments] = {}
        rates: list[float] = []
        low, high = math.inf, -math.inf
        tried, reason = 0, ""
        for raw in samples:
            tried += 1
            try:
                sample = self._decode(raw, 0)
            except BadSample as error:  # the data pipeline meets it again, and puts it into quarantine
                reason = reason or str(error)
                continue
            if sample is None:
                continue
            frames, times = sample
            pixels = frames / np.float32(255) if frames.dtype == np.uint8 else frames
            channels = frames.shape[3]
            counts[channels] = counts.get(channels, 0) + 1
            moments.setdefault(channels, Moments(channels)).add(pixels.reshape(-1, 1, channels))
            low, high = min(low, float(np.nanmin(pixels))), max(high, float(np.nanmax(pixels)))
            if len(times) > 1 and times[-1] > 0:
                rates.append((len(times) - 1) / float(times[-1]))
            if sum(counts.values()) >= ENOUGH:
                break
        if not counts:
            raise UserError(f"none of {tried} samples could be read as a video" + (f": {reason}" if reason else ""))
        channels = self.config.channels or max(counts, key=lambda c: (counts[c], c))
        known = moments.get(channels, Moments(channels))
        if not known.count.any() and (self.config.mean is None or self.config.std is None):
            raise UserError(f"channels: found videos of {sorted(counts)} channels only, expected {channels}")
        mean = self.config.mean if self.config.mean is not None else known.mean.tolist()
        std = self.config.std if self.config.std is not None else known.std().tolist()
        self.state = {
            "channels": channels,
            "mean": per_channel(mean, channels),
            "std": per_channel(std, channels),
            "unit_range": low >= 0 and high <= 1,
            "fps": float(self.config.fps or (statistics.median(rates) if rates else self.config.default_fps)),
        }
        return self

    def _decode(self, raw: Any, choice: int) -> Sample | None:
        """Raw to frames of the model's size; C is that of the video unless it is configured."""
        clip = read_clip(raw, replace(self.wanted, choice=choice))
        if clip is None:
            return None
        config, fitted = self.config, []
        known: dict[int, Array] = {}
        for frame in clip[0]:
            if id(frame) not in known:  # a frame that is shown at several times
                one = frame if config.channels is None else adapt_channels(frame, config.channels)
                known[id(frame)] = fit_size(
                    one, self.size, config.resize, config.interpolation, self.background, self.cover
                )
            fitted.append(known[id(frame)])
        if len({frame.shape[2] for frame in fitted}) > 1 or len({frame.dtype for frame in fitted}) > 1:
            raise BadSample("frames of one video differ in their channels or number type")
        return np.stack(fitted), np.asarray(clip[1], dtype=np.float32)

    def read(self, raw: Any, choice: int = 0) -> Sample | None:
        """One raw video to (frames (T, H, W, C), times (T,)). Raises BadSample; None when it is null.

        Of a video longer than a clip, `choice` picks where it starts; 0 takes the beginning.
        """
        sample = self._decode(raw, choice)
        if sample is None:
            return None
        channels = self._fitted()["channels"]
        frames, times = sample
        if frames.shape[3] != channels:
            frames = np.stack([adapt_channels(frame, channels) for frame in frames])
        return frames, times

    def collate(self, samples: Sequence[Any]) -> Inputs:
        """What `read` returned (None = absent), padded with zeros to the longest, in whole tubelets."""
        state = self._fitted()
        cut = self.config.tubelet
        lengths = [0 if sample is None else len(sample[1]) for sample in samples]
        longest = -(-max([*lengths, 1]) // cut) * cut
        pixels = torch.zeros(len(samples), longest, state["channels"], *self.size)
        times = torch.zeros(len(samples), longest)
        mean, std = (torch.tensor(state[name])[:, None, None] for name in ("mean", "std"))
        for row, clock, sample in zip(pixels, times, samples, strict=True):
            if sample is None:
                continue
            frames, seconds = sample
            row, count = row[: len(frames)], len(seconds)
            row.copy_(torch.from_numpy(frames).permute(0, 3, 1, 2))
            if frames.dtype == np.uint8:
                row.div_(255)
            row.sub_(mean).div_(std)
            clock[:count] = torch.from_numpy(seconds)
        inputs = {"pixel_values": pixels, "times": times}
        if lengths and min(lengths) == longest:
            return inputs
        return inputs | {"length": torch.tensor(lengths, dtype=torch.int64)}

    def sizes(self) -> dict[str, Any]:
        return {
            "size": list(self.size),
            "tubelet": self.config.tubelet,
            "patch": list(pair(self.config.patch)),
            "positions": self.config.positions,
            **self._fitted(),
        }

    def _fitted(self) -> dict[str, Any]:
        if not self.state:
            raise UserError("the video preprocessor is not fitted: call fit(samples), or set channels, mean and std")
        return self.state
