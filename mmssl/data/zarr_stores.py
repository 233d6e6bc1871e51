"""What a Zarr store on this disk says of itself, by its metadata alone: arrays, groups, splits, codecs.

Zarr 2 and 3. A group whose arrays have one first axis is a table: each array a column, each place of that axis a row.
The metadata are read here, before `zarr` makes anything of them: numcodecs has a codec that unpickles, and more can be
named.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.boundary import read_json_object
from mmssl.errors import UserError
from mmssl.limits import check_table

from .formats import folder_splits, is_noise

ARRAYS = {".zarray": 2, "zarr.json": 3}
"""File that says what an array is -> version of the format."""
GROUPS = {".zgroup": 2, "zarr.json": 3}
CODECS = frozenset(
    "adler32 astype bitround blosc bytes bz2 crc32 crc32c delta fixedscaleoffset fletcher32 gzip lz4 lzma packbits "
    "quantize sharding_indexed shuffle transpose vlen-bytes vlen-utf8 zlib zstd".split()
)
"""Those that only unpack numbers and letters."""
HOW = "expected a group of arrays with one first axis (zarr.open_group), each a column by its name"


@dataclass(frozen=True)
class ZarrArray:
    """An array.

    Attributes:
        path: its folder.
        shape: of all of it.
        chunk: of what is decoded at once.
        filled: whether what was never written has a value.
    """

    path: Path
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    filled: bool


def is_store(path: Path) -> bool:
    """Whether a folder is a group or an array of Zarr."""
    return any((path / name).is_file() for name in (*GROUPS, *ARRAYS))


def refuse_elsewhere(path: str, what: str) -> None:
    """UserError for a store behind a URL, as far as its name says that it is one."""
    if re.search(r"\.zarr(\.zip)?(/|$)", path):
        raise UserError(f"data.path: {what} is a Zarr store, which is read on this disk alone: copy it here first")


def seen(path: Path) -> list[tuple[str, int, int]]:
    """What tells a store apart from itself after a change: names, sizes and times of its metadata, times of the folders
    of its chunks."""
    found = []
    for place in (path, *(path / name for name in sorted(os.listdir(path))), *sorted(path.glob("*/c"))):
        for one in (place, *(place / name for name in ARRAYS)) if place.is_dir() else ():
            if one.exists():
                about = one.stat()
                found.append((str(one), about.st_size, about.st_mtime_ns))
    return found


def splits_of(path: Path) -> dict[str, Path]:
    """Split -> its group: the groups at the top where their names say so, else the store itself, which is "train"."""
    if _array(path) is not None:
        raise UserError(f"data.path: '{path}' is one array of Zarr, {HOW}")
    arrays, groups = _inside(path)
    if arrays:
        return {"train": path}
    splits = folder_splits([group.name for group in groups]) if groups else None
    if splits is None:
        names = ", ".join(group.name for group in groups[:8])
        told = f"only groups in it ({names}), whose names are no splits" if groups else "nothing in it"
        raise UserError(
            f"data.path: '{path}' is a group of Zarr with {told}; {HOW}"
            + (f"; or name one of these: data.path={groups[0]}" if groups else "")
        )
    if len(set(splits.values())) < len(splits):
        raise UserError(f"data.path: '{path}' has several groups of one split: {', '.join(sorted(splits))}")
    return {split: path / name for name, split in splits.items()}


def columns_of(group: Path, wanted: frozenset[str]) -> dict[str, ZarrArray]:
    """Name -> array of a group, all with as many rows as those that are wanted, or as all.

    What is left out is in no row: `left_out` says why.

    Raises:
        UserError: an array that is wanted has another number of rows, or they differ and none is wanted; too large.
    """
    found = {path.name: array for path in _inside(group)[0] if (array := _array(path)) is not None and array.shape}
    asked = {name: array.shape[0] for name, array in found.items() if name in wanted}
    rows = asked or {name: array.shape[0] for name, array in found.items()}
    if not rows:
        raise UserError(f"data.path: '{group}' is a group of Zarr without arrays; {HOW}")
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count:,}" for name, count in list(rows.items())[:8])
        raise UserError(f"data.path: the arrays of '{group}' differ in their first axis: {told}; {HOW}")
    count = next(iter(rows.values()))
    check_table("rows", count, "rows", str(group))
    check_table("columns", len(found), "columns", str(group))
    for name, array in found.items():
        check_table("values", math.prod(array.chunk), f"values in a chunk of {name}", str(group))
    return {name: array for name, array in found.items() if array.shape[0] == count}


def left_out(group: Path, kept: Mapping[str, ZarrArray]) -> list[str]:
    """What of a group is in no row, and why, in words."""
    arrays, groups = _inside(group)
    said = [f"{one.name} (a group)" for one in groups]
    for path in arrays:
        array = _array(path)
        if array is not None and path.name not in kept:
            said.append(f"{path.name} ({f'{array.shape[0]:,} rows' if array.shape else 'no axis'})")
    return said


def _inside(path: Path) -> tuple[list[Path], list[Path]]:
    """(arrays, groups) directly in a group, by name."""
    places = [path / name for name in sorted(os.listdir(path)) if not is_noise(name) and (path / name).is_dir()]
    stores = [place for place in places if is_store(place)]
    arrays = [place for place in stores if _array(place) is not None]
    return arrays, [place for place in stores if place not in arrays]


def _array(path: Path) -> ZarrArray | None:
    """What an array says of itself; None of a group. UserError where that is no metadata, or names a codec that is
    not among `CODECS`."""
    if (path / "zarr.json").is_file():
        said = read_json_object(path / "zarr.json", f"data.path: '{path / 'zarr.json'}'")
        if said.get("node_type") != "array":
            return None
        version = 3
    elif (path / ".zarray").is_file():
        said, version = read_json_object(path / ".zarray", f"data.path: '{path / '.zarray'}'"), 2
    else:
        return None
    try:
        shape = _sizes(said["shape"])
        chunk = _sizes(said["chunks"] if version == 2 else said["chunk_grid"]["configuration"]["chunk_shape"])
        for codec in _codecs(said) if version == 3 else ():
            if codec["name"] == "sharding_indexed":
                chunk = _sizes(codec["configuration"]["chunk_shape"])
        names = [str(one.get("name", one.get("id"))).removeprefix("numcodecs.") for one in _codecs(said)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"data.path: '{path}' is damaged: its metadata are none of an array of Zarr") from error
    if len(chunk) != len(shape) or not all(chunk):
        raise UserError(f"data.path: '{path}' is damaged: chunks of {chunk} of an array of {shape}")
    if strange := sorted(set(names) - CODECS):
        raise UserError(
            f"data.path: '{path}' is packed by {', '.join(strange)}, which mmssl does not run; expected of "
            f"{', '.join(sorted(CODECS))}"
        )
    return ZarrArray(path, shape, chunk, said.get("fill_value") is not None)


def _sizes(given: Any) -> tuple[int, ...]:
    found = tuple(given)
    if not all(isinstance(one, int) and one >= 0 for one in found):
        raise ValueError(found)
    return found


def _codecs(said: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All codecs that metadata name, also those within others."""
    for one in [said.get("compressor"), *(said.get("filters") or ()), *(said.get("codecs") or ())]:
        if one is not None:
            yield one
            inner = one.get("configuration") or {}
            for key in ("codecs", "index_codecs"):
                yield from _codecs({"codecs": inner.get(key)})
