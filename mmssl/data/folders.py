"""Folders of media files: every file is a row, and what is left out is counted and said.

Listed here and not by `datasets`, whose folder builders take words in file names for splits (one `train.png` among
forty pictures makes it the data), read no folder with brackets in its name, pass over linked folders, and want
torchcodec for sounds.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mmssl.errors import UserError, one_line

from .explained import explained, warn_once
from .formats import METADATA, WORDS, folder_splits, is_noise, media_kind, split_of, table_format
from .text_files import csv_rows, json_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from .streams import Row


@dataclass
class Found:
    """What lies in a folder and below it; files are full paths, in the order of their names.

    Attributes:
        media: pictures, sounds, videos and arrays.
        tables: files of table formats, metadata aside.
        metadata: tables that say more of media files.
        others: everything else.
        has_configs: its README.md configures the data, as on the Hub.
    """

    folder: Path
    media: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    has_configs: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no file that could be data."""
        return not (self.media or self.tables or self.metadata or self.others)

    def tell_left_out(self, used: Iterable[str], why: str = "") -> None:
        """Say how many files are no rows, once in a process."""
        chosen = set(used)
        left = [path for path in [*self.media, *self.tables, *self.others] if path not in chosen]
        if left:
            endings = Counter(os.path.splitext(path)[1].lower() or "without ending" for path in left)
            counts = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(8))
            warn_once(f"'{self.folder}': {len(chosen):,} files are read, {len(left):,} are left out ({counts}{why})")

    def split_tables(self) -> dict[str, list[str]]:
        """The tables at the top whose names say a split."""
        named: dict[str, list[str]] = {}
        for path in self.tables:
            split = split_of(os.path.basename(path))
            if split and Path(path).parent == self.folder:
                named.setdefault(split, []).append(path)
        return named


def scan(folder: Path) -> Found:
    """Look through a folder and what is linked into it, each real folder once; hidden and foreign files aside.

    Raises UserError where a folder cannot be read.
    """
    found = Found(folder, has_configs=_has_configs(folder / "README.md"))
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"data.path: cannot read the folder '{error.filename}': {error.strerror}") from error

    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back, or a second one to the same place
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_noise(name))
        for name in files:
            if is_noise(name):
                continue
            path = os.path.join(where, name)
            if not _is_text(name):
                found.others.append(path)
            elif name in METADATA:
                found.metadata.append(path)
            elif media_kind(name) is not None:
                found.media.append(path)
            else:
                (found.tables if table_format(name) else found.others).append(path)
    for files in (found.media, found.tables, found.metadata, found.others):
        files.sort()
    return found


def _is_text(name: str) -> bool:
    """Whether a file name is letters in the encoding of the system: others no table of paths can hold."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _has_configs(readme: Path) -> bool:
    """Whether a README.md configures the data, as on the Hub."""
    if not readme.is_file():
        return False
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return head is not None and re.search(r"^configs:", head.group(1), re.MULTILINE) is not None


def split_roots(folder: Path, files: Iterable[str]) -> dict[str, list[Path]] | None:
    """Split -> the folders that are it, by the folders at the top that hold `files`; None where they are no splits.

    One folder that holds all the others is looked into: an unpacked archive.
    """
    top = folder
    relative = [PurePosixPath(file).relative_to(PurePosixPath(folder)).parts for file in files]
    while relative:
        names = sorted({parts[0] for parts in relative if len(parts) > 1})
        if any(len(parts) == 1 for parts in relative) or not names:
            return None
        splits = folder_splits(names)
        if splits is not None:
            roots: dict[str, list[Path]] = {}
            for name, split in sorted(splits.items(), key=lambda item: list(WORDS.values()).index(item[1])):
                roots.setdefault(split, []).append(top / name)
            return roots
        if len(names) > 1:
            return None
        top, relative = top / names[0], [parts[1:] for parts in relative]
    return None


# --- rows of media files -----------------------------------------------------------------------------------------


def open_media(found: Found, wanted: Iterable[str] = ()) -> Mapping[str, Dataset]:
    """The splits of a folder of media files.

    Columns: `image`, `audio`, `video`, those of them that files are of (arrays are images), each {bytes: None, path}
    and null in the rows of other files; with metadata its columns, and only the files that it lists; without it
    `label` from the names of the folders, where there are at least two, all equally deep, which are not splits.

    Args:
        found: what `scan` gave.
        wanted: columns that are read; where some of the three are among them, files of the others are left out.

    Raises:
        UserError: a metadata file that cannot be read, or does not say which file a row belongs to.
    """
    kinds = {kind for path in found.media if (kind := media_kind(path))}
    chosen = kinds & set(wanted) or kinds
    kept = [path for path in found.media if media_kind(path) in chosen]
    roots = split_roots(found.folder, kept)
    parts = {
        split: [path for path in kept if any(below(path, root) for root in places)]
        for split, places in (roots or {"train": [found.folder]}).items()
    }
    if not found.metadata:
        labels = _labels(parts, roots or {"train": [found.folder]})
        _tell(found, parts, kept, roots)
        return {split: media_table(_plain_rows(files, labels), chosen, labels=labels) for split, files in parts.items()}
    listed = {path: _metadata(Path(path), chosen, found.media) for path in found.metadata}
    rows = {
        split: [row for path, of in listed.items() if any(below(path, r) for r in places) for row in of]
        for split, places in (roots or {"train": [found.folder]}).items()
    }
    if roots and not any(rows.values()):  # one list above the splits' folders
        everything = [row for of in listed.values() for row in of]
        rows = {s: [r for r in everything if any(below(_first(r), p) for p in places)] for s, places in roots.items()}
    rows = {split: of for split, of in rows.items() if of}
    _tell(found, {s: [_first(row) for row in of] for s, of in rows.items()}, kept, roots)
    if not rows:
        raise UserError(f"data.path: '{found.metadata[0]}' lists no file")
    words = set(wanted) if all(path.endswith(".csv") for path in found.metadata) else None
    return {split: media_table(of, chosen, words=words) for split, of in rows.items()}


def below(path: str, folder: Path) -> bool:
    """Whether a file lies in a folder or further down."""
    return path.startswith(f"{folder}{os.sep}")


def _labels(parts: Mapping[str, Sequence[str]], roots: Mapping[str, Sequence[Path]]) -> list[str] | None:
    """The classes, where the folders of the files are some."""
    names: set[str] = set()
    depths = set()
    for split, files in parts.items():
        for path in files:
            root = next(root for root in roots[split] if below(path, root))
            depths.add(path.count(os.sep) - str(root).count(os.sep))
            names.add(os.path.basename(os.path.dirname(path)))
    if len(depths) != 1 or depths == {1} or len(names) < 2 or {name.lower() for name in names} <= set(WORDS):
        return None
    return sorted(names)


def _plain_rows(files: Sequence[str], labels: Sequence[str] | None) -> list[Row]:
    number = {name: i for i, name in enumerate(labels or ())}
    return [
        {
            str(media_kind(path)): _File(path),
            **({"label": number[os.path.basename(os.path.dirname(path))]} if number else {}),
        }
        for path in files
    ]


def _first(row: Row) -> str:
    """The file of a row of metadata."""
    paths = [v for v in row.values() if isinstance(v, _File)]
    return str(paths[0]) if paths else ""


class _File(str):
    """A full path, among values that are others' text."""


def _metadata(path: Path, kinds: Iterable[str], media: Sequence[str]) -> list[Row]:
    """Rows of a metadata file, the files that they name as `_File`.

    `file_name` becomes the column of the file's kind, `X_file_name` the column X, and `file_names` lists of them.
    """
    rows = _metadata_rows(path)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    naming = [c for c in columns if re.fullmatch(r"(.+_)?file_names?", c)]
    if not naming:
        raise UserError(f"'{path}' needs a column 'file_name', its columns are {', '.join(columns)}")
    usual = next(iter(sorted(kinds)), "image")
    out = []
    for number, row in enumerate(rows, 1):
        made: Row = {}
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
                made[stem or (media_kind(file) if file else None) or usual] = file
        out.append(made)
    return out


def _file(metadata: Path, number: int, name: object) -> _File:
    """The full path of a file that a metadata file names; it lies below it."""
    plain = PurePosixPath(str(name).replace("\\", "/"))
    normal = os.path.normpath(str(plain))
    if not isinstance(name, str) or "://" in name or plain.is_absolute() or normal.split("/")[0] == ".." or not name:
        raise UserError(
            f"'{metadata}' row {number}: file_name {one_line(repr(name), 100)}, expected the name of a file in its "
            "folder or below it"
        )
    return _File(os.path.join(metadata.parent, normal))


def _metadata_rows(path: Path) -> list[Row]:
    with explained(f"'{path}'"):
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows: list[Row] = pq.read_table(path).to_pylist()
        elif path.suffix == ".csv":
            rows = [dict(zip(names, row, strict=True)) for names, of in csv_rows(str(path), path.name) for row in of]
        else:
            rows = [row for chunk in json_rows(str(path), path.name) for row in chunk]
    return rows


def media_table(
    rows: Sequence[Row], kinds: Iterable[str], *, labels: Sequence[str] | None = None, words: set[str] | None = None
) -> Dataset:
    """Rows as a `Dataset`, the files undecoded: built in Arrow, because `datasets` encodes sounds with torchcodec.

    Args:
        rows: column -> value; files are `_File`.
        kinds: of the files.
        labels: names of the classes that the column `label` counts.
        words: the rows come from csv; these columns stay the text that they are. None: from elsewhere, all do.
    """
    import datasets
    import pyarrow as pa

    media = {
        "image": datasets.Image(decode=False),
        "audio": datasets.Audio(decode=False),
        "video": datasets.Video(decode=False),
    }
    usual = media[min(kinds)]
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features, arrays = datasets.Features(), []
    for column in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(column) for row in rows]
        some = next((v for v in values if v is not None), None)
        if isinstance(some, _File):
            feature, array = media.get(column, usual), pa.array([_undecoded(v) for v in values], struct)
        elif isinstance(some, list) and some and isinstance(some[0], _File):
            listed = [None if v is None else [_undecoded(one) for one in v] for v in values]
            feature, array = datasets.List(usual), pa.array(listed, pa.list_(struct))
        elif labels is not None and column == "label":
            feature, array = datasets.ClassLabel(names=list(labels)), pa.array(values, pa.int64())
        else:
            feature, array = _other_column(values, words is not None and column not in words)
        features[column] = feature
        arrays.append(array)
    table = datasets.table.InMemoryTable(pa.table(arrays, schema=features.arrow_schema))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _undecoded(path: str | None) -> Row | None:
    return None if path is None else {"bytes": None, "path": str(path)}


def _other_column(values: Sequence[Any], typed: bool) -> tuple[Any, Any]:
    """(feature, Arrow array) of a column that holds no files; typed: fields of csv, which may be numbers."""
    from .column_types import FieldType, cast_fields, json_array, json_feature, json_type

    kind = json_type(values)
    array = json_array(values, kind)
    if typed and any(value is not None for value in values):
        guess = FieldType()
        guess.see(array)
        kind, array = guess.type, cast_fields(array, guess.type)
    return json_feature(kind), array


def _tell(found: Found, parts: Mapping[str, Sequence[str]], kept: Sequence[str], roots: object) -> None:
    """What of the folder is no row, and splits that are not taken as such."""
    used = {path for files in parts.values() for path in files}
    unlisted = len(set(kept) - used) if found.metadata else 0
    found.tell_left_out(used, f"; {unlisted:,} of them because metadata does not list them" if unlisted else "")
    if roots is None and (named := sorted({p for path in kept for p in _split_folders(found.folder, path)})):
        warn_once(
            f"'{found.folder}': folders are called {', '.join(named[:6])}, but they are not all that lies at the top: "
            f"all {len(used):,} files are one split, train"
        )


def _split_folders(folder: Path, path: str) -> list[str]:
    return [part for part in Path(path).parent.relative_to(folder).parts if part.lower() in WORDS]
