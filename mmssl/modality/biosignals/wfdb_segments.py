"""WFDB records of several segments: put together by the names of their signals, gaps as NaN.

wfdb itself takes the order of signals, and their units, from the first segment. Shapes: C signals, T samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import BadSample
from .recording import Array, Recording, check_file, volts

if TYPE_CHECKING:
    from wfdb import MultiRecord, Record

GAP = "~"
"""Name of a segment in which nothing was recorded."""

Key = tuple[str, int]
"""A signal: its name, and how many of that name come before it in a segment."""
Read = Callable[[Path, "Record", int, int, int], Array]


@dataclass
class Segment:
    """One segment of a record.

    Attributes:
        path: of its header, without the ending.
        header: None: a gap.
        keys: of its signals, in their order; their names are numbers where it names none.
        begin: sample of the whole record at which it begins.
        end: sample at which it ends (excluded).
    """

    path: Path
    header: Record | None
    keys: list[Key]
    begin: int
    end: int


def part_header(name: Path, header: MultiRecord, title: str, read: Callable[[Path], Any]) -> Record | None:
    """The header of a segment, None of a gap; BadSample when it is not there, of another rate, or has segments itself.

    Args:
        name: of the whole record's header, without the ending.
        header: the whole record's.
        title: the segment's name.
        read: reads a header.
    """
    if title == GAP:
        return None
    if Path(title).name != title:
        raise BadSample(f"{name.name}.hea names the segment '{title}', expected the name of a record beside it")
    part = read(name.with_name(title))
    if hasattr(part, "seg_name"):
        raise BadSample(f"{name.name}.hea: its segment '{title}' has segments itself")
    if float(part.fs) != float(header.fs):
        raise BadSample(f"{name.name}.hea: its segment '{title}' has {part.fs:g} frames a second, not {header.fs:g}")
    found: Record = part
    return found


def joined(
    name: Path,
    header: MultiRecord,
    parts: Sequence[Record | None],
    samples_a_frame: Callable[[Record], int],
    read: Read,
) -> Recording:
    """The recording of a record of several segments, of fixed or of variable layout.

    Args:
        name: of its header, without the ending.
        header: as wfdb reads it.
        parts: the headers of its segments, see `part_header`.
        samples_a_frame: of a segment's header.
        read: (segment, its header, samples a frame, first, last sample of the segment) -> (C, last - first).

    Raises:
        BadSample: segments do not fit each other.
    """
    there = [part for part in parts if part is not None]
    if not there or not header.seg_len:
        raise BadSample(f"{name.name}.hea: none of its segments holds anything")
    many = max((samples_a_frame(part) for part in there if part.n_sig), default=1)
    segments: list[Segment] = []
    begin = 0
    for title, length, part in zip(header.seg_name, header.seg_len, parts, strict=True):
        end = begin + int(length) * many
        segments.append(_segment(name.with_name(title), part, begin, end))
        begin = end
    if header.sig_len and header.sig_len * many != begin:
        raise BadSample(f"{name.name}.hea: its segments have {begin // many} samples, expected {header.sig_len}")
    keys = list(dict.fromkeys(key for segment in segments for key in segment.keys))
    named = {all(part.sig_name or [None]) for part in there if part.n_sig}
    if len(named) > 1 or (named == {False} and len({part.n_sig for part in there}) > 1):
        raise BadSample(f"{name.name}.hea: not all of its segments name their signals")
    units = _units(segments)

    def load(first: int, last: int) -> Array:
        out = np.full((len(keys), last - first), np.nan)
        for segment in segments:
            low, high = max(first, segment.begin), min(last, segment.end)
            if segment.header is None or low >= high:
                continue
            values = read(segment.path, segment.header, many, low - segment.begin, high - segment.begin)
            for row, key, unit in zip(values, segment.keys, segment.header.units, strict=True):
                factor = 1.0 if (unit or "mV") == units[key] else volts(unit or "mV") / volts(units[key])
                out[keys.index(key), low - first : high - first] = row * factor
        return out

    spans = [(part.begin, part.end) for part in segments if part.header is not None and part.end > part.begin]
    names = [key[0] for key in keys] if named == {True} else None
    recording = Recording(len(keys), begin, load, names, float(header.fs) * many, [units[key] for key in keys])
    recording.spans = spans
    return recording


def _segment(path: Path, part: Record | None, begin: int, end: int) -> Segment:
    """One segment; BadSample when a file of it is not there."""
    if part is None:
        return Segment(path, None, [], begin, end)
    seen: Counter[str] = Counter()
    keys: list[Key] = []
    for number, given in enumerate(part.sig_name or [None] * part.n_sig):
        label = given or str(number)
        keys.append((label, seen[label]))
        seen[label] += 1
    if end == begin:  # the layout of a record whose segments differ: names, and no samples
        return Segment(path, None, keys, begin, end)
    for file in dict.fromkeys(part.file_name or []):
        if Path(file).name != file:
            raise BadSample(f"{path.name}.hea names '{file}', expected the name of a file beside it")
        check_file(path.with_name(file))
    return Segment(path, part, keys, begin, end)


def _units(segments: list[Segment]) -> dict[Key, str]:
    """Signal -> the unit of the first segment that has samples of it; mV where none is written, as WFDB rules."""
    units: dict[Key, str] = {}
    for segment in segments:
        if segment.header is not None:
            for key, unit in zip(segment.keys, segment.header.units, strict=True):
                units.setdefault(key, unit or "mV")
    for segment in segments:
        for key in segment.keys:
            units.setdefault(key, "mV")
    return units
