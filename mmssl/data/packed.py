"""Packed data and data written by `save_to_disk`, so that a few bytes of them fill neither memory nor disk.

What mmssl reads itself is counted while it is unpacked (`unpacking`); what `datasets` unpacks is unpacked once before,
piece by piece, and counted (`refuse_bombs`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mmssl.limits import bomb, check_table

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
FURTHEST = {"gzip": 1_100, "lz4": 300, "xz": 8_000, "zstd": 40_000, "bz2": 1_000_000}
"""How many times its size a file can get."""
PIECE, BUFFER, HEAD = 1 << 22, 1 << 16, 8


class Counted(io.RawIOBase):
    """A packed file that counts the bytes which are read of it."""

    def __init__(self, file: BinaryIO) -> None:
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

    def __init__(self, file: BinaryIO, name: str, packed: Counted | None) -> None:
        super().__init__(file)
        self.name, self.packed = name, packed

    def readinto(self, buffer: object) -> int:
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


def unpacked(file: Any, how: str) -> BinaryIO:
    """The bytes of a file that is packed in a way of `ENDINGS`."""
    if how in ("gzip", "bz2", "xz"):
        openers: dict[str, Any] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
        return openers[how](io.BufferedReader(file))
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), how)


def how_packed(head: bytes) -> str | None:
    """How a file is packed by its first bytes, at least `HEAD` of them; None: it is not."""
    return next((how for start, how in STARTS.items() if head.startswith(start)), None)


# --- streams of packed files ---------------------------------------------------------------------------------------


def bound_fsspec() -> None:
    """Let what fsspec unpacks for `datasets`' streams end with a UserError where it is too much.

    Of all that this process opens with fsspec: there is no place in between.
    """
    from fsspec.compression import compr

    for how, opener in list(compr.items()):
        if how in ENDINGS.values() and not isinstance(opener, _Bounded):
            compr[how] = _Bounded(opener)


class _Bounded:
    """An opener of packed files, as fsspec has them, whose files are `Unpacked`."""

    def __init__(self, opener: Callable[..., BinaryIO]) -> None:
        self.opener = opener

    def __call__(self, file: BinaryIO, mode: str = "rb", **options: object) -> BinaryIO:
        if not mode.startswith("r"):
            return self.opener(file, mode=mode, **options)
        counted = Counted(file)
        name = str(getattr(file, "path", "") or getattr(file, "name", "the packed file"))
        return io.BufferedReader(Unpacked(self.opener(counted, mode=mode, **options), name, counted))
