"""The messages of an Arrow file, looked at before Arrow unpacks them: what they say that they unpack to, and how many
rows they have.

A message is a length, a table of what it holds (a flatbuffer) and a body; buffers of the body may be packed, each with
its size unpacked in front. Layout: https://arrow.apache.org/docs/format/Columnar.html.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from mmssl.errors import UserError
from mmssl.limits import bomb, check_table

MAGIC = b"ARROW1"
"""An Arrow file with a footer is a stream between 8 bytes and the footer."""
CONTINUES = b"\xff\xff\xff\xff"
DICTIONARY, BATCH = 2, 3
"""Kinds of messages."""


class Checked(io.RawIOBase):
    """The bytes of an Arrow stream for Arrow, message by message.

    Raises UserError where a file unpacks to too much, or has too many rows.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.messages, self.pending = messages(file, name, whole=True), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.pending:
            self.pending = memoryview(next(self.messages, b""))
            if not self.pending:
                return 0
        count = min(len(buffer), len(self.pending))
        buffer[:count] = self.pending[:count]
        self.pending = self.pending[count:]
        return count


def messages(file: BinaryIO, name: str, whole: bool) -> Iterator[bytes]:
    """The messages of an Arrow file, each checked before it is given.

    Args:
        file: of its bytes, from their begin.
        name: for the reason.
        whole: with their bodies; False: these are passed over (the file can seek).

    Raises:
        UserError: it is no Arrow file, or too large.
    """
    read = unpacked = rows = 0
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if head.startswith(MAGIC):
        head = file.read(8)
    while len(head) >= 4:
        begun = len(head)
        if head.startswith(CONTINUES):
            length = int.from_bytes(head[4:8], "little", signed=True)
        else:  # of Arrow before 0.15
            length, begun = int.from_bytes(head[:4], "little", signed=True), 4
        if length == 0:
            break
        try:
            meta = head[begun:] + _exactly(file, length - len(head) + begun, size)
            kind, table, body_size = _message(meta)
            count, buffers = _batch(meta, table, kind)
            if whole:
                body = _exactly(file, body_size, size)
                sizes = [int.from_bytes(body[at : at + 8], "little", signed=True) for at, _ in buffers]
            else:
                body, sizes = b"", _peeked(file, [at for at, _ in buffers], body_size, size)
        except (struct.error, IndexError, ValueError) as error:
            raise UserError(f"data.path: '{name}' is damaged, or no Arrow file") from error
        read += length + body_size
        unpacked += sum(max(found, packed) for found, (_, packed) in zip(sizes, buffers, strict=True))
        bomb(name, read, unpacked)
        rows += count if kind == BATCH else 0
        check_table("rows", rows, "rows", name)
        yield head[:begun] + meta + body
        head = file.read(8)
    yield CONTINUES + bytes(4)


def _exactly(file: BinaryIO, count: int, size: int) -> bytes:
    """So many bytes. Raises ValueError where the file, of `size`, has not as many: no memory is taken for them."""
    if not 0 <= count <= size - file.tell():
        raise ValueError("cut off")
    return file.read(count)


def _peeked(file: BinaryIO, places: list[int], body_size: int, size: int) -> list[int]:
    """The numbers of 8 bytes at some places of a body, which is passed over."""
    begin = file.tell()
    if not 0 <= body_size <= size - begin:
        raise ValueError("cut off")
    out = []
    for place in places:
        file.seek(begin + place)
        out.append(int.from_bytes(file.read(8), "little", signed=True))
    file.seek(begin + body_size)
    return out


# --- flatbuffers: tables of places, read as they lie ---------------------------------------------------------------


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0: the table has no such field."""
    places = table - struct.unpack_from("<i", data, table)[0]
    if places < 0:
        raise ValueError("a table before the message")
    length = struct.unpack_from("<H", data, places)[0]
    at = 4 + 2 * number
    here = struct.unpack_from("<H", data, places + at)[0] if at + 2 <= length else 0
    return table + here if here else 0


def _follow(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _message(data: bytes) -> tuple[int, int, int]:
    """(kind of a message, where its table is, bytes of its body)."""
    root = _follow(data, 0)
    kind, table, body = (_field(data, root, number) for number in (1, 2, 3))
    size = int(struct.unpack_from("<q", data, body)[0]) if body else 0
    return (data[kind] if kind else 0), (_follow(data, table) if table else 0), size


def _batch(data: bytes, table: int, kind: int) -> tuple[int, list[tuple[int, int]]]:
    """(rows of a batch, (place in the body, size) of its buffers where they are packed)."""
    if kind == DICTIONARY:
        inner = _field(data, table, 1)
        table = _follow(data, inner) if inner else 0
    if kind not in (DICTIONARY, BATCH) or not table:
        return 0, []
    rows, buffers, packing = (_field(data, table, number) for number in (0, 2, 3))
    count = int(struct.unpack_from("<q", data, rows)[0]) if rows else 0
    if not packing or not buffers:
        return count, []
    start = _follow(data, buffers)
    number = int(struct.unpack_from("<I", data, start)[0])
    if number > len(data) // 16:
        raise ValueError("more buffers than the message holds")
    found = [struct.unpack_from("<qq", data, start + 4 + 16 * i) for i in range(number)]
    return count, [(int(at), int(length)) for at, length in found if length >= 8 and at >= 0]
