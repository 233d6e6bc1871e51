"""Raw values of any kind to one `Recording`: named channels in one unit, with their rate.

A raw value is a path or `{"bytes", "path"}` (each modality opens its own formats), an array, or a mapping that holds
an array with what is known of it, or one array a channel. Shapes: C channels, T samples.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...boundary import regular_file
from ...errors import BadSample
from ...limits import check
from ..raw import load_npy
from .options import LAYOUTS

Array = NDArray[np.float64]
Numbers = NDArray[Any]
Load = Callable[[int, int], Array]
Place = tuple[float, float, float]

SIGNAL = ("signal", "signals", "data", "array", "values")
RATE = (
    "rate",
    "sampling_rate",
    "sampling_rate_hz",
    "sampling_frequency",
    "sample_rate",
    "samplerate",
    "sfreq",
    "srate",
    "fs",
)
NAMES = ("channels", "ch_names", "leads", "sig_name", "names")
UNIT = ("unit", "units")
START = ("start",)
STOP = ("stop",)
BADS = ("bads", "bad_channels")
FILE = ("bytes", "path", "file")

VOLTS = {
    "v": 1.0,
    "volt": 1.0,
    "volts": 1.0,
    "mv": 1e-3,
    "millivolt": 1e-3,
    "millivolts": 1e-3,
    "uv": 1e-6,
    "\u00b5v": 1e-6,
    "\u03bcv": 1e-6,
    "microvolt": 1e-6,
    "microvolts": 1e-6,
    "nv": 1e-9,
    "nanovolt": 1e-9,
    "nanovolts": 1e-9,
}


@dataclass
class Recording:
    """A recording whose samples are read when they are wanted.

    Attributes:
        count: C.
        length: T of the whole recording.
        load: (first, last sample) -> (C, last - first) float64, NaN where nothing was measured.
        names: of the C channels, None where nothing says them.
        rate: samples a second.
        units: one a channel; None for one whose unit nothing says.
        bads: channels that are marked as unusable.
        start: where the wanted window begins, in seconds.
        stop: where the stretch ends that a window is taken from, in seconds; None: with the recording.
        spans: (first, last sample) of the stretches in which something was measured; None: all of it, as far as known.
        places: channel -> where the recording says that its electrode is, in metres.
        rows: the C channels where they lie in memory, of any number type.
        times: (T,) seconds of each sample since the first, where the recording has them one by one.
    """

    count: int
    length: int
    load: Load
    names: list[str] | None = None
    rate: float | None = None
    units: Sequence[str | None] | None = None
    bads: list[str] = field(default_factory=list)
    start: float | None = None
    stop: float | None = None
    spans: list[tuple[int, int]] | None = None
    places: Mapping[str, Place] = field(default_factory=dict)
    rows: Sequence[Numbers] | Numbers | None = None
    times: Array | None = None

    @classmethod
    def of(cls, rows: Sequence[Numbers] | Numbers, names: list[str] | None) -> Recording:
        """The recording of C channels (T,) in memory; only what is loaded of them is converted."""

        def load(first: int, last: int) -> Array:
            return refuse_infinite(np.stack([np.asarray(row[first:last], dtype=np.float64) for row in rows]))

        return cls(len(rows), len(rows[0]), load, names, rows=rows)

    def check(self) -> None:
        """BadSample where any of the samples that lie in memory is infinite; of a window only its own are looked at."""
        if self.start is None and self.rows is not None:
            for row in self.rows:
                refuse_infinite(row)


Open = Callable[[Path], Recording]


@dataclass(frozen=True)
class Unsaid:
    """What is taken where a raw value does not say it: names of its channels, and which axis of arrays they are."""

    names: Sequence[str] | None = None
    layout: str | None = None


def volts(unit: str) -> float:
    """How many volts one `unit` is; BadSample for what is no voltage."""
    factor = VOLTS.get(unit.strip().lower())
    if factor is None:
        raise BadSample(f"unit '{unit}' is no voltage, expected one of V, mV, uV, nV")
    return factor


def parse(raw: object, open_file: Open, unsaid: Unsaid = Unsaid()) -> Recording | None:
    """One raw value to a recording.

    Args:
        raw: a path, {"bytes", "path"}, an array (C, T) or (T, C), a mapping of an array or a file and what is known of
            it, or one of an array a channel.
        open_file: opens this modality's formats.
        unsaid: what is taken where it does not say so itself.

    Returns:
        None when it is null.

    Raises:
        BadSample: says what is wrong with it.
    """
    if raw is None:
        return None
    if isinstance(raw, (str, os.PathLike)):
        return _named(_from_file(Path(raw), open_file, unsaid), unsaid.names)
    if isinstance(raw, Mapping):
        found = _from_mapping(raw, open_file, unsaid)
        return None if found is None else _named(found, unsaid.names)
    if isinstance(raw, (bytes, bytearray, memoryview)):
        raise BadSample("found bytes without the name of their file: give {'bytes': ..., 'path': 'name.edf'} or a path")
    return _named(Recording.of(_views(raw, unsaid), None), unsaid.names)


def _named(recording: Recording, names: Sequence[str] | None) -> Recording:
    """The recording, with `names` where it has none itself; BadSample where their number is another."""
    if recording.names is None and names is not None:
        if len(names) != recording.count:
            raise BadSample(f"found {recording.count} channels, expected {len(names)}: {_few(names)}")
        recording.names = list(names)
    return recording


def _from_file(path: Path, open_file: Open, unsaid: Unsaid) -> Recording:
    if path.suffix.lower() != ".npy":
        return open_file(path)
    with check_file(path).open("rb") as file:
        return Recording.of(_views(load_npy(file), unsaid), None)


def check_file(path: Path) -> Path:
    """`path`, which is a file that is not empty; else BadSample."""
    if not path.exists():
        raise BadSample(f"no such file: {path}")
    regular_file(path)
    if not path.stat().st_size:
        raise BadSample(f"the file is empty (0 bytes): {path.name}")
    return path


def _from_mapping(raw: Mapping[str, object], open_file: Open, unsaid: Unsaid) -> Recording | None:
    if all(value is None for value in raw.values()):
        return None
    names = _strings(_get(raw, NAMES))
    known_names = Unsaid(names or unsaid.names, unsaid.layout)
    signal = _get(raw, SIGNAL)
    if any(raw.get(key) is not None for key in FILE):
        found = _from_file_mapping(raw, open_file, known_names)
    elif signal is not None:
        found = Recording.of(_views(signal, known_names), None)
    else:
        known = {key for keys in (SIGNAL, RATE, NAMES, UNIT, START, STOP, BADS) for key in keys}
        rest = {str(name): value for name, value in raw.items() if value is not None}
        channels = {name: value for name, value in rest.items() if name.lower() not in known}
        if not channels:
            raise BadSample(f"no signal among {', '.join(map(str, raw))}: expected 'signal', or one array a channel")
        found = Recording.of(_columns(channels), list(channels))
    rate, units = _number(_get(raw, RATE), "rate"), _units(_get(raw, UNIT), found.count)
    if found.rate is not None and rate is not None and found.rate != rate:
        raise BadSample(f"the row says {rate:g} Hz, its file {found.rate:g} Hz")
    # what a file says of itself comes first, then what its row does
    found.rate = found.rate or rate
    found.start, found.stop = _number(_get(raw, START), "start"), _number(_get(raw, STOP), "stop")
    found.bads = [*found.bads, *(_strings(_get(raw, BADS)) or [])]
    if units is not None:
        said = found.units or [None] * found.count
        found.units = [of or unit for of, unit in zip(said, units, strict=True)]
    return _named(found, names)


def _from_file_mapping(raw: Mapping[str, object], open_file: Open, unsaid: Unsaid) -> Recording:
    name = raw.get("path") or raw.get("file")
    content = raw.get("bytes")
    if name is None:
        raise BadSample("found bytes without 'path': the ending of the name says what they are")
    path = Path(str(name))
    if not isinstance(content, (bytes, bytearray, memoryview)) or path.is_file():
        return _from_file(path, open_file, unsaid)
    if not content:
        raise BadSample(f"the file is empty (0 bytes): {path.name}")
    folder = tempfile.mkdtemp()  # the readers of these formats take names of files only
    try:
        copy = Path(folder) / path.name
        copy.write_bytes(content)
        recording = _from_file(copy, open_file, unsaid)
        check("values", recording.count * recording.length, "samples of all channels")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(recording, shutil.rmtree, folder, ignore_errors=True)  # samples are read when they are wanted
    return recording


def _columns(channels: Mapping[str, object]) -> list[Numbers]:
    """One array a channel to C of (T,); BadSample names the channel that does not fit."""
    rows: dict[str, Numbers] = {}
    for name, value in channels.items():
        row = _views(value)
        if row.shape[0] != 1:
            raise BadSample(f"channel '{name}': found an array of {row.shape[0]} rows, expected one row of samples")
        rows[name] = row[0]
    lengths = {len(row) for row in rows.values()}
    if lengths == {1}:
        raise BadSample("every channel holds one number: a table with one row a sample is to be cut into windows first")
    if len(lengths) > 1:
        counts = ", ".join(f"{name} {len(row)}" for name, row in rows.items())
        raise BadSample(f"channels differ in their number of samples: {counts}")
    return list(rows.values())


def numbers(value: object) -> Array:
    """Anything like an array to (C, T) float64, as `_views`; BadSample also for infinite numbers."""
    return refuse_infinite(_views(value).astype(np.float64))


def refuse_infinite(array: Numbers) -> Numbers:
    """The array; BadSample where it holds infinite numbers."""
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise BadSample("the signal holds infinite values")
    return array


def _views(value: object, unsaid: Unsaid = Unsaid()) -> Numbers:
    """Anything like an array to (C, T) of its own number type, not copied; None inside lists is NaN.

    Of two axes the one as long as there are names holds the channels; without names the shorter one. BadSample where
    that leaves both open and no layout is set.
    """
    try:
        array = np.asarray(value)
        if array.dtype == object:
            array = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise BadSample(f"found no array of numbers (channels x samples): {error}") from error
    if array.dtype.kind not in "iuf":
        raise BadSample(f"expected numbers, found an array of {array.dtype}")
    if array.ndim <= 1:
        array = array.reshape(1, -1)
    if array.ndim != 2:
        raise BadSample(f"expected channels x samples, found an array of shape {array.shape}")
    if not array.size:
        raise BadSample("the signal is empty (no samples)")
    return array.T if _channels_last(array.shape, unsaid) else array


def _channels_last(shape: tuple[int, ...], unsaid: Unsaid) -> bool:
    """Whether the second axis holds the channels."""
    names = unsaid.names
    if names is not None and len(names) not in shape:
        raise BadSample(f"found an array of shape {shape}, expected {len(names)} channels: {_few(names)}")
    if unsaid.layout is not None and shape[0] != 1:  # one row is what one channel becomes
        last = unsaid.layout == "channels_last"
        if names is not None and shape[last] != len(names):
            raise BadSample(f"layout: found an array of shape {shape}, {unsaid.layout}, expected {len(names)} channels")
        return last
    if shape[0] == shape[1] > 1:
        raise BadSample(
            f"found an array of shape {shape}: either axis could hold the channels "
            f"(option layout: {' or '.join(LAYOUTS)})"
        )
    return shape[0] != len(names) if names is not None else shape[0] > shape[1]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _get(raw: Mapping[str, object], keys: Sequence[str]) -> object:
    lower = {str(name).lower(): value for name, value in raw.items()}
    return next((lower[key] for key in keys if lower.get(key) is not None), None)


def _number(value: object, what: str) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadSample(f"{what}: expected a number, found {value!r}") from error
    if not np.isfinite(number) or number < 0 or (what == "rate" and number == 0):
        raise BadSample(f"{what}: found {number:g}, expected a number {'> 0' if what == 'rate' else '>= 0'}")
    return number


def _strings(value: object) -> list[str] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, Iterable):
        raise BadSample(f"expected a list of names, found {value!r}")
    return [str(name) for name in value]


def _units(value: object, count: int) -> list[str] | None:
    units = _strings(value)
    if units is None:
        return None
    if len(units) not in (1, count):
        raise BadSample(f"found {len(units)} units for {count} channels")
    return units * count if len(units) == 1 else units
