"""What a data set is, in one line: its rows and a hash of their contents, the same on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

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
    for row in islice(iter(source.select_columns(names)), rows):
        for name in names:
            digest.update(_content(row[name]))
            digest.update(b"\x1f")
        hashed += 1
    size = len(source) if hasattr(source, "__len__") else None
    return {"rows": size, "hashed": hashed, "sha256": digest.hexdigest()}


def _content(value: Any) -> bytes:
    if value is None:
        return b"\x00"
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else _file(str(value["path"]))
    if isinstance(value, dict):
        return b"{" + b"\x1e".join(k.encode() + b":" + _content(v) for k, v in sorted(value.items())) + b"}"
    if isinstance(value, str):
        return _file(value)
    if isinstance(value, np.ndarray):
        return str((value.dtype, value.shape)).encode() + value.tobytes()
    if isinstance(value, (list, tuple)):
        return b"[" + b"\x1e".join(map(_content, value)) + b"]"
    return json.dumps(value, default=str).encode()


def _file(text: str) -> bytes:
    """The contents of the file that `text` names, or `text` itself where it names none."""
    path = Path(text) if len(text) < 4096 and "\n" not in text and "\x00" not in text else None
    try:
        return path.read_bytes() if path is not None and path.is_absolute() and path.is_file() else text.encode()
    except OSError:  # unreadable files are the quarantine's business; here only the name is left
        return text.encode()
