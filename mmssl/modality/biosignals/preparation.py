"""`SignalConfig` and `SignalPreprocessor`: from any raw value to named channels in one unit, at one rate, normalised.

Order of what is done to a recording: channels are told by name and taken, the wanted window is read with a margin,
turned into the modality's unit, centred, referenced (EEG) or completed (ECG), filtered and resampled, and the margin
is cut off. Channels that do not vary become absent. Shapes: C channels, T samples.
"""

# No `from __future__ import annotations` here: @strict does not check types that are strings.

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BadSample, UserError
from ...options import option, strict
from .. import contract as base
from ..contract import Inputs
from .processing import centred, filtered, flat, resampled, rms, typical
from .recording import Array, Recording, parse, volts
from .spectrum import spectrum_moments

MARGIN = 2.0
"""Seconds read before and after a window, so that filters have settled inside it."""
ENOUGH = 500
"""Recordings that statistics are measured on, at most."""
KEPT = 100
"""Recordings that the statistics of spectra are measured on, at most."""


@strict
@dataclass(kw_only=True)
class SignalConfig:
    """Options that EEG and ECG share."""

    rate: float = option(100.0, above=0, help="samples a second of the model's input; recordings are resampled to it")
    seconds: float | None = option(10.0, above=0, help="the longest window taken of a recording; null: all of it")
    window: float = option(1.0, above=0, help="seconds in a patch")
    source_rate: float | None = option(None, above=0, help="rate of recordings that do not say their own")
    source_unit: str = option("mV", choices=("V", "mV", "uV", "nV"), help="unit of those that do not say their own")
    source_channels: list[str] | None = option(None, help="channels, in order, of arrays that do not name theirs")
    aliases: dict[str, str] = option(factory=dict, help="name of a channel in the data -> the name it has here")
    bad: list[str] = option(factory=list, help="channels to leave out, beside those that a file marks as bad")
    highpass: float | None = option(None, above=0, help="Hz; null: none")
    lowpass: float | None = option(None, above=0, help="Hz; null: none")
    notch: float | None = option(None, above=0, help="mains frequency to take out, Hz; null: none")
    normalise: str = option("data", choices=("data", "recording", "channel"), help="whose spread divides signals")
    clip: float | None = option(20.0, above=0, help="largest absolute value after that; null: no limit")
    plausible: list[float] = option(factory=lambda: [0.0, 1e12], min=0, help="typical amplitude, least and most")

    def __post_init__(self) -> None:
        samples = self.window * self.rate
        if round(samples) < 2 or abs(samples - round(samples)) > 1e-6:
            raise UserError(
                f"window: found {self.window:g} s at {self.rate:g} Hz = {samples:g} samples, expected a whole number "
                f">= 2"
            )
        if self.seconds is not None and self.seconds < self.window:
            raise UserError(f"seconds: found {self.seconds:g}, expected at least one window of {self.window:g}")
        if self.highpass is not None and self.lowpass is not None and self.highpass >= self.lowpass:
            raise UserError(f"highpass: found {self.highpass:g} Hz, expected less than lowpass = {self.lowpass:g} Hz")
        if len(self.plausible) != 2 or self.plausible[0] > self.plausible[1]:
            raise UserError(f"plausible: found {self.plausible}, expected [least, most]")


@dataclass
class Sample:
    """What `read` returns. signal: (C, T) float32, NaN where nothing was measured; names: of the channels."""

    signal: NDArray[np.float32]
    names: list[str]


class SignalPreprocessor(base.Preprocessor):
    """What EEG and ECG preprocessors share. state: `scale`, the spread of the data in `unit`; `spectrum`, mean and
    standard deviation of each bin of a patch's log spectrum; and more by each."""

    config: SignalConfig
    unit: ClassVar[str]
    """What signals are in before they are normalised."""

    @property
    def window(self) -> int:
        """Samples in a patch."""
        return round(self.config.window * self.config.rate)

    @abstractmethod
    def open(self, path: Path) -> Recording:
        """Open a file of this modality's formats; BadSample with what is wrong with it."""

    @abstractmethod
    def choose(self, names: Sequence[str], bads: Sequence[str]) -> tuple[list[int], list[str], list[float]]:
        """Which channels are taken: their rows, the names they have here, and a factor for each.

        Raises BadSample that names what is unknown.
        """

    def complete(self, signal: Array, names: list[str]) -> tuple[Array, list[str]]:
        """A hook: reference, derived channels."""
        return signal, names

    # ----------------------------------------------------------------------------------------------------- one sample

    def prepare(self, raw: Any, choice: int = 0) -> Sample | None:
        """One raw value to channels in `unit` at the common rate, not normalised yet. None when it is null.

        choice: which window of a longer recording is taken, unless the value says so; 0: the middle one.
        """
        recording = parse(raw, self.open, self.config.source_channels)
        if recording is None:
            return None
        if recording.names is None:
            recording.names = self.default_names(recording.count)
        rate = recording.rate or self.config.source_rate
        if rate is None:
            raise BadSample("nothing says the sampling rate: give it with the signal, or set source_rate")
        rows, names, factors = self.choose(recording.names, recording.bads)
        units = [(recording.units or [self.config.source_unit] * recording.count)[row] for row in rows]
        first, last = self._window(recording, rate, choice)
        lead = min(first, round(MARGIN * rate))
        signal = recording.load(first - lead, min(last + round(MARGIN * rate), recording.length))[rows]
        scale = np.array([f * volts(u) / volts(self.unit) for f, u in zip(factors, units, strict=True)])
        signal = self._checked(signal * scale[:, None], names)
        signal, names = self.complete(signal, names)
        signal = filtered(signal, rate, self.config.highpass, self.config.lowpass, self.config.notch)
        signal = resampled(signal, rate, self.config.rate)
        begin = round(lead / rate * self.config.rate)
        signal = signal[:, begin : begin + max(round((last - first) / rate * self.config.rate), 1)]
        signal[flat(signal)] = np.nan
        if np.isnan(signal).all():
            raise BadSample("zero variance: no channel varies in this window")
        if 2 * signal.shape[1] < self.window:
            raise BadSample(
                f"{signal.shape[1] / self.config.rate:g} s is less than half a window of {self.config.window:g} s"
            )
        return Sample(signal.astype(np.float32), names)

    def default_names(self, count: int) -> list[str]:
        """Names of `count` channels that come without; BadSample where there are none to give."""
        raise BadSample(f"nothing names the {count} channel(s): give the names with the signal, or set source_channels")

    def _window(self, recording: Recording, rate: float, choice: int) -> tuple[int, int]:
        """First and last (excluded) sample of the window that is taken."""
        total = recording.length
        count = total if self.config.seconds is None else min(math.ceil(self.config.seconds * rate - 1e-6), total)
        if recording.start is not None:
            first = round(recording.start * rate)
            if first >= total:
                raise BadSample(f"start: found {recording.start:g} s, but the recording ends at {total / rate:g} s")
            return first, min(first + count, total)
        free = total - count
        first = free // 2 if choice == 0 else choice % (free + 1)
        return first, first + count

    def _checked(self, signal: Array, names: Sequence[str]) -> Array:
        """The signal centred; BadSample when it is constant, or of an amplitude that no such signal has."""
        if np.isnan(signal).all():
            raise BadSample("all samples are NaN")
        dead = flat(signal)
        if dead.all():
            raise BadSample("zero variance: no channel varies")
        signal = centred(signal)
        signal[dead] = np.nan
        amplitude, (least, most) = typical(signal), self.config.plausible
        if not least <= amplitude <= most:
            raise BadSample(
                f"a typical amplitude of {amplitude:.3g} {self.unit} is not in {least:g} .. {most:g} {self.unit}: is "
                f"the unit right? (options source_unit, plausible)"
            )
        return signal

    def read(self, raw: Any, choice: int = 0) -> Sample | None:
        """One raw value to normalised channels; see `parse` for what it may be. None when it is null."""
        sample = self.prepare(raw, choice)
        return None if sample is None else self._normalised(sample, self.fitted()["scale"])

    def _normalised(self, sample: Sample, scale: float) -> Sample:
        """The sample divided by `scale` or its own spread, as the recipe says, and clipped."""
        signal: NDArray[np.float32] = sample.signal
        if self.config.normalise == "data":
            signal = signal / np.float32(scale)
        else:
            spread = rms(signal.astype(np.float64))
            if self.config.normalise == "recording":
                spread = np.full_like(spread, math.sqrt(float(np.square(spread[spread > 0]).mean())))
            divisor: NDArray[np.float32] = np.where(spread > 0, spread, 1.0)[:, None].astype(np.float32)
            signal = signal / divisor
        if self.config.clip is not None:
            signal = np.clip(signal, -self.config.clip, self.config.clip)
        return Sample(signal, sample.names)

    # -------------------------------------------------------------------------------------------------- many samples

    def fit(self, samples: Iterable[Any]) -> Self:
        """Measure the spread of the data and of its spectra, and learn which channels it has. UserError when none can
        be read."""
        power: list[float] = []
        kept: list[Sample] = []
        seen: dict[str, int] = {}
        tried, reason = 0, ""
        for raw in samples:
            tried += 1
            try:
                sample = self.prepare(raw)
            except (BadSample, OSError) as error:  # the data pipeline meets it again, and puts it into quarantine
                reason = reason or str(error)
                continue
            if sample is None:
                continue
            for name in sample.names:
                seen[name] = seen.get(name, 0) + 1
            spread = rms(sample.signal.astype(np.float64))
            power.append(float(np.square(spread[spread > 0]).mean()))
            if len(kept) < KEPT:
                kept.append(sample)
            if len(power) >= ENOUGH:
                break
        if not power:
            raise UserError(f"none of {tried} samples could be read" + (f": {reason}" if reason else ""))
        # the median: one recording of artefacts must not set the scale of all
        scale = float(np.sqrt(np.median(power)))
        spectrum = spectrum_moments((self._normalised(sample, scale).signal for sample in kept), self.window)
        self.state = {"scale": scale, "spectrum": spectrum, **self.learn(seen)}
        return self

    @abstractmethod
    def learn(self, seen: dict[str, int]) -> dict[str, Any]:
        """What else goes into the state, from how often each channel was seen, in the order of first sight."""

    def fitted(self) -> dict[str, Any]:
        if not self.state:
            raise UserError("the preprocessor is not fitted: call fit(samples)")
        return self.state


def padded_length(lengths: Iterable[int], window: int) -> int:
    """Samples of a batch: the longest, rounded up to whole windows; one window when there is none."""
    return -(-max(lengths, default=window) // window) * window


def with_presence(inputs: Inputs, samples: Sequence[Any]) -> Inputs:
    """`inputs` with `present` where some sample is absent, and `holes` (B,) where the signal has any NaN.

    Keys that are left out say that there is nothing of the kind, which the host then knows without asking the device.
    """
    present = torch.tensor([sample is not None for sample in samples], dtype=torch.bool)
    holes: Tensor = inputs["signal"].isnan().flatten(1).any(1)
    if not bool(present.all()):
        inputs = inputs | {"present": present}
    return inputs | {"holes": holes} if bool(holes.any()) else inputs
