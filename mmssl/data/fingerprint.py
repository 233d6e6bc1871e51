"""What a data set is, in one line: its rows and a hash of their contents, the same on every machine."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmssl.modality.raw import Window

from .raw_rows import all_rows
from .row_groups import spread_rows

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Source: TypeAlias = Dataset | IterableDataset

ROWS = 10_000
"""Rows that are hashed; of larger data the first ones."""


def fingerprint(source: Source, columns: Iterable[str], rows: int = ROWS) -> dict[str, Any]:
    """{"rows": number or None for a stream, "hashed": number of rows hashed, "sha256": of these columns' contents}.

    Values count by content: of a file that a row names its bytes and not its path, so the data may lie elsewhere.
    """
    names = sorted(set(columns))
    digest, hashed = hashlib.sha256(), 0
    for row in islice(all_rows(source.select_columns(names)), rows):
        for name in names:
            digest.update(content_of(row[name]))
            digest.update(b"\x1f")
        hashed += 1
    size = len(source) if hasattr(source, "__len__") else None
    return {"rows": size, "hashed": hashed, "sha256": digest.hexdigest()}


SAMPLED = 1024
"""Rows that `glance` looks at, evenly spread."""
ENDS = 4096
"""Bytes at each end of a file that `glance` reads: enough to tell two files of one size apart, of any length."""


def glance(source: Source, columns: Iterable[str]) -> dict[str, object]:
    """What tells, at little cost, whether data are still the same rows in the same order.

    {"rows": their number or None for a stream, "columns": names, "seen": {number of the row: hash}} of `SAMPLED` rows
    evenly spread, of a stream its first ones. Files count by their size and their ends, wherever they lie.
    """
    names = sorted(set(columns))
    chosen = source.select_columns(names)
    if hasattr(source, "__len__"):
        count, numbers = len(source), spread_rows(chosen, SAMPLED)
        rows = all_rows(chosen.select(numbers))
    else:
        count, numbers = None, list(range(SAMPLED // 16))
        rows = islice(iter(chosen), len(numbers))
    seen = {}
    for number, row in zip(numbers, rows, strict=False):  # a stream may end before
        digest = hashlib.sha256()
        for name in names:
            digest.update(content_of(row[name], _ends) + b"\x1f")
        seen[str(number)] = digest.hexdigest()[:12]
    return {"rows": count, "columns": names, "seen": seen}


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """How two glances differ, in words that name rows; "" where they do not. `mix`: name -> those of further data."""
    known, mix = before.get("mix", {}), now.get("mix", {})
    if list(known) != list(mix):  # in another order rows have other numbers, and come in another order
        return f"the data mixed in are {', '.join(mix) or 'none'}, they were {', '.join(known) or 'none'}"
    for name, of in mix.items():
        if found := differences(known[name], of):
            return f"in data.mix.{name} {found}"
    if before.get("columns") != now["columns"]:
        return f"the columns are {', '.join(now['columns'])}, they were {', '.join(before.get('columns', []))}"
    if before.get("rows") != now["rows"]:
        return f"there are {now['rows']} rows, there were {before.get('rows')}"
    seen = before.get("seen", {})
    other = [number for number, value in now["seen"].items() if seen.get(number) != value]
    if not other:
        return ""
    more = f" and {len(other) - 5} more" if len(other) > 5 else ""
    return f"row {', '.join(other[:5])}{more} of {len(now['seen'])} that were compared hold something else"


SKETCHED = 256
"""Rows that `sketch` looks at, evenly spread."""


def sketch(source: Source, columns: Iterable[str]) -> dict[str, Any]:
    """What tells whether a file about rows belongs to these data: {"rows", "columns", "sha256" of evenly spread rows}.

    Numbers count alike however a table was read, as text or as numbers; files count by their size and their ends. Of a
    stream rows and hash are None.
    """
    names = sorted(set(columns))
    if not hasattr(source, "__len__"):
        return {"rows": None, "columns": names, "sha256": None}
    count = len(source)
    numbers = sorted({i * count // SKETCHED for i in range(SKETCHED)}) if count > SKETCHED else range(count)
    digest = hashlib.sha256()
    for row in all_rows(source.select_columns(names).select(numbers)):
        for name in names:
            digest.update(content_of(_as_number(row[name]), _ends) + b"\x1f")
    return {"rows": count, "columns": names, "sha256": digest.hexdigest()}


def _as_number(value: object) -> object:
    """A value of a cell as a number where it is one, however it is written; nothing for what is unknown."""
    if isinstance(value, (bool, int, float, str)):
        try:
            number = float(value)
        except ValueError:
            return value
        return None if number != number else repr(number)
    return value


def content_of(value: object, read: Callable[[Path], bytes] = Path.read_bytes) -> bytes:
    """Bytes that are equal of values with the same contents; of names of files, of the files. read: a file's."""
    if value is None:
        return b"\x00"
    if isinstance(value, bytes):
        return value
    if isinstance(value, Window) and (value.get("bytes") is not None or not isinstance(value.get("path"), str)):
        return _window(value, read)  # of what lies in a table; of a file below
    if isinstance(value, dict) and set(value) == {"bytes", "path", "start", "stop"}:  # a window: of a long file
        place = json.dumps([value["start"], value["stop"]]).encode()
        content = value["bytes"] if value["bytes"] is not None else _hashed(str(value["path"]), read)
        return content if value["start"] is None else content + place
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else _file(str(value["path"]), read)
    if isinstance(value, dict):
        return b"{" + b"\x1e".join(k.encode() + b":" + content_of(v, read) for k, v in sorted(value.items())) + b"}"
    if isinstance(value, str):
        return _file(value, read)
    if isinstance(value, np.ndarray):
        return str((value.dtype, value.shape)).encode() + value.tobytes()
    if isinstance(value, (list, tuple)):
        return b"[" + b"\x1e".join(content_of(v, read) for v in value) + b"]"
    return json.dumps(value, default=str).encode()


def told(value: object) -> object:
    """A value of a row as something that tells its contents when it is written out: arrays and windows by a hash."""
    return content_of(value) if isinstance(value, (Window, np.ndarray)) else value


_WHOLES: dict[object, bytes] = {}
"""What tells a recording of a table -> the hash of its contents, of the last ones."""


def _window(value: Window, read: Callable[[Path], bytes]) -> bytes:
    """The hash of a recording that lies in a table, and the place of a window of it."""
    key = (value.told_by, read)
    if key not in _WHOLES:
        if len(_WHOLES) >= SAMPLED:
            _WHOLES.clear()
        _WHOLES[key] = hashlib.sha256(_part(value.whole, read)).digest()
    return _WHOLES[key] + json.dumps([value["start"], value["stop"]]).encode()


def _part(value: object, read: Callable[[Path], bytes]) -> bytes:
    """What is hashed of a recording: all of it, or its shape and ends where files are read so."""
    if isinstance(value, dict):
        return b"{" + b"\x1e".join(k.encode() + b":" + _part(v, read) for k, v in sorted(value.items())) + b"}"
    if isinstance(value, memoryview):
        return bytes(value) if read is not _ends else str(len(value)).encode() + bytes(value[:ENDS]) + value[-ENDS:]
    if read is not _ends or not isinstance(value, np.ndarray):
        return content_of(value, read)
    flat = value.reshape(-1)
    return str((value.dtype, value.shape)).encode() + flat[:ENDS].tobytes() + flat[-ENDS:].tobytes()


@functools.lru_cache(maxsize=1024)
def _hashed(path: str, read: Callable[[Path], bytes]) -> bytes:
    """The hash of a file's contents, which many rows share."""
    return hashlib.sha256(_file(path, read)).digest()


def _ends(path: Path) -> bytes:
    """A file's size, its first bytes and its last."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return str(size).encode() + first + file.read(ENDS)


def _file(text: str, read: Callable[[Path], bytes]) -> bytes:
    """The contents of the file that `text` names, or `text` itself where it names none."""
    path = Path(text) if len(text) < 4096 and "\n" not in text and "\x00" not in text else None
    try:
        return read(path) if path is not None and path.is_absolute() and path.is_file() else text.encode()
    except OSError:  # unreadable files are the quarantine's business; here only the name is left
        return text.encode()
