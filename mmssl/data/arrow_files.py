"""Parquet and Arrow files to tables, of which no part is decoded before it is known how large it gets."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from mmssl.boundary import inside, read_json_object
from mmssl.lazy import later
from mmssl.limits import MOST_RATIO, bomb, check_table
from mmssl.modality.parquet_pages import check_group, chunks

from .arrow_messages import Checked, messages
from .arrow_sizes import decoded_size
from .letters import open_binary

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq
else:
    pa = later("pyarrow", __name__)

DECODED = 1 << 28
"""Bytes that are decoded at once, where the rows are not larger."""
_UNWANTED: ContextVar[int] = ContextVar("unwanted", default=0)


@contextlib.contextmanager
def unwanted_rows(count: int) -> Iterator[None]:
    """Within, whoever begins to read a parquet file drops its first `count` rows: the row groups among them are not
    read, rows of nulls stand for theirs. `datasets` counts the rows that it drops, and cannot leave out a row group."""
    token = _UNWANTED.set(count)
    try:
        yield
    finally:
        _UNWANTED.reset(token)


def arrow_features(path: str, kind: str) -> tuple[datasets.Features, dict[str, str]]:
    """What a parquet or arrow file says of its columns, and the types of those that no row of `datasets` can hold."""
    if kind == "parquet":
        import pyarrow.parquet as pq

        with open_binary(path) as file:
            return _features(pq.read_schema(file))
    with open_binary(path) as file, pa.ipc.open_stream(Checked(file, path)) as stream:
        return _features(stream.schema)


def _features(schema: pa.Schema) -> tuple[datasets.Features, dict[str, str]]:
    import datasets

    try:
        return datasets.Features.from_arrow_schema(schema), {}
    except ValueError:  # of one of them: maps, views of lists
        known, left = datasets.Features(), {}
        for field in schema:
            try:
                known.update(datasets.Features.from_arrow_schema(pa.schema([field])))
            except ValueError:
                left[field.name] = str(field.type)
        return known, left


def arrow_rows(path: str, kind: str) -> int:
    """Rows of a parquet file; of an arrow file -1: only reading it tells."""
    return check_parquet(path, path) if kind == "parquet" else -1


def arrow_tables(
    path: str, name: str, kind: str, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """The rows of a parquet or arrow file in chunks.

    Args:
        path: the file, here or behind a URL.
        name: of the file, for messages.
        kind: parquet or arrow.
        columns: those of these that it has; None: all.
        groups: numbers of the row groups of a parquet file; None: all.

    Raises:
        UserError: a part gets larger than `data.limits.bytes` and a hundred times its size, or the file has too many
            rows.
    """
    if kind == "parquet":
        yield from _parquet_tables(path, name, columns, groups)
        return
    with open_binary(path) as file:
        for batch in pa.ipc.open_stream(Checked(file, name)):
            batch.validate(full=True)
            chosen = [n for n in batch.schema.names if columns is None or n in columns]
            batch = batch.select(chosen)
            bomb(name, batch.nbytes, sum(decoded_size(array) for array in batch.columns))
            yield pa.Table.from_batches([batch])


def check_messages(path: str) -> None:
    """UserError where an arrow file of this disk unpacks to too much, or has too many rows."""
    with open(path, "rb") as file:
        for _ in messages(file, path, whole=False):
            pass


def check_parquet(file: Any, name: str | Path) -> int:
    """The rows of a parquet file, as its footer says. UserError where it, or what it unpacks to, is too large.

    A value that is repeated takes next to nothing in the file, but its place in memory.
    """
    import pyarrow.parquet as pq

    said = pq.read_metadata(file)
    check_table("rows", said.num_rows, "rows", str(name))
    check_table("columns", said.num_columns, "columns", str(name))
    with open(file, "rb") as opened:
        packed = sum(chunk.size for group in chunks(opened, str(name)) for chunk in group)
    for group in (said.row_group(i) for i in range(said.num_row_groups)):
        bomb(name, packed, group.total_byte_size)
        cells = group.num_rows * group.num_columns
        if cells > MOST_RATIO * max(packed, 1):
            check_table("values", cells, "values in a row group", str(name))
    return int(said.num_rows)


def check_saved(folder: Path) -> None:
    """UserError where data that `save_to_disk` wrote name files outside of their own folder, or unpack to too much."""
    for state in (folder / "state.json", *folder.glob("*/state.json")):
        if not state.is_file():
            continue
        said = read_json_object(state, f"data.path: '{state}'")
        for key in ("_data_files", "_indices_data_files"):
            for item in said.get(key) or ():
                name = item.get("filename") if isinstance(item, dict) else item
                check_messages(str(inside(state.parent, name, f"'{state}': {key}")))


class ParquetFile:
    """A parquet file that is open, of which row groups are looked at before they are decoded. Of one process.

    Attributes:
        parquet: Arrow's reader of it.
        wanted: names of the columns that are read.
    """

    def __init__(self, path: str, name: str, columns: Sequence[str] | None = None) -> None:
        """path: here or behind a URL. name: for messages. columns: those of these that it has; None: all."""
        import pyarrow.parquet as pq

        self.name = name
        self.file = open_binary(path)
        try:
            self.kept = _Kept(self.file) if "://" in path else None
            self.parquet: pq.ParquetFile = pq.ParquetFile(self.kept or path)
            check_table("rows", self.parquet.metadata.num_rows, "rows", name)
            self.wanted = [n for n in self.parquet.schema_arrow.names if columns is None or n in columns]
            self.leaves = _leaves(self.parquet, self.wanted)
            self.looked_at = cast(BinaryIO, self.kept or self.file)
            self.chunks = chunks(self.looked_at, name)
        except BaseException:
            self.file.close()
            raise
        self.packed = self.decoded = 0

    def close(self) -> None:
        """It is read no more."""
        self.parquet.close()
        self.file.close()

    def tables(self, group: int) -> Iterator[pa.Table]:
        """The rows of a row group in chunks. UserError where what was read so far is too large for its size."""
        read = {leaf: self.chunks[group][leaf] for leaf in self.leaves}
        self.packed += sum(chunk.size for chunk in read.values())
        if self.kept is not None:
            self.kept.keep([(chunk.start, chunk.size) for chunk in read.values()])
        size = check_group(self.looked_at, self.parquet.metadata.schema, read, self.name)
        rows = max(self.parquet.metadata.row_group(group).num_rows * DECODED // max(size, DECODED), 1)
        for batch in self.parquet.iter_batches(rows, [group], self.wanted):
            self.decoded += batch.nbytes
            bomb(self.name, self.packed, self.decoded)
            yield pa.Table.from_batches([batch])


def _parquet_tables(
    path: str, name: str, columns: Sequence[str] | None, groups: Sequence[int] | None
) -> Iterator[pa.Table]:
    with contextlib.closing(ParquetFile(path, name, columns)) as file:
        unwanted = _UNWANTED.get()
        for group in range(file.parquet.num_row_groups) if groups is None else groups:
            count = file.parquet.metadata.row_group(group).num_rows
            if 0 < count <= unwanted:
                unwanted -= count
                fields = [file.parquet.schema_arrow.field(n) for n in file.wanted]
                yield pa.table({f.name: pa.nulls(count, f.type) for f in fields})
                continue
            unwanted = 0
            yield from file.tables(group)


def _leaves(parquet: pq.ParquetFile, columns: Sequence[str]) -> list[int]:
    """The numbers of the columns that hold the values of these, which may be lists and structs."""
    schema = parquet.metadata.schema
    paths = [schema.column(number).path for number in range(parquet.metadata.num_columns)]
    return [i for i, path in enumerate(paths) if any(path == c or path.startswith(f"{c}.") for c in columns)]


class _Kept(io.RawIOBase):
    """A file behind a URL, of which a row group is fetched once: it is looked at, and then read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at = file, 0
        self.size = file.seek(0, io.SEEK_END)
        self.parts: list[tuple[int, bytes]] = []

    def keep(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Fetch these parts, in place of those before: (first byte, number of bytes)."""
        self.parts = []
        for start, size in sorted(ranges):
            self.file.seek(max(start, 0))
            self.parts.append((start, self.file.read(max(min(size, self.size - start), 0))))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on; of a kept part without fetching."""
        size = max(self.size - self.at, 0) if size is None or size < 0 else size
        for start, data in self.parts:
            if start <= self.at and self.at + size <= start + len(data):
                found = data[self.at - start : self.at - start + size]
                break
        else:
            self.file.seek(self.at)
            found = self.file.read(size)
        self.at += len(found)
        return found

    def close(self) -> None:
        """The file behind is closed by who opened it."""
        self.parts = []
        super().close()
