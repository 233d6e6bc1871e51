"""Packed data and data written by `save_to_disk`, so that a few bytes of them fill neither memory nor disk.

What mmssl reads itself is counted while it is unpacked (`unpacking`); what `datasets` unpacks is unpacked once before,
piece by piece, and counted (`refuse_bombs`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mmssl.boundary import inside, read_json_object, reading_of
from mmssl.errors import UserError
from mmssl.limits import check_table, current

ENDINGS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""File ending -> how it is packed."""
STARTS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"PAR1": "parquet",
}
"""First bytes of a file -> how it is packed: `datasets` goes by them, whatever the file is called."""
MOST_RATIO = 100
"""Tables of text get 5 to 20 times larger when they are unpacked, bombs a thousand times."""
FURTHEST = {"gzip": 1_100, "lz4": 300, "xz": 8_000, "zstd": 40_000, "bz2": 1_000_000}
"""How many times its size a file can get."""
PIECE, BUFFER = 1 << 22, 1 << 16


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether a file has got larger than `data.limits.bytes` and over a hundred times its size."""
    return unpacked > current().bytes and unpacked > MOST_RATIO * packed


def bomb(name: str | Path, packed: int, unpacked: int) -> None:
    """UserError where `is_bomb`."""
    if is_bomb(packed, unpacked):
        raise UserError(
            f"data.path: '{name}' unpacks from {packed:,} to {unpacked:,} bytes and more (data.limits.bytes)"
        )


class _Counted(io.RawIOBase):
    """A packed file that counts the bytes which are read of it."""

    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


class _Bounded(io.RawIOBase):
    """The bytes of a text for a reader, which end with a UserError where they are too many.

    Args:
        file: of the bytes themselves.
        name: for the message.
        packed: the file that they are unpacked from; None: they were not packed.
    """

    def __init__(self, file: Any, name: str, packed: _Counted | None) -> None:
        self.file, self.name, self.packed = file, name, packed
        self.count = self.line = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        if self.packed is not None:
            bomb(self.name, self.packed.count, self.count)
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self.line = len(data) - end - 1 if end >= 0 else self.line + len(data)
        check_table("line", self.line, "bytes in a line", self.name)
        return len(data)

    def close(self) -> None:
        self.file.close()
        if self.packed is not None:
            self.packed.close()
        super().close()


def bounded(raw: BinaryIO, name: str) -> BinaryIO:
    """The bytes of a file of text, unpacked as its name says, never without end: neither in all nor in a line."""
    how = ENDINGS.get(Path(name).suffix.lower())
    if how is None:
        return io.BufferedReader(_Bounded(raw, name, None), BUFFER)
    counted = _Counted(raw)
    return io.BufferedReader(_Bounded(_unpacked(counted, how), name, counted), BUFFER)


def _unpacked(file: Any, how: str) -> Any:
    if how in ("gzip", "bz2", "xz"):
        openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        return openers[how](io.BufferedReader(file))
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), how)


def refuse_bombs(files: Mapping[str, str | Path]) -> None:
    """UserError where a file of this disk gets too large when `datasets` unpacks or decodes it.

    files: name, for the message -> where it lies. What cannot be looked through (7z, rar) is refused.
    """
    for name, file in files.items():
        with reading_of(f"data.path: '{name}' cannot be unpacked"):
            with open(file, "rb") as opened:
                head = opened.read(8)
            packed = Path(file).stat().st_size
            how = next((how for start, how in STARTS.items() if head.startswith(start)), None)
            if how in ("7z", "rar"):
                raise UserError(
                    f"data.path: '{name}' is a {how} archive: unpack it yourself, or pack it as .tar or .zip"
                )
            if how == "parquet":
                check_parquet(file, name)
            elif how == "zip":
                with zipfile.ZipFile(file) as archive:
                    bomb(name, packed, sum(member.file_size for member in archive.infolist()))
            elif how is not None and packed * FURTHEST[how] > current().bytes:
                with open(file, "rb") as opened:
                    unpacked, inner = 0, _unpacked(_Counted(opened), how)
                    while piece := inner.read(PIECE):
                        unpacked += len(piece)
                        bomb(name, packed, unpacked)


def check_parquet(file: Any, name: str | Path) -> int:
    """The rows of a parquet file, as its footer says. UserError where it, or what it unpacks to, is too large.

    A value that is repeated takes next to nothing in the file, but its place in memory.
    """
    import pyarrow.parquet as pq

    said = pq.read_metadata(file)
    check_table("rows", said.num_rows, "rows", str(name))
    check_table("columns", said.num_columns, "columns", str(name))
    groups = [said.row_group(i) for i in range(said.num_row_groups)]
    packed = sum(g.column(i).total_compressed_size for g in groups for i in range(g.num_columns))
    for group in groups:
        bomb(name, packed, group.total_byte_size)
        cells = group.num_rows * group.num_columns
        if cells > MOST_RATIO * max(packed, 1):
            check_table("values", cells, "values in a row group", str(name))
    return int(said.num_rows)


def check_saved(folder: Path) -> None:
    """UserError where data that `save_to_disk` wrote name files outside of their own folder, or unpack to too much."""
    from .arrow_files import check_messages

    for state in (folder / "state.json", *folder.glob("*/state.json")):
        if not state.is_file():
            continue
        said = read_json_object(state, f"data.path: '{state}'")
        for key in ("_data_files", "_indices_data_files"):
            for item in said.get(key) or ():
                name = item.get("filename") if isinstance(item, dict) else item
                check_messages(str(inside(state.parent, name, f"'{state}': {key}")))
