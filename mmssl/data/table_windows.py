"""Tables whose rows name long recordings: a row a window, as of a folder of the same files (`mmssl.data.windows`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .explained import warn_once
from .kinds import Files
from .listing import FILE, START
from .origins import places
from .values import full_paths
from .windows import File, cut

if TYPE_CHECKING:
    from datasets import Dataset

    from mmssl.modality import Preprocessor

STRUCT = ("bytes", "path")


def cut_table(source: Dataset, base: Path | None, files: Files) -> Dataset:
    """The rows of a table, those of long recordings as one a window, with its second in `start`.

    A window's value is {"bytes": None, "path", "start", "stop"}; `file` is what the table names, where it has no such
    column. A table that has a column `start` is cut already; arrays, and files that lie in the table or elsewhere, stay
    whole.

    Args:
        source: the rows, undecoded.
        base: the folder that names in them are relative to.
        files: who reads them, and how recordings are cut.
    """
    import datasets
    import pyarrow as pa

    names = source.column_names
    readers = {c: of for c, of in timed_columns(names, files).items() if _names_files(source.features[c])}
    if not readers or START in names or places(source) is not None:
        return source
    plain = source.with_format(None)
    named = {column: list(plain[column]) for column in readers}
    full = full_paths(base)
    rows: list[dict[str, object]] = []
    for number in range(len(source)):
        here = {column: full(_path(values[number])) for column, values in named.items()}
        rows.append({"": number, **{c: File(path) for c, path in here.items() if path is not None}})
    pieces, starts = cut(rows, readers, files.windows)
    if len(pieces) == len(rows):
        return source
    if FILE in readers:
        warn_once(f"recordings stay whole: the column '{FILE}', which tells their windows apart, names them")
        return source
    chosen: list[int] = [piece[""] for piece in pieces]  # type: ignore[misc]
    columns: dict[str, object] = {}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string(), "start": pa.float64(), "stop": pa.float64()})
    for column, values in named.items():
        cells = [_cell(values[number], piece.get(column)) for number, piece in zip(chosen, pieces, strict=True)]
        columns[column] = pa.array(cells, kind)
    if FILE not in names:
        first = named[next(iter(readers))]
        columns[FILE] = pa.array([_path(first[number]) for number in chosen], pa.string())
    columns[START] = pa.array(starts, pa.float64())
    kept = source.with_format(None).select(chosen).remove_columns(list(readers))
    new = datasets.Dataset(pa.table(columns))
    rest = [kept.flatten_indices(), new] if kept.column_names else [new]
    out = datasets.concatenate_datasets(rest, axis=1).select_columns([*names, *(c for c in columns if c not in names)])
    out.info.splits, out.info.download_checksums = source.info.splits, source.info.download_checksums
    return out


def timed_columns(names: Sequence[str], files: Files) -> dict[str, list[Preprocessor]]:
    """Column -> who reads recordings from it that take time; where nobody names one, that which a model was fitted on,
    or that of the modality's name."""
    found: dict[str, list[Preprocessor]] = {}
    for name, reader in files.readers.items():
        if reader.seconds is None:
            continue
        given = files.columns.get(name, reader.own_columns())
        wanted = [given] if isinstance(given, str) else list(given or [])
        column = next((c for c in (*wanted[:1], name) if len(wanted) < 2 and c in names), None)
        if column is not None:
            found.setdefault(column, []).append(reader)
    return found


def _names_files(feature: object) -> bool:
    """Whether a column may name files: of text, or of structs of bytes and path."""
    import datasets

    if isinstance(feature, datasets.Value):
        return str(feature.dtype) in ("string", "large_string")
    media = (datasets.Audio, datasets.Video, datasets.Image)
    return isinstance(feature, media) or (isinstance(feature, dict) and set(feature) == set(STRUCT))


def _path(value: object) -> str | None:
    """The file that a cell names; None where it holds the bytes, or nothing."""
    if isinstance(value, dict):
        return value.get("path") if value.get("bytes") is None else None
    return value if isinstance(value, str) else None


def _cell(value: object, piece: object) -> dict[str, object] | None:
    if value is None:
        return None
    kept = value if isinstance(value, dict) else {"bytes": None, "path": value}
    if not isinstance(piece, File):
        return {"bytes": kept["bytes"], "path": kept["path"], "start": None, "stop": None}
    return {"bytes": None, "path": piece.path, "start": piece.start, "stop": piece.stop}
