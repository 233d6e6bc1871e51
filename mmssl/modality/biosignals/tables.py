"""One recording a text file: a row a sample, a column a channel, with or without names and times.

Read here and not as a table, in which a row is a sample of its own. Names may stand behind a `#`, fields be separated
by commas, semicolons, tabs or blanks, decimals be behind a comma. Shapes: C channels, T samples.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from ...errors import BadSample
from ...limits import check
from .recording import VOLTS, Array, Recording, check_file

ENDINGS = (".csv", ".tsv", ".txt")
SEPARATORS = (";", "\t", ",", "|", None)
"""None: blanks."""
HEAD = 1 << 16
"""Bytes that tell whether a file is such a recording."""
LINES = 40
"""Lines in front of the numbers, at most."""
MISSING = {"", "nan", "na", "n/a", "null", "none", "?", "-", "inf", "-inf"}
TIME = re.compile(r"(time|timestamp|times|t|seconds?|secs?|datetime|date|clock|zeit)", re.IGNORECASE)
COUNTER = re.compile(r"(samples?|index|idx|frame|n|nr|no|#|row|unnamed.*|id|counter|)", re.IGNORECASE)
UNIT = re.compile(r"(.*?)[\s_]*[\[(]\s*([^\])]+?)\s*[\])]\s*")
"""A name with a unit in brackets: `ECG [mV]`, `time (ms)`."""
DATE = re.compile(r"\d{4}[-/]\d{2}[-/]\d{2}")
SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Table:
    """What the first lines of a file say: how fields are separated, whether decimals stand behind a comma, the names,
    and in which line the numbers begin."""

    separator: str | None
    comma: bool
    names: tuple[str, ...] | None
    first: int
    columns: int

    def fields(self, line: str) -> list[str]:
        """The fields of a line of numbers."""
        found = _split(line, self.separator)
        if len(found) == self.columns + 1 and not found[-1]:  # a separator at the end
            found.pop()
        return [field.replace(",", ".") for field in found] if self.comma else found


def is_recording(path: Path) -> bool:
    """Whether a text file holds rows of numbers alone, but for names above them and times in front."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    lines = _decoded(head).splitlines()
    if len(head) == HEAD:
        lines = lines[:-1]
    try:
        table = _layout(lines)
        rows = [table.fields(line) for line in lines[table.first :] if line.strip()]
        numbers = [[_number(f) for f in (row[1:] if _moment(row[0]) is not None else row)] for row in rows]
    except (BadSample, ValueError):
        return False
    return len(rows) > 1 and len({len(row) for row in numbers}) == 1 and bool(numbers[0])


@functools.lru_cache(maxsize=4)
def _read(path: str, version: tuple[int, int]) -> tuple[Array, tuple[str, ...] | None]:
    """((C, T), names) of a file; kept for its next windows."""
    data = Path(path).read_bytes()
    check("bytes", len(data), "bytes")
    lines = [line for line in _decoded(data).splitlines() if line.strip()]
    table = _layout(lines)
    body = lines[table.first :]
    check("values", len(body) * table.columns, "numbers")
    rows = [table.fields(line) for line in body]
    odd = next((number for number, row in enumerate(rows) if len(row) != table.columns), None)
    if odd is not None:
        raise BadSample(f"row {odd + 1} of the samples has {len(rows[odd])} fields, expected {table.columns}")
    try:
        array = np.array(rows, dtype=np.float64)
    except ValueError:
        array = np.array([[_cell(field, number) for field in row] for number, row in enumerate(rows)])
    array.setflags(write=False)
    return array.T, table.names


def open_table(path: Path) -> Recording:
    """The recording in a text file. BadSample where it holds anything but numbers."""
    stat = check_file(path).stat()
    array, names = _read(str(path), (stat.st_mtime_ns, stat.st_size))
    rate, skip = _rate(array, names)
    signal = array[1:] if skip else array
    if not len(signal):
        raise BadSample(f"{path.name}: found times and no channel beside them")
    said = None if names is None else list(names[1:] if skip else names)
    found, units = _units(said)
    recording = Recording.of(np.where(np.isinf(signal), np.nan, signal), found)
    recording.rate, recording.units = rate, units
    if rate is not None and skip:  # `rate` is that of the usual step; the others may be longer
        first = array[0]
        recording.times = (first - first[0]) / (float(np.median(np.diff(first))) * rate)
    return recording


def _decoded(data: bytes) -> str:
    for encoding in ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")


def _split(line: str, separator: str | None) -> list[str]:
    return [field.strip().strip("\"'") for field in line.strip("\r\n").split(separator)]


def _layout(lines: Sequence[str]) -> Table:
    """How a file is laid out. BadSample where no line of numbers is found near its beginning."""
    head = [line for line in lines[: LINES + 20] if line.strip()]
    for separator in SEPARATORS:
        for comma in (False, True) if separator != "," else (False,):
            for number, line in enumerate(head[:LINES]):
                fields = _split(line, separator)
                if len(fields) > 1 and not fields[-1]:
                    fields.pop()
                plain = [field.replace(",", ".") if comma else field for field in fields]
                if separator is None and any("," in field or ";" in field for field in plain):
                    break
                following = head[number + 1 : number + 3]
                if _are_numbers(plain) and all(_width(f, separator) in (len(plain), len(plain) + 1) for f in following):
                    return Table(separator, comma, _names(head[:number], separator, len(plain)), number, len(plain))
    raise BadSample("found no rows of numbers, expected a column a channel and a row a sample")


def _width(line: str, separator: str | None) -> int:
    return len(_split(line, separator))


def _are_numbers(fields: Sequence[str]) -> bool:
    """Whether fields are those of a sample: numbers, some of them missing, behind a time or not."""
    rest = fields[1:] if len(fields) > 1 and _moment(fields[0]) is not None else fields
    try:
        values = [_number(field) for field in rest]
    except ValueError:
        return False
    return any(not np.isnan(value) for value in values)


def _names(above: Sequence[str], separator: str | None, count: int) -> tuple[str, ...] | None:
    """The names in the lines above the numbers: the last ones that are as many as the columns."""
    for line in reversed(above):
        fields = _split(line.lstrip().lstrip("#%").strip(), separator)
        if len(fields) == count + 1 and not fields[-1]:
            fields.pop()
        if len(fields) == count and (count > 1 or fields[0]):
            return tuple(fields)
    return None


def _number(field: str) -> float:
    return np.nan if field.lower() in MISSING else float(field)


def _moment(field: str) -> float | None:
    """Seconds of a time of day, or a date with one or without; None for anything else."""
    if ":" not in field and not DATE.fullmatch(field):
        return None
    clock = re.fullmatch(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:[.,]\d+)?)", field)
    if clock:
        return int(clock[1] or 0) * 3600.0 + int(clock[2]) * 60.0 + float(clock[3].replace(",", "."))
    try:
        return datetime.fromisoformat(field.replace("/", "-").replace(",", ".")).timestamp()
    except ValueError:
        return None


def _cell(field: str, row: int) -> float:
    try:
        return _number(field)
    except ValueError:
        moment = _moment(field)
    if moment is None:
        raise BadSample(f"row {row + 1} of the samples holds '{field:.40}', expected a number")
    return moment


def _rate(array: Array, names: Sequence[str] | None) -> tuple[float | None, bool]:
    """(samples a second by the first column, whether that holds times or numbers of samples and no signal).

    Without a unit only steps below 1 are taken for seconds: whole ones may be numbers of samples, or milliseconds.
    """
    if len(array) < 2 or array.shape[1] < 3:
        return None, False
    first = array[0]
    steps = np.diff(first)
    if np.isnan(steps).any() or not (steps > 0).mean() > 0.99:
        return None, False
    name, unit = (names[0], None) if names is not None else ("", None)
    if (found := UNIT.fullmatch(name)) is not None:
        name, unit = found[1], found[2]
    elif (suffix := re.fullmatch(r"(.+?)[_ ](s|sec|ms|us|ns)", name, re.IGNORECASE)) is not None:
        name, unit = suffix[1], suffix[2]
    step = float(np.median(steps))
    timed = TIME.fullmatch(name) is not None
    if not timed and not (COUNTER.fullmatch(name) and np.all(steps == 1)):
        return None, False
    if not timed:
        return None, names is not None or array.shape[0] > 1
    factor = SECONDS.get((unit or "").lower())
    if factor is None:
        epoch = next((f for f in (1.0, 1e-3, 1e-6, 1e-9) if 3e8 < first[0] * f < 4e9), None)  # years 1979 .. 2096
        factor = epoch if epoch is not None else 1.0 if step < 1 else None
    if factor is None:
        return None, True
    return float(np.round(1 / (step * factor), 6)), True


def _units(names: Sequence[str] | None) -> tuple[list[str] | None, list[str | None] | None]:
    """(names without the units in brackets behind them, the units that are voltages)."""
    if names is None:
        return None, None
    parts = [UNIT.fullmatch(name) for name in names]
    units = [part[2] if part is not None and part[2].lower() in VOLTS else None for part in parts]
    bare = [p[1] if p is not None and u is not None else n for n, p, u in zip(names, parts, units, strict=True)]
    return bare, units
