"""The `Preprocessor` of series: raw values to named channels on one grid of steps, normalised.

Order of what is done: a value is read, its channels are told by name, brought to the grid (resampled, or averaged in
steps where times are uneven), short gaps are bridged, the wanted stretch is taken, and each channel is brought to mean
0 and spread 1. Unlike a voltage, a series keeps its level, and a channel that does not vary is one all the same.
Shapes: B batch, C channels, T steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmssl import modality as base
from mmssl.errors import BadSample, UserError, nearest
from mmssl.modality import Inputs, with_present
from mmssl.modality.biosignals.files import ARRAYS, is_recording
from mmssl.modality.biosignals.processing import resampled
from mmssl.modality.biosignals.recording import RATE, SIGNAL, Array, Unsaid
from mmssl.modality.biosignals.spectrum import spectrum_moments
from mmssl.modality.channels import own_names, taken
from mmssl.modality.looked import Looked
from mmssl.modality.table import Column, Table

from .options import Config
from .reading import TIMES, Channel, Series, bridged, evenly, in_bins, read_series

if TYPE_CHECKING:
    from datasets import Dataset

ENOUGH = 2000
"""Series that statistics are measured on, at most."""
KEPT = 100
"""Series that the statistics of spectra are measured on, at most."""
LEAST_STEPS = 8
"""Of an array that is taken for a series by its looks."""


@dataclass
class Sample:
    """What `read` returns: signal (C, T) float32, NaN where there is no value, and the names of the C channels."""

    signal: NDArray[np.float32]
    names: list[str]


class Preprocessor(base.Preprocessor[Sample]):
    """Series to {"signal": (B, C, T) float32, "present" (B,), "holes" (B,)}, the last two left out where nothing is
    missing. Channels are in the model's order, NaN where a sample lacks one; T is the longest, in whole windows.

    state: channels; mean and std of each; `spectrum`, mean and deviation of each bin of a patch's log spectrum.
    """

    noun = "a series"
    reads_else = ARRAYS
    config: Config

    @property
    def seconds(self) -> float | None:
        """The longest stretch taken of a series."""
        return None if self.config.length is None else self.config.length / self.config.steps_a_second

    def fits(self, column: Column) -> bool:
        """Arrays of numbers, of one channel or several, by themselves or with their rate."""
        shape = column.within(SIGNAL, (*RATE, *TIMES)).shape
        return len(shape) in (1, 2) and max(shape) >= LEAST_STEPS

    def default_columns(self, table: Table) -> str | list[str] | None:
        """As the base; of several columns that hold an array each, and no times, all: they are the channels."""
        found = [column for column in table.free() if self.fits(column)]
        if len(found) > 1 and all(len(column.shape) == 1 for column in found):
            return [column.name for column in found]
        return super().default_columns(table)

    def stretches(self, raw: object) -> list[tuple[float, float]] | None:
        """From the first step to the last."""
        series = self._series(raw)
        if series is None:
            return None
        grid = self._grid(series)
        return [(0.0, max(map(len, grid)) / self.config.steps_a_second)]

    def holds(self, path: Path) -> bool:
        """Of text files those of rows of numbers."""
        return is_recording(path)

    def open_rows(self, path: Path, split: str) -> Dataset | None:
        """The series of a `.ts` file, or of the one of a folder's `.ts` files that is of this split."""
        from .sources import rows_of

        return rows_of(path, split)

    # ----------------------------------------------------------------------------------------------------- one sample

    @property
    def _unsaid(self) -> Unsaid:
        return Unsaid(self.config.source_channels, self.config.layout)

    def _series(self, raw: object) -> Series | None:
        rates = self.config.source_rate
        return read_series(raw, self._unsaid, rates if isinstance(rates, dict) else None)

    def prepare(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw value to its channels on the grid, a stretch of them, not normalised yet.

        Args:
            raw: what `mmssl_series.reading.read_series` takes.
            choice: which stretch of a longer series is taken, unless the value says so; 0: the middle one.

        Returns:
            None when it is null.

        Raises:
            BadSample: it cannot be read, has a channel that the model has not, or is too short.
        """
        series = self._series(raw)
        if series is None:
            return None
        rows, names = self._named(series)
        grid = [bridged(row, self.config.bridge) for row in self._grid(series)]
        total = max(map(len, grid))
        first, last = self._stretch(series, total, choice)
        signal = np.full((len(rows), last - first), np.nan)
        for out, row in zip(signal, rows, strict=True):
            piece = grid[row][first:last]
            out[: len(piece)] = piece
        if np.isinf(signal).any():
            raise BadSample("the series holds infinite values")
        if np.isnan(signal).all():
            raise BadSample("no value in the series")
        if 2 * signal.shape[1] < self.config.window:
            raise BadSample(f"{signal.shape[1]} steps are less than half a window of {self.config.window}")
        return Sample(signal.astype(np.float32), names)

    def look(self, raw: object) -> Looked | None:
        """Steps and channels, and what is taken of the series."""
        sample = self.prepare(raw)
        if sample is None:
            return None
        sizes = {"steps taken": float(sample.signal.shape[1]), "channels": float(len(sample.names))}
        return Looked(sizes, dict(zip(sample.names, sample.signal, strict=True)), signal=True)

    def _named(self, series: Series) -> tuple[list[int], list[str]]:
        """(rows of the channels that are taken, their names here)."""
        known = self.state.get("channels") or self.config.channels
        names = own_names(known, len(series.channels)) if series.names is None else series.names
        names = [self.config.aliases.get(name, name) for name in names]
        ways = "options aliases, unknown: drop"
        return taken(names, known, "series", self.config.unknown == "drop", ways)

    def _grid(self, series: Series) -> list[Array]:
        """The values of each channel on the grid of steps, which begins with the series."""
        rate = self.config.rate
        begins = [channel.times[0] for channel in series.channels if channel.times is not None]
        origin = min(begins, default=0.0)
        return [self._as_they_come(c) if rate is None else self._at_rate(c, rate, origin) for c in series.channels]

    def _as_they_come(self, channel: Channel) -> Array:
        even = evenly(channel)
        if even.times is not None:
            steps = np.diff(even.times)
            raise BadSample(
                f"times are uneven, {steps.min():g} to {steps.max():g} s apart: say how many steps a second the model "
                "takes (modalities.NAME.rate)"
            )
        return even.values

    def _at_rate(self, channel: Channel, rate: float, origin: float) -> Array:
        lead = 0 if channel.times is None else round((float(channel.times[0]) - origin) * rate)
        even = evenly(channel)
        if even.times is not None:
            return in_bins(even, rate)
        said = self.config.source_rate
        own = even.rate or (None if isinstance(said, dict) else said)
        if own is None:
            raise BadSample(
                "nothing says when the steps are: give times or the rate with the series, or set source_rate "
                "(modalities.NAME.source_rate)"
            )
        there = even.values[~np.isnan(even.values)]
        level = float(there.mean()) if len(there) else 0.0  # the filter's ripple is a share of what goes through it
        values = resampled(even.values[None] - level, own, rate)[0] + level
        return np.concatenate([np.full(lead, np.nan), values]) if lead else values

    def _stretch(self, series: Series, total: int, choice: int) -> tuple[int, int]:
        """First and last (excluded) step of the stretch that is taken."""
        per, longest = self.config.steps_a_second, self.config.length or total
        first, end = 0, total
        if series.start is not None:
            first = round(series.start * per)
            if first >= total:
                raise BadSample(f"start: found {series.start:g} s, but the series ends at {total / per:g} s")
            end = total if series.stop is None else min(max(round(series.stop * per), first + 1), total)
            if series.stop is None:
                return first, min(first + longest, total)
        free = max(end - first - longest, 0)
        # without room nothing is drawn, so that the sample is the same in every epoch and may be kept
        first += 0 if not free else free // 2 if choice == 0 else choice % (free + 1)
        return first, min(first + longest, end)

    def read(self, raw: object, choice: int = 0) -> Sample | None:
        """One raw value to normalised channels, as `prepare` takes it; None when it is null."""
        sample = self.prepare(raw, choice)
        return None if sample is None else self._normalised(sample, self.fitted())

    def _normalised(self, sample: Sample, state: dict[str, Any]) -> Sample:
        signal = sample.signal
        if self.config.normalise == "data":
            places = [state["channels"].index(name) for name in sample.names]
            mean, std = (np.array(state[key], np.float32)[places, None] for key in ("mean", "std"))
            signal = (signal - mean) / std
        elif self.config.normalise == "series":
            there = ~np.isnan(signal)
            count = np.maximum(there.sum(1, keepdims=True), 1)
            signal = signal - np.where(there, signal, 0.0).sum(1, keepdims=True) / count
            spread = np.sqrt(np.square(np.where(there, signal, 0.0)).sum(1, keepdims=True) / count)
            signal = signal / np.where(spread > 0, spread, 1.0)
        if self.config.clip is not None:
            signal = np.clip(signal, -self.config.clip, self.config.clip)
        return Sample(signal.astype(np.float32), sample.names)

    def collate(self, samples: Sequence[Sample | None]) -> Inputs:
        """What `read` returned (None = absent), in the model's channels, padded to the longest in whole windows."""
        places = {name: row for row, name in enumerate(self.fitted()["channels"])}
        window = self.config.window
        longest = max((s.signal.shape[1] for s in samples if s is not None), default=window)
        signal = np.full((len(samples), len(places), -(-longest // window) * window), np.nan, dtype=np.float32)
        for row, sample in zip(signal, samples, strict=True):
            if sample is not None:
                for values, name in zip(sample.signal, sample.names, strict=True):
                    row[places[name], : len(values)] = values
        inputs: Inputs = {"signal": torch.from_numpy(signal)}
        holes = inputs["signal"].isnan().flatten(1).any(1)
        inputs = with_present(inputs, samples)
        return inputs | {"holes": holes} if bool(holes.any()) else inputs

    # -------------------------------------------------------------------------------------------------- many samples

    def fit(self, samples: Iterable[object]) -> Self:
        """Learn which channels the data have, mean and spread of each, and the moments of their spectra.

        Raises:
            UserError: no sample can be read, or a channel that is asked for is in none.
        """
        sums: dict[str, NDArray[np.float64]] = {}
        kept: list[Sample] = []
        for number, sample in enumerate(self.readable(samples, self.prepare)):
            for name, row in zip(sample.names, sample.signal.astype(np.float64), strict=True):
                values = row[~np.isnan(row)]
                found = np.array([len(values), values.sum(), np.square(values).sum()])
                sums[name] = sums.get(name, np.zeros(3)) + found
            if len(kept) < KEPT:
                kept.append(sample)
            if number + 1 >= ENOUGH:
                break
        channels = list(self.config.channels or sums)
        missing = [name for name in channels if name not in sums]
        if missing:
            raise UserError(f"channels: '{missing[0]}' is in none of the series{nearest(missing[0], list(sums))}")
        count, total, squares = np.stack([sums[name] for name in channels], 1)
        mean = total / np.maximum(count, 1)
        spread = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0.0))
        # what rounding leaves of a constant is no spread
        std = np.where(spread > 1e-6 * np.maximum(np.abs(mean), 1e-6), spread, 1.0)
        state: dict[str, Any] = {"channels": channels, "mean": mean.tolist(), "std": std.tolist()}
        state["spectrum"] = spectrum_moments((self._normalised(s, state).signal for s in kept), self.config.window)
        self.state = state
        return self

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "channels": list(self.fitted()["channels"]),
            "rate": float(self.config.steps_a_second),
            "window": self.config.window,
            "patch": self.config.patch,
            "spectrum": self.fitted().get("spectrum"),
            "tokens": self.config.tokens,
        }
