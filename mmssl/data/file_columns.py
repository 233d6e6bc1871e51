"""Rows of files as a `Dataset`, the files undecoded, built in Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .formats import media_kind
from .kinds import Kind
from .windows import File

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from datasets.features.features import FeatureType

    from .shards import Row


class Word(str):
    """Text that stays text, also where it looks like a number."""


def file_table(
    rows: Sequence[Mapping[str, Any]],
    kinds: Mapping[str, Kind],
    *,
    labels: Sequence[str] | None = None,
    words: set[str] | None = None,
    commas: bool = False,
) -> Dataset:
    """Rows as a `Dataset`, the files undecoded.

    Args:
        rows: column -> value; files are `File`.
        kinds: column -> whose files it holds.
        labels: names of the classes that the column `label` counts.
        words: the rows come from csv; these columns stay the text that they are. None: from elsewhere, all do.
        commas: of csv whose separator is none.
    """
    import datasets
    import pyarrow as pa

    features, arrays = datasets.Features(), []
    for column in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(column) for row in rows]
        some = next((v for v in values if v is not None), None)
        if isinstance(some, File):
            feature, array = _file_column(values, kinds.get(column))
        elif isinstance(some, list) and some and isinstance(some[0], File):
            plain = _feature(some[0], False)
            listed = [None if v is None else [_undecoded(one) for one in v] for v in values]
            feature, array = datasets.List(plain), pa.array(listed, pa.list_(_struct()))
        elif labels is not None and column == "label":
            feature, array = datasets.ClassLabel(names=list(labels)), pa.array(values, pa.int64())
        else:
            text = words is None or column in words or isinstance(some, Word)
            feature, array = _other_column(values, not text, commas)
        features[column] = feature
        arrays.append(array)
    table = datasets.table.InMemoryTable(pa.table(arrays, schema=features.arrow_schema))
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def _file_column(values: Sequence[File | None], kind: Kind | None) -> tuple[FeatureType, pa.Array]:
    """(feature, Arrow array) of a column of files: structs, or what the reader makes of a file."""
    import pyarrow as pa

    first = next(value for value in values if value is not None)
    if kind is not None and kind.reader is not None and not isinstance(kind.value(first.path), dict):
        return _other_column([None if value is None else kind.value(value.path) for value in values], False)
    windowed = any(value is not None and value.start is not None for value in values)
    structs = [_undecoded(value, windowed) for value in values]
    return _feature(first, windowed), pa.array(structs, _struct(windowed))


def _struct(windowed: bool = False) -> pa.StructType:
    """The Arrow type of an undecoded file."""
    import pyarrow as pa

    fields = {"bytes": pa.binary(), "path": pa.string()}
    return pa.struct(fields | ({"start": pa.float64(), "stop": pa.float64()} if windowed else {}))


def _feature(file: File, windowed: bool) -> FeatureType:
    """The feature of such structs: `datasets`' own of pictures, sounds and videos that are read whole."""
    import datasets

    media = {"image": datasets.Image, "audio": datasets.Audio, "video": datasets.Video}
    kind = media_kind(file.path)
    if kind is not None and not windowed:
        return media[kind](decode=False)
    return datasets.Features.from_arrow_schema(_schema(_struct(windowed)))["file"]


def _schema(kind: pa.DataType) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("file", kind)])


def _undecoded(file: File | None, windowed: bool = False) -> Row | None:
    if file is None:
        return None
    plain: Row = {"bytes": None, "path": file.path}
    return plain | {"start": file.start, "stop": file.stop} if windowed else plain


def _other_column(values: Sequence[object], typed: bool, commas: bool = False) -> tuple[FeatureType, pa.Array]:
    """(feature, Arrow array) of a column that holds no files; typed: fields of csv, which may be numbers."""
    from .column_types import FieldType, cast_fields, json_array, json_feature, json_type

    kind = json_type(values)
    array = json_array(values, kind)
    if typed and any(value is not None for value in values):
        guess = FieldType(commas)
        guess.see(array)
        kind, array = guess.type, cast_fields(array, guess.type)
    return json_feature(kind), array
