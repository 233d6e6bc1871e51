"""Rows as preprocessors are given them: as `datasets` has them, but arrays of one shape as arrays, never as lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .cells import view
from .row_groups import numbered_table

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

AT_ONCE = 32
"""Rows that are read together by who wants all of them."""


def rows_at(source: Dataset, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Rows by their numbers."""
    table = numbered_table(source)
    if table is None or not table.groups.arrays or source.format["type"] is not None:
        return list(source.__getitems__(list(numbers)))
    if not len(numbers):
        return []
    found = source.with_format("arrow")[list(numbers)]
    columns = {name: [_value(found[name].slice(at, 1)) for at in range(len(numbers))] for name in found.column_names}
    return [{name: values[at] for name, values in columns.items()} for at in range(len(numbers))]


def all_rows(source: Dataset | IterableDataset) -> Iterator[dict[str, Any]]:
    """All rows, in order."""
    table = numbered_table(source)
    if table is None or not table.groups.arrays:
        yield from source
        return
    for first in range(0, len(source), AT_ONCE):
        yield from rows_at(source, range(first, min(first + AT_ONCE, len(source))))


def _value(one: Any) -> Any:
    """What a row holds; a copy, which may be written to."""
    value = view(one.chunk(0))
    if isinstance(value, memoryview):
        return bytes(value)
    return np.array(value) if isinstance(value, np.ndarray) else value
