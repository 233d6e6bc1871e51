"""Long recordings as many samples: rows of windows, each with the second that it begins at.

A recording is cut where it holds at least two windows; by default also only from `LEAST` seconds on, so that clips,
which somebody has cut already, stay one sample each. Only headers are read for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample

from .explained import warn_once

if TYPE_CHECKING:
    from mmssl.modality import Preprocessor

LEAST = 20.0
"""Seconds from which on recordings are cut where the recipe does not say how (`data.windows: null`)."""
SLACK = 1e-3
"""Seconds that a header may fall short of whole windows: of 44,100 Hz and frames of 20 ms."""


@dataclass(frozen=True)
class File:
    """A file that a row holds, among values that are others' text.

    Attributes:
        path: in full.
        start: second at which the row's window begins; None: the row holds the whole file.
        stop: second at which it ends.
    """

    path: str
    start: float | None = None
    stop: float | None = None

    @property
    def raw(self) -> Path:
        """What a reader is asked how long it is of."""
        return Path(self.path)


class Piece(Protocol):
    """A recording in a row, or a window of it: a `File`, or a cell of a table."""

    start: float | None
    stop: float | None

    @property
    def raw(self) -> object:
        """The recording."""


@dataclass(frozen=True)
class Windows:
    """The options `data.windows` and `data.stride`."""

    seconds: float | bool | None = None
    stride: float | None = None

    def length(self, readers: Sequence[Preprocessor]) -> float | None:
        """Seconds of a window of what these read; None: nothing is cut."""
        if self.seconds is False:
            return None
        own = [seconds for reader in readers if (seconds := reader.seconds) is not None]
        if not own:
            return None
        return max(own) if self.seconds is None else float(self.seconds)


def starts_of(stretches: Sequence[tuple[float, float]], length: float, stride: float) -> list[float]:
    """Seconds at which the windows of a recording begin: all whole ones, but for those that lie in a gap.

    stretches: (begin, end) of what was recorded, in seconds, in order.
    """
    end = max((stop for _, stop in stretches), default=0.0)
    count = max(math.floor((end - length + SLACK) / stride) + 1, 0)
    grid = [float(number * stride) for number in range(count)]
    if len(stretches) == 1 and stretches[0][0] <= 0:
        return grid
    return [at for at in grid if any(low < at + length - SLACK and at + SLACK < high for low, high in stretches)]


def cut(
    rows: Iterable[dict[str, object]],
    readers: Mapping[str, Sequence[Preprocessor]],
    options: Windows,
    piece: type[Any] = File,
) -> tuple[list[dict[str, object]], list[float]]:
    """Rows of windows in place of those of long recordings, and the second at which each row begins, 0 of a whole one.

    Args:
        rows: column -> value; recordings are `piece`.
        readers: column of recordings -> who reads them.
        options: how they are cut.
        piece: what recordings are: a dataclass that is a `Piece`.
    """
    out: list[dict[str, object]] = []
    starts: list[float] = []
    lengths: set[float] = set()
    long, windows = 0, 0
    for row in rows:
        of = {c: readers[c] for c, v in row.items() if isinstance(v, piece) and c in readers}
        timed = {c: r for c, r in of.items() if any(reader.seconds is not None for reader in r)}
        length = options.length([reader for r in timed.values() for reader in r])
        found = [] if length is None else _starts(row, timed, length, options)
        if length is None or len(found) < 2:
            out.append(row)
            starts.append(0.0)
            continue
        long, windows = long + 1, windows + len(found)
        lengths.add(length)
        for at in found:
            pieces = {c: replace(row[c], start=at, stop=at + length) for c in timed}  # type: ignore[type-var]
            out.append({**row, **pieces})
            starts.append(at)
    if long:
        rest = len(out) - windows
        size = " and ".join(f"{length:g}" for length in sorted(lengths))
        more = f", and {rest:,} that stay whole" if rest else ""
        noun = "files" if piece is File else "recordings"
        warn_once(f"{long:,} {noun}, {windows:,} windows of {size} s{more} (data.windows, data.stride)")
    return out, starts


def _starts(
    row: Mapping[str, object], readers: Mapping[str, Sequence[Preprocessor]], length: float, options: Windows
) -> list[float]:
    """Where the windows of a row begin that lie in all of its recordings."""
    every: list[Sequence[tuple[float, float]]] = []
    for column, of in readers.items():
        piece = cast(Piece, row[column])
        try:
            with reading_sample():
                stretches = next((s for r in of if r.seconds and (s := r.stretches(piece.raw))), None)
        except BadSample:  # one row, which goes into quarantine when it is read
            return []
        if stretches is None:
            return []
        every.append(stretches)
    ends = [max(stop for _, stop in stretches) for stretches in every]
    if not ends or (options.seconds is None and min(ends) < LEAST):
        return []
    first = every[ends.index(min(ends))]
    return starts_of(first, length, options.stride or length)
