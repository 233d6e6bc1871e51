"""Options of the audio modality, and its `Preprocessor`: raw sound to padded waveforms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Self

import torch

from mmssl import modality as base
from mmssl.errors import BadSample
from mmssl.modality import Inputs
from mmssl.modality.endings import SOUNDS, VIDEOS
from mmssl.modality.looked import Looked
from mmssl.modality.raw import Array
from mmssl.modality.table import Column

from .decode import RATES, read_sound, recorded_sound, seconds_of
from .mel import LogMel
from .options import Config

ENOUGH_SECONDS = 1800.0
"""Sound that mean and standard deviation are measured on, at most."""


class Preprocessor(base.Preprocessor[Array]):
    """Sound to {"waveform": (B, S) float32 in -1..1, zero-padded, "length": (B,) int64 samples, 0 = absent}.

    "length" is left out when all samples are present and equally long. The waveform is kept, and the spectrum taken by
    the modality, so that views work on the sound itself. state: mean and std of the features.
    """

    reads = SOUNDS
    reads_else = (*VIDEOS, ".npy")
    kept_on_disk = True
    noun = "sound"
    fitted_by = "call fit(samples), or set mean and std"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.normalise == "sound":
            self.state = {"mean": 0.0, "std": 1.0}
        elif config.mean is not None and config.std is not None:
            self.state = {"mean": float(config.mean), "std": float(config.std)}

    @property
    def seconds(self) -> float | None:
        """The longest stretch taken of a sound."""
        return self.config.seconds

    def stretches(self, raw: object) -> list[tuple[float, float]] | None:
        """All of it, by the header, or the shape of an array."""
        found = seconds_of(raw, self.config.layout, self.config.source_rate)
        return None if found is None else [(0.0, found)]

    def fits(self, column: Column) -> bool:
        """Files of the kind, and arrays with their rate, as `datasets` decodes sounds."""
        inner = column.within(("array",), RATES)
        return column.media == "audio" or (inner is not column and len(inner.shape) in (1, 2))

    def fit(self, samples: Iterable[object]) -> Self:
        """Measure mean and standard deviation of the features. UserError when no sample can be read."""
        config = self.config
        if config.normalise == "sound":
            return self
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

    def suggest(self, samples: Iterable[object]) -> tuple[dict[str, float], str]:
        """`seconds` of sounds that are all shorter than the recipe's: the longest of them, in whole patches."""
        config = self.config
        if config.seconds is None:
            return {}, ""
        longest = max(len(wave) for wave in self.readable(samples)) / config.rate
        step = config.sides[0] * (config.shift_ms / 1000 if config.features == "mel" else 1 / config.rate)
        seconds = round((math.ceil(1.1 * longest / step) + 1) * step, 4)
        if seconds >= config.seconds:
            return {}, ""
        return {"seconds": seconds}, f"the longest of some sounds has {longest:.3g} s"

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
        wave = read_sound(raw, config.rate, config.seconds, choice, config.layout, config.source_rate)
        if wave is not None and len(wave) < config.least:
            raise BadSample(
                f"{len(wave) / config.rate:.4f} s of sound, shorter than one frame of {config.least / config.rate:g} s"
            )
        return wave

    def look(self, raw: object) -> Looked | None:
        """Seconds, samples a second, and the sound as it was recorded: resampled it rests at no extreme any more."""
        recorded = recorded_sound(raw, layout=self.config.layout, source_rate=self.config.source_rate)
        if recorded is None:
            return None
        wave, rate = recorded
        return Looked({"seconds": len(wave) / rate, "rate": float(rate)}, {"sound": wave}, signal=True)

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
            "normalise": config.normalise,
            **self.fitted(),
        }
