"""Structures in Thrift's compact protocol, as parquet's headers are: what is needed of them, before any is trusted.

Arrow's own way to look at a part of a footer ends the process where some parts of it are damaged.
"""

from __future__ import annotations

from typing import Any

DEEPEST, LONGEST_LIST = 16, 1 << 20


class CutOffError(ValueError):
    """More bytes are needed."""


def whole(said: dict[int, object], key: int) -> int:
    value = said.get(key, 0)
    if not isinstance(value, int):
        raise ValueError("headers that are none")
    return int(value)


def varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise CutOffError
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number that is too long")


def signed(data: memoryview, at: int) -> tuple[int, int]:
    value, at = varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def structure(data: memoryview, at: int, depth: int) -> tuple[dict[int, Any], int]:
    said: dict[int, object] = {}
    field = 0
    while True:
        if at >= len(data):
            raise CutOffError
        head, at = data[at], at + 1
        if not head:
            return said, at
        step, kind = head >> 4, head & 15
        if step:
            field += step
        else:
            field, at = signed(data, at)
        said[field], at = (kind == 1, at) if kind in (1, 2) else _value(data, at, kind, depth)


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[object, int]:
    """(a value of a kind, None of those that are not needed; where the next begins)."""
    if depth > DEEPEST:
        raise ValueError("headers that are nested too deeply")
    if kind in (4, 5, 6):
        return signed(data, at)
    if kind == 12:
        return structure(data, at, depth + 1)
    if kind in (1, 2, 3, 7):
        at += 8 if kind == 7 else 1
    elif kind == 8:
        size, at = varint(data, at)
        at += size
    elif kind in (9, 10):
        if at >= len(data):
            raise CutOffError
        count, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = varint(data, at)
        if count > LONGEST_LIST:
            raise ValueError("a list that is too long")
        values = []
        for _ in range(count):
            value, at = _value(data, at, inner, depth + 1)
            values.append(value)
        return values, at
    else:
        raise ValueError("headers that are none")
    if at > len(data):
        raise CutOffError
    return None, at
