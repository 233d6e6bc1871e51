"""The rows of Zarr stores on this disk by their numbers (see `numbered`): a group of rows is as long as a chunk.

Columns are chunked differently. A group is as long as the longest chunk of the columns that are large, and some of
these where they are small; of a column whose chunks are longer (labels, mostly one chunk) the last ones are kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.table import table_cast
from numpy.typing import NDArray

from mmssl.errors import RunError, UserError

from . import zarr_stores
from .explained import warn_once
from .numbered import Numbers, RowGroups, as_rows, used_splits
from .selection import no_split, rows_of_split
from .zarr_stores import ZarrArray

LEAST = 1 << 17
"""Bytes of a group, where chunks are smaller."""
MOST_GROUPS = 1 << 22
"""Groups of a store; of more chunks several are one."""
KEPT = 2
"""Chunks that are kept of a column whose chunks are longer than a group."""


@dataclass(frozen=True)
class Column:
    """A column of some stores, one for each split that is read.

    Attributes:
        kind: what a row holds.
        width: bytes of a row, of texts of the first ones.
    """

    kind: Any
    width: int


class ZarrGroups(RowGroups):
    """Rows of some stores, one behind the other."""

    arrays = True
    copied = False
    dear = "chunks: let a chunk hold few rows"

    def __init__(
        self, stores: Sequence[tuple[Path, Mapping[str, ZarrArray]]], columns: Mapping[str, Column], schema: pa.Schema
    ) -> None:
        self.stores, self.columns = [(path, dict(arrays)) for path, arrays in stores], dict(columns)
        self.seen = {str(path): zarr_stores.seen(path) for path, _ in self.stores}
        counts, self._store, self._first = [], [], []
        for number, (_, arrays) in enumerate(self.stores):
            rows, length = _rows(arrays), self._length(arrays)
            firsts = range(0, rows, length)
            counts += [min(length, rows - first) for first in firsts]
            self._store += [number] * len(firsts)
            self._first += list(firsts)
        super().__init__(np.array(counts, np.int64), schema)

    def _length(self, arrays: Mapping[str, ZarrArray]) -> int:
        """Rows of a group."""
        heavy = max(column.width for column in self.columns.values()) / 8
        length = max(arrays[name].chunk[0] for name, column in self.columns.items() if column.width >= heavy)
        width = sum(column.width for column in self.columns.values())
        least = max(-(-LEAST // max(width, 1)), -(-_rows(arrays) // MOST_GROUPS))
        return length * max(-(-least // length), 1)

    def begin(self) -> None:
        """Nothing is kept, or open."""
        super().begin()
        self._opened: dict[tuple[int, str], Any] = {}

    def place(self, number: int) -> str:
        """The group of the store."""
        return str(self.stores[self._store[number]][0])

    def sizes(self, columns: Sequence[str]) -> Numbers:
        """(groups,) bytes of these columns of each."""
        return np.diff(self.starts) * sum(self.columns[name].width for name in columns)

    def valid(self, name: str, kind: pa.DataType) -> NDArray[np.bool_]:
        """(rows,) ones: a store has no nulls."""
        return np.ones(self.rows, bool)

    def read(self, number: int, columns: Sequence[str]) -> pa.Table:
        """A group's columns, decoded."""
        first = self._first[number]
        last = first + int(self.starts[number + 1] - self.starts[number])
        schema = pa.schema([self.schema.field(name) for name in columns])
        found = [_arrow(self._values(self._store[number], name, first, last)) for name in columns]
        return table_cast(pa.table(found, names=schema.names), schema)

    def _values(self, store: int, name: str, first: int, last: int) -> NDArray[Any]:
        array, long = self._array(store, name), self.stores[store][1][name].chunk[0]
        if long <= last - first:
            return np.asarray(array.whole[first:last])
        parts = []
        for chunk in range(first // long, -(-last // long)):
            if chunk not in array.kept:
                while len(array.kept) >= KEPT:
                    array.kept.pop(next(iter(array.kept)))
                array.kept[chunk] = np.asarray(array.whole[chunk * long : (chunk + 1) * long])
            parts.append(array.kept[chunk][max(first - chunk * long, 0) : last - chunk * long])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _array(self, store: int, name: str) -> _Opened:
        key = (store, name)
        if key not in self._opened:
            path = self.stores[store][0]
            if zarr_stores.seen(path) != self.seen[str(path)]:
                raise RunError(f"'{path}' was changed while it is read: begin anew")
            self._opened[key] = _Opened(_open(self.stores[store][1][name]), {})
        opened: _Opened = self._opened[key]
        return opened


@dataclass
class _Opened:
    """An array of this process, and the last of its chunks."""

    whole: Any
    kept: dict[int, NDArray[Any]]


def _rows(arrays: Mapping[str, ZarrArray]) -> int:
    return next(iter(arrays.values())).shape[0]


def _open(array: ZarrArray) -> Any:
    """An array as `zarr` has it. UserError where it is not installed, or what was never written has no value."""
    try:
        import zarr
    except ImportError as error:
        raise UserError(
            f"data.path: '{array.path.parent}' is a Zarr store, and zarr is not installed: pip install 'mmssl[zarr]'"
        ) from error
    found = zarr.open_array(store=str(array.path), mode="r")
    if not array.filled and found.nchunks_initialized < found.nchunks:
        raise UserError(
            f"data.path: '{array.path}' lacks {found.nchunks - found.nchunks_initialized:,} of its {found.nchunks:,} "
            "chunks, and has no fill_value that would stand for them: write them, or set one"
        )
    return found


def _arrow(values: NDArray[Any]) -> pa.Array:
    """(rows, ...) values as Arrow's, numbers in the memory where they are."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind not in "biuf":
        return pa.array(values.tolist())
    flat = pa.array(np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(-1))
    for size in reversed(values.shape[1:]):
        flat = pa.FixedSizeListArray.from_arrays(flat, size)
    return flat


def _column(array: ZarrArray) -> Column | str:
    """What a row holds of an array; in words where no row can hold it."""
    found = _open(array)
    kind, shape = found.dtype.kind, array.shape[1:]
    if kind in "biuf":
        name = "bool" if kind == "b" else found.dtype.newbyteorder("=").name
        feature: Any = datasets.Value(name)
        for size in reversed(shape):
            feature = datasets.List(feature, length=size)
        return Column(feature, found.dtype.itemsize * math.prod(shape)) if all(shape) else f"an array of {shape}"
    if shape or kind not in "USTO":
        return f"{found.dtype}{f' of {shape}' if shape else ''}"
    first = np.asarray(found[: min(array.chunk[0], 64)]).tolist()
    width = 16 + sum(len(one) for one in first) // max(len(first), 1)
    return Column(datasets.Value("binary" if kind == "O" else "string"), width)


def open_zarr(path: Path, split: str, wanted: frozenset[str], what: str, streaming: bool, copy: bool) -> Any:
    """The rows of a split of a Zarr store, which are read when they are asked for.

    Args:
        path: a group.
        split: "train" is all of a group without splits; a part as "train[:10%]" works, and several.
        wanted: columns that are read; others that no row can hold are left out.
        what: the data, for messages.
        streaming, copy: what was asked for: the first is refused, the second not done, which the log says.
    """
    if streaming:
        raise UserError(f"data.streaming: {what} is a Zarr store, whose rows are read by their numbers: leave it out")
    if copy:
        warn_once(f"{what} is read where it lies: data.copy copies no Zarr store, and a row anywhere costs its chunk")
    places = zarr_stores.splits_of(path)
    lone = list(places) == ["train"]
    name = re.sub(r"\[.*", "", split)
    if name not in places and not lone:
        raise no_split(what, name, list(places))
    stores = {one: zarr_stores.columns_of(place, wanted) for one, place in places.items()}
    counts = {one: _rows(arrays) for one, arrays in stores.items()}
    opened = split if name in counts else "train"
    used = [(places[one], stores[one]) for one in used_splits(counts, opened)]
    columns = _alike(used, wanted)
    used = [(place, {name: arrays[name] for name in columns}) for place, arrays in used]
    features = datasets.Features({name: column.kind for name, column in columns.items()})
    groups = ZarrGroups(used, columns, features.arrow_schema.remove_metadata())
    rows = as_rows(groups, features, counts, opened, repr(groups.seen))
    return rows_of_split(rows, name, what) if lone else rows


def _alike(stores: Sequence[tuple[Path, Mapping[str, ZarrArray]]], wanted: frozenset[str]) -> dict[str, Column]:
    """The columns that all of these have, in one kind."""
    columns: dict[str, Column] = {}
    left: list[str] = []
    for number, (place, arrays) in enumerate(stores):
        left += zarr_stores.left_out(place, arrays)
        for name, array in arrays.items():
            found = _column(array)
            if isinstance(found, str):
                if name in wanted:
                    raise UserError(f"data.path: column '{name}' of '{place}' is {found}, which no row can hold")
                left.append(f"{name} ({found})")
            elif not number:
                columns[name] = found
            elif name in columns and columns[name].kind != found.kind:
                raise UserError(f"data.path: the array '{name}' of '{place}' is of another kind than in other splits")
        columns = {name: column for name, column in columns.items() if name in arrays}
    if left:
        warn_once(f"of '{stores[0][0]}' {', '.join(dict.fromkeys(left))} are left out: no columns of its rows")
    if not columns:
        raise UserError(f"data.path: no array of '{stores[0][0]}' is a column: {', '.join(left)}")
    return columns
