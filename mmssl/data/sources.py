"""Opens what the user has as a `datasets` object, and says in one line what is wrong with it.

Images, sounds and videos are never decoded here: their columns give {"bytes", "path"} and the modality's
preprocessor decodes. So one truncated file costs one sample and not the stream (huggingface/datasets#6470), and no
torchcodec is needed (#7707).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmssl.errors import NoSplit, RunError, UserError, nearest, one_line

from . import folders
from .packages import open_prefixed
from .sampler import order

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .streams import Row

    Source: TypeAlias = Dataset | IterableDataset
    Data: TypeAlias = str | Path | Source | Mapping[str, Source]

Columns = Mapping[str, str | Sequence[str]]

LOOKED_AT = 64
"""Rows that are looked at to learn which columns hold the names of files."""
SPLIT_NAMES = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


def open_source(
    path: Data,
    *,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    limit: int | None = None,
    columns: Columns | None = None,
) -> Source:
    """Open data for reading, undecoded.

    Args:
        path: "builtin:NAME" | "graph:FILE" (a modality's own kind of file) | a folder (of images, sounds, videos,
            arrays or tables, or written by `save_to_disk`) | a file or glob of parquet, csv, tsv, json, jsonl, arrow,
            txt or tar (WebDataset) | a Hub id | a `datasets` object.
        name: the configuration, where the data has several; ignored where it has none.
        split: a named split ("train[:10%]" works for files and the Hub); a lone file or folder is all "train". Where
            there is no such split but a column called `split`, the rows that say so.
        streaming: do not copy the data into the cache, read it in order.
        limit: so many rows: a fixed random selection (files are often sorted by class), the first ones of a stream.
        columns: modality -> the column(s) it reads; checked here. Values in them that name files relative to the
            listing become full paths. None: no check, and all columns of strings may name files.

    Raises:
        UserError: the data or the split is not there, cannot be read, has no rows or lacks a column.
    """
    import datasets

    what = f"'{path}'" if isinstance(path, (str, Path)) else f"the {type(path).__name__}"
    base: Path | None = None
    with _explained(what):
        if isinstance(path, (datasets.DatasetDict, datasets.IterableDatasetDict, dict)):
            source = _pick(dict(path), split, what)
        elif isinstance(path, (datasets.Dataset, datasets.IterableDataset)):
            source = _rows_of_split(path, split, what)
        elif not isinstance(path, (str, Path)):
            raise UserError(f"data.path: expected a path, a Hub id or a datasets object, found {type(path).__name__}")
        elif (rows := open_prefixed(str(path), split)) is not None:
            source = rows
        else:
            source, base = _from_path(str(path), name, split, streaming, what)
        if streaming and isinstance(source, datasets.Dataset):
            source = source.to_iterable_dataset()
        source = _undecoded(source)
        if columns is not None:
            check_columns(source, columns, what)
        if base is not None:
            source = _with_full_paths(source, base, columns)
        source = _limited(source, limit)
        if _is_empty(source):
            raise UserError(f"{what} has no rows in split '{split}'")
    return source


def column_names(source: Source) -> list[str]:
    """Names of the columns; those of the first row where a stream does not declare them."""
    names = source.column_names
    return list(next(iter(source), {}) if names is None else names)


def check_columns(source: Source, columns: Columns, what: str = "the data") -> None:
    """Raises UserError that names the data's columns when a modality reads one that does not exist."""
    known = column_names(source)
    for modality, wanted in columns.items():
        for column in [wanted] if isinstance(wanted, str) else wanted:
            if column not in known:
                raise UserError(
                    f"data.columns.{modality}: {what} has no column '{column}', its columns are "
                    f"{', '.join(known)}{nearest(column, known)}"
                )


# --- where it is -------------------------------------------------------------------------------------------------


def _from_path(path: str, name: str | None, split: str, streaming: bool, what: str) -> tuple[Source, Path | None]:
    """The split of a file, glob, folder or Hub data set, and the folder that file names in it are relative to."""
    import datasets

    local = Path(path).expanduser()
    if local.is_dir():
        local = local.resolve()
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            stored = datasets.load_from_disk(str(local))
            if isinstance(stored, datasets.DatasetDict):
                return _pick(dict(stored), split, what), None
            return _rows_of_split(stored, split, what), None
        return _from_folder(local, name, split, streaming, what)
    if local.is_file():
        # An explicitly named file is the data, whatever it is called: "train" and the split of its name both mean it.
        data_files = {"train": [str(local.resolve())]}
        own = folders.split_of(local.name)
        if own is not None and folders.split_of(split) == own:
            data_files = {split: data_files["train"]}
        return _from_files(data_files, split, streaming, what)
    matches = sorted(m for m in glob.glob(str(local), recursive=True) if os.path.isfile(m))
    if matches:
        return _from_files(folders.by_split([Path(m).resolve() for m in matches]), split, streaming, what)
    if glob.has_magic(path):
        raise UserError(f"data.path: no file matches {what}")
    if path.startswith((".", "~", "/", "\\")) or path.count("/") > 1 or folders.table_format(path) or "\\" in path:
        siblings = os.listdir(local.parent) if local.parent.is_dir() else []
        raise UserError(f"data.path: no such file or folder: {what}{nearest(local.name, siblings)}")
    return _built(_builder(path, name, what), split, streaming, what, hub=True)


def _from_folder(folder: Path, name: str | None, split: str, streaming: bool, what: str) -> tuple[Source, Path | None]:
    """A folder: as `datasets` reads it, except for arrays and for tables beside the images that they list."""
    found = folders.scan(folder)
    if not found.count:
        raise UserError(f"data.path: the folder {what} is empty")
    if found.has_configs:
        return _built(_builder(str(folder), name, what), split, streaming, what)
    if found.tables and found.media:
        return _from_files(found.tables, split, streaming, what)
    if found.arrays and not found.has_tables:
        splits = folders.open_arrays(folder)
        return _pick(splits, split, what), None
    return _built(_builder(str(folder), name, what), split, streaming, what)


def _from_files(data_files: dict[str, list[str]], split: str, streaming: bool, what: str) -> tuple[Source, Path | None]:
    """Table files, grouped by split."""
    import datasets

    everything = [file for files in data_files.values() for file in files]
    formats = {folders.table_format(file) for file in everything}
    if len(formats) != 1 or None in formats:
        kinds = sorted({"".join(Path(file).suffixes[-2:]) or "no ending" for file in everything})
        raise UserError(
            f"data.path: {what} must be of one of the formats {', '.join(folders.TABLES)}, found {', '.join(kinds)}"
        )
    for file in everything:
        if os.path.getsize(file) == 0:
            raise UserError(f"data.path: the file '{file}' is empty (0 bytes)")
    builder_name, options = folders.TABLES[formats.pop() or ""]
    escaped = {key: [glob.escape(file) for file in files] for key, files in data_files.items()}
    return _built(datasets.load_dataset_builder(builder_name, data_files=escaped, **options), split, streaming, what)


def _builder(path: str, name: str | None, what: str) -> Any:
    """The builder of a folder or Hub id. Raises UserError with the configurations when `name` is not one of them."""
    import datasets

    try:
        return datasets.load_dataset_builder(path, name=name)
    except ValueError as error:
        if "onfig name is missing" not in str(error) and not re.search(r"BuilderConfig .* not found", str(error)):
            raise
        known = datasets.get_dataset_config_names(path)
        said = "data.name is missing" if name is None else f"data.name: no configuration '{name}'"
        raise UserError(
            f"{said}; {what} has the configurations {', '.join(known)}{nearest(name, known) if name else ''}"
        ) from error


def _built(builder: Any, split: str, streaming: bool, what: str, hub: bool = False) -> tuple[Source, Path | None]:
    """One split of a builder and the folder of its files."""
    files: Mapping[str, Any] = builder.config.data_files or {}
    known = [str(key) for key in files or builder.info.splits or []]
    wanted, part = re.sub(r"\[.*", "", split), "[" in split
    if part and streaming:
        raise UserError(f"data.split '{split}': a part of a split cannot be streamed; use data.limit")
    lone = known == ["train"]
    if known and wanted not in known and not lone:
        raise NoSplit(_no_split(what, wanted, known))
    opened = split if wanted in known or not known else "train"
    if streaming:
        source = builder.as_streaming_dataset(split=opened)
    else:
        builder.download_and_prepare()
        splits = builder.info.splits or {}
        if opened in splits and not splits[opened].num_examples:
            raise UserError(f"{what} has no rows in split '{opened}'")
        source = builder.as_dataset(split=opened)
    if builder.name.startswith("text"):
        source = _without_blank_lines(source)
    if lone:
        source = _rows_of_split(source, wanted, what)
    used = [str(file) for file in files.get("train" if lone else wanted, [])]
    base = None
    if used and not hub and not any("://" in file for file in used):
        base = Path(os.path.commonpath([os.path.dirname(file) for file in used]))
    return source, base


# --- which rows --------------------------------------------------------------------------------------------------


def _no_split(what: str, split: str, known: Sequence[str]) -> str:
    return f"data.split: {what} has no split '{split}', its splits are {', '.join(known)}{nearest(split, known)}"


def _pick(splits: Mapping[str, Source], split: str, what: str) -> Source:
    """One of several opened splits."""
    if list(splits) == ["train"]:
        return _rows_of_split(splits["train"], split, what)
    if split in splits:
        return splits[split]
    raise NoSplit(_no_split(what, split, [str(key) for key in splits]))


def _rows_of_split(source: Source, split: str, what: str) -> Source:
    """Rows of `split` of data that has no named splits: by its column `split`, or all of it, which is "train"."""
    import datasets

    values: list[Any] = []
    if "split" in column_names(source):
        if isinstance(source, datasets.Dataset):
            values = source.with_format(None)["split"][:]
        else:
            values = [row["split"] for row in source.select_columns(["split"]).take(1000)]
    known = sorted({value for value in values if isinstance(value, str)})
    if split not in known and not SPLIT_NAMES & {value.lower() for value in known}:
        if split not in ("train", str(getattr(source, "split", None))):
            raise NoSplit(_no_split(what, split, ["train"]))
        return source
    if isinstance(source, datasets.IterableDataset):
        chosen = source.filter(_Says(split), batched=True)
        if _is_empty(chosen):
            raise NoSplit(_no_split(what, split, known))
        return chosen
    if split not in known:
        raise NoSplit(_no_split(what, split, known))
    return source.select(np.flatnonzero(np.array(values, dtype=object) == split))


class _Says:
    """A filter on the column `split` (a class: worker processes need to pickle it)."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __call__(self, batch: dict[str, list[Any]]) -> list[bool]:
        return [value == self.split for value in batch["split"]]


def _has_text(row: Row) -> bool:
    return bool(row["text"].strip())


def _without_blank_lines(source: Source) -> Source:
    """A text file's lines without the blank ones, which are no samples."""
    import datasets

    if isinstance(source, datasets.IterableDataset):
        return source.filter(_has_text)
    return source.select([index for index, line in enumerate(source["text"]) if line.strip()])


def _limited(source: Source, limit: int | None) -> Source:
    import datasets

    if limit is None:
        return source
    if isinstance(source, datasets.IterableDataset):
        return source.take(limit)
    return source.select(np.sort(order(len(source), 0, 0)[:limit])) if limit < len(source) else source


def _is_empty(source: Source) -> bool:
    import datasets

    if isinstance(source, datasets.IterableDataset):
        return next(iter(source), None) is None
    return len(source) == 0


# --- what a value is ---------------------------------------------------------------------------------------------


def _undecoded(source: Source) -> Source:
    """The same data with every Image, Audio and Video column as {"bytes", "path"}."""
    for column, feature in (source.features or {}).items():
        plain = _plain(feature)
        if plain != feature:
            source = source.cast_column(column, plain)
    return source


def _plain(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {key: _plain(value) for key, value in feature.items()}
    if getattr(feature, "decode", None) is True:
        return dataclasses.replace(feature, decode=False)
    if dataclasses.is_dataclass(feature) and hasattr(feature, "feature"):
        return dataclasses.replace(feature, feature=_plain(feature.feature))  # type: ignore[type-var]
    return feature


class _FullPaths:
    """Replaces names of files relative to `base` by full paths, in some columns, one row or batch at a time."""

    def __init__(self, base: Path, columns: frozenset[str]) -> None:
        self.base, self.columns = base, columns

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: self.full(value) if key in self.columns else value for key, value in batch.items()}

    def full(self, value: Any) -> Any:
        if isinstance(value, str):
            return str(self.base / value) if self.names_file(value) else value
        if isinstance(value, list):
            return [self.full(item) for item in value]
        if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
            return {**value, "path": self.full(value["path"])}
        return value

    def names_file(self, value: str) -> bool:
        try:
            return 0 < len(value) < 4096 and not os.path.isabs(value) and (self.base / value).is_file()
        except (OSError, ValueError):  # a caption that is no possible file name: too long a part, a null character
            return False


def _with_full_paths(source: Source, base: Path, columns: Columns | None) -> Source:
    """Make paths relative to `base` absolute, lazily, in the columns whose first rows name files that exist."""
    import datasets

    names = column_names(source)
    if columns is not None:
        read = {c for wanted in columns.values() for c in ([wanted] if isinstance(wanted, str) else wanted)}
        names = [name for name in names if name in read]
    everything = _FullPaths(base, frozenset(names))
    rows = list(itertools.islice(source, LOOKED_AT))
    found = frozenset(name for name in names if any(everything.full(row[name]) != row[name] for row in rows))
    if not found:
        return source
    if isinstance(source, datasets.IterableDataset):
        return source.map(_FullPaths(base, found), features=source.features)
    return source.with_transform(_FullPaths(base, found))


# --- what is wrong -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn what `datasets` and its readers raise over unreadable data into one line."""
    import datasets.exceptions

    try:
        yield
    except (UserError, RunError):
        raise
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        chain: list[BaseException] = [error]
        while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None and deeper not in chain:
            chain.append(deeper)
        if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
            raise RunError(
                f"no space left on the disk while {what} was copied into the datasets cache "
                f"(set HF_HOME to another disk, or data.streaming=true)"
            ) from error
        if isinstance(error, ConnectionError) or "on the Hub" in str(error):
            raise UserError(
                f"data.path: {what} is neither a file or folder here nor can it be read from the Hub: {one_line(error)}"
            ) from error
        cause = error.__cause__ or error
        raise UserError(f"data.path: cannot read {what}: {type(cause).__name__}: {one_line(cause)}") from error
