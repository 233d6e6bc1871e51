"""Raw values of any kind to one `Series`: named channels, each with its steps and when they are.

Shapes: T steps, of a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.errors import BadSample
from mmssl.limits import check
from mmssl.modality.biosignals import tables
from mmssl.modality.biosignals.files import open_matlab
from mmssl.modality.biosignals.recording import (
    FILE,
    NAMES,
    RATE,
    SIGNAL,
    START,
    STOP,
    Array,
    Recording,
    Unsaid,
    numbers,
    parse,
)

TIMES = ("time", "times", "timestamp", "timestamps", "date", "datetime", "dates")
"""Names of what says when the steps of a series are, in any case."""
JITTER = 0.25
"""Of a step: how far a time may lie from its place on an even grid."""


@dataclass
class Channel:
    """One channel.

    Attributes:
        values: (T,) float64, NaN where there is none.
        times: (T,) seconds, rising; None: even steps.
        rate: steps a second, where something says it.
    """

    values: Array
    times: Array | None = None
    rate: float | None = None


@dataclass
class Series:
    """Channels in their order; `start` and `stop` say which stretch is wanted, in seconds, where the value does."""

    channels: list[Channel]
    names: list[str] | None
    start: float | None = None
    stop: float | None = None


def read_series(raw: object, unsaid: Unsaid, rates: Mapping[str, float] | None = None) -> Series | None:
    """A raw value as a series: what `mmssl.modality.biosignals.recording.parse` takes (arrays, files, mappings of an
    array or of one array a channel), with times beside it under one of `TIMES`, with a rate for each channel, or with
    {"time" or "rate", "values"} in place of a channel's array.

    Args:
        raw: the value.
        unsaid: what is known of arrays that do not say it.
        rates: name of a channel -> its rate, of series of one array a channel that do not say theirs.

    Returns:
        None when it is null.

    Raises:
        BadSample: says what is wrong with it.
    """
    if not isinstance(raw, Mapping):
        return _of(parse(raw, open_series, unsaid))
    lower = {str(key).lower(): key for key in raw}
    key = next((lower[name] for name in TIMES if raw.get(lower.get(name)) is not None), None)
    times = None if key is None else seconds_of(raw[key])
    rest = {name: value for name, value in raw.items() if str(name).lower() not in TIMES}
    apart = _apart(rest, rates)
    if apart is not None:
        found = apart
        given = ((k, rest[k]) for k in rest if str(k).lower() in (*START, *STOP) and rest[k] is not None)
        said = {str(k).lower(): float(value) for k, value in given}
        found.start, found.stop = said.get(START[0]), said.get(STOP[0])
    else:
        one = _of(parse(rest, open_series, unsaid))
        if one is None:
            return None
        found = one
    if times is not None:
        for name, channel in zip(found.names or [""] * len(found.channels), found.channels, strict=True):
            channel.times = channel.times if channel.times is not None else _fitting(times, channel.values, name)
    return found


def open_series(path: Path) -> Recording:
    """A file of one series: a csv with a column a channel, or `.mat`."""
    if path.suffix.lower() == ".mat":
        return open_matlab(path)
    if path.suffix.lower() in tables.ENDINGS:
        return tables.open_table(path)
    raise BadSample(f"{path.name}: expected one of .npy, .mat, {', '.join(tables.ENDINGS)}")


def _of(recording: Recording | None) -> Series | None:
    if recording is None:
        return None
    check("values", recording.count * recording.length, "numbers of all channels")
    values = recording.load(0, recording.length)
    channels = [Channel(row, recording.times, recording.rate) for row in values]
    return Series(channels, recording.names, recording.start, recording.stop)


def _apart(raw: Mapping[str, Any], rates: Mapping[str, float] | None) -> Series | None:
    """Channels that do not share their steps; None where they do, or are no channels."""
    lower = {str(key).lower(): value for key, value in raw.items()}
    if any(lower.get(key) is not None for key in (*SIGNAL, *FILE)):
        return None
    rate: Any = next((lower[key] for key in RATE if lower.get(key) is not None), rates)
    known = {*RATE, *NAMES, *START, *STOP}
    inner = {str(k): v for k, v in raw.items() if str(k).lower() not in known and v is not None}
    own = any(isinstance(value, Mapping) for value in inner.values())
    if not inner or not (own or isinstance(rate, Mapping)):
        return None
    of_each = rate if isinstance(rate, Mapping) else dict.fromkeys(inner, rate)
    channels = [_channel(name, value, of_each.get(name)) for name, value in inner.items()]
    check("values", sum(len(channel.values) for channel in channels), "numbers of all channels")
    return Series(channels, list(inner))


def _channel(name: str, value: Any, rate: Any) -> Channel:
    times = None
    if isinstance(value, Mapping):
        lower = {str(key).lower(): one for key, one in value.items()}
        times = next((lower[key] for key in TIMES if lower.get(key) is not None), None)
        rate = next((lower[key] for key in RATE if lower.get(key) is not None), rate)
        inner = next((lower[key] for key in ("value", *SIGNAL) if lower.get(key) is not None), None)
        if inner is None:
            raise BadSample(f"channel '{name}': found {', '.join(map(str, value)) or 'nothing'}, expected 'values'")
        value = inner
    row = numbers(value)
    if row.shape[0] != 1:
        raise BadSample(f"channel '{name}': found an array of {row.shape[0]} rows, expected one row of steps")
    if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < np.inf):
        raise BadSample(f"channel '{name}': found rate {rate!r}, expected a number above 0")
    found = None if times is None else _fitting(seconds_of(times), row[0], name)
    return Channel(row[0], found, None if rate is None else float(rate))


def _fitting(times: Array, values: Array, name: str) -> Array:
    if len(times) != len(values):
        where = f"channel '{name}': " if name else ""
        raise BadSample(f"{where}found {len(times)} times and {len(values)} values, expected as many")
    return times


def seconds_of(times: Any) -> Array:
    """(T,) seconds since the first of numbers, which are seconds, or dates; BadSample where one is missing or they
    fall."""
    try:
        array = np.asarray(times)
        if array.dtype.kind == "O" and all(t is None or isinstance(t, (int, float)) for t in times):
            array = np.asarray(times, dtype=np.float64)
        elif array.dtype.kind in "OU":
            array = np.asarray(times, dtype="datetime64[ns]")
    except (ValueError, TypeError) as error:
        raise BadSample(f"times: expected seconds or dates: {error}") from error
    if array.ndim != 1 or not len(array):
        raise BadSample(f"times: found an array of shape {array.shape}, expected one time a step")
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        array = (array - array[0]) / np.timedelta64(1, "s")
    elif array.dtype.kind in "iuf":
        array = array.astype(np.float64)
        missing = ~np.isfinite(array)
    else:
        raise BadSample(f"times: found an array of {array.dtype}, expected seconds or dates")
    if missing.any():
        raise BadSample(f"times: step {int(missing.argmax())} has none")
    falls = np.diff(array) < 0
    if falls.any():
        raise BadSample(f"times: they fall after step {int(falls.argmax())}, expected them in order")
    found: Array = array - array[0]
    return found


def evenly(channel: Channel) -> Channel:
    """A channel whose times lie on an even grid, but for gaps and some jitter, without times: NaN where none is."""
    if channel.times is None or len(channel.times) < 2:
        return channel
    steps = np.diff(channel.times)
    usual = float(np.median(steps))
    if usual <= 0:
        return channel
    apart = np.round(steps / usual).astype(np.int64)
    places = np.concatenate([[0], np.cumsum(apart)])
    # over all of them: the usual step may be off by the clock's rounding, which adds up
    step = float(channel.times[-1] / places[-1]) if places[-1] else usual
    if (apart < 1).any() or np.any(np.abs(channel.times - places * step) > JITTER * step):
        return channel
    total = int(places[-1]) + 1
    check("values", total, "steps from the first time to the last")
    values = np.full(total, np.nan)
    values[places] = channel.values
    return Channel(values, None, 1 / step)


def in_bins(channel: Channel, rate: float) -> Array:
    """Values at uneven times as means over the steps of a grid; NaN where a step has none."""
    assert channel.times is not None
    places = np.round(channel.times * rate).astype(np.int64)
    total = int(places[-1]) + 1
    check("values", total, "steps from the first time to the last")
    there = ~np.isnan(channel.values)
    sums = np.bincount(places[there], channel.values[there], minlength=total)
    counts = np.bincount(places[there], minlength=total)
    found: Array = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return found


def bridged(values: Array, most: int) -> Array:
    """Gaps of at most so many steps between two values closed by a straight line."""
    there = np.flatnonzero(~np.isnan(values))
    if not most or len(there) < 2:
        return values
    out = values.copy()
    for left, right in zip(there[:-1], there[1:], strict=True):
        if 1 < right - left <= most + 1:
            out[left : right + 1] = np.linspace(values[left], values[right], right - left + 1)
    return out
