"""Tables as a `datasets` builder: copied into its cache, or streamed, as its own are, but read by `text_files`.

Columns of all files are put together: one that a file lacks, or has nothing in, is null there; files without rows are
passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.data_files import DataFilesDict, DataFilesList
from datasets.table import table_cast

from mmssl.errors import UserError
from mmssl.limits import check_table
from mmssl.reading import AS_FOUND, Reading

from . import formats, text_files
from .arrow_files import arrow_features, arrow_rows, arrow_tables
from .column_types import JSON, FieldType, cast_fields, common_type, json_array, json_feature, json_type
from .csv_layout import Layout, csv_layout, tell, tell_table
from .explained import tell_different, warn_once
from .letters import not_in_encoding
from .uncounted import builder_for

FEW_FILES = 5
"""Fewer text files than this are corpora, whose lines are samples."""
SHORT_FILE = 20_000
"""Bytes; many text files that are mostly shorter are a sample each."""
TOLD = 20
"""Files whose layout is looked at to be told."""
VERSION = "2"
"""Of what stands in the cache: another one, and files are read anew."""


@dataclass
class TablesConfig(datasets.BuilderConfig):
    """How the files are read.

    Attributes:
        kind: csv, json, text, parquet or arrow.
        words: columns of csv whose fields stay the text that they are, whatever it looks like.
        separator: of csv; None: found in the header.
        header, encoding: as `mmssl.reading.Reading` has them.
        texts: what of a text file is a sample: line, paragraph or file.
    """

    kind: str = "csv"
    words: tuple[str, ...] = ()
    separator: str | None = None
    header: bool | str = "auto"
    encoding: str | None = None
    texts: str = "line"

    @property
    def reading(self) -> Reading:
        """What the user says of the files."""
        return Reading(self.header, self.encoding, self.texts)


class Tables(datasets.ArrowBasedBuilder):
    """Files of one kind to rows."""

    BUILDER_CONFIG_CLASS = TablesConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        named = {str(split): [str(file) for file in files] for split, files in self.config.data_files.items()}
        local = {split: list(dl_manager.download(files)) for split, files in named.items()}
        pairs = [(path, name) for split in named for path, name in zip(local[split], named[split], strict=True)]
        remote = any("://" in path for path, _ in pairs)
        if self.info.features is None:
            self.info.features = self._features(pairs, remote)
            if not self.info.features:
                raise UserError(f"data.path: '{pairs[0][1]}' holds no rows")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"files": local[split], "names": named[split]})
            for split in named
        ]

    def _features(self, files: Sequence[tuple[str, str]], remote: bool) -> datasets.Features:
        kind = self.config.kind
        if kind == "text":
            if not remote:
                with _letters(files[0][1]):
                    tell_table(*files[0], self.config.encoding)
            return _text_features([name for _, name in files], self.config.texts)
        if kind in ("parquet", "arrow"):
            return unified([(name, arrow_features(path, kind)[0]) for path, name in files], self.config.words)
        if kind == "csv":
            return self._csv_features(files, remote)
        types: dict[str, list[pa.DataType | str]] = {}
        for path, name in files:
            with _letters(name):
                for chunk in text_files.json_rows(path, name, self.config.reading):
                    for column, values in _columns_of(chunk, name):
                        types.setdefault(column, []).append(json_type(values))
                    check_table("columns", len(types), "columns", name)
                    if remote:
                        break
        found = {column: common_type(of) or JSON for column, of in types.items()}
        return datasets.Features({column: json_feature(of) for column, of in found.items()})

    def _csv_features(self, files: Sequence[tuple[str, str]], remote: bool) -> datasets.Features:
        types: dict[str, FieldType] = {}
        layouts = {}
        for path, name in files:
            with _letters(name):
                layouts[path] = csv_layout(path, name, self.config.reading, self.config.separator)
        # those with a header first: what they call the columns holds for the others
        for path, name in sorted(files, key=lambda file: not layouts[file[0]].header):
            with _letters(name):
                self._see_csv(path, name, remote, types, layouts[path])
        tell_different({name: _aligned(layouts[path].names, list(types)) for path, name in files})
        kinds = {column: pa.string() if column in self.config.words else of.type for column, of in types.items()}
        return datasets.Features.from_arrow_schema(pa.schema(list(kinds.items())))

    def _see_csv(self, path: str, name: str, remote: bool, types: dict[str, FieldType], layout: Layout) -> None:
        """Look at all fields of a csv file whose type is not known yet."""
        columns = _aligned(layout.names, list(types))
        for column in columns:
            types.setdefault(column, FieldType(commas=layout.separator != ","))
        if set(types) <= set(self.config.words):
            return
        for _, rows in text_files.csv_rows(path, name, self.config.reading, self.config.separator):
            for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                if column not in self.config.words:
                    types[column].see(pa.array(values, pa.string()))
            if remote:  # one chunk of each: what lies elsewhere is not fetched twice
                break

    def _generate_shards(self, files: list[str], names: list[str]) -> Iterator[str]:
        yield from files

    def _generate_tables(self, files: list[str], names: list[str]) -> Iterator[tuple[Key, pa.Table]]:
        for shard, (path, name) in enumerate(zip(files, names, strict=True)):
            with _letters(name):
                for number, table in enumerate(self._tables(path, name)):
                    yield Key(shard, number), table

    def _tables(self, path: str, name: str) -> Iterator[pa.Table]:
        features, schema, kind = self.info.features, self.info.features.arrow_schema, self.config.kind
        if kind == "text":
            for texts in text_files.text_samples(path, name, self.config.texts, self.config.encoding):
                said = {"text": texts, "file": [name] * len(texts), "label": [_folder(name)] * len(texts)}
                features = {column: pa.array(said[column], pa.string()) for column in schema.names}
                yield pa.table(features, schema=schema)
        elif kind == "csv":
            for found, rows in text_files.csv_rows(path, name, self.config.reading, self.config.separator):
                columns = _aligned(found, schema.names)
                given = dict(zip(columns, zip(*rows, strict=True), strict=True))
                yield pa.table([_fields(given.get(f.name), f, len(rows), name) for f in schema], schema=schema)
        elif kind == "json":
            kinds = {c: JSON if isinstance(f, datasets.Json) else schema.field(c).type for c, f in features.items()}
            for chunk in text_files.json_rows(path, name, self.config.reading):
                arrays = [json_array([row.get(c) for row in chunk], kinds[c]) for c in features]
                yield pa.table(arrays, schema=schema)
        else:
            for table in arrow_tables(path, name, kind, list(features)):
                for field in schema:
                    if field.name not in table.column_names:
                        table = table.append_column(field.name, pa.nulls(len(table), field.type))
                yield table_cast(table.select(schema.names), schema)


def _aligned(columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of a csv file's columns; of one without a header those of the other files, where it is as wide."""
    nameless = list(columns) == [f"column_{number}" for number in range(1, len(columns) + 1)]
    return list(known if nameless and len(known) == len(columns) else columns)


def _folder(name: str) -> str:
    """The folder that a file lies in, by its name alone."""
    return os.path.basename(os.path.dirname(name))


def _text_features(names: Sequence[str], unit: str) -> datasets.Features:
    """Columns of text files: the text, and where a file is a sample its name and, of several, its folder."""
    columns = ["text"]
    if unit == "file":
        columns += ["file"] + (["label"] if len({_folder(name) for name in names}) > 1 else [])
    return datasets.Features({column: datasets.Value("string") for column in columns})


def text_unit(files: Sequence[str]) -> str:
    """What of these local text files is a sample, by looking at them: of many short files each one, of long ones that
    are wrapped into lines each paragraph, else each line."""
    if len(files) < FEW_FILES:
        return "line"
    sizes = sorted(os.path.getsize(file) for file in files)
    if sizes[len(sizes) // 2] < SHORT_FILE:
        return "file"
    with text_files.open_text(files[0], files[0], None) as file:
        lines = file.read(1 << 16).split("\n")
    blank = sum(not line.strip() for line in lines) / len(lines)
    full = sum(50 < len(line) < 100 for line in lines) / len(lines)
    return "paragraph" if blank > 0.05 and full > 0.4 else "line"


def _columns_of(rows: Sequence[Mapping[str, object]], file: str) -> Iterator[tuple[str, list[object]]]:
    names = dict.fromkeys(name for row in rows for name in row)
    check_table("columns", len(names), "columns", file)
    check_table("values", len(names) * len(rows), f"values in {len(rows):,} rows", file)
    for name in names:
        yield name, [row.get(name) for row in rows]


def _fields(values: Sequence[str | None] | None, field: pa.Field, count: int, name: str) -> pa.Array:
    """One column of a chunk of a csv file; None: this file has no such column."""
    if values is None:
        return pa.nulls(count, field.type)
    try:
        return cast_fields(pa.array(values, pa.string()), field.type)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"data.path: '{name}': column '{field.name}' holds numbers in its first rows and other things further on "
            f"({error}); data.streaming=false looks at all rows first"
        ) from error


@contextlib.contextmanager
def _letters(name: str) -> Iterator[None]:
    """Says which file is not of the encoding that it was read in."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise not_in_encoding(name, error) from error


# --- parquet and arrow -------------------------------------------------------------------------------------------


def unified(files: Sequence[tuple[str, datasets.Features]], wanted: Iterable[str]) -> datasets.Features:
    """The columns of all files, each of a type that holds what every file has in it.

    One that has no such type is left out, which the log says.

    Raises:
        UserError: it is one of the `wanted`.
    """
    out = datasets.Features()
    tell_different(dict(files))
    for column in dict.fromkeys(name for _, features in files for name in features):
        first: dict[str, str] = {}
        different: dict[str, object] = {}
        for name, features in files:
            if column in features and features[column] != datasets.Value("null"):
                text = str(features[column])
                first.setdefault(text, name)
                different.setdefault(text, features[column])
        if len(different) <= 1:
            out[column] = next(iter(different.values()), datasets.Value("null"))
            continue
        found = common_type([datasets.Features({column: f}).arrow_schema.field(0).type for f in different.values()])
        media = [f for f in different.values() if isinstance(f, (datasets.Image, datasets.Audio, datasets.Video))]
        if found is not None and not isinstance(found, str):
            plain = datasets.Features.from_arrow_schema(pa.schema([(column, found)]))[column]
            out[column] = media[0] if media else plain
            continue
        said = " and ".join(f"{text} in '{os.path.basename(name)}'" for text, name in list(first.items())[:2])
        if column in set(wanted):
            raise UserError(f"data.path: column '{column}' is {said}; give it one type in all files")
        warn_once(f"column '{column}' is left out: it is {said}")
    return out


def by_number(files: Mapping[str, Sequence[str]], split: str, wanted: Iterable[str]) -> datasets.Dataset:
    """The rows of a split of local parquet files where they lie: no copy of them is made."""
    from .parquet_rows import indexed

    named = {str(key): [str(file) for file in of] for key, of in files.items()}
    every = [file for of in named.values() for file in of]
    return indexed(named, split, unified([(file, arrow_features(file, "parquet")[0]) for file in every], wanted))


# --- opening -----------------------------------------------------------------------------------------------------


def files_of(data_files: Mapping[str, Sequence[str]]) -> DataFilesDict:
    """Local files, whatever their names look like, with what tells the cache that one of them was changed."""
    return DataFilesDict(
        {
            split: DataFilesList(
                list(files), [(file, str(os.stat(file).st_mtime_ns), str(os.stat(file).st_size)) for file in files]
            )
            for split, files in data_files.items()
        }
    )


def tables(
    kind: str,
    data_files: Mapping[str, Any],
    words: Iterable[str] = (),
    separator: str | None = None,
    reading: Reading = AS_FOUND,
) -> Tables:
    """The builder of these files by split: local names, or the `DataFilesDict` of another builder.

    Args:
        kind: csv, json, text, parquet or arrow.
        data_files: split -> files.
        words: columns whose fields stay text.
        separator: of csv, where it is known.
        reading: what the user says of the files.
    """
    if not isinstance(data_files, DataFilesDict):
        data_files = files_of(data_files)
    files = [str(file) for of in data_files.values() for file in of]
    chosen = tuple(sorted(set(words))) if kind in ("csv", "parquet", "arrow") else ()
    said: dict[str, object] = {"encoding": reading.encoding} if kind in ("csv", "json", "text") else {}
    if kind == "csv":
        said["header"] = reading.header
    if kind == "text":
        here = not any("://" in file for file in files)
        said["texts"] = (text_unit(files) if here else "line") if reading.texts == "auto" else reading.texts
        if reading.texts == "auto" and said["texts"] != "line":
            warn_once(f"each {said['texts']} of the {len(files):,} text files is a sample (data.texts=line: each line)")
    return Tables(
        dataset_name=kind,
        hash=f"mmssl-{VERSION}",
        data_files=data_files,
        kind=kind,
        words=chosen,
        separator=separator,
        **said,
    )


def behind_url(path: str, ending: str, words: Iterable[str], reading: Reading) -> datasets.DatasetBuilder:
    """The builder of tables or archives behind a URL, or a glob of them. ending: says what they are."""
    kind = formats.TABLES[ending]
    found = builder_for(kind, data_files={"train": [path]}).config.data_files
    named = formats.by_split(str(file) for file in found["train"])
    builder = builder_for(kind, data_files=named)
    if kind not in ("csv", "json", "text"):
        return builder
    return tables(kind, builder.config.data_files, words, "\t" if ending == "tsv" else None, reading)


def tell_layouts(data_files: Mapping[str, Any], separator: str | None, reading: Reading) -> None:
    """Say how the first csv files are laid out, also where their rows are in the cache already."""
    for file in [str(file) for of in data_files.values() for file in of][:TOLD]:
        if "://" not in file:
            with _letters(file):
                tell(os.path.basename(file), csv_layout(file, file, reading, separator))


def one_schema(
    kind: str, data_files: Mapping[str, Sequence[str]], wanted: Iterable[str] = ()
) -> tuple[dict[str, list[str]], bool]:
    """(the files that have rows, all of a split where none has; whether all have rows, and the same columns).

    UserError where a column that is `wanted` has a type that no row can hold; others are left out, which the log says.
    """
    kept, full = {}, True
    for split, files in data_files.items():
        kept[split] = [file for file in files if arrow_rows(file, kind)] or list(files)
        full = full and bool(arrow_rows(kept[split][0], kind))
    features = []
    for file in (file for files in kept.values() for file in files):
        found, left = arrow_features(file, kind)
        features.append(found)
        for column, said in left.items():
            if column in set(wanted):
                raise UserError(
                    f"data.path: column '{column}' is {said} in '{os.path.basename(file)}', which no row can hold: "
                    "store its values as a struct or a list"
                )
            warn_once(f"column '{column}' is left out: no row can hold {said}")
        full = full and not left
    return kept, full and all(found == features[0] for found in features)
