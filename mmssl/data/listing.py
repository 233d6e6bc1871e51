"""Rows of files: every file is a row, or every pair of one stem, with what a metadata file says of it.

Built in Arrow, because `datasets` encodes sounds with torchcodec; no file is opened, but for the headers of long
recordings (`mmssl.data.windows`).
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mmssl.errors import UserError, one_line

from .beside import Beside, has_commas, is_csv, table_beside, table_rows
from .class_folders import classes_of
from .explained import warn_once
from .file_columns import Word, file_table
from .folders import Found, below, split_folders, split_roots
from .formats import media_kind
from .kinds import Chosen, Kind
from .windows import File, Windows, cut

if TYPE_CHECKING:
    from datasets import Dataset

FILE, START, ROW = "file", "start", "source_row"
"""Columns: a row's file, relative to the folder; where its window begins, in seconds; of windows of recordings that lie
in a table without names, the number of the table's row."""

Rows = list[dict[str, Any]]


@dataclass
class Listed:
    """The files of a folder as columns.

    Attributes:
        chosen: what each kind takes, in the order of the kinds.
        rows: column -> `File`, a row a sample.
        kinds: column -> its kind.
    """

    chosen: list[tuple[Kind, Chosen]]
    rows: list[dict[str, File]]

    @property
    def kinds(self) -> dict[str, Kind]:
        """Column -> its kind."""
        return {kind.column: kind for kind, _ in self.chosen}

    @property
    def used(self) -> list[str]:
        """The files of the rows, and those that belong to them."""
        parts = [part for _, chosen in self.chosen for part in chosen.parts]
        return [*dict.fromkeys([file.path for row in self.rows for file in row.values()] + parts)]


def whole_of(columns: Collection[str]) -> str | None:
    """The column that is equal in windows of one recording, and in no others; None where no row is a window."""
    if START not in columns:
        return None
    return ROW if ROW in columns else FILE if FILE in columns else None


def list_files(folder: Path, files: Sequence[str], kinds: Iterable[Kind]) -> Listed:
    """The files that these kinds read, each a row, and a row of several columns where they have one stem."""
    kinds = tuple(kinds)
    chosen = [(kind, kind.choose(files)) for kind in kinds]
    if any(of.files and of.sure for _, of in chosen):  # what may be a sample is one beside those that are
        for _, of in chosen:
            if not of.sure:
                of.files, of.beside = [], [*of.files, *of.beside]
    else:
        for _, of in chosen:
            of.beside = of.beside if any(other.files for _, other in chosen) else []
    together = any(kind.readers for kind in kinds)
    rows = _paired(chosen) if together else _apart(chosen)
    if together and (pairs := Counter(" + ".join(row) for row in rows if len(row) > 1)):
        counts = ", ".join(f"{count:,} of {names}" for names, count in pairs.items())
        alone = len(rows) - pairs.total()
        warn_once(f"'{folder}': files of one stem are one row: {counts}{f', {alone:,} of one alone' if alone else ''}")
    return Listed(chosen, rows)


def _apart(chosen: Sequence[tuple[Kind, Chosen]]) -> list[dict[str, File]]:
    """A row a file, in the order of their names."""
    found = sorted((path, kind.column) for kind, of in chosen for path in of.files)
    return [{column: File(path)} for path, column in found]


def _paired(chosen: Sequence[tuple[Kind, Chosen]]) -> list[dict[str, File]]:
    """A row a stem: of one folder, or, where the kinds lie in folders of their own, of any."""
    groups = _groups(chosen, _stem)
    if not any(len(row) > 1 for row in groups.values()):
        flat = _groups(chosen, lambda path: _stem(os.path.basename(path)))
        if len(flat) < len(groups) and all(
            len({_stem(os.path.basename(f)) for f in of.files}) == len(of.files) for _, of in chosen
        ):
            groups = flat
    sure = {path for _, of in chosen for path in of.files}
    rows = [row for row in groups.values() if any(file.path in sure for file in row.values())]
    return sorted(rows, key=lambda row: next(iter(row.values())).path)


def _stem(path: str) -> str:
    """Without the ending; without both of `.nii.gz`."""
    return os.path.splitext(path.removesuffix(".gz"))[0]


def _groups(chosen: Sequence[tuple[Kind, Chosen]], stem: Any) -> dict[str, dict[str, File]]:
    groups: dict[str, dict[str, File]] = {}
    for kind, of in chosen:
        for path in [*of.files, *of.beside]:
            key = stem(path)
            while kind.column in groups.get(key, {}):  # another file of this stem and kind: a row of its own
                key += "\0"
            groups.setdefault(key, {})[kind.column] = File(path)
    return groups


# --- a folder ----------------------------------------------------------------------------------------------------


def open_files(found: Found, listed: Listed, windows: Windows, words: Collection[str] = ()) -> Mapping[str, Dataset]:
    """The splits of a folder of files.

    Columns: one of each kind that files are of ({bytes: None, path}, or what its reader makes of a file), null in the
    rows without one; `file`, relative to the folder; `start` where recordings are cut into windows; with metadata its
    columns, and only the files that it lists; without it those of a table of which a column names the files
    (`beside.py`), and `label` from the names of the folders, where there are at least two, all equally deep, which are
    not splits and no mere parts of the data.

    Args:
        found: what `scan` gave.
        listed: its files as rows.
        windows: how long recordings are cut.
        words: columns of metadata that are read as text.

    Raises:
        UserError: a metadata file that cannot be read, or does not say which file a row belongs to.
    """
    kept = [_first(row) for row in listed.rows]
    everything = [path for row in listed.rows for path in (file.path for file in row.values())]
    roots = split_roots(found.folder, everything)
    splits = roots or {"train": [found.folder]}
    rows: dict[str, Rows]
    labels: list[str] | None = None
    beside: Beside | None = None
    if not found.metadata:
        beside = _beside(found, listed)
        rows = {
            split: [
                made
                for row, path in zip(listed.rows, kept, strict=True)
                if any(below(path, r) for r in of)
                for made in _with_table(row, beside)
            ]
            for split, of in splits.items()
        }
        named = beside is not None and "label" in beside.columns
        classes = None if named else classes_of(rows, splits)
        if classes is not None:
            labels = sorted(set(classes.values()))
            for row in (row for of in rows.values() for row in of):
                row["label"] = bisect_left(labels, classes[_first(row)])
    else:
        given = {path: _metadata(Path(path), listed) for path in found.metadata}
        rows = {
            s: [row for path, of in given.items() if any(below(path, r) for r in pl) for row in of]
            for s, pl in splits.items()
        }
        if roots and not any(rows.values()):  # one list above the splits' folders
            every = [row for of in given.values() for row in of]
            rows = {s: [r for r in every if any(below(_first(r), p) for p in places)] for s, places in roots.items()}
        rows = {split: of for split, of in rows.items() if of}
    _tell(found, listed, rows, roots, [] if beside is None else [beside.path])
    if not rows:
        raise UserError(f"data.path: '{found.metadata[0]}' lists no file")
    tables = found.metadata if beside is None else [beside.path]
    typed = bool(tables) and all(map(is_csv, tables))
    kept_as = {"words": set(words) if typed else None, "commas": typed and all(map(has_commas, tables))}
    return {split: _split(found.folder, of, listed, windows, labels=labels, **kept_as) for split, of in rows.items()}


def _split(
    folder: Path, rows: Rows, listed: Listed, windows: Windows, *, labels: list[str] | None, **kept_as: Any
) -> Dataset:
    """The rows of one split, long recordings cut; kept_as: what `file_table` is told of csv."""
    readers = {column: kind.readers for column, kind in listed.kinds.items() if kind.readers}
    cut_rows, starts = cut(rows, readers, windows)
    own = set().union(*rows) if rows else set()
    windowed = len(cut_rows) > len(rows)
    for row, start in zip(cut_rows, starts, strict=True):
        if FILE not in own and (path := _first(row)):
            row[FILE] = Word(PurePosixPath(os.path.relpath(path, folder)).as_posix())
        if windowed and START not in own:
            row[START] = start
    return file_table(cut_rows, listed.kinds, labels=labels, **kept_as)


def _beside(found: Found, listed: Listed) -> Beside | None:
    """The table that says more of the files."""
    used = set(listed.used)
    tables = [path for path in found.tables if path not in used]
    if not tables:
        return None
    return table_beside(found.folder, tables, [[file.path for file in row.values()] for row in listed.rows])


def _with_table(row: Mapping[str, File], beside: Beside | None) -> Rows:
    """A row of files with what a table says of them; one for each of the table's rows that name them."""
    if beside is None:
        return [dict(row)]
    numbers: Sequence[int | None] = beside.of.get(_first(row)) or [None]
    empty = dict.fromkeys(beside.columns)
    said = [{} if number is None else {name: beside.rows[number].get(name) for name in empty} for number in numbers]
    return [{**empty, **one, **row} for one in said]


def _first(row: Mapping[str, object]) -> str:
    """The file of a row."""
    return next((value.path for value in row.values() if isinstance(value, File)), "")


def _metadata(path: Path, listed: Listed) -> Rows:
    """Rows of a metadata file, the files that they name as `File`, and the others of their stem.

    `file_name` becomes the column of the file's kind, `X_file_name` the column X, and `file_names` lists of them.
    """
    row_of = {file.path: row for row in listed.rows for file in row.values()}
    column_of = {file.path: column for row in listed.rows for column, file in row.items()}
    rows = table_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    naming = [c for c in columns if re.fullmatch(r"(.+_)?file_names?", c)]
    if not naming:
        raise UserError(f"'{path}' needs a column 'file_name', its columns are {', '.join(columns)}")
    usual = min(set(column_of.values()) or {kind.column for kind, _ in listed.chosen} or {"image"})

    def column_for(file: File) -> str:
        reads = [kind.column for kind, _ in listed.chosen if kind.may_read(file.path)]
        return column_of.get(file.path) or next(iter(reads), None) or media_kind(file.path) or usual

    out = []
    for number, row in enumerate(rows, 1):
        made: dict[str, object] = {}
        for column in columns:
            value = row.get(column)
            if column not in naming:
                made[column] = value
                continue
            if value is None and column == "file_name":
                raise UserError(f"'{path}' row {number} names no file (column 'file_name')")
            stem = re.sub(r"_?file_names?$", "", column)
            several = column.endswith("s")
            if several:
                made[stem or f"{usual}s"] = None if value is None else [_file(path, number, one) for one in value]
            else:
                file = None if value is None else _file(path, number, value)
                made[stem or (column_for(file) if file else usual)] = file
                if file is not None and column == "file_name":
                    made = {**row_of.get(file.path, {}), **made}
        out.append(made)
    return out


def _file(metadata: Path, number: int, name: object) -> File:
    """The full path of a file that a metadata file names; it lies below it."""
    plain = PurePosixPath(str(name).replace("\\", "/"))
    normal = os.path.normpath(str(plain))
    if not isinstance(name, str) or "://" in name or plain.is_absolute() or normal.split("/")[0] == ".." or not name:
        raise UserError(
            f"'{metadata}' row {number}: file_name {one_line(repr(name), 100)}, expected the name of a file in its "
            "folder or below it"
        )
    return File(os.path.join(metadata.parent, normal))


def _tell(found: Found, listed: Listed, rows: Mapping[str, Rows], roots: object, tables: Sequence[str] = ()) -> None:
    """What of the folder is no row, and splits that are not taken as such."""
    given = [value.path for of in rows.values() for row in of for value in row.values() if isinstance(value, File)]
    lists = [value for of in rows.values() for row in of for value in row.values() if isinstance(value, list)]
    given += [one.path for value in lists for one in value if isinstance(one, File)]
    parts = {part for _, chosen in listed.chosen for part in chosen.parts}
    kept = {file.path for row in listed.rows for file in row.values()}
    used = {*given, *parts, *tables}
    unlisted = len(kept - used) if found.metadata else 0
    found.tell_left_out(used, f"; {unlisted:,} of them because metadata does not list them" if unlisted else "")
    if roots is None and (named := sorted({p for path in kept for p in split_folders(found.folder, path)})):
        warn_once(
            f"'{found.folder}': folders are called {', '.join(named[:6])}, but they are not all that lies at the top: "
            f"all {len(kept):,} files are one split, train"
        )
