"""The rows of parquet files on this disk by their numbers (see `numbered`): a group is a row group of a file."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.table import table_cast
from numpy.typing import NDArray

from mmssl.errors import RunError

from .arrow_files import ParquetFile
from .numbered import Numbers, RowGroups, as_rows, used_splits

OPEN = 32
"""Files that a process keeps open of some data."""
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "BYTE_ARRAY": 16}
"""Physical type -> about the bytes of a value in Arrow, of others 8; how long texts in a dictionary are is a guess."""


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


class ParquetGroups(RowGroups):
    """The row groups of some files; a column that a file lacks is null.

    Attributes:
        footers: of the files.
    """

    def __init__(self, footers: Sequence[Footer], schema: pa.Schema) -> None:
        self.footers = list(footers)
        counts = [len(footer.rows) for footer in self.footers]
        self._file = np.repeat(np.arange(len(counts)), counts)
        self._first = np.cumsum([0, *counts])
        super().__init__(np.concatenate([*(footer.rows for footer in self.footers), np.zeros(0, np.int64)]), schema)

    def begin(self) -> None:
        """Nothing is kept, or open."""
        super().begin()
        self._pid = os.getpid()
        self._opened: OrderedDict[tuple[int, tuple[str, ...]], ParquetFile] = OrderedDict()

    def place(self, number: int) -> str:
        """The file."""
        return self.footers[int(self._file[number])].path

    def sizes(self, columns: Sequence[str]) -> Numbers:
        """(groups,) bytes of these columns of each, as the footers say."""
        parts = [np.zeros(0, np.int64)]
        for footer in self.footers:
            none = np.zeros(len(footer.rows), np.int64)
            parts.append(sum((footer.sizes.get(name, none) for name in columns), none))
        return np.concatenate(parts)

    def read(self, number: int, columns: Sequence[str]) -> pa.Table:
        """A row group's columns, decoded, with the types of `schema`."""
        file, count = int(self._file[number]), int(self.starts[number + 1] - self.starts[number])
        schema = pa.schema([self.schema.field(name) for name in columns])
        opened = self._open(file, tuple(columns))
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

    def valid(self, name: str, kind: pa.DataType) -> NDArray[np.bool_]:
        """(rows,) whether a column has a value; of a struct of bytes and their name the bytes are not decoded."""
        parts: list[NDArray[np.bool_]] = [np.zeros(0, bool)]
        for footer in self.footers:
            with pq.ParquetFile(footer.path) as file:
                there = name in file.schema_arrow.names
                leaf = _light(file.schema_arrow.field(name).type) if there and pa.types.is_struct(kind) else None
                for number in range(file.num_row_groups):
                    if not there:
                        parts.append(np.zeros(int(footer.rows[number]), bool))
                        continue
                    one = file.read_row_group(number, [name if leaf is None else f"{name}.{leaf}"])
                    parts.append(np.asarray(one.column(0).is_valid()))
        return np.concatenate(parts)


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
    used = [footer for name in used_splits(counts, split) for footer in footers[name]]
    groups = ParquetGroups(used, features.arrow_schema.remove_metadata())
    return as_rows(groups, features, counts, split, repr([(footer.path, footer.seen) for footer in used]))
