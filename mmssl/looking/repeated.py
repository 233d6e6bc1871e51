"""Rows that are there several times, to the byte: within a split, and on both sides of one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..data.cells import looked_at
from ..data.fingerprint import content_of
from ..data.sampler import order

if TYPE_CHECKING:
    from datasets import Dataset

ROWS = 5000
AT_ONCE = 256


def hashes(rows: Dataset, columns: Sequence[str], most: int | None = ROWS) -> dict[int, bytes]:
    """Number of a row -> what is equal of rows with the same contents; rows without any are not in it.

    Files count by what is in them, wherever they lie.

    Args:
        rows: the data.
        columns: what of them counts.
        most: so many rows, any, always the same; None: all.
    """
    numbers = list(range(len(rows)))
    if most is not None and most < len(rows):
        numbers = sorted(order(len(rows), 0, 0)[:most].tolist())
    names = sorted(set(columns))
    found: dict[int, bytes] = {}
    for begin in range(0, len(numbers), AT_ONCE):
        chunk = numbers[begin : begin + AT_ONCE]
        values = values_of(rows, names, chunk)
        for place, number in enumerate(chunk):
            if all(values[name][place] is None for name in names):
                continue
            digest = hashlib.sha256()
            for name in names:
                digest.update(content_of(values[name][place]) + b"\x1f")
            found[number] = digest.digest()[:16]
    return found


def values_of(rows: Dataset, names: Sequence[str], numbers: Sequence[int]) -> dict[str, list[Any]]:
    """Column -> what some rows hold; arrays as they lie in memory, which lists of Python would take minutes for."""
    import datasets

    features = rows.features or {}
    light = [name for name in names if isinstance(features.get(name), datasets.Value | datasets.ClassLabel)]
    values: dict[str, list[Any]] = {}
    if light:
        values |= rows.with_format(None).select_columns(light)[list(numbers)]
    return values | looked_at(rows, [name for name in names if name not in light], list(numbers))


def groups(found: dict[int, bytes]) -> list[list[int]]:
    """The numbers of rows that are the same, each group of at least two."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for number, key in found.items():
        same[key].append(number)
    return [numbers for numbers in same.values() if len(numbers) > 1]


def shared(one: dict[int, bytes], other: dict[int, bytes]) -> list[tuple[int, int]]:
    """(number in one split, number in another) of rows that are in both."""
    where = {key: number for number, key in one.items()}
    return [(where[key], number) for number, key in other.items() if key in where]
