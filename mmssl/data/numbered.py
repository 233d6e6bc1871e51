"""Rows by their numbers, read from where they lie: no copy is made of them first.

`datasets` copies every table into its cache, as large as the data, before the first row is read. Here its `Dataset`
stands on a table of its own kind, `NumberedTable`, which decodes a group of rows (a row group of parquet, chunks of
Zarr) when one of them is asked for, and keeps the last ones, up to a number of bytes. Only the columns that are asked
for are decoded. So whatever asks for rows asks as before; what it should know is that a row costs its group, where that
is not one of the last (`row_groups`).
"""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.table import InMemoryTable, Table, table_cast
from numpy.typing import NDArray

from mmssl.errors import BadSample, UserError

from .explained import explained

HELD = 1 << 28
"""Bytes of decoded row groups that a process keeps of some data, where nobody says how many."""
OWN = ("_held", "_opened", "_lock", "_pid", "_bytes", "decoded")
"""Of `RowGroups`: what another process begins anew."""
Numbers = NDArray[np.int64]


class DamagedError(UserError, BadSample):
    """A row group cannot be decoded: in training this costs its rows, whoever wants all rows cannot have them."""


class RowGroups(ABC):
    """Groups of rows, one behind the other, each of which is decoded whole, and those that were decoded last.

    Attributes:
        schema: of all columns: what each is cast to.
        starts: (groups + 1,) the number of the first row of each, and of all rows.
        arrays: whether columns of numbers are arrays of one shape, which nobody needs as lists.
        copied: whether the rows can be copied first (`data.copy`).
        dear: what a row anywhere costs, and what to do, for messages.
        limit, most: what is kept: so many bytes, or groups where these are more.
        decoded: groups that were decoded so far, by this process.
    """

    arrays = False
    copied = True
    dear = "row group; data.copy=true copies the rows first"

    def __init__(self, counts: Sequence[int] | Numbers, schema: pa.Schema) -> None:
        """counts: rows of each group."""
        self.schema = schema
        self.starts: Numbers = np.concatenate([[0], np.cumsum(np.asarray(counts, np.int64))]).astype(np.int64)
        self.limit, self.most = HELD, 1
        self.begin()

    def begin(self) -> None:
        """Nothing is kept, or open."""
        self.decoded, self._bytes = 0, 0
        self._held: OrderedDict[tuple[int, str], InMemoryTable] = OrderedDict()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in OWN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.begin()

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        """Of all groups."""
        return int(self.starts[-1])

    @abstractmethod
    def sizes(self, columns: Sequence[str]) -> Numbers:
        """(groups,) bytes of these columns of each, unpacked, as far as is known without reading them."""

    @abstractmethod
    def valid(self, name: str, kind: pa.DataType) -> NDArray[np.bool_]:
        """(rows,) whether a column, as it is called where it lies, has a value; kind: its type here."""

    @abstractmethod
    def place(self, number: int) -> str:
        """Where a group lies, for messages."""

    @abstractmethod
    def read(self, number: int, columns: Sequence[str]) -> pa.Table:
        """A group's columns, decoded, with the types of `schema`."""

    def of(self, rows: Numbers) -> Numbers:
        """The group of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def keep(self, limit: int, most: int) -> None:
        """Keep so many bytes, or groups where these are more."""
        self.limit, self.most = limit, most

    def group(self, number: int, of: NumberedTable) -> InMemoryTable:
        """A group, decoded, with the columns and types of a table."""
        with self._lock:
            key = (number, of.told)
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
            try:
                with explained(f"'{self.place(number)}'"):
                    found = InMemoryTable(of.as_here(self.read(number, of.names)))
            except UserError as error:
                raise DamagedError(str(error)) from error
            self.decoded += 1
            self._held[key] = found
            self._bytes += found.nbytes
            while self._bytes > self.limit and len(self._held) > self.most:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            return found


class NumberedTable(Table):
    """Columns of row groups as a table of `datasets`.

    What changes a table's rows (`filter`, `add_column`, ...) reads all of its rows first, as `table` does.

    Args:
        groups: the row groups.
        schema: what the columns are called here, and what they are cast to.
        names: what they are called in the files.
        rows: the first of them, and the one behind the last; None: all.
    """

    def __init__(
        self, groups: RowGroups, schema: pa.Schema, names: Sequence[str], rows: tuple[int, int] | None = None
    ) -> None:
        self.groups, self.names, self._schema = groups, tuple(names), schema
        self.first, self.last = (0, groups.rows) if rows is None else rows
        self.told = repr((self.names, schema.to_string(show_schema_metadata=False), schema.metadata))

    def __reduce__(self) -> tuple[Any, ...]:
        return NumberedTable, (self.groups, self._schema, self.names, (self.first, self.last))

    def __deepcopy__(self, memo: object) -> NumberedTable:
        return self  # nothing of it changes but what it keeps, and `datasets` copies it at every turn

    # --- what it is --------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    @property
    def column_names(self) -> list[str]:
        return list(self._schema.names)

    @property
    def num_columns(self) -> int:
        return len(self._schema.names)

    @property
    def num_rows(self) -> int:
        return self.last - self.first

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.num_columns

    @property
    def nbytes(self) -> int:
        """As the footers say."""
        share = self.num_rows / max(self.groups.rows, 1)
        return int(share * self.groups.sizes(self.names).sum())

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        return f"NumberedTable({self.num_rows} rows of {', '.join(self.column_names)})"

    __str__ = __repr__

    def field(self, *args: Any, **kwargs: Any) -> pa.Field:
        return self._schema.field(*args, **kwargs)

    # --- its rows ----------------------------------------------------------------------------------------------------

    def as_here(self, table: pa.Table) -> pa.Table:
        """A row group with the names and types of this table, in one piece where Arrow allows it."""
        return table_cast(table.rename_columns(self._schema.names), self._schema).combine_chunks()

    def group(self, number: int) -> InMemoryTable:
        """One of the row groups, decoded."""
        return self.groups.group(number, self)

    def fast_slice(self, offset: int = 0, length: int | None = None) -> pa.Table:
        """Rows one behind the other."""
        if offset < 0:
            raise IndexError("Offset must be non-negative")
        stop = self.num_rows if length is None else min(offset + max(length, 0), self.num_rows)
        runs = list(self._runs(self.first + offset, self.first + stop))
        return pa.concat_tables(runs) if runs else self._schema.empty_table()

    def _runs(self, start: int, stop: int) -> Iterator[pa.Table]:
        while start < stop:
            number = int(self.groups.of(np.array([start], np.int64))[0])
            first, last = self.groups.starts[number], min(int(self.groups.starts[number + 1]), stop)
            yield self.group(number).fast_slice(start - int(first), last - start)
            start = last

    def fast_gather(self, indices: Sequence[int] | Numbers) -> pa.Table:
        """Rows in any order; every row group that they are of is decoded once."""
        rows = self.first + np.asarray(indices, np.int64)
        if not len(rows):
            raise ValueError("Indices must be non-empty")
        groups = self.groups.of(rows)
        out: list[Any] = [None] * len(rows)
        for number in np.unique(groups).tolist():
            places = np.flatnonzero(groups == number)
            found = self.group(number).fast_gather(rows[places] - self.groups.starts[number])
            # a copy, so that the rows of many row groups do not keep all of these in memory
            found = found.combine_chunks() if len(places) < len(rows) else found
            for at, place in enumerate(places.tolist()):
                out[place] = found.slice(at, 1)
        return pa.concat_tables(out)

    def to_reader(self, max_chunksize: int | None = None) -> pa.RecordBatchReader:
        """All rows, a row group in memory at a time."""
        batches = (batch for run in self._runs(self.first, self.last) for batch in run.to_batches(max_chunksize))
        return pa.RecordBatchReader.from_batches(self._schema, batches)

    @property
    def table(self) -> pa.Table:
        """All rows in memory."""
        return self.fast_slice()

    def column(self, i: int | str) -> pa.ChunkedArray:
        """A column in memory."""
        name = i if isinstance(i, str) else self._schema.names[i]
        return self.select([name]).table.column(0)

    def valid(self, column: str) -> NDArray[np.bool_]:
        """(rows,) whether a column has a value; of a struct of bytes and their name the bytes are not decoded."""
        at = self._schema.names.index(column)
        return self.groups.valid(self.names[at], self._schema.field(at).type)[self.first : self.last]

    def _with(self, schema: pa.Schema, names: Sequence[str]) -> NumberedTable:
        return NumberedTable(self.groups, schema, names, (self.first, self.last))

    # --- other columns of the same rows ------------------------------------------------------------------------------

    def select(self, columns: Sequence[Any], *args: Any, **kwargs: Any) -> NumberedTable:
        """These columns alone, which alone are decoded."""
        at = [c if isinstance(c, int) else self._schema.names.index(c) for c in columns]
        schema = pa.schema([self._schema.field(i) for i in at], self._schema.metadata)
        return self._with(schema, [self.names[i] for i in at])

    def drop(self, columns: Sequence[str] | str, *args: Any, **kwargs: Any) -> NumberedTable:
        """Without these columns."""
        gone = {columns} if isinstance(columns, str) else set(columns)
        return self.select([name for name in self._schema.names if name not in gone])

    def remove_column(self, i: int, *args: Any, **kwargs: Any) -> NumberedTable:
        return self.drop(self._schema.names[i])

    def rename_columns(self, names: Sequence[str], *args: Any, **kwargs: Any) -> NumberedTable:
        fields = [field.with_name(name) for field, name in zip(self._schema, names, strict=True)]
        return self._with(pa.schema(fields, self._schema.metadata), self.names)

    def cast(self, target_schema: pa.Schema, *args: Any, **kwargs: Any) -> NumberedTable:
        """With other types, which each row group is cast to when it is decoded."""
        at = [self._schema.names.index(name) for name in target_schema.names]
        return self._with(target_schema, [self.names[i] for i in at])

    def replace_schema_metadata(self, metadata: Any = None) -> NumberedTable:
        return self._with(self._schema.with_metadata(metadata), self.names)

    # --- other rows --------------------------------------------------------------------------------------------------

    def slice(self, offset: int = 0, length: int | None = None) -> NumberedTable:
        """Rows one behind the other."""
        first = min(self.first + offset, self.last)
        last = self.last if length is None else min(first + length, self.last)
        return NumberedTable(self.groups, self._schema, self.names, (first, last))


def _whole(name: str) -> Any:
    """A method of a table that is in memory."""

    def method(self: NumberedTable, *args: Any, **kwargs: Any) -> Any:
        return getattr(InMemoryTable(self.table), name)(*args, **kwargs)

    return method


for _name in ("filter", "flatten", "combine_chunks", "add_column", "append_column", "set_column"):
    setattr(NumberedTable, _name, _whole(_name))


def as_rows(
    groups: RowGroups, features: datasets.Features, counts: Mapping[str, int], split: str, told: str
) -> datasets.Dataset:
    """Rows of some groups as a `Dataset`.

    Args:
        groups: the splits of `counts` that `split` names, one behind the other.
        features: of all columns.
        counts: split -> its rows.
        split: one of them, or a part as "train[:10%]", or several ("train[:10%]+test").
        told: what tells these data from any others.
    """
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(dict(counts))
    used = used_splits(counts, split)
    known = datasets.SplitDict()
    for name, count in counts.items():
        known.add(datasets.SplitInfo(name, num_examples=count))
    info = datasets.DatasetInfo(features=features, splits=known)
    table = NumberedTable(groups, features.arrow_schema, groups.schema.names)
    fingerprint = hashlib.sha256((told + repr(features) + split).encode()).hexdigest()[:16]
    rows = datasets.Dataset(table, info, datasets.NamedSplit(split), fingerprint=fingerprint)
    ranges = []
    for part in parts:
        first = sum(counts[name] for name in used[: used.index(part.splitname)])
        low, high, _ = slice(part.from_, part.to).indices(counts[part.splitname])
        ranges.append(np.arange(first + low, first + max(high, low)))
    chosen = np.concatenate(ranges)
    return rows if np.array_equal(chosen, np.arange(groups.rows)) else rows.select(chosen)


def used_splits(counts: Mapping[str, int], split: str) -> list[str]:
    """Which of the splits `split` names, each once."""
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(dict(counts))
    return list(dict.fromkeys(part.splitname for part in parts))
