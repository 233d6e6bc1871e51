"""Opens what the user has as a `datasets` object, and says in one line what is wrong with it.

Images, sounds and videos are never decoded here: their columns give {"bytes", "path"} and the modality's
preprocessor decodes. So one truncated file costs one sample and not the stream (huggingface/datasets#6470), and no
torchcodec is needed (#7707). Which defaults of other readers are not taken: docs/explanation/readers.md.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from mmssl.boundary import kind_of
from mmssl.errors import UserError, nearest
from mmssl.models.privacy import is_veiled
from mmssl.names import asking_the_hub, refuse_misspelt
from mmssl.reading import AS_FOUND, Reading

from . import configurations, folders, formats, listing, zarr_stores
from .explained import explained
from .given import is_object, named_object
from .kinds import Columns, Files, by_ending, nothing_to_read
from .origins import URL, elsewhere, note_origins, refuse_elsewhere
from .packages import open_prefixed
from .row_groups import wants_copy
from .selection import column_names, is_empty, limited, no_split, pick, rows_of_split, without_blank_lines
from .table_windows import cut_table
from .uncounted import builder_for
from .values import undecoded, with_full_paths
from .windows import Windows

WHOLE = (".mff",)
"""Endings of folders that are one recording."""

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Source: TypeAlias = Dataset | IterableDataset
    Opened: TypeAlias = str | Path | Source | Mapping[str, Source]


def open_source(
    path: Opened,
    *,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    limit: int | None = None,
    columns: Columns | None = None,
    words: Iterable[str] = (),
    fetch: Sequence[str] = (),
    reading: Reading = AS_FOUND,
    files: Files | None = None,
) -> Source:
    """Open data for reading, undecoded.

    Args:
        path: "builtin:NAME" | "object:NAME" (see `given`) | "graph:FILE" (a modality's own kind of file) | a folder,
            file or glob of what modalities read, or of tables: parquet, csv, tsv, json, jsonl, arrow, txt or tar
            (WebDataset) | a folder written by `save_to_disk` | a Hub id | a `datasets` object.
        name: the configuration, where the data has several; ignored where it has none.
        split: a named split ("train[:10%]" works for files and the Hub); a lone file or folder is all "train". Where
            there is no such split but a column called `split`, the rows that say so.
        streaming: read in order. Else parquet and Zarr here are read by number, other tables are copied first.
        limit: so many rows: a fixed random selection (files are often sorted by class), the first ones of a stream.
        columns: modality -> the column(s) it reads; checked here. Values in them that name files relative to the
            listing become full paths. None: no check, and all columns of strings may name files.
        words: further columns that modalities read, where they are there. Of csv files these, and those of `columns`,
            are the text of their fields; all other columns are numbers where every field is one.
        fetch: addresses that rows may name files at, beside where the data come from (`mmssl.data.origins`).
        reading: what the user says of tables: header, encoding, samples, copy.
        files: which files of a folder are samples, and how long recordings of them are cut. None: pictures, sounds and
            videos, by their endings, and none is cut.

    Raises:
        UserError: the data or the split is not there, cannot be read, has no rows or lacks a column.
    """
    import datasets

    path = named_object(path) if isinstance(path, str) and is_object(path) else path
    if isinstance(path, str) and is_veiled(path):
        raise UserError(f"data: found '{path}', without its password or token; expected the address with it")
    if path == "":
        raise UserError("data.path: found '', expected a file, a folder or a name")  # of which "" would be the one here
    what = f"'{path}'" if isinstance(path, (str, Path)) else f"the {type(path).__name__}"
    base: Path | None = None
    read = frozenset([*words, *used_columns(columns or {})])
    with explained(what):
        if isinstance(path, (datasets.DatasetDict, datasets.IterableDatasetDict, dict)):
            source = pick(dict(path), split, what)
        elif isinstance(path, (datasets.Dataset, datasets.IterableDataset)):
            source = rows_of_split(path, split, what)
        elif not isinstance(path, (str, Path)):
            raise UserError(f"data.path: expected a path, a Hub id or a datasets object, found {type(path).__name__}")
        elif (rows := open_prefixed(str(path), split)) is not None:
            source = rows
        else:
            source, base = _Opening(what, split, streaming, read, reading, files).path(str(path), name)
        if streaming and isinstance(source, datasets.Dataset):
            source = source.to_iterable_dataset()
        note_origins(source, elsewhere(path), fetch)
        source = undecoded(source)
        if columns is not None:
            check_columns(source, columns, what)
        if base is not None:
            source = with_full_paths(source, base, columns)
        if files is not None and isinstance(source, datasets.Dataset):
            whole, source = source, cut_table(source, base, files)
            if source is not whole and wants_copy(whole):  # windows of one recording come anywhere in an epoch
                more: Any = {"columns": columns, "words": words, "fetch": fetch, "files": files, "limit": limit}
                return open_source(path, name=name, split=split, reading=replace(reading, copy=True), **more)
        source = limited(source, limit)
        if is_empty(source):
            raise UserError(f"{what} has no rows in split '{split}'")
    return source


def used_columns(columns: Columns) -> list[str]:
    """Every column that a modality reads, once."""
    return list(dict.fromkeys(c for v in columns.values() for c in ([v] if isinstance(v, str) else v)))


def check_columns(source: Source, columns: Columns, what: str = "the data") -> None:
    """Raises UserError that names the data's columns when a modality reads one that does not exist."""
    known = column_names(source)
    for modality, wanted in columns.items():
        for column in [wanted] if isinstance(wanted, str) else wanted:
            if column not in known:
                head = column.partition(".")[0]
                inside = (source.features or {}).get(head) if head != column else None
                hint = f"; '{head}' is read whole: name it, or give the part a column of its own" if inside else ""
                raise UserError(
                    f"data.columns.{modality}: {what} has no column '{column}', its columns are "
                    f"{', '.join(known)}{hint or nearest(column, known)}"
                )


class _Opening:
    """Where a path leads. Every method returns a split's rows and the folder that file names in them belong to."""

    def __init__(
        self, what: str, split: str, streaming: bool, read: frozenset[str], reading: Reading, files: Files | None
    ) -> None:
        self.what, self.split, self.streaming, self.read = what, split, streaming, read
        self.reading = reading
        self.windows = Windows(False) if files is None else files.windows
        usual = by_ending()
        wanted = tuple(kind for kind in usual if kind.column in read)
        self.kinds = (wanted or usual) if files is None else files.kinds

    def path(self, path: str, name: str | None) -> tuple[Source, Path | None]:
        """A file, glob, folder or Hub data set."""
        import datasets

        if URL.match(path) and not path.startswith("file://"):
            return self.remote(path)
        local = Path(unquote(path.removeprefix("file://")) if URL.match(path) else path).expanduser()
        if local.suffix.lower() in WHOLE and (one := self.listed(local.resolve().parent, [str(local.resolve())])):
            return one
        if local.is_dir():
            local = local.resolve()
            if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
                from .arrow_files import check_saved

                check_saved(local)
                stored = datasets.load_from_disk(str(local))
                if isinstance(stored, datasets.DatasetDict):
                    return pick(dict(stored), self.split, self.what), None
                return rows_of_split(stored, self.split, self.what), None
            if zarr_stores.is_store(local):
                from .zarr_rows import open_zarr

                return open_zarr(local, self.split, self.read, self.what, self.streaming, self.reading.copy), None
            return self.folder(local, name)
        if local.is_file():
            rows = self.own_rows(local.resolve()) or self.listed(local.resolve().parent, [str(local.resolve())])
            if rows is not None:
                return rows
            # An explicitly named file is the data, whatever it is called: "train" and the split of its name mean it.
            data_files = {"train": [str(local.resolve())]}
            own = formats.split_of(local.name)
            if own is not None and formats.split_of(self.split) == own:
                data_files = {self.split.partition("[")[0]: data_files["train"]}
            return self.files(data_files)
        matches = sorted(m for m in glob.glob(str(local), recursive=True) if os.path.isfile(m))
        if matches:
            resolved = [str(Path(m).resolve()) for m in matches]
            rows = self.listed(Path(os.path.commonpath([os.path.dirname(m) for m in resolved])), resolved)
            if rows is not None:
                return rows
            return self.files(formats.by_split([Path(m).resolve() for m in matches]))
        if glob.has_magic(path):
            raise UserError(f"data.path: no file matches {self.what}")
        if formats.table_format(path) and len(Path(path).parts) == 1:
            path = f"./{path}"  # a file, whatever lies beside it
        if local.exists():
            raise UserError(f"data.path: {self.what} is {kind_of(local.stat().st_mode)}, expected a file or a folder")
        refuse_misspelt(path, "data.path: no such file or folder")
        with asking_the_hub():
            return self.named(path, name, hub=True)

    def remote(self, path: str) -> tuple[Source, Path | None]:
        """Tables or archives behind a URL, or a glob of them, that fsspec opens."""
        from . import builders

        zarr_stores.refuse_elsewhere(path, self.what)
        ending = formats.table_format(formats.without_query(path))
        if ending is None:
            raise UserError(
                f"data.path: {self.what} does not say what the files are, expected a file or a glob that ends in "
                f"{', '.join(formats.TABLES)}, as s3://BUCKET/FOLDER/*.parquet"
            )
        with asking_the_hub() if path.startswith("hf://") else contextlib.nullcontext():
            return self.built(builders.behind_url(path, ending, self.read, self.reading))

    def folder(self, folder: Path, name: str | None) -> tuple[Source, Path | None]:
        """A folder as its README.md says, or else of files that are samples, or of tables."""
        found = folders.scan(folder, self.kinds)
        if found.is_empty:
            raise UserError(f"data.path: the folder {self.what} is empty")
        if found.has_configs:
            refuse_elsewhere(folder, self.what)
            return self.named(str(folder), name)
        if (rows := self.own_rows(folder)) is not None:
            return rows
        files = listing.list_files(folder, found.every, self.kinds)
        tables = [path for path in found.tables if path not in set(files.used)]
        listed = found.split_tables()
        if files.rows and not (listed and tables) and len(files.rows) >= len(tables):
            return self.media(found, files)
        if listed and files.rows:  # tables that list the files beside them
            return self.files(listed)
        texts = {formats.table_format(path) for path in found.tables} == {"txt"}
        strange = texts and any(k.readers for k in self.kinds) and not any(k.beside for k in self.kinds)
        if found.tables and not strange:
            return self.files(self.table_splits(found))
        raise nothing_to_read(self.what, found.every, self.kinds)

    def own_rows(self, path: Path) -> tuple[Source, None] | None:
        """The rows of what is a data set in a modality's own way."""
        for kind in self.kinds:
            rows = None if kind.reader is None else kind.reader.open_rows(path, self.split)
            if rows is not None:
                first = rows.column_names[0]
                return (rows if first == kind.column else rows.rename_column(first, kind.column)), None
        return None

    def listed(self, folder: Path, files: Sequence[str]) -> tuple[Source, None] | None:
        """The rows of single files that are samples; None where they are none, or no reader says so."""
        if not any(kind.readers for kind in self.kinds):
            return None
        found = folders.Found(folder, files=list(files))
        rows = listing.list_files(folder, found.files, self.kinds)
        return self.media(found, rows) if rows.rows else None

    def media(self, found: folders.Found, files: listing.Listed) -> tuple[Source, None]:
        """Files that are samples; as a stream every file is a shard, so that classes are not met in order."""
        splits = listing.open_files(found, files, self.windows, self.read)
        source = pick(splits, self.split, self.what)
        if self.streaming:
            return source.to_iterable_dataset(num_shards=1 if found.metadata else max(len(source), 1)), None
        return source, None

    def table_splits(self, found: folders.Found) -> dict[str, list[str]]:
        """A folder of tables by split: of the folders at its top, or of the files' names where all say one."""
        counts: dict[str, int] = {}
        for path in found.tables:
            kind = formats.TABLES[formats.table_format(path) or ""]
            counts[kind] = counts.get(kind, 0) + 1
        most = max(counts, key=lambda kind: counts[kind])
        chosen = [p for p in found.tables if formats.TABLES[formats.table_format(p) or ""] == most]
        found.tell_left_out(chosen)
        roots = folders.split_roots(found.folder, chosen)
        if roots is None:
            return formats.by_split([Path(path) for path in chosen])
        return {s: [p for p in chosen if any(folders.below(p, root) for root in of)] for s, of in roots.items()}

    def files(self, data_files: dict[str, list[str]]) -> tuple[Source, Path | None]:
        """Table files, grouped by split."""
        from . import builders

        everything = [file for files in data_files.values() for file in files]
        endings = {formats.table_format(file) for file in everything}
        kinds = {formats.TABLES[ending] for ending in endings if ending}
        if len(kinds) != 1 or None in endings:
            found = sorted({"".join(Path(file).suffixes[-2:]) or "no ending" for file in everything})
            raise UserError(
                f"data.path: {self.what} must be of one of the formats {', '.join(formats.TABLES)}, "
                f"found {', '.join(found)}{formats.way_out(everything)}"
            )
        data_files = formats.with_content(data_files)
        kind = kinds.pop()
        if kind == "webdataset":
            return self.built(builder_for(kind, data_files=builders.files_of(data_files)))
        return self.built(self.own(kind, data_files))

    def own(self, kind: str, data_files: dict[str, list[str]]) -> Any:
        """The builder of local files of a kind that mmssl reads, or, of equal parquet or arrow files, datasets' own."""
        from . import builders

        if kind in ("parquet", "arrow"):
            data_files, same = builders.one_schema(kind, data_files, self.read)
            if same:
                return builder_for(kind, data_files=builders.files_of(data_files))
        separator = "\t" if all(formats.table_format(f) == "tsv" for of in data_files.values() for f in of) else None
        if kind == "csv":
            builders.tell_layouts(data_files, separator, self.reading)
        return builders.tables(kind, data_files, self.read, separator, self.reading)

    def built(self, builder: Any, hub: bool = False, copy: bool = False) -> tuple[Source, Path | None]:
        """One split of a builder. copy: its rows are copied in any case."""
        from . import builders
        from .undecoded import keep_undecoded, prepare

        keep_undecoded(builder)
        what, split = self.what, self.split
        files: Mapping[str, Any] = builder.config.data_files or {}
        known = [str(key) for key in files or builder.info.splits or []]
        wanted, part = re.sub(r"\[.*", "", split), "[" in split
        if part and self.streaming:
            raise UserError(f"data.split '{split}': a part of a split cannot be streamed; use data.limit")
        lone = known == ["train"]
        if known and wanted not in known and not lone:
            raise no_split(what, wanted, known)
        opened = split if wanted in known or not known else "train"
        if self.streaming:
            source = builder.as_streaming_dataset(split=opened)
        elif not (copy or hub or self.reading.copy) and getattr(builder.config, "kind", builder.name) == "parquet":
            source = builders.by_number(files, opened, self.read)
        else:
            prepare(builder)
            splits = builder.info.splits or {}
            if opened in splits and not splits[opened].num_examples:
                raise UserError(f"{what} has no rows in split '{opened}'")
            source = builder.as_dataset(split=opened)
        if builder.name == "text":
            source = without_blank_lines(source)
        if lone:
            source = rows_of_split(source, wanted, what)
        used = [str(file) for file in files.get("train" if lone else wanted, [])]
        base = None
        if used and not hub and not any("://" in file for file in used):
            base = Path(os.path.commonpath([os.path.dirname(file) for file in used]))
        return source, base

    def named(self, path: str, name: str | None, hub: bool = False) -> tuple[Source, Path | None]:
        """What a README.md or the Hub says of the data, read by mmssl where it says nothing that only `datasets` knows.

        Those are declared features, which are taken as they are, and options of a reader but for csv's separator.
        """
        from . import builders

        builder = configurations.builder_of(path, name, self.what)
        kind, config, usual = builder.name, builder.config, type(builder.config)()
        ours = {"name", "version", "data_dir", "data_files", "description", "sep", "delimiter"}
        own = kind in ("csv", "json", "text") or (kind in ("parquet", "arrow") and not hub)
        files = [str(file) for of in (config.data_files or {}).values() for file in of]
        own = own and all(formats.table_format(file) for file in files)  # in archives they are read by `datasets`
        if not own or not files or configurations.declared(path, name, builder):
            return self.built(builder, hub, copy=True)
        if any(getattr(config, key) != getattr(usual, key) for key in vars(usual) if key not in ours):
            return self.built(builder, hub, copy=True)
        if kind in ("parquet", "arrow"):
            kept, same = builders.one_schema(kind, {str(s): list(of) for s, of in config.data_files.items()}, self.read)
            return self.built(builder if same else builders.tables(kind, kept, self.read, reading=self.reading), hub)
        separator = config.sep if kind == "csv" and config.sep != usual.sep else None
        return self.built(builders.tables(kind, config.data_files, self.read, separator, self.reading), hub)
