"""`SignalPreprocessor`: from any raw value to named channels in one unit, at one rate, normalised.

Order of what is done to a recording: channels are told by name and taken, the wanted window is read with a margin,
turned into the modality's unit, centred, referenced (EEG) or completed (ECG), filtered and resampled, and the margin
is cut off. Channels that do not vary become absent. Shapes: C channels, T samples.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ...errors import BadSample
from ..contract import Preprocessor
from ..inputs import Inputs, with_present
from ..looked import Looked
from ..table import Column, Table
from . import files
from .options import SignalConfig
from .processing import centred, filtered, flat, resampled, rms, typical
from .recording import RATE, SIGNAL, Array, Place, Recording, Unsaid, parse, volts
from .spectrum import spectrum_moments
from .windows import in_span, place

logger = logging.getLogger("mmssl")

MARGIN = 2.0
"""Seconds read before and after a window, so that filters have settled inside it."""
ENOUGH = 500
"""Recordings that statistics are measured on, at most."""
LOOKED = 1 << 22
"""Samples of all channels of a recording that are looked at for what is wrong with it, around the window's middle."""
KEPT = 100
"""Recordings that the statistics of spectra are measured on, at most."""


@dataclass
class Sample:
    """What `read` returns.

    Attributes:
        signal: (C, T) float32, NaN where nothing was measured.
        names: of the C channels.
        places: channel -> where its recording says that it is, in metres.
    """

    signal: NDArray[np.float32]
    names: list[str]
    places: Mapping[str, Place] = field(default_factory=dict)


LEAST_SAMPLES = 32
"""Of an array that is taken for a signal by its looks."""


class SignalPreprocessor(Preprocessor[Sample]):
    """What EEG and ECG preprocessors share: a subclass says which files and channels there are.

    state: `scale`, the spread of the data in `unit`; `spectrum`, mean and standard deviation of each bin of a patch's
    log spectrum; and what the subclass learns.
    """

    config: SignalConfig
    _told: bool = False
    reads = files.HEADERS
    reads_else = files.ARRAYS
    channel: ClassVar[str] = "channel"
    """What a channel is called, for messages."""
    unit: ClassVar[str]
    """What signals are in before they are normalised."""

    @property
    def window(self) -> int:
        """Samples in a patch."""
        return round(self.config.window * self.config.rate)

    @property
    def seconds(self) -> float | None:
        """The longest window taken of a recording."""
        return self.config.seconds

    def fits(self, column: Column) -> bool:
        """Arrays of numbers, a signal or several channels, long in one direction, by themselves or with their rate."""
        shape = column.within(SIGNAL, RATE).shape
        return len(shape) in (1, 2) and max(shape) >= LEAST_SAMPLES

    def default_columns(self, table: Table) -> str | list[str] | None:
        """As the base; where several columns hold an array each, all of those that are called as channels are."""
        found = [column for column in table.free() if self.fits(column)]
        channels = [c.name for c in found if len(c.shape) == 1 and self.known(c.name) is not None]
        return channels if len(channels) > 1 and len(channels) == len(found) else super().default_columns(table)

    @abstractmethod
    def open(self, path: Path) -> Recording:
        """Open a file of this modality's formats; BadSample with what is wrong with it."""

    def stretches(self, raw: object) -> list[tuple[float, float]] | None:
        """Of what was measured, by the header, or the shape of an array."""
        found = files.seconds_of(raw) if isinstance(raw, Path) else None
        if found is not None:
            return [(0.0, found)]
        recording = parse(raw, self.open, Unsaid(self.config.source_channels, self.config.layout))
        return None if recording is None else files.stretches(recording, self.config.source_rate)

    def parts(self, path: Path) -> list[Path]:
        """What a header names: samples, markers, segments."""
        return files.parts_of(path)

    def holds(self, path: Path) -> bool:
        """Of text files those of rows of numbers."""
        return files.is_recording(path)

    @abstractmethod
    def known(self, name: str) -> tuple[str, float] | None:
        """The name that a channel of this name has here, and a factor for its voltages; None for an unknown name."""

    @abstractmethod
    def unknown(self, name: str, recording: Recording) -> str | None:
        """The name under which an unknown channel is taken; None: it is left out. BadSample: it is refused."""

    @abstractmethod
    def wanted(self) -> set[str] | None:
        """Names of the channels that are read; None: all."""

    def choose(self, recording: Recording) -> tuple[list[int], list[str], list[float]]:
        """Which channels of a recording, whose names are known, are taken.

        Returns:
            The rows of those taken, the names they have here, and a factor for each.

        Raises:
            BadSample: one is refused or there twice, or none is left.
        """
        names = recording.names or []
        bad = {(self.known(name) or (name, 1.0))[0] for name in [*recording.bads, *self.config.bad]}
        wanted = self.wanted()
        rows: list[int] = []
        taken: list[str] = []
        factors: list[float] = []
        for row, given in enumerate(names):
            found = self.known(given)
            name, factor = (self.unknown(given, recording), 1.0) if found is None else found
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

    def suggest(self, samples: Iterable[object]) -> tuple[dict[str, float], str]:
        """The `rate` of recordings that have fewer samples a second than the recipe's, and room for its window."""
        unsaid = Unsaid(self.config.source_channels, self.config.layout)

        def rate(raw: object) -> float | None:
            recording = parse(raw, self.open, unsaid)
            return None if recording is None else self._rate(recording)

        fastest = max(self.readable(samples, rate))
        whole = self.config.window * fastest
        if fastest >= self.config.rate or whole < 2 or abs(whole - round(whole)) > 1e-6:
            return {}, ""
        return {"rate": fastest}, f"the fastest of some recordings has {fastest:g} samples a second"

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
        recording = self._opened(raw)
        if recording is None:
            return None
        rate = self._rate(recording)
        first, last = self._window(recording, rate, choice)
        lead = min(first, round(MARGIN * rate))
        end = min(last + round(MARGIN * rate), recording.length)
        signal, names, by_option = self._recorded(recording, first - lead, end)
        signal = self._checked(signal, names, by_option)
        if recording.rate is None:
            self.check_rate(signal, rate)
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
        places = {name: where for name, where in recording.places.items() if name in names}
        return Sample(signal.astype(np.float32), names, places)

    def _opened(self, raw: object) -> Recording | None:
        """The recording, its channels named; None when it is null."""
        recording = parse(raw, self.open, Unsaid(self.config.source_channels, self.config.layout))
        if recording is not None:
            recording.check()
            if recording.names is None:
                recording.names = self.default_names(recording.count)
        return recording

    def _recorded(self, recording: Recording, first: int, last: int) -> tuple[Array, list[str], bool]:
        """(the channels that are taken, from `first` to before `last`, in `unit` and otherwise as recorded; their
        names here; whether `source_unit` gave the unit of any)."""
        rows, names, factors = self.choose(recording)
        said = [(recording.units or [None] * recording.count)[row] for row in rows]
        units = [unit or self.config.source_unit for unit in said]
        scale = np.array([f * volts(u) / volts(self.unit) for f, u in zip(factors, units, strict=True)])
        return recording.load(first, last)[rows] * scale[:, None], names, None in said

    def _rate(self, recording: Recording) -> float:
        """Samples a second: what the recording says, else the option; BadSample where nothing does."""
        option = self.config.source_rate
        if recording.rate is None:
            if option is None:
                raise BadSample(
                    "nothing says the sampling rate: give it with the signal, or set source_rate in Hz "
                    "(modalities.NAME.source_rate)"
                )
            return option
        if option is not None and option != recording.rate and not self._told:
            self._told = True
            logger.warning(
                "the data say that they have %g Hz, source_rate that they have %g Hz: what they say is taken",
                recording.rate,
                option,
            )
        return recording.rate

    def check_rate(self, signal: Array, rate: float) -> None:
        """A hook: BadSample where the signal (C, T), in `unit`, cannot have the rate that the options give it."""

    def default_names(self, count: int) -> list[str]:
        """Names of `count` channels that come without; BadSample where there are none to give."""
        raise BadSample(
            f"nothing names the {count} channel(s): give the names with the signal, or set source_channels "
            "(modalities.NAME.source_channels=[A,B,...])"
        )

    def _window(self, recording: Recording, rate: float, choice: int) -> tuple[int, int]:
        """First and last (excluded) sample of the window that is taken."""
        total = recording.length
        count = total if self.config.seconds is None else min(math.ceil(self.config.seconds * rate - 1e-6), total)
        if recording.start is not None:
            first = round(recording.start * rate)
            if first >= total:
                raise BadSample(f"start: found {recording.start:g} s, but the recording ends at {total / rate:g} s")
            if recording.stop is None:
                return first, min(first + count, total)
            end = min(max(round(recording.stop * rate), first + 1), total)
            free = max(end - first - count, 0)
            first += place(free, choice)
            return first, min(first + count, end)
        if recording.spans:
            first = min(in_span(recording.spans, count, choice), total - count)
            return first, first + count
        free = total - count
        first = place(free, choice)
        return first, first + count

    def _checked(self, signal: Array, names: Sequence[str], by_option: bool) -> Array:
        """The signal centred; BadSample when it is constant, or of an amplitude that no such signal has.

        by_option: whether `source_unit` had a part in it.
        """
        if np.isnan(signal).all():
            raise BadSample("all samples are NaN")
        dead = flat(signal)
        if dead.all():
            raise BadSample("zero variance: no channel varies")
        signal = centred(signal)
        signal[dead] = np.nan
        amplitude, (least, most) = typical(signal), self.config.plausible
        if not least <= amplitude <= most:
            options = "options source_unit, plausible" if by_option else "the data say their unit; option plausible"
            raise BadSample(
                f"a typical amplitude of {amplitude:.3g} {self.unit} is not in {least:g} .. {most:g} {self.unit}: is "
                f"the unit right? ({options})"
            )
        return signal

    def look(self, raw: object) -> Looked | None:
        """Seconds, rate and channels of a recording, and those that are taken as they were recorded, in `unit`: behind
        a filter, or at another rate, a clipped channel rests at no extreme any more."""
        recording = self._opened(raw)
        if recording is None:
            return None
        rate = self._rate(recording)
        sizes = {"seconds": recording.length / rate, "rate": rate, "channels": float(recording.count)}
        first, last = self._window(recording, rate, 0)
        room = max(LOOKED // recording.count - (last - first), 0) // 2
        first, last = max(first - room, 0), min(last + room, recording.length)
        signal, names, _ = self._recorded(recording, first, last)
        found = Looked(sizes, dict(zip(names, signal, strict=True)), signal=True, unit=self.unit)
        found.doubts = self.doubts(signal, rate)
        return found

    def doubts(self, signal: Array, rate: float) -> list[str]:
        """A hook: what no recording of this kind has, of the signal (C, T) in `unit`, in words."""
        return []

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
        return Sample(signal, sample.names, sample.places)

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


def with_holes(inputs: Inputs, samples: Sequence[Sample | None]) -> Inputs:
    """`inputs` with "present" where some sample is absent, and "holes" (B,) where the signal (B, C, T) has any NaN.

    Keys that are left out say that there is nothing of the kind, which the host then knows without asking the device.
    """
    holes: Tensor = inputs["signal"].isnan().flatten(1).any(1)
    inputs = with_present(inputs, samples)
    return inputs | {"holes": holes} if bool(holes.any()) else inputs
