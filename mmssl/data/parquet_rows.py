"""The rows of parquet files on this disk by their numbers, read from where they lie: no copy is made of them first.

`datasets` copies every table into its cache, as large as the data, before the first row is read. Here its `Dataset`
stands on a table of its own kind, `ParquetTable`, which decodes a row group when a row of it is asked for, and keeps
the last ones, up to a number of bytes. Only the columns that are asked for are decoded. So whatever asks for rows asks
as before; what it should know is that a row costs its row group, where that is not one of the last (`row_groups`).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import InMemoryTable, Table, table_cast
from numpy.typing import NDArray

from mmssl.errors import BadSample, RunError, UserError

from .arrow_files import ParquetFile
from .explained import explained

HELD = 1 << 28
"""Bytes of decoded row groups that a process keeps of some data, where nobody says how many."""
OPEN = 32
"""Files that a process keeps open of some data."""
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "BYTE_ARRAY": 16}
"""Physical type -> about the bytes of a value in Arrow, of others 8; how long texts in a dictionary are is a guess."""
Numbers = NDArray[np.int64]


class DamagedError(UserError, BadSample):
    """A row group cannot be decoded: in training this costs its rows, whoever wants all rows cannot have them."""


@dataclass(frozen=True)
class Footer:
    """What a file says of itself: rows of each row group, and bytes of each column in it, unpacked.

    seen: its size and time, by which it is known again.
    """

    path: str
    rows: Numbers
    sizes: Mapping[str, Numbers]
    seen: tuple[int, int]

    @classmethod
    def of(cls, path: str) -> Footer:
        """By its footer alone."""
        said = pq.read_metadata(path)
        sizes: dict[str, Numbers] = {}
        for number in range(said.num_row_groups):
            group = said.row_group(number)
            for leaf in range(group.num_columns):
                column = group.column(leaf)
                name = column.path_in_schema.partition(".")[0]
                least = column.num_values * WIDTHS.get(column.physical_type, 8)  # where pages hold numbers of values
                size = max(column.total_uncompressed_size, least)
                sizes.setdefault(name, np.zeros(said.num_row_groups, np.int64))[number] += size
        rows = [said.row_group(number).num_rows for number in range(said.num_row_groups)]
        return cls(path, np.array(rows, np.int64), sizes, _seen(path))


def _seen(path: str) -> tuple[int, int]:
    about = os.stat(path)
    return about.st_size, about.st_mtime_ns


class RowGroups:
    """The row groups of some files, one behind the other, and those that were decoded last.

    Attributes:
        footers: of the files.
        schema: of all their columns: what each is cast to; one that a file lacks is null.
        starts: (groups + 1,) the number of the first row of each, and of all rows.
        limit, most: what is kept: so many bytes, or row groups where these are more.
        decoded: row groups that were decoded so far, by this process.
    """

    def __init__(self, footers: Sequence[Footer], schema: pa.Schema) -> None:
        self.footers, self.schema = list(footers), schema
        counts = [len(footer.rows) for footer in self.footers]
        self._file = np.repeat(np.arange(len(counts)), counts)
        self._first = np.cumsum([0, *counts])
        rows = [footer.rows for footer in self.footers]
        self.starts: Numbers = np.concatenate([[0], np.cumsum(np.concatenate([*rows, np.zeros(0, np.int64)]))])
        self.starts = self.starts.astype(np.int64)
        self.limit, self.most = HELD, 1
        self._begin()

    def _begin(self) -> None:
        self.decoded, self._bytes, self._pid = 0, 0, os.getpid()
        self._held: OrderedDict[tuple[int, str], InMemoryTable] = OrderedDict()
        self._opened: OrderedDict[tuple[int, tuple[str, ...]], ParquetFile] = OrderedDict()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_held", "_opened", "_lock", "_pid", "_bytes", "decoded")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def rows(self) -> int:
        """Of all files."""
        return int(self.starts[-1])

    def sizes(self, columns: Sequence[str]) -> Numbers:
        """(groups,) bytes of these columns of each, as the footers say."""
        parts = [np.zeros(0, np.int64)]
        for footer in self.footers:
            none = np.zeros(len(footer.rows), np.int64)
            parts.append(sum((footer.sizes.get(name, none) for name in columns), none))
        return np.concatenate(parts)

    def of(self, rows: Numbers) -> Numbers:
        """The row group of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def keep(self, limit: int, most: int) -> None:
        """Keep so many bytes, or row groups where these are more."""
        self.limit, self.most = limit, most

    def group(self, number: int, of: ParquetTable) -> InMemoryTable:
        """A row group, decoded, with the columns and types of a table."""
        with self._lock:
            key = (number, of.told)
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found
            try:
                with explained(f"'{self.footers[int(self._file[number])].path}'"):
                    found = InMemoryTable(of.as_here(self._decoded(number, of.names)))
            except UserError as error:
                raise DamagedError(str(error)) from error
            self.decoded += 1
            self._held[key] = found
            self._bytes += found.nbytes
            while self._bytes > self.limit and len(self._held) > self.most:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            return found

    def _decoded(self, number: int, columns: tuple[str, ...]) -> pa.Table:
        file, count = int(self._file[number]), int(self.starts[number + 1] - self.starts[number])
        schema = pa.schema([self.schema.field(name) for name in columns])
        opened = self._open(file, columns)
        parts = list(opened.tables(number - int(self._first[file]))) if opened.wanted else []
        there = dict(zip(opened.wanted, pa.concat_tables(parts).columns, strict=True)) if parts else {}
        arrays = [there[field.name] if field.name in there else pa.nulls(count, field.type) for field in schema]
        return table_cast(pa.table(arrays, names=schema.names), schema)

    def _open(self, file: int, columns: tuple[str, ...]) -> ParquetFile:
        """A file of this process's own: one that was opened before a fork would be read at two places at once."""
        if self._pid != os.getpid():
            self._opened.clear()
            self._pid = os.getpid()
        key, footer = (file, columns), self.footers[file]
        if key not in self._opened:
            if _seen(footer.path) != footer.seen:
                raise RunError(f"'{footer.path}' was changed while it is read: begin anew")
            self._opened[key] = ParquetFile(footer.path, footer.path, columns)
            if len(self._opened) > OPEN:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(key)
        opened = self._opened[key]
        opened.packed = opened.decoded = 0  # of each row group by itself
        return opened


class ParquetTable(Table):
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
        return ParquetTable, (self.groups, self._schema, self.names, (self.first, self.last))

    def __deepcopy__(self, memo: object) -> ParquetTable:
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
        return f"ParquetTable({self.num_rows} rows of {', '.join(self.column_names)})"

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
        name, kind = self.names[self._schema.names.index(column)], self._schema.field(column).type
        parts: list[NDArray[np.bool_]] = [np.zeros(0, bool)]
        for footer in self.groups.footers:
            with pq.ParquetFile(footer.path) as file:
                there = name in file.schema_arrow.names
                leaf = _light(file.schema_arrow.field(name).type) if there and pa.types.is_struct(kind) else None
                for number in range(file.num_row_groups):
                    if not there:
                        parts.append(np.zeros(int(footer.rows[number]), bool))
                        continue
                    one = file.read_row_group(number, [name if leaf is None else f"{name}.{leaf}"])
                    parts.append(np.asarray(one.column(0).is_valid()))
        return np.concatenate(parts)[self.first : self.last]

    def _with(self, schema: pa.Schema, names: Sequence[str]) -> ParquetTable:
        return ParquetTable(self.groups, schema, names, (self.first, self.last))

    # --- other columns of the same rows ------------------------------------------------------------------------------

    def select(self, columns: Sequence[Any], *args: Any, **kwargs: Any) -> ParquetTable:
        """These columns alone, which alone are decoded."""
        at = [c if isinstance(c, int) else self._schema.names.index(c) for c in columns]
        schema = pa.schema([self._schema.field(i) for i in at], self._schema.metadata)
        return self._with(schema, [self.names[i] for i in at])

    def drop(self, columns: Sequence[str] | str, *args: Any, **kwargs: Any) -> ParquetTable:
        """Without these columns."""
        gone = {columns} if isinstance(columns, str) else set(columns)
        return self.select([name for name in self._schema.names if name not in gone])

    def remove_column(self, i: int, *args: Any, **kwargs: Any) -> ParquetTable:
        return self.drop(self._schema.names[i])

    def rename_columns(self, names: Sequence[str], *args: Any, **kwargs: Any) -> ParquetTable:
        fields = [field.with_name(name) for field, name in zip(self._schema, names, strict=True)]
        return self._with(pa.schema(fields, self._schema.metadata), self.names)

    def cast(self, target_schema: pa.Schema, *args: Any, **kwargs: Any) -> ParquetTable:
        """With other types, which each row group is cast to when it is decoded."""
        at = [self._schema.names.index(name) for name in target_schema.names]
        return self._with(target_schema, [self.names[i] for i in at])

    def replace_schema_metadata(self, metadata: Any = None) -> ParquetTable:
        return self._with(self._schema.with_metadata(metadata), self.names)

    # --- other rows --------------------------------------------------------------------------------------------------

    def slice(self, offset: int = 0, length: int | None = None) -> ParquetTable:
        """Rows one behind the other."""
        first = min(self.first + offset, self.last)
        last = self.last if length is None else min(first + length, self.last)
        return ParquetTable(self.groups, self._schema, self.names, (first, last))


def _whole(name: str) -> Any:
    """A method of a table that is in memory."""

    def method(self: ParquetTable, *args: Any, **kwargs: Any) -> Any:
        return getattr(InMemoryTable(self.table), name)(*args, **kwargs)

    return method


for _name in ("filter", "flatten", "combine_chunks", "add_column", "append_column", "set_column"):
    setattr(ParquetTable, _name, _whole(_name))


def _light(kind: pa.DataType) -> str | None:
    """The name of a field of a struct that is no bytes; None where there is none."""
    light = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return next((field.name for field in kind if any(is_light(field.type) for is_light in light)), None)


def indexed(files: Mapping[str, Sequence[str]], split: str, features: datasets.Features) -> datasets.Dataset:
    """The rows of a split of local parquet files, which are read when they are asked for.

    Args:
        files: split -> its files.
        split: one of them, or a part as "train[:10%]", or several ("train[:10%]+test").
        features: of the columns of all files.
    """
    footers = {name: [Footer.of(str(file)) for file in of] for name, of in files.items()}
    counts = {name: sum(int(footer.rows.sum()) for footer in of) for name, of in footers.items()}
    parts = datasets.ReadInstruction.from_spec(split).to_absolute(counts)
    used = list(dict.fromkeys(part.splitname for part in parts))
    schema = features.arrow_schema.remove_metadata()
    groups = RowGroups([footer for name in used for footer in footers[name]], schema)
    told = repr([(footer.path, footer.seen) for footer in groups.footers]) + repr(features) + split
    known = datasets.SplitDict()
    for name, count in counts.items():
        known.add(datasets.SplitInfo(name, num_examples=count))
    info = datasets.DatasetInfo(features=features, splits=known)
    table = ParquetTable(groups, features.arrow_schema, schema.names)
    rows = datasets.Dataset(
        table, info, datasets.NamedSplit(split), fingerprint=hashlib.sha256(told.encode()).hexdigest()[:16]
    )
    ranges = []
    for part in parts:
        first = sum(counts[name] for name in used[: used.index(part.splitname)])
        low, high, _ = slice(part.from_, part.to).indices(counts[part.splitname])
        ranges.append(np.arange(first + low, first + max(high, low)))
    chosen = np.concatenate(ranges)
    return rows if np.array_equal(chosen, np.arange(groups.rows)) else rows.select(chosen)
