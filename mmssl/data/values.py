"""What a value of a column is: undecoded media, names of files as full paths, lists of the number type they declare."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .selection import column_names

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    Source: TypeAlias = Dataset | IterableDataset

LONGEST = 4096
"""Characters that no path has."""
LOOKED_AT = 64
"""Rows that are looked at to learn which columns hold the names of files."""


def undecoded(source: Source) -> Source:
    """The same data with every Image, Audio and Video column as {"bytes", "path"}."""
    from .undecoded import plain

    for column, feature in (source.features or {}).items():
        as_stored = plain(feature)
        if as_stored is not feature and (as_stored != feature or type(as_stored) is not type(feature)):
            source = source.cast_column(column, as_stored)
    return source


# --- numbers -----------------------------------------------------------------------------------------------------


def typed(features: Mapping[str, object] | None, columns: Iterable[str]) -> dict[str, object]:
    """Column -> feature of those that hold arrays of a declared integer type, for `as_declared`.

    Python's lists forget it, and 8-bit images would be numbers of 0..255 "as they are".
    """
    known = features or {}
    return {name: known[name] for name in columns if name in known and _holds_integers(known[name])}


def _integers(feature: object) -> np.dtype[Any] | None:
    """The type of an array's or list's elements where it is of whole numbers of less than 64 bits."""
    import datasets

    name = None
    if isinstance(feature, (datasets.Array2D, datasets.Array3D, datasets.Array4D, datasets.Array5D)):
        name = feature.dtype
    elif isinstance(feature, (datasets.List, datasets.LargeList)):
        inner = feature.feature
        while isinstance(inner, (datasets.List, datasets.LargeList)):
            inner = inner.feature
        name = inner.dtype if isinstance(inner, datasets.Value) else None
    small = name is not None and name.startswith(("uint", "int")) and not name.endswith("64")
    return np.dtype(name) if small else None


def _holds_integers(feature: object) -> bool:
    if isinstance(feature, dict):
        return any(_holds_integers(value) for value in feature.values())
    return _integers(feature) is not None or (hasattr(feature, "feature") and _holds_integers(feature.feature))


def as_declared(value: object, feature: object) -> object:
    """A value out of a row, its lists of numbers as arrays of the type that the column declares."""
    if isinstance(feature, dict):
        if not isinstance(value, dict):
            return value
        return {key: as_declared(item, feature[key]) if key in feature else item for key, item in value.items()}
    dtype = None if feature is None else _integers(feature)
    if dtype is not None:
        try:
            return value if value is None else np.asarray(value, dtype)
        except (TypeError, ValueError, OverflowError):  # of unequal lengths, or with nulls: the modality says it
            return value
    if isinstance(value, list) and hasattr(feature, "feature"):
        return [as_declared(item, feature.feature) for item in value]
    return value


# --- names of files ----------------------------------------------------------------------------------------------


class _FullPaths:
    """Replaces names of files relative to `base` by full paths, in some columns, one row or batch at a time."""

    def __init__(self, base: Path, columns: frozenset[str]) -> None:
        self.base, self.columns = base, columns

    def __call__(self, batch: Mapping[str, object]) -> dict[str, Any]:
        return {key: self.full(value) if key in self.columns else value for key, value in batch.items()}

    def full(self, value: object) -> Any:
        if isinstance(value, str):
            found = value if self.names_file(value) or "\\" not in value else value.replace("\\", "/")  # of Windows
            return str(self.base / found) if self.names_file(found) else value
        if isinstance(value, list):
            return [self.full(item) for item in value]
        if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
            return {**value, "path": self.full(value["path"])}
        return value

    def names_file(self, value: str) -> bool:
        try:
            return 0 < len(value) < LONGEST and not os.path.isabs(value) and (self.base / value).is_file()
        except (OSError, ValueError):  # a caption that is no possible file name: too long a part, a null character
            return False


def _may_name(feature: object) -> bool:
    """Whether values of a column may name files: text, files, and lists or structs of these."""
    import datasets

    if isinstance(feature, datasets.Value):
        return str(feature.dtype) in ("string", "large_string")
    if isinstance(feature, dict):
        return any(_may_name(one) for one in feature.values())
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        return _may_name(feature.feature)
    return isinstance(feature, (datasets.Image, datasets.Audio, datasets.Video))


def transform_of(source: Dataset) -> _FullPaths | None:
    """The transform that `with_full_paths` gave some data, where it did."""
    transform = source.format["format_kwargs"].get("transform")
    return transform if isinstance(transform, _FullPaths) else None


def full_paths(base: Path | None) -> Callable[[str | None], str | None]:
    """A function from a name in a row to the full path of the file; None where it names no file that is here."""
    folder = base or Path()

    def full(name: str | None) -> str | None:
        if name is None or len(name) >= LONGEST or "\0" in name or "://" in name:
            return None
        path = os.path.abspath(folder / name)
        return path if os.path.isfile(path) else None

    return full


def with_full_paths(source: Source, base: Path, columns: Mapping[str, str | Sequence[str]] | None) -> Source:
    """Make paths relative to `base` absolute, lazily, in the columns whose first rows name files that exist."""
    import datasets

    features = source.features or {}
    names = [name for name in column_names(source) if name not in features or _may_name(features[name])]
    if columns is not None:
        read = {c for wanted in columns.values() for c in ([wanted] if isinstance(wanted, str) else wanted)}
        names = [name for name in names if name in read]
    everything = _FullPaths(base, frozenset(names))
    if not names:
        return source
    rows = list(itertools.islice(source.select_columns(names), LOOKED_AT))
    found = frozenset(name for name in names if any(everything.full(row[name]) != row[name] for row in rows))
    if not found:
        return source
    if isinstance(source, datasets.IterableDataset):
        return source.map(_FullPaths(base, found), features=source.features)
    return source.with_transform(_FullPaths(base, found))
