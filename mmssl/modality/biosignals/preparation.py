"""`SignalPreprocessor`: from any raw value to named channels in one unit, at one rate, normalised.

Order of what is done to a recording: channels are told by name and taken, the wanted window is read with a margin,
turned into the modality's unit, centred, referenced (EEG) or completed (ECG), filtered and resampled, and the margin
is cut off. Channels that do not vary become absent. Shapes: C channels, T samples.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BadSample
from ..contract import Inputs, Preprocessor, with_present
from .options import SignalConfig
from .processing import centred, filtered, flat, resampled, rms, typical
from .recording import Array, Recording, parse, volts
from .spectrum import spectrum_moments

MARGIN = 2.0
"""Seconds read before and after a window, so that filters have settled inside it."""
ENOUGH = 500
"""Recordings that statistics are measured on, at most."""
KEPT = 100
"""Recordings that the statistics of spectra are measured on, at most."""


@dataclass
class Sample:
    """What `read` returns.

    Attributes:
        signal: (C, T) float32, NaN where nothing was measured.
        names: of the C channels.
    """

    signal: NDArray[np.float32]
    names: list[str]


class SignalPreprocessor(Preprocessor[Sample]):
    """What EEG and ECG preprocessors share: a subclass says which files and channels there are.

    state: `scale`, the spread of the data in `unit`; `spectrum`, mean and standard deviation of each bin of a patch's
    log spectrum; and what the subclass learns.
    """

    config: SignalConfig
    channel: ClassVar[str] = "channel"
    """What a channel is called, for messages."""
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
    def known(self, name: str) -> tuple[str, float] | None:
        """The name that a channel of this name has here, and a factor for its voltages; None for an unknown name."""

    @abstractmethod
    def unknown(self, name: str) -> str | None:
        """The name under which an unknown channel is taken; None: it is left out. BadSample: it is refused."""

    @abstractmethod
    def wanted(self) -> set[str] | None:
        """Names of the channels that are read; None: all."""

    def choose(self, names: Sequence[str], bads: Sequence[str]) -> tuple[list[int], list[str], list[float]]:
        """Which channels are taken.

        Args:
            names: of all channels of a recording, as it has them.
            bads: those that it marks as unusable.

        Returns:
            The rows of those taken, the names they have here, and a factor for each.

        Raises:
            BadSample: one is refused or there twice, or none is left.
        """
        bad = {(self.known(name) or (name, 1.0))[0] for name in [*bads, *self.config.bad]}
        wanted = self.wanted()
        rows: list[int] = []
        taken: list[str] = []
        factors: list[float] = []
        for row, given in enumerate(names):
            found = self.known(given)
            name, factor = (self.unknown(given), 1.0) if found is None else found
            if name is None or name in bad or (wanted is not None and name not in wanted):
                continue
            if name in taken:
                raise BadSample(f"{self.channel} {name} is there twice ('{given}')")
            rows.append(row)
            taken.append(name)
            factors.append(factor)
        if not rows:
            raise BadSample(f"none of the {self.channel}s {', '.join(names)} is one that is wanted")
        return rows, taken, factors

    def complete(self, signal: Array, names: list[str]) -> tuple[Array, list[str]]:
        """A hook: reference, derived channels. Takes and returns (C, T) in `unit`, and the names."""
        return signal, names

    # ----------------------------------------------------------------------------------------------------- one sample

    def prepare(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw value to channels in `unit` at the common rate, not normalised yet.

        Args:
            raw: what `mmssl.modality.biosignals.recording.parse` takes.
            choice: which window of a longer recording is taken, unless the value says so; 0: the middle one.

        Returns:
            None when it is null.

        Raises:
            BadSample: it cannot be read, is too short, does not vary, or has an amplitude that no such signal has.
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

    def read(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw value to normalised channels, as `prepare` takes it; None when it is null."""
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

    def fit(self, samples: Iterable[object]) -> Self:
        """Measure the spread of the data and of its spectra, and learn which channels it has.

        Raises:
            UserError: no sample can be read.
        """
        power: list[float] = []
        kept: list[Sample] = []
        seen: dict[str, int] = {}
        for sample in self.readable(samples, self.prepare):
            for name in sample.names:
                seen[name] = seen.get(name, 0) + 1
            spread = rms(sample.signal.astype(np.float64))
            power.append(float(np.square(spread[spread > 0]).mean()))
            if len(kept) < KEPT:
                kept.append(sample)
            if len(power) >= ENOUGH:
                break
        # the median: one recording of artefacts must not set the scale of all
        scale = float(np.sqrt(np.median(power)))
        spectrum = spectrum_moments((self._normalised(sample, scale).signal for sample in kept), self.window)
        self.state = {"scale": scale, "spectrum": spectrum, **self.learn(seen)}
        return self

    @abstractmethod
    def learn(self, seen: dict[str, int]) -> dict[str, Any]:
        """What else goes into the state, from how often each channel was seen, in the order of first sight."""


def padded_length(lengths: Iterable[int], window: int) -> int:
    """Samples of a batch: the longest, rounded up to whole windows; one window when there is none."""
    return -(-max(lengths, default=window) // window) * window


def with_holes(inputs: Inputs, samples: Sequence[Sample | None]) -> Inputs:
    """`inputs` with "present" where some sample is absent, and "holes" (B,) where the signal (B, C, T) has any NaN.

    Keys that are left out say that there is nothing of the kind, which the host then knows without asking the device.
    """
    holes: Tensor = inputs["signal"].isnan().flatten(1).any(1)
    inputs = with_present(inputs, samples)
    return inputs | {"holes": holes} if bool(holes.any()) else inputs
