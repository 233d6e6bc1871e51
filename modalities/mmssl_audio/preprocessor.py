"""Options of the audio modality, and its `Preprocessor`: raw sound to padded waveforms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from mmssl import modality as base
from mmssl.errors import BadSample, UserError
from mmssl.modality import Inputs
from mmssl.modality.raw import Array
from mmssl.options import option, strict

from .decode import read_sound
from .mel import LogMel

ENOUGH_SECONDS = 1800.0
"""Sound that mean and standard deviation are measured on, at most."""


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for sound. The defaults are the Audio Spectrogram Transformer's (Gong et al. 2021)."""

    rate: int = option(16000, min=100, help="samples a second of the model's input; sound is resampled to it")
    seconds: float | None = option(10.24, above=0, help="the longest stretch taken of a sound; null: all of it")
    features: str = option("mel", choices=("mel", "waveform"), help="what patches are cut from")
    mel_bins: int = option(128, min=1)
    window_ms: float = option(25.0, above=0, help="length of the frame that a spectrum is taken of")
    shift_ms: float = option(10.0, above=0, help="from one frame to the next")
    patch: int | list[int] | None = option(
        None, min=1, help="mel: [frames, mel bins], null 16 x 16; waveform: samples, null 25 ms"
    )
    stride: int | list[int] | None = option(
        None, min=1, help="mel: [frames, mel bins] from one patch to the next; null: the patch's own sides"
    )
    positions: str = option(
        "sincos", choices=("sincos", "learned"), help="learned: a table over the patches of `seconds`, as in AST"
    )
    mean: float | None = option(None, help="of the features, subtracted; null: measured on the data")
    std: float | None = option(None, above=0, help="the features are divided by it; null: measured on the data")

    def __post_init__(self) -> None:
        if self.features == "waveform":
            if isinstance(self.patch, list) and len(self.patch) != 1:
                raise UserError(f"patch: found {self.patch}, expected one number of samples for features: waveform")
        elif isinstance(self.patch, list) and len(self.patch) != 2:
            raise UserError(f"patch: found {self.patch}, expected one number, or [frames, mel bins]")
        elif isinstance(self.stride, list) and len(self.stride) != 2:
            raise UserError(f"stride: found {self.stride}, expected one number, or [frames, mel bins]")
        elif self.steps[0] > self.sides[0] or self.steps[1] > self.sides[1]:
            raise UserError(f"stride: found {list(self.steps)}, expected at most the patch, {list(self.sides)}")
        elif self.mel_bins < self.sides[1] or (self.steps[1] == self.sides[1] and self.mel_bins % self.sides[1]):
            raise UserError(f"mel_bins: found {self.mel_bins}, expected a multiple of the patch's {self.sides[1]}")
        if self.features == "waveform" and self.stride is not None:
            raise UserError(f"stride: found {self.stride}, expected null with features: waveform")
        if self.positions == "learned" and self.seconds is None:
            raise UserError("positions: found learned, expected sincos where seconds is null: a table has an end")
        if self.window < 2 or self.shift < 1:
            raise UserError(
                f"window_ms, shift_ms: found {self.window_ms:g} and {self.shift_ms:g}, that is {self.window} and "
                f"{self.shift} samples at {self.rate} Hz, expected at least 2 and 1"
            )
        if self.seconds is not None and self.seconds * self.rate < self.least:
            raise UserError(f"seconds: found {self.seconds:g}, expected at least the {self.least} samples of one frame")

    @property
    def window(self) -> int:
        """Samples of a frame, rounded down as in Kaldi."""
        return int(self.rate * self.window_ms * 0.001)

    @property
    def shift(self) -> int:
        """Samples from one frame to the next, rounded down."""
        return int(self.rate * self.shift_ms * 0.001)

    @property
    def sides(self) -> tuple[int, int]:
        """(frames, mel bins) of a patch; (samples, 1) of the waveform's."""
        if self.patch is None:
            return (16, 16) if self.features == "mel" else (max(int(self.rate * 0.025), 1), 1)
        sides = [self.patch] if isinstance(self.patch, int) else self.patch
        return (sides[0], sides[-1]) if self.features == "mel" else (sides[0], 1)

    @property
    def steps(self) -> tuple[int, int]:
        """(frames, mel bins) from one patch to the next."""
        if self.stride is None:
            return self.sides
        steps = [self.stride] if isinstance(self.stride, int) else self.stride
        return (steps[0], steps[-1])

    @property
    def least(self) -> int:
        """The fewest samples that a sound may have."""
        return self.window if self.features == "mel" else 1


class Preprocessor(base.Preprocessor[Array]):
    """Sound to {"waveform": (B, S) float32 in -1..1, zero-padded, "length": (B,) int64 samples, 0 = absent}.

    "length" is left out when all samples are present and equally long. The waveform is kept, and the spectrum taken by
    the modality, so that views work on the sound itself. state: mean and std of the features.
    """

    kind = "sound"
    fitted_by = "call fit(samples), or set mean and std"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.mean is not None and config.std is not None:
            self.state = {"mean": float(config.mean), "std": float(config.std)}

    def fit(self, samples: Iterable[object]) -> Self:
        """Measure mean and standard deviation of the features. UserError when no sample can be read."""
        config = self.config
        log_mel = LogMel(config.rate, config.mel_bins, config.window, config.shift)
        count, total, squares, heard = 0, 0.0, 0.0, 0.0
        for wave in self.readable(samples):
            x = torch.from_numpy(wave)
            values = (log_mel(x[None]) if config.features == "mel" else x).double()
            count, total = count + values.numel(), total + float(values.sum())
            squares += float(values.square().sum())
            heard += len(wave) / config.rate
            if heard > ENOUGH_SECONDS or self.state:
                break
        mean = total / count
        std = math.sqrt(max(squares / count - mean**2, 0.0))
        mean = mean if config.mean is None else float(config.mean)
        std = (std if std > 1e-6 else 1.0) if config.std is None else float(config.std)
        self.state = {"mean": mean, "std": std}
        return self

    def read(self, raw: object, choice: int = 0) -> Array | None:
        """One raw sound to (S,) float32 at the model's rate.

        Args:
            raw: what `mmssl_audio.decode.read_sound` takes.
            choice: picks the stretch of a sound longer than `seconds`; 0 takes its beginning, as AST does.

        Returns:
            None when it is null.

        Raises:
            BadSample: it cannot be decoded, or is shorter than one frame.
        """
        config = self.config
        wave = read_sound(raw, config.rate, config.seconds, choice)
        if wave is not None and len(wave) < config.least:
            raise BadSample(
                f"{len(wave) / config.rate:.4f} s of sound, shorter than one frame of {config.least / config.rate:g} s"
            )
        return wave

    def collate(self, samples: Sequence[Array | None]) -> Inputs:
        """What `read` returned (None = absent), padded with zeros to the longest."""
        lengths = [0 if wave is None else len(wave) for wave in samples]
        waveform = torch.zeros(len(samples), max([*lengths, self.config.least]))
        for row, wave in zip(waveform, samples, strict=True):
            if wave is not None:
                row[: len(wave)] = torch.from_numpy(wave)
        if lengths and min(lengths) == waveform.shape[1]:
            return {"waveform": waveform}
        return {"waveform": waveform, "length": torch.tensor(lengths, dtype=torch.int64)}

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        config = self.config
        return {
            "rate": config.rate,
            "features": config.features,
            "mel_bins": config.mel_bins,
            "window": config.window,
            "shift": config.shift,
            "patch": list(config.sides),
            "stride": list(config.steps),
            "positions": config.positions,
            "seconds": config.seconds,
            **self.fitted(),
        }
