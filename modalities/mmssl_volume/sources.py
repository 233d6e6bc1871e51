"""Folders of volumes as rows: `data.path=volume:FOLDER`, and slabs of them: `volume:FOLDER?slab=8`.

A folder that holds pictures and no further folder of them is one volume, its slices in natural order; so it has to be
said that they are volumes, as folders of pictures are classes else. Files of volumes beside them are volumes, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from mmssl.boundary import reading_of
from mmssl.errors import UserError, nearest
from mmssl.limits import check_table
from mmssl.modality.pixels.folder import PICTURES, natural
from mmssl.modality.raw import check_npy
from mmssl.modality.splits import of_split

from .reading import FILES, SLICES, read_volume

if TYPE_CHECKING:
    from datasets import Dataset

ENDINGS = (*FILES, ".npy")
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "validation"}
SPLITS |= {"valid": "validation", "validation": "validation", "dev": "validation"}
METADATA = "metadata.csv"
WORDS = ("slab", "parts")


def open_rows(path: str, split: str) -> Dataset:
    """The rows of `volume:PATH`, a folder of volumes, or one.

    `?slab=N` makes of each volume its slabs of N slices, of which the last may overlap the one before: rows of one file
    stay together where rows are held out, and `position` says where the middle of a slab lies, from 0 to 1. `?parts=S`
    says in `part` in which of S equal parts (0 is the first) that is.

    Columns: volume, file, what `metadata.csv` says of a `file_name`; without it `label`, the folders that volumes lie
    in, where there are several; `split`, where the uppermost folders are called so.

    Raises:
        UserError: there is nothing that can be read, or a word is none.
        NoSplit: no volume is of this split.
    """
    from datasets import Dataset

    name, _, query = path.partition("?")
    what, said = f"volume:{path}", dict(parse_qsl(query))
    if wrong := set(said) - set(WORDS):
        raise UserError(f"data.path: '{what}': found '{min(wrong)}', expected slab=SLICES or parts=NUMBER")
    slab, parts = (_whole(said.get(word), word, what) for word in WORDS)
    if parts and not slab:
        raise UserError(f"data.path: '{what}': found parts, which are of slabs: expected slab=SLICES beside it")
    folder = Path(name).expanduser().resolve()
    if not folder.exists():
        near = nearest(folder.name, [p.name for p in folder.parent.iterdir()]) if folder.parent.is_dir() else ""
        raise UserError(f"data.path: no such file or folder: '{name}'{near}")
    found = sorted(_volumes(folder), key=lambda one: [natural(Path(part)) for part in one.parts])
    if not found:
        raise UserError(f"data.path: '{what}': found no volume, expected {', '.join(ENDINGS)} or folders of slices")
    rows = [
        {"volume": {"path": str(one), SLICES: None}, **known}
        for one, known in zip(found, _known(folder, found), strict=True)
    ]
    if slab:
        rows = [piece for row in rows for piece in _slabs(row, slab, parts)]
    check_table("rows", len(rows), "rows", name)
    return of_split(Dataset.from_list(rows), split, what)


def _whole(text: str | None, word: str, what: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) <= 1_000_000:
        raise UserError(f"data.path: '{what}': {word}: found '{text}', expected a whole number above 0")
    return int(text)


def _volumes(place: Path) -> Iterator[Path]:
    """Files of volumes, and folders of slices, below a place."""
    if place.is_file():
        if place.name.lower().endswith(ENDINGS):
            yield place
        return
    for where, folders, files in os.walk(place):
        folders[:] = [name for name in folders if not name.startswith(".")]
        own = [name for name in files if not name.startswith(".")]
        whole = [name for name in own if name.lower().endswith(ENDINGS) and _may_hold(Path(where) / name)]
        if whole:
            yield from (Path(where) / name for name in whole)
        elif any(Path(name).suffix.lower() in PICTURES for name in own):
            yield Path(where)


def _may_hold(file: Path) -> bool:
    """Not an array of two axes, which is a slice."""
    if file.suffix.lower() != ".npy":
        return True
    with reading_of(f"data.path: '{file}' cannot be read"), file.open("rb") as opened:
        return len(check_npy(opened)) > 2


def _known(folder: Path, found: list[Path]) -> list[dict[str, Any]]:
    """Of each volume what is known beside its voxels."""
    base = folder if folder.is_dir() else folder.parent
    files = [one.relative_to(base).as_posix() for one in found]
    known: list[dict[str, Any]] = [{"file": file} for file in files]
    above = [Path(file).parent.parts for file in files]
    if all(parts and parts[0].lower() in SPLITS for parts in above):
        known = [row | {"split": SPLITS[parts[0].lower()]} for row, parts in zip(known, above, strict=True)]
        above = [parts[1:] for parts in above]
    if (base / METADATA).is_file():
        return _with_metadata(base / METADATA, known)
    kinds = {parts[-1] for parts in above if parts}
    if len(kinds) > 1 and all(above):
        known = [row | {"label": parts[-1]} for row, parts in zip(known, above, strict=True)]
    return known


def _with_metadata(table: Path, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import pandas as pd

    with reading_of(f"data.path: '{table}' cannot be read"):
        said = pd.read_csv(table)
    if "file_name" not in said.columns:
        raise UserError(f"'{table}' needs a column 'file_name', its columns are {', '.join(map(str, said.columns))}")
    said = said.astype(object).where(said.notna(), None)
    of = {str(row.pop("file_name")).rstrip("/"): row for row in said.to_dict("records")}
    missing = [row["file"] for row in known if row["file"] not in of]
    if missing:
        raise UserError(f"'{table}' says nothing of '{missing[0]}'{nearest(missing[0], list(of))}")
    return [row | {str(key): value for key, value in of[row["file"]].items()} for row in known]


# -------------------------------------------------------------------------------------------------------------- slabs


def _slabs(row: dict[str, Any], slab: int, parts: int | None) -> Iterator[dict[str, Any]]:
    """A row for each slab of a volume, the last one moved back to lie within it."""
    path = row["volume"]["path"]
    total = _slices(Path(path))
    if total < slab:
        raise UserError(f"data.path: '{row['file']}' has {total} slices, expected at least one slab of {slab}")
    for first in range(0, total, slab):
        start = min(first, total - slab)
        position = (start + slab / 2) / total
        more = {} if parts is None else {"part": min(int(position * parts), parts - 1)}
        value = {"path": path, SLICES: [start, start + slab]}
        yield row | {"volume": value, "start": float(start), "position": position, **more}


def _slices(path: Path) -> int:
    """How many a volume has, by its header where that says it."""
    with reading_of(f"data.path: '{path}' cannot be read as a volume"):
        if path.is_dir():
            return sum(p.suffix.lower() in PICTURES and not p.name.startswith(".") for p in path.iterdir())
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                shape = check_npy(file)
            if len(shape) == 3:
                return int(shape[0])
        volume = read_volume(path)
        return 0 if volume is None else int(volume.array.shape[1])
