"""Files about the rows of data: embeddings, clusters, selections. Each is a parquet file with a row for every row of
the data, in their order, and says in its metadata which data these are (`mmssl.data.fingerprint.sketch`), so that it
is never taken for rows of others. The data themselves are copied nowhere.
"""

from __future__ import annotations

import contextlib
import glob
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmssl.errors import UserError, nearest, one_line
from mmssl.files import clear_left, replaceable

from .arrow_files import check_parquet
from .fingerprint import sketch
from .origins import bare, folder_of

if TYPE_CHECKING:
    import pyarrow as pa

    from .sources import Source

ABOUT = b"mmssl_rows"
"""Key of the file's metadata: JSON, of which `rows`, `columns` and `sha256` are of the data."""
REASON = "reason"
"""Column of a selection: "kept", or why a row is left out."""
KEPT = "kept"


OTHERS = frozenset({".csv", ".tsv", ".json", ".jsonl", ".npy", ".npz", ".txt", ".pt", ".h5", ".arrow", ".feather"})
"""Endings that say another format than what is written."""


def parquet_place(output: str | Path, data: str | Path | None = None, *inputs: str | Path | None) -> Path:
    """Where a parquet file is to be written, before anything is computed for it.

    data: whose rows the file is about; it is not to lie among their files.
    inputs: further files that are read; one of them cannot be written over.

    UserError where that is no place for a file, says another format, is one of the inputs or among the data.
    """
    path = Path(output)
    if path.is_dir():
        raise UserError(f"output: '{path}' is a folder, expected the name of a parquet file to write")
    if path.suffix.lower() in OTHERS:
        raise UserError(f"output: '{path}' ends in {path.suffix}, expected the name of a parquet file (.parquet)")
    replaceable(path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"output: '{path}' lies below '{above.name}', which is a file, expected a folder")
    for given in (data, *inputs):
        if given is not None and path.exists() and Path(given).exists() and path.samefile(given):
            raise UserError(f"output: '{path}' is what is read, expected another file")
    of = None if data is None or Path(bare(data)).is_file() else folder_of(data)
    if of is not None and path.parent.is_dir() and path.parent.samefile(of):
        raise UserError(f"output: '{path}' would lie among the data '{data}', expected another folder")
    with contextlib.suppress(OSError):  # the same says more when it is written
        clear_left(path.parent.glob(f".{glob.escape(path.name)}.*.partial"))
    return path


def refuse_nested(values: Iterable[Any], column: str, option: str) -> None:
    """UserError where a column whose values are compared holds lists, pictures or the like."""
    for row, value in enumerate(values):
        if isinstance(value, dict | list | np.ndarray):
            raise UserError(
                f"{option}: column '{column}' holds {type(value).__name__} in row {row}, expected words or numbers"
            )


def with_about(schema: pa.Schema, about: Mapping[str, Any]) -> pa.Schema:
    """A schema whose file says what it is about."""
    schema = schema.remove_metadata()
    return schema.with_metadata({ABOUT: json.dumps(about).encode()})


def about_of(path: str | Path, option: str) -> dict[str, Any]:
    """What a file says of itself; {} where it was not written by mmssl.

    option: what names the file, for the message.

    Raises UserError where it is not there or no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = Path(path)
    if not place.is_file():
        there = sorted(p.name for p in place.parent.glob("*.parquet")) if place.parent.is_dir() else []
        raise UserError(f"{option}: no such file: '{path}'{nearest(place.name, there)}")
    try:
        rows = check_parquet(place, place)
        found = json.loads((pq.read_schema(place).metadata or {}).get(ABOUT, b"{}"))
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{option}: '{path}' is no whole parquet file ({one_line(error)})") from error
    return {"rows": rows, **found} if isinstance(found, dict) else {"rows": rows}


def refuse_others(path: str | Path, about: Mapping[str, Any], source: Source, option: str) -> None:
    """UserError where a file is not about these data: another number of rows, a column that is not there, or rows that
    hold something else; or where they are a stream, whose rows have no numbers."""
    if not hasattr(source, "__len__"):
        raise UserError(f"{option}: found '{path}', but the rows of a stream have no numbers, expected streaming=false")
    count = len(source)
    if about["rows"] != count:
        raise UserError(
            f"{option}: '{path}' is about {about['rows']:,} rows, the data have {count:,}: it belongs to other data, "
            "another split or another limit"
        )
    columns = about.get("columns") or []
    for name in columns:
        if name not in (source.column_names or ()):
            raise UserError(f"{option}: '{path}' belongs to other data: these have no column '{name}'")
    if columns and about.get("sha256") not in (None, sketch(source, columns)["sha256"]):
        raise UserError(
            f"{option}: '{path}' belongs to other data: their rows hold something else in {', '.join(columns)}"
        )


def read_values(path: str | Path, column: str, option: str) -> list[Any]:
    """A column of a file about rows, in the order of the data. UserError where it has none of that name."""
    import pyarrow.parquet as pq

    known = pq.read_schema(path).names
    if column not in known:
        raise UserError(
            f"{option}: '{path}' has no column '{column}', it has {', '.join(known)}{nearest(column, known)}"
        )
    values: list[Any] = pq.read_table(path, columns=[column])[column].to_pylist()
    return values


def kept_rows(path: str | Path, source: Source, option: str) -> NDArray[np.int64]:
    """Numbers, in rising order, of the rows that a selection keeps.

    Raises UserError where the file is no selection, is not about these data, or keeps none.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    about = about_of(path, option)
    known = pq.read_schema(path).names
    if REASON not in known:
        raise UserError(
            f"{option}: '{path}' is no selection: found the columns {', '.join(known[:8])}, expected a file of "
            f"`mmssl select`, with a column '{REASON}'"
        )
    refuse_others(path, about, source, option)
    chosen = pc.equal(pq.read_table(path, columns=[REASON])[REASON].cast("string"), KEPT)
    rows = np.flatnonzero(np.asarray(chosen.fill_null(False)))
    if not len(rows):
        raise UserError(f"{option}: '{path}' keeps no row")
    return rows


def kept_among(
    source: Source, path: str | None, rows: NDArray[np.int64], option: str = "data.select"
) -> NDArray[np.int64]:
    """Those of some rows of the data, in rising order, that a selection keeps; all where `path` is None.

    Raises UserError as `kept_rows` does, and where it keeps none of these.
    """
    if path is None:
        return rows
    found = np.intersect1d(rows, kept_rows(path, source, option))
    if not len(found):
        raise UserError(f"{option}: '{path}' keeps none of the {len(rows):,} rows that it could keep")
    return found


def selected(source: Source, path: str | None, option: str = "data.select") -> Source:
    """The rows that a selection keeps; all where `path` is None."""
    if path is None:
        return source
    rows = kept_rows(path, source, option)
    return source.select(rows) if hasattr(source, "select") else source
