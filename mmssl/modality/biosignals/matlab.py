"""MATLAB files looked through before SciPy reads them: its compiled reader trusts their sizes, and ends the process.

The format: "MAT-File Format", The MathWorks; version 5, to which EEGLAB's `.set` and the `.mat` of WFDB belong. Files
of version 4 and 7.3 (HDF5) are other formats, and pass.
"""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path

from ...errors import BadSample
from ...limits import check, current

MATRIX, PACKED, WHOLE, NAMES, FLAGS = 14, 15, 5, 1, 6
CELL, STRUCT, OBJECT, CHAR, SPARSE, OPAQUE = 1, 2, 3, 4, 5, 17
FUNCTION = 16
SIZES = {6: 8, 7: 4, 8: 1, 9: 1, 10: 2, 11: 2, 12: 4, 13: 4, 14: 8, 15: 8}
"""Class of a matrix of numbers -> bytes of one. It may be stored in a smaller type."""
STORED = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
"""Type of an element -> bytes of one of its values."""
DEEPEST = 20


def check_matlab(path: Path) -> None:
    """BadSample where a MATLAB file of version 5 is not what its own sizes say."""
    with path.open("rb") as file:
        head = file.read(128)
        major = head[125:126] if head[126:128] == b"IM" else head[124:125]
        # as SciPy tells the versions apart: not by the words in front
        if len(head) < 128 or 0 in head[:4] or head[126:128] not in (b"IM", b"MI") or major != b"\x01":
            return
        check("bytes", path.stat().st_size, "bytes")
        data = file.read()
    order = "<" if head[126:128] == b"IM" else ">"
    try:
        _elements(memoryview(data), order, 0, top=True)
    except (struct.error, IndexError, zlib.error, ValueError) as error:
        if isinstance(error, BadSample):
            raise
        raise BadSample(f"{path.name} is a damaged MATLAB file: {error}") from error


def _element(data: memoryview, order: str, at: int) -> tuple[int, memoryview, int]:
    """(type, content, where the next one begins)."""
    (kind,) = struct.unpack_from(f"{order}I", data, at)
    if kind >> 16:  # a small one: its size and its content in the same eight bytes
        size, kind = kind >> 16, kind & 0xFFFF
        if size > 4:
            raise ValueError(f"a small element of {size} bytes")
        return kind, data[at + 4 : at + 4 + size], at + 8
    (size,) = struct.unpack_from(f"{order}I", data, at + 4)
    if at + 8 + size > len(data):
        raise ValueError(f"an element of {size:,} bytes, of which {max(len(data) - at - 8, 0):,} are there")
    end = at + 8 + size
    return kind, data[at + 8 : end], end if kind == PACKED else end + -size % 8


def _elements(data: memoryview, order: str, depth: int, top: bool = False) -> None:
    at = 0
    while at + 8 <= len(data):
        kind, content, at = _element(data, order, at)
        if kind == PACKED and top:
            worker = zlib.decompressobj()
            content = memoryview(worker.decompress(bytes(content), current().bytes))
            if worker.unconsumed_tail:
                check("bytes", math.inf, "bytes unpacked")
            kind, content, _ = _element(content, order, 0)
        if kind != MATRIX:
            raise ValueError(f"found an element of type {kind}, expected a matrix")
        _matrix(content, order, depth)


def _matrix(data: memoryview, order: str, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"matrices within matrices, deeper than {DEEPEST}")
    if not len(data):  # an empty one
        return
    kind, flags, at = _element(data, order, 0)
    if kind != FLAGS or len(flags) != 8:
        raise ValueError("a matrix without flags")
    (word,) = struct.unpack_from(f"{order}I", flags, 0)
    cls, is_complex = word & 0xFF, bool(word & 0x800)
    if cls == OPAQUE:
        raise ValueError("an object of MATLAB's own, expected numbers, texts, cells and structs")
    kind, raw, at = _element(data, order, at)
    if kind != WHOLE or len(raw) % 4 or not 2 <= len(raw) // 4 <= 32:
        raise ValueError("a matrix without dimensions")
    shape = struct.unpack(f"{order}{len(raw) // 4}i", raw)
    count = math.prod(shape)
    if min(shape) < 0:
        raise ValueError(f"a matrix of the shape {shape}")
    check("values", count, "numbers in a matrix")
    kind, _, at = _element(data, order, at)
    if kind not in (NAMES, 2):
        raise ValueError("a matrix without a name")
    if cls in SIZES:
        for _ in range(1 + is_complex):
            at = _values(data, order, at, count)
    elif cls == CHAR:
        _element(data, order, at) if count else None
    elif cls == CELL:
        _parts(data, order, at, count, depth)
    elif cls in (STRUCT, OBJECT):
        if cls == OBJECT:
            _, _, at = _element(data, order, at)
        _, length, at = _element(data, order, at)
        (width,) = struct.unpack(f"{order}i", length)
        _, names, at = _element(data, order, at)
        if width < 1 or len(names) % width:
            raise ValueError("names of fields of no length")
        _parts(data, order, at, count * (len(names) // width), depth)
    elif cls == SPARSE:
        _sparse(data, order, at, shape, is_complex)
    elif cls != FUNCTION:
        raise ValueError(f"a matrix of the class {cls}")


def _values(data: memoryview, order: str, at: int, count: int) -> int:
    kind, values, at = _element(data, order, at)
    if kind not in STORED or len(values) != count * STORED[kind]:
        raise ValueError(f"{len(values):,} bytes of type {kind} for {count:,} numbers")
    return at


def _sparse(data: memoryview, order: str, at: int, shape: tuple[int, ...], is_complex: bool) -> None:
    _, rows, at = _element(data, order, at)
    _, columns, at = _element(data, order, at)
    starts = struct.unpack(f"{order}{len(columns) // 4}i", columns[: len(columns) // 4 * 4])
    if len(starts) != shape[1] + 1 or list(starts) != sorted(starts) or starts[0] != 0 or starts[-1] > len(rows) // 4:
        raise ValueError("a sparse matrix whose columns do not fit its rows")
    numbers = struct.unpack(f"{order}{len(rows) // 4}i", rows[: len(rows) // 4 * 4])
    if any(not 0 <= row < max(shape[0], 1) for row in numbers):
        raise ValueError("a sparse matrix with rows that it has not")


def _parts(data: memoryview, order: str, at: int, count: int, depth: int) -> None:
    """`count` matrices one after the other."""
    if count * 8 > len(data) - at:
        raise ValueError(f"{count:,} parts in {len(data) - at:,} bytes")
    for _ in range(count):
        kind, content, at = _element(data, order, at)
        if kind != MATRIX:
            raise ValueError(f"found an element of type {kind}, expected a matrix")
        _matrix(content, order, depth + 1)
