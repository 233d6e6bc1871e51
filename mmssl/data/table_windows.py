"""Tables whose rows are long recordings, or name them: a row a window, as of a folder of files (`mmssl.data.windows`).

What the rows hold (arrays, one or one a channel; the bytes of files; names of files) stays where it is: the cells of a
recording are read when one of its windows is (`mmssl.data.cells`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.boundary import only_below
from mmssl.errors import UserError
from mmssl.modality import select

from .cells import Cells, Resolved
from .choosing import look_at
from .explained import warn_once
from .kinds import Files
from .listing import FILE, ROW, START
from .origins import is_null, places
from .row_groups import numbered_table
from .selection import row_numbers
from .values import full_paths, transform_of
from .windows import cut

if TYPE_CHECKING:
    from datasets import Dataset

    from mmssl.modality import Preprocessor

HEAVY = 4096
"""Bytes of a value from which on a column is not copied for every window."""


@dataclass(frozen=True)
class Cell:
    """A recording in a row of a table, in one column or in several, and a window of it."""

    cells: Cells
    row: int
    columns: tuple[str, ...]
    start: float | None = None
    stop: float | None = None

    @property
    def raw(self) -> Any:
        """What its reader is given of it; a file as its path."""
        values = {column: self.cells.value(self.row, column) for column in self.columns}
        raw = select(values, self.columns[0] if len(self.columns) == 1 else self.columns)
        name = _name(raw)
        return raw if name is None or isinstance(raw, dict) and raw.get("bytes") is not None else Path(name)


def cut_table(source: Dataset, base: Path | None, files: Files) -> Dataset:
    """The rows of a table, those of long recordings as one a window, with its second in `start`.

    A window's value is what `Preprocessor.seconds` says. What tells recordings apart is `file`, where the table has
    such a column or each recording is a file with a name, else `source_row`, the number of the table's row. A table
    that has a column `start` is cut already; files that lie elsewhere than the table stay whole.

    Args:
        source: the rows, undecoded.
        base: the folder that names in them are relative to.
        files: who reads them, and how recordings are cut.
    """
    names = source.column_names
    theirs = source.format["type"] == "custom" and transform_of(source) is None  # rows are what it makes of them
    cuttable = not theirs and START not in names and files.windows.seconds is not False
    readers = timed_columns(source, files) if cuttable else {}
    readers = {columns: of for columns, of in readers.items() if any(may_be_long(source.features[c]) for c in columns)}
    if not readers:
        return source
    held = [c for c in dict.fromkeys(c for columns in readers for c in columns) if may_be_long(source.features[c])]
    within = places(source)
    here = full_paths(base) if within is None else None
    cells = Cells(source, held, here)
    everything = Cells(source, list(dict.fromkeys(c for columns in readers for c in columns)), here)

    def rows() -> Iterator[dict[str, object]]:
        for number in range(len(source)):
            found = {", ".join(columns): Cell(everything, number, columns) for columns in readers}
            yield {"": number, **{c: cell for c, cell in found.items() if _is_here(cell.raw, within is None)}}

    by = {", ".join(columns): of for columns, of in readers.items()}
    with only_below(within):
        pieces, starts = cut(rows(), by, files.windows, Cell)
    if len(pieces) == len(source):
        return source
    if any(FILE in columns for columns in readers):
        warn_once(f"recordings stay whole: the column '{FILE}', which tells their windows apart, names them")
        return source
    column = {c: ", ".join(columns) for columns in readers for c in columns}
    return _windowed(source, cells, pieces, starts, column)


def timed_columns(source: Dataset, files: Files) -> dict[tuple[str, ...], list[Preprocessor]]:
    """Column(s) -> who reads recordings from them that take time; where nobody names any, those which a model was
    fitted on, that of the modality's name, or those that it will choose."""
    names = source.column_names
    found: dict[tuple[str, ...], list[Preprocessor]] = {}
    unknown: list[Preprocessor] = []
    for name, reader in files.readers.items():
        if reader.seconds is None:
            continue
        given = files.columns.get(name, reader.own_columns())
        wanted = (given,) if isinstance(given, str) else tuple(given or ())
        if wanted and set(wanted) <= set(names):
            found.setdefault(wanted, []).append(reader)
        elif len(wanted) < 2 and name in names:
            found.setdefault((name,), []).append(reader)
        elif name not in files.columns:
            unknown.append(reader)
    if unknown:
        table = look_at(source, {c: "another" for columns in found for c in columns})
        for reader in unknown:
            try:
                chosen = reader.default_columns(table)
            except UserError:  # several would do: whoever chooses says so
                continue
            if chosen:
                found.setdefault((chosen,) if isinstance(chosen, str) else tuple(chosen), []).append(reader)
    return found


def may_be_long(feature: object) -> bool:
    """Whether a column may hold recordings, or name them: text, bytes, arrays, files, structs with one of these."""
    import datasets

    if isinstance(feature, datasets.Value):
        return str(feature.dtype) in ("string", "large_string", "binary", "large_binary")
    if isinstance(feature, dict):
        return any(may_be_long(one) for one in feature.values())
    arrays = (datasets.Array2D, datasets.Array3D, datasets.Array4D, datasets.Array5D)
    files = (datasets.Audio, datasets.Video, datasets.Image)
    return isinstance(feature, (datasets.List, datasets.LargeList, *arrays, *files))


def _windowed(
    source: Dataset,
    cells: Cells,
    pieces: Sequence[dict[str, object]],
    starts: Sequence[float],
    recording: dict[str, str],
) -> Dataset:
    """A table of windows; recording: column -> the name of its recording in `pieces`."""
    import datasets
    import pyarrow as pa

    names = source.column_names
    chosen: list[int] = [piece[""] for piece in pieces]  # type: ignore[misc]
    windows = frozenset(cells.table.column_names)
    heavy = [name for name in names if name not in windows and _is_heavy(source, name)]
    kind = pa.struct({"row": pa.int64(), "start": pa.float64(), "stop": pa.float64()})
    columns: dict[str, object] = {}
    there = {c: _valid(source, c) for c in (*windows, *heavy)}
    for column in (*windows, *heavy):
        places: list[dict[str, object] | None] = []
        for row, piece in zip(chosen, pieces, strict=True):
            cell = piece.get(recording[column]) if column in recording else None
            place = (cell.start, cell.stop) if isinstance(cell, Cell) else (None, None)
            places.append({"row": row, "start": place[0], "stop": place[1]} if there[column][row] else None)
        columns[column] = pa.array(places, kind)
    columns |= _told(source, pieces, chosen, next(iter(windows & set(recording))))
    columns[START] = pa.array(starts, pa.float64())
    rest = source.with_format(None).remove_columns([*windows, *heavy])
    new = datasets.Dataset(pa.table(columns))
    parts = [rest.select(chosen).flatten_indices(), new] if rest.column_names else [new]
    out = datasets.concatenate_datasets(parts, axis=1).select_columns([*names, *(c for c in columns if c not in names)])
    out.info.splits, out.info.download_checksums = source.info.splits, source.info.download_checksums
    every = Cells(source, [*windows, *heavy], cells.full) if heavy else cells
    return out.with_transform(Resolved(every, windows, transform_of(source)))


def _told(
    source: Dataset, pieces: Sequence[dict[str, object]], chosen: Sequence[int], column: str
) -> dict[str, object]:
    """The column that tells recordings apart, `file` or `source_row`; none where the table has one."""
    import pyarrow as pa

    cut_rows = {row for row, piece in zip(chosen, pieces, strict=True) if _is_cut(piece)}
    if FILE in source.column_names:
        given = source.with_format(None).select_columns([FILE])[sorted(cut_rows)][FILE]
        apart = not any(value is None for value in given) and _distinct(given)
        return {} if apart else {ROW: pa.array(chosen, pa.int64())}
    bare = Cells(source, [column])
    named = {row: bare.value(row, column) for row in cut_rows}
    said = {row: _name(value) for row, value in named.items()}
    in_table = [said[row] for row, value in named.items() if isinstance(value, dict) and value.get("bytes") is not None]
    if all(said.values()) and _distinct(in_table):
        names = {row: _name(bare.value(row, column)) for row in dict.fromkeys(chosen)}
        return {FILE: pa.array([names[row] for row in chosen], pa.string())}
    return {ROW: pa.array(chosen, pa.int64())}


def _is_cut(piece: dict[str, object]) -> bool:
    return any(isinstance(cell, Cell) and cell.start is not None for cell in piece.values())


def _distinct(values: Sequence[object]) -> bool:
    return len(set(values)) == len(values)


def _is_heavy(source: Dataset, name: str) -> bool:
    """Whether a column's values are so large that a copy for every window is too much."""
    import datasets

    if isinstance(source.features[name], (datasets.Value, datasets.ClassLabel)):
        return False
    table = numbered_table(source)
    size = source.data.column(name).nbytes if table is None else table.select([name]).nbytes
    return size > HEAVY * max(source.data.num_rows, 1)


def _valid(source: Dataset, column: str) -> list[bool]:
    """Of each row whether it has a value."""
    import pyarrow.compute as pc

    if (table := numbered_table(source)) is not None:
        numbers = row_numbers(source)
        found = table.valid(column)
        return (found if numbers is None else found[numbers]).tolist()
    arrow = source.with_format("arrow").select_columns([column])
    return [v for table in arrow.iter(batch_size=1000) for v in pc.is_valid(table[column]).to_pylist()]


def _name(value: object) -> str | None:
    """The name of the file that a cell holds or names."""
    name = value.get("path") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def _is_here(raw: object, paths: bool) -> bool:
    """Whether a recording lies in the table, or in a file on this machine that the table may name (`paths`)."""
    if isinstance(raw, Path):
        return paths and "://" not in str(raw) and raw.is_file()
    return not is_null(raw)
