"""How large parts of a parquet file are once they are decoded, as the pages themselves say, before any is.

A footer is what the writer says; pages are what is decoded. A dictionary of one text of 10 MB and a million places
where it stands take a kilobyte; so do a million texts that begin like the one before, and a billion equal numbers.
Layout of the pages: https://parquet.apache.org/docs/file-format/.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mmssl.errors import UserError, one_line
from mmssl.lazy import later
from mmssl.limits import MOST_RATIO, bomb, check_table, is_bomb

from .thrift import CutOffError, signed, structure, varint, whole

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = later("pyarrow", __name__)

WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
"""Physical type -> bytes of a value in Arrow; of texts those of their place."""
DICTIONARY_PAGE, DATA_PAGES = 2, (0, 3)
IN_DICTIONARY, DELTA_BYTES = (2, 8), 7
"""Encodings whose values are larger than their pages: numbers of values in a dictionary; texts by what they share."""
HEADER, LONGEST_HEADER = 1 << 9, 1 << 24
CODECS = ("uncompressed", "snappy", "gzip", "lzo", "brotli", "lz4_raw", "zstd", "lz4_raw")
MAGIC = b"PAR1"
EIGHTS, LARGEST_BLOCK = 1 << 13, 1 << 16


@dataclass(frozen=True, slots=True)
class Page:
    """A page: encoding and number of its values, bytes in the file and unpacked, where its content begins.

    levels: bytes of it in front of the values, which are not packed (None: said within); packed_values: whether the
    rest is packed.
    """

    type: int
    encoding: int
    values: int
    packed: int
    unpacked: int
    at: int
    levels: int | None
    packed_values: bool


def pages(file: BinaryIO, start: int, size: int, values: int) -> Iterator[Page]:
    """The pages of a column in a row group, as Arrow goes along them.

    Args:
        file: of all bytes.
        start, size: where they lie, as the footer says.
        values: so many as the footer says: what follows is not read.
    """
    at, seen, end = start, 0, start + size
    while seen < values:
        said, at = _header(file, at, end)
        kind, unpacked, packed = (whole(said, key) for key in (1, 2, 3))
        one = said.get({0: 5, DICTIONARY_PAGE: 7, 3: 8}.get(kind, -1), {})
        if packed < 0 or unpacked < 0 or at + packed > end or not isinstance(one, dict):
            raise ValueError("pages that lie outside of their column")
        count = whole(one, 1) if one else 0
        if count < 0:
            raise ValueError("a page of less than no values")
        second = kind == 3
        levels = max(whole(one, 5), 0) + max(whole(one, 6), 0) if second else None
        encoding = whole(one, 4 if second else 2)
        yield Page(kind, encoding, count, packed, unpacked, at, levels, not second or one.get(7, True) is True)
        at += packed
        seen += count if kind in DATA_PAGES else 0
        if at >= end:
            return


def _header(file: BinaryIO, at: int, end: int) -> tuple[dict[int, Any], int]:
    """(what the header of a page says, number of its field -> value; where the page begins)."""
    size = HEADER
    while True:
        file.seek(at)
        data = file.read(min(size, end - at))
        try:
            said, used = structure(memoryview(data), 0, 0)
            return said, at + used
        except CutOffError:
            if len(data) < size or size >= LONGEST_HEADER:
                raise ValueError("the header of a page that is cut off") from None
            size *= 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column in a row group, as the footer says: where its bytes lie, how many values it has, how it is packed."""

    start: int
    size: int
    values: int
    codec: str


def chunks(file: BinaryIO, name: str) -> list[list[Chunk]]:
    """The columns of each row group of a parquet file. UserError where its footer is damaged."""
    try:
        end = file.seek(0, io.SEEK_END) - 8
        file.seek(max(end, 0))
        tail = file.read(8)
        size = int.from_bytes(tail[:4], "little")
        if tail[4:] != MAGIC or size > end:
            raise ValueError("no footer")
        file.seek(end - size)
        said, _ = structure(memoryview(file.read(size)), 0, 0)
        return [[_chunk(column[3]) for column in group[1]] for group in said[4]]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"data.path: '{name}' cannot be read: its footer is damaged ({one_line(error)})") from error


def _chunk(said: dict[int, object]) -> Chunk:
    start, dictionary = whole(said, 9), whole(said, 11)
    return Chunk(
        dictionary if 0 < dictionary < start else start, whole(said, 7), whole(said, 5), CODECS[whole(said, 4)]
    )


def check_group(file: BinaryIO, schema: Any, columns: Mapping[int, Chunk], name: str) -> int:
    """The bytes that a row group decodes to, at most. UserError where they are too many.

    Args:
        file: the parquet file.
        schema: of its columns, `ParquetFile.metadata.schema`.
        columns: number -> column of the row group, of those that are read.
        name: of the file, for the message.
    """
    held, most, packed, values = 0, 0, 0, 0
    doubtful: list[tuple[int, list[Page]]] = []
    for number, chunk in columns.items():
        column = schema.column(number)
        try:
            found = list(pages(file, chunk.start, chunk.size, chunk.values))
        except (ValueError, IndexError, OverflowError) as error:
            raise UserError(f"data.path: '{name}' cannot be read: column {column.path} has {error}") from error
        count = sum(page.values for page in found if page.type in DATA_PAGES)
        width = column.length if column.physical_type == "FIXED_LEN_BYTE_ARRAY" else WIDTHS[column.physical_type]
        flat = count * (width + (4 if column.max_repetition_level else 0)) + sum(page.unpacked for page in found)
        texts = _texts(found) if column.physical_type == "BYTE_ARRAY" else 0
        held, most = held + flat, most + flat + texts
        packed, values = packed + sum(page.packed for page in found), values + count
        if texts:
            doubtful.append((number, found))
    bomb(name, packed, held)
    if values > MOST_RATIO * max(packed, 1):
        check_table("values", values, "values in a row group", name)
    if not is_bomb(packed, most):
        return most
    for number, found in doubtful:  # each text as long as all that it may be taken from: count them as they are
        column, codec = schema.column(number), columns[number].codec
        lengths = np.zeros(0, np.int64)
        for page in found:
            try:
                data = _content(file, page, codec, column)
                if page.type == DICTIONARY_PAGE:
                    lengths = _plain_lengths(data, page.values)
                elif page.encoding == DELTA_BYTES:
                    held += _sum_of_deltas(data, page.values)
                elif page.encoding in IN_DICTIONARY:
                    held += _sum_of_named(data, page.values, lengths)
            except (ValueError, IndexError, OverflowError, pa.ArrowException, OSError):
                held += _texts([page, *(other for other in found if other.type == DICTIONARY_PAGE)])
            bomb(name, packed, held)
    return held


def _texts(found: Sequence[Page]) -> int:
    """Bytes of texts at most: each as long as all that it may be taken from."""
    dictionary = max((page.unpacked for page in found if page.type == DICTIONARY_PAGE), default=0)
    most = 0
    for page in found:
        if page.type in DATA_PAGES:
            most += page.values * dictionary if page.encoding in IN_DICTIONARY else 0
            most += page.values * page.unpacked if page.encoding == DELTA_BYTES else 0
    return most


# --- texts, counted without being made ---------------------------------------------------------------------------


def _content(file: BinaryIO, page: Page, codec: str, column: Any) -> memoryview:
    """The values of a page as they are encoded."""
    file.seek(page.at)
    data = file.read(page.packed)
    levels = page.levels or 0
    if codec != CODECS[0] and page.packed_values:
        packer = pa.Codec(codec)
        data = data[:levels] + packer.decompress(data[levels:], page.unpacked - levels).to_pybytes()
    if page.levels is None and page.type != DICTIONARY_PAGE:  # a length in front of each kind of level
        for most in (column.max_repetition_level, column.max_definition_level):
            levels += 4 + int.from_bytes(data[levels : levels + 4], "little") if most else 0
    return memoryview(data)[levels:]


def _plain_lengths(data: memoryview, count: int) -> np.ndarray:
    """(count,) lengths of the texts of a dictionary."""
    at, found = 0, []
    for _ in range(min(count, len(data) // 4)):
        found.append(int.from_bytes(data[at : at + 4], "little"))
        at += 4 + found[-1]
    return np.asarray(found, np.int64)


def _sum_of_named(data: memoryview, values: int, lengths: np.ndarray) -> int:
    """The sum of the lengths that numbers name, which are in parquet's RLE: runs of one number, and of packed ones."""
    width, at, left, added = data[0], 1, values, 0
    while left > 0 and at < len(data):
        head, at = varint(data, at)
        if not head & 1:
            count, size = min(head >> 1, left), (width + 7) // 8
            added += count * int(lengths[int.from_bytes(data[at : at + size], "little")])
            at, left = at + size, left - count
            continue
        end = min(at + (head >> 1) * width, len(data))
        if not width:
            added, left = added + min(8 * (head >> 1), left) * int(lengths[0]), left - 8 * (head >> 1)
        while at < end and left > 0:
            part = data[at : min(at + width * EIGHTS, end)]
            numbers = _unpacked(part, width)[:left]
            added, at, left = added + int(lengths[numbers].sum()), at + len(part), left - len(numbers)
        at = end
    return added


def _unpacked(data: memoryview, width: int) -> np.ndarray:
    """Whole numbers of so many bits each."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    count = len(bits) // width
    return bits[: count * width].reshape(count, width) @ (1 << np.arange(width, dtype=np.int64))


def _sum_of_deltas(data: memoryview, values: int) -> int:
    """The sum of whole numbers in parquet's DELTA_BINARY_PACKED. Raises ValueError where they are none."""
    block, at = varint(data, 0)
    parts, at = varint(data, at)
    total, at = varint(data, at)
    first, at = signed(data, at)
    if not 0 < parts <= block <= LARGEST_BLOCK or total > values:
        raise ValueError("blocks of lengths that do not fit their page")
    each, left, last, added = block // parts, total - 1, first, max(first, 0)
    while left > 0:
        least, at = signed(data, at)
        widths, at = bytes(data[at : at + parts]), at + parts
        for width in widths[: -(-left // each)]:
            size, count = each * width // 8, min(each, left)
            if width > 32 or at + size > len(data):
                raise ValueError("lengths that end early")
            numbers = _unpacked(data[at : at + size], width)[:count] if width else np.zeros(count, np.int64)
            lengths = last + np.cumsum(numbers + least)
            last, added = int(lengths[-1]), added + int(np.maximum(lengths, 0).sum())
            at, left = at + size, left - count
    return added
