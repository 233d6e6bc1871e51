"""Options of the video modality, and its `Preprocessor`: raw videos to clips of normalised pixels."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from mmssl import modality as base
from mmssl.errors import BadSample
from mmssl.modality import Inputs
from mmssl.modality.endings import VIDEOS
from mmssl.modality.looked import Looked, of_picture
from mmssl.modality.pixels.decode import adapt_channels
from mmssl.modality.pixels.moments import Survey, configured
from mmssl.modality.pixels.options import pair
from mmssl.modality.pixels.resample import fit_size
from mmssl.modality.raw import Array
from mmssl.modality.table import Column

from .decode import Wanted, read_clip
from .lengths import video_seconds
from .options import Config

ENOUGH = 200
"""Clips that mean and standard deviation are measured on, at most: each holds many frames."""

Sample = tuple[Array, Array]
"""Frames (T, H, W, C), uint8 or float32, and their times (T,) in seconds from the clip's start."""


class Preprocessor(base.Preprocessor[Sample]):
    """Videos to {"pixel_values": (B, T, C, H, W) float32 normalised, "times": (B, T) float32 seconds from the clip's
    start, "length": (B,) int64 frames, 0 = absent}. "length" is left out when every sample has T frames.

    state: `PixelState`, and fps: the frame rate.
    """

    reads = VIDEOS
    reads_else = (".gif", ".npy")
    kept_on_disk = True
    noun = "a video"
    fitted_by = "call fit(samples), or set channels, mean and std"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.size, self.background = pair(config.size), config.behind
        self.cover = (int(self.size[0] * config.margin + 1e-6), int(self.size[1] * config.margin + 1e-6))
        self.wanted = Wanted(
            config.frames, config.fps, 0, config.default_fps, config.channels, tuple(self.background), config.layout
        )
        known = configured(config)
        if known is not None and config.fps:
            self.state = {**known, "fps": float(config.fps)}

    @property
    def seconds(self) -> float | None:
        """How long a clip is; where frames are taken as they come, at the usual rate."""
        return self.config.frames / (self.config.fps or self.config.default_fps)

    def stretches(self, raw: object) -> list[tuple[float, float]] | None:
        """All of it, by the header of a file, which may lie in a table; arrays and lists of pictures stay whole."""
        file = raw.get("bytes") if isinstance(raw, Mapping) else raw
        file = bytes(file) if isinstance(file, memoryview) else file
        found = video_seconds(file) if isinstance(file, (Path, bytes)) else None
        return None if found is None else [(0.0, found)]

    def fits(self, column: Column) -> bool:
        """Files of the kind."""
        return column.media == "video"

    def fit(self, samples: Iterable[object]) -> Self:
        """Find the channel count, the frame rate, and mean and standard deviation of each channel after resizing.

        Raises:
            UserError: no sample can be read.
        """
        survey, rates = Survey(), []
        for frames, times in self.readable(samples, self._decode):
            survey.add(frames)
            if len(times) > 1 and times[-1] > 0:
                rates.append((len(times) - 1) / float(times[-1]))
            if survey.seen >= ENOUGH:
                break
        usual = statistics.median(rates) if rates else self.config.default_fps
        state = survey.state(self.config, "videos", grey_joins_colour=False)
        self.state = {**state, "fps": float(self.config.fps or usual)}
        return self

    def look(self, raw: object) -> Looked | None:
        """Pixels a side, frames, and the colours of the first frame."""
        clip = read_clip(raw, self.wanted)
        if clip is None:
            return None
        found = of_picture(clip[0][0])
        found.sizes["frames taken"] = float(len({id(frame) for frame in clip[0]}))
        return found

    def _decode(self, raw: object, choice: int = 0) -> Sample | None:
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

    def read(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw video to a clip.

        Args:
            raw: what `mmssl_video.decode.read_clip` takes.
            choice: picks where the clip starts in a longer video; 0 takes the beginning.

        Returns:
            Frames (T, H, W, C) and times (T,) in seconds; None when it is null.

        Raises:
            BadSample: it cannot be decoded, or its channels do not fit.
        """
        sample = self._decode(raw, choice)
        if sample is None:
            return None
        channels = self.fitted()["channels"]
        frames, times = sample
        if frames.shape[3] != channels:
            frames = np.stack([adapt_channels(frame, channels) for frame in frames])
        return frames, times

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """What `read` returned (None = absent), padded with zeros to the longest, in whole tubelets."""
        state = self.fitted()
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

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "size": list(self.size),
            "tubelet": self.config.tubelet,
            "patch": list(pair(self.config.patch)),
            "positions": self.config.positions,
            **self.fitted(),
        }
