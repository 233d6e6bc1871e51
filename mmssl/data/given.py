"""Rows that are an object in Python: of `datasets`, pandas, polars or Arrow, or a list of dicts.

A command's options are plain values, which are kept in files. So an object is called by a name while a function works
on it (`object:Dataset`), and `open_source` finds it by that name as it finds a file by its path.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmssl.errors import UserError

from .explained import explained

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa
    from datasets import Dataset, IterableDataset

    Source: TypeAlias = Dataset | IterableDataset
    Rows: TypeAlias = Source | pa.Table | pandas.DataFrame | Sequence[Mapping[str, Any]]
    Data: TypeAlias = str | Path | Rows | Mapping[str, Rows]

PREFIX = "object:"
FRAMES = (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"))
"""(package, class) of tables in memory."""
_here: dict[str, Source | dict[str, Source]] = {}
"""Name -> the object, while it is worked on."""


def is_object(path: object) -> bool:
    """Whether a path is the name of an object."""
    return isinstance(path, str) and path.startswith(PREFIX)


def is_rows(data: object) -> bool:
    """Whether this is an object that holds rows, or one of them for every split."""
    if isinstance(data, Mapping):
        return bool(data) and all(not isinstance(part, Mapping) and is_rows(part) for part in data.values())
    if isinstance(data, list | tuple):
        return bool(data) and all(isinstance(row, Mapping) for row in data)
    return _frame(data) is not None or _of_datasets(data)


@contextlib.contextmanager
def given(data: Data | None) -> Iterator[str | None]:
    """The name by which options say these data: a path's own, that of an object for the time of a `with`.

    Raises:
        UserError: it is neither a path nor rows, or rows that no table can hold.
    """
    if data is None or isinstance(data, str | Path):
        yield None if data is None else str(data)
        return
    called = type(data).__name__
    if not is_rows(data):
        raise UserError(
            f"data: found {called}, expected a path, a Hub id, a datasets object, a DataFrame, a list of dicts (a row "
            "each), or a dict of these by split"
        )
    with explained(f"the {called}"):
        rows = {str(k): _as_source(v) for k, v in data.items()} if isinstance(data, Mapping) else _as_source(data)
    names = (PREFIX + called + (f"-{number}" if number else "") for number in range(len(_here) + 1))
    name = next(name for name in names if name not in _here)
    _here[name] = rows
    try:
        yield name
    finally:
        del _here[name]


def named_object(path: str) -> Source | dict[str, Source]:
    """The object of a name; UserError where it is not at hand."""
    if path not in _here:
        raise UserError(
            f"data.path: found '{path}', rows that were an object in Python and are in no file; pass them again as data"
        )
    return _here[path]


def _of_datasets(data: object) -> bool:
    """Whether this is a data set, without importing `datasets` for what is none."""
    datasets: Any = sys.modules.get("datasets")
    return datasets is not None and isinstance(data, datasets.Dataset | datasets.IterableDataset)


def _frame(data: object) -> str | None:
    """The package of a table in memory, without importing it."""
    for package, cls in FRAMES:
        module: object = sys.modules.get(package)
        if module is not None and isinstance(data, getattr(module, cls, ())):
            return package
    return None


def _as_source(rows: Any) -> Source:
    import datasets

    if _of_datasets(rows):
        source: Source = rows
        return source
    package = _frame(rows)
    if package == "pandas":
        return datasets.Dataset.from_pandas(rows, preserve_index=False)
    if package == "polars":
        return datasets.Dataset.from_polars(rows)
    if package == "pyarrow":
        return datasets.Dataset(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return datasets.Dataset.from_dict({name: [_plain(row.get(name)) for row in rows] for name in names})


def _plain(value: object) -> Any:
    return str(value) if isinstance(value, Path) else value
