"""Cells of a table where they are stored: arrays and bytes as views of Arrow's memory, which nothing copies.

A table with windows of long recordings holds, in place of each recording, the number of its row and the seconds of the
window; `Resolved`, a transform of `datasets`, gives the recording itself when a row is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.modality.raw import Window

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

Full = Callable[[str | None], str | None]


class Cells:
    """Some columns of a table.

    Args:
        source: the rows, undecoded.
        columns: which columns.
        full: from a name of a file to its full path, None where there is no such file.
    """

    def __init__(self, source: Dataset, columns: Sequence[str], full: Full | None = None) -> None:
        self.table = source.with_format("arrow").select_columns(list(columns))
        self.full = full
        self._last: tuple[int, str, object] | None = None  # windows of one recording come one after the other

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_last": None}

    def value(self, row: int, column: str) -> Any:
        """What a cell holds; None where that is null. Numbers are arrays, bytes memoryviews, names of files that are
        there full paths."""
        if self._last is None or self._last[:2] != (row, column):
            array = self.table[row][column]
            self._last = (row, column, self._whole(view(array.chunk(0) if array.num_chunks else array)))
        return self._last[2]

    def _whole(self, value: object) -> object:
        if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
            return {**value, "path": self._path(value["path"])}
        return self._path(value) if isinstance(value, str) else value

    def _path(self, name: str) -> str:
        return (None if self.full is None else self.full(name)) or name


class Resolved:
    """A transform: rows whose cells say {"row", "start", "stop"} get what lies in that row of a table.

    Args:
        cells: the table.
        windows: the columns whose values are windows; those of the others are given whole.
        inner: a transform of the other columns.
    """

    def __init__(self, cells: Cells, windows: frozenset[str], inner: Callable[[Any], Any] | None = None) -> None:
        self.cells, self.windows, self.inner = cells, windows, inner
        self.columns = frozenset(cells.table.column_names)

    def __deepcopy__(self, memo: object) -> Resolved:
        return self  # `datasets` copies a table's format at every turn

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        rest: Mapping[str, Any] = {name: values for name, values in batch.items() if name not in self.columns}
        if self.inner is not None:
            rest = self.inner(rest)
        return {
            name: [self._cell(name, one) for one in values] if name in self.columns else rest[name]
            for name, values in batch.items()
        }

    def _cell(self, name: str, reference: Mapping[str, Any] | None) -> object:
        if reference is None:
            return None
        whole = self.cells.value(reference["row"], name)
        if name not in self.windows or whole is None:
            return _as_bytes(whole)
        told_by = (self.cells.table._fingerprint, reference["row"], name)
        return Window(whole, reference["start"], reference["stop"], told_by)


def resolved(source: Dataset) -> Resolved | None:
    """The transform of a table with windows; None where it has none."""
    transform = source.format["format_kwargs"].get("transform")
    return transform if isinstance(transform, Resolved) else None


def looked_at(source: Dataset, columns: Sequence[str], rows: Sequence[int]) -> dict[str, list[Any]]:
    """column -> what it holds in some rows, of windows the whole recordings; numbers are arrays."""
    known = resolved(source)
    plain = [name for name in columns if known is None or name not in known.columns]
    cells = Cells(source, plain)
    out = {name: [_as_bytes(cells.value(row, name)) for row in rows] for name in plain}
    for name in columns:
        if known is not None and name in known.columns:
            places = source.with_format(None).select_columns([name])[list(rows)][name]
            out[name] = [
                None if place is None else _as_bytes(known.cells.value(place["row"], name)) for place in places
            ]
    return out


def _as_bytes(value: object) -> Any:
    """A value whose bytes are bytes."""
    if isinstance(value, dict):
        return {key: _as_bytes(one) for key, one in value.items()}
    return bytes(value) if isinstance(value, memoryview) else value


def view(array: pa.Array) -> Any:
    """The first value of an Arrow array; lists of numbers as NumPy arrays of their type, bytes as a memoryview, both in
    Arrow's own memory."""
    import pyarrow as pa

    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    if not array.is_valid()[0].as_py():
        return None
    if pa.types.is_struct(array.type):
        return {field.name: view(array.field(number)) for number, field in enumerate(array.type)}
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return memoryview(array[0].as_buffer())
    numbers = _numbers(array) if _is_list(array.type) else None
    return array[0].as_py() if numbers is None else numbers


def _numbers(array: pa.Array) -> np.ndarray[Any, Any] | None:
    """The numbers of the one list of an array, in its own axes; None where they are none, or of unequal lengths."""
    import pyarrow as pa

    sizes: list[int] = []
    while _is_list(array.type):
        if array.null_count:
            return None
        if pa.types.is_fixed_size_list(array.type):
            size = array.type.list_size
        else:
            lengths = np.diff(array.offsets.to_numpy())
            size = int(lengths[0]) if len(lengths) else 0
            if (lengths != size).any():
                return None
        sizes.append(size)
        array = array.flatten()
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        return None
    return array.to_numpy(zero_copy_only=False).reshape(sizes)  # copied where some are null, which become NaN


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
