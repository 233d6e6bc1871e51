"""Packed data and data written by `save_to_disk`, so that a few bytes of them fill neither memory nor disk.

What mmssl reads itself is counted while it is unpacked (`unpacking`); what `datasets` unpacks is unpacked once before,
piece by piece, and counted (`refuse_bombs`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
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
PIECE, BUFFER, HEAD = 1 << 22, 1 << 16, 8


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether a file has got larger than `data.limits.bytes` and over a hundred times its size."""
    return unpacked > current().bytes and unpacked > MOST_RATIO * packed


def bomb(name: str | Path, packed: int, unpacked: int) -> None:
    """UserError where `is_bomb`."""
    if is_bomb(packed, unpacked):
        raise UserError(
            f"data.path: '{name}' unpacks from {packed:,} to {unpacked:,} bytes and more (data.limits.bytes)"
        )


class Counted(io.RawIOBase):
    """A packed file that counts the bytes which are read of it."""

    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.file.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self.file.seek(offset, whence))

    def tell(self) -> int:
        return int(self.file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


class Unpacked(Counted):
    """The bytes of a packed file, which end with a UserError where they are too many.

    Args:
        file: of the bytes themselves.
        name: for the message.
        packed: the file that they are unpacked from; None: they were not packed.
    """

    def __init__(self, file: Any, name: str, packed: Counted | None) -> None:
        super().__init__(file)
        self.name, self.packed = name, packed

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        if self.packed is not None:
            bomb(self.name, self.packed.count, self.count)
        return size

    def close(self) -> None:
        super().close()
        if self.packed is not None:
            self.packed.close()


class _Lines(Unpacked):
    """As `Unpacked`, of a text none of whose lines is too long."""

    line = 0

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer)
        data = bytes(buffer[:size])
        end = max(data.rfind(b"\n"), data.rfind(b"\r"))
        self.line = size - end - 1 if end >= 0 else self.line + size
        check_table("line", self.line, "bytes in a line", self.name)
        return size


def bounded(raw: BinaryIO, name: str) -> BinaryIO:
    """The bytes of a file of text, unpacked as its name says, never without end: neither in all nor in a line."""
    how = ENDINGS.get(Path(name).suffix.lower())
    if how is None:
        return io.BufferedReader(_Lines(raw, name, None), BUFFER)
    counted = Counted(raw)
    return io.BufferedReader(_Lines(unpacked(counted, how), name, counted), BUFFER)


def unpacked(file: Any, how: str) -> Any:
    """The bytes of a file that is packed in a way of `ENDINGS`."""
    if how in ("gzip", "bz2", "xz"):
        openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        return openers[how](io.BufferedReader(file))
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), how)


def how_packed(head: bytes) -> str | None:
    """How a file is packed by its first bytes, at least `HEAD` of them; None: it is not."""
    return next((how for start, how in STARTS.items() if head.startswith(start)), None)


def refuse_bombs(files: Mapping[str, str | Path]) -> None:
    """UserError where a file of this disk gets too large when `datasets` unpacks or decodes it.

    files: name, for the message -> where it lies. What cannot be looked through (7z, rar) is refused.
    """
    from .archives import check_tar, check_zip

    for name, file in files.items():
        with reading_of(f"data.path: '{name}' cannot be unpacked"):
            with open(file, "rb") as opened:
                how = how_packed(opened.read(HEAD))
            packed = Path(file).stat().st_size
            if how in ("7z", "rar"):
                raise UserError(
                    f"data.path: '{name}' is a {how} archive: unpack it yourself, or pack it as .tar or .zip"
                )
            if how == "parquet":
                check_parquet(file, name)
                continue
            if how == "zip":
                with open(file, "rb") as opened:
                    check_zip(opened, str(name))
                continue
            if how is not None and packed * FURTHEST[how] > current().bytes:
                with open(file, "rb") as opened:
                    size, inner = 0, unpacked(Counted(opened), how)
                    while piece := inner.read(PIECE):
                        size += len(piece)
                        bomb(name, packed, size)
            check_tar(file, str(name))


def check_parquet(file: Any, name: str | Path) -> int:
    """The rows of a parquet file, as its footer says. UserError where it, or what it unpacks to, is too large.

    A value that is repeated takes next to nothing in the file, but its place in memory.
    """
    import pyarrow.parquet as pq

    from .parquet_pages import chunks

    said = pq.read_metadata(file)
    check_table("rows", said.num_rows, "rows", str(name))
    check_table("columns", said.num_columns, "columns", str(name))
    with open(file, "rb") as opened:
        packed = sum(chunk.size for group in chunks(opened, str(name)) for chunk in group)
    for group in (said.row_group(i) for i in range(said.num_row_groups)):
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
