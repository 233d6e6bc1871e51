"""What lies in a folder: formats by file name, splits by file name, and folders of arrays that `datasets` ignores."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

    from .streams import Row

TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "parquet": ("parquet", {}),
    "csv": ("csv", {}),
    "tsv": ("csv", {"sep": "\t"}),
    "json": ("json", {}),
    "jsonl": ("json", {}),
    "ndjson": ("json", {}),
    "arrow": ("arrow", {}),
    "txt": ("text", {}),
    "tar": ("webdataset", {}),
}
"""File ending -> the `datasets` builder that reads it, with options."""
PACKED = (".gz", ".bz2", ".xz", ".zst")
MEDIA = frozenset(
    ".png .jpg .jpeg .webp .gif .bmp .tif .tiff .npy .wav .flac .mp3 .ogg .m4a .mp4 .avi .mkv .mov .webm .mpg".split()
)
ARRAYS = frozenset({".npy"})
PICTURES = frozenset(".npy .png .jpg .jpeg .webp .gif .bmp .tif .tiff".split())
WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words in file and folder names -> the split they mean, as `datasets` reads them."""


def table_format(path: str) -> str | None:
    """The key of TABLES for this file name, or None."""
    name = path.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    ending = name.rpartition(".")[2]
    return ending if "." in name and ending in TABLES else None


def split_of(name: str) -> str | None:
    """The split that a file or folder name says it is ("digits-test.csv" -> "test"), or None."""
    for word in re.split(r"[^a-z0-9]+", name.lower()):
        if word in WORDS:
            return WORDS[word]
    return None


def by_split(files: Iterable[Path]) -> dict[str, list[str]]:
    """Files by the split in their names; all of them are "train" unless every name says its split."""
    files = list(files)
    named: dict[str, list[str]] = {}
    for file in files:
        named.setdefault(split_of(file.name) or "", []).append(str(file))
    return {"train": [str(file) for file in files]} if "" in named else named


@dataclass
class Found:
    """What `scan` found: number of files; media and array files anywhere; tables at the top that name a split."""

    count: int = 0
    media: bool = False
    arrays: bool = False
    has_tables: bool = False
    has_configs: bool = False
    tables: dict[str, list[str]] = field(default_factory=dict)


def scan(folder: Path) -> Found:
    """Look through a folder, hidden files aside."""
    found = Found(has_configs=_has_configs(folder / "README.md"))
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__")))
        for file in sorted(files):
            if file.startswith(".") or file.lower().startswith("readme"):
                continue
            found.count += 1
            ending = os.path.splitext(file)[1].lower()
            found.media |= ending in MEDIA
            found.arrays |= ending in ARRAYS
            if table_format(file) and not file.startswith("metadata."):
                found.has_tables = True
                split = split_of(file)
                if split and Path(where) == folder:
                    found.tables.setdefault(split, []).append(str(folder / file))
    return found


def _has_configs(readme: Path) -> bool:
    """Whether a README.md configures the data, as on the Hub."""
    if not readme.is_file():
        return False
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return head is not None and re.search(r"^configs:", head.group(1), re.MULTILINE) is not None


def open_arrays(folder: Path) -> Mapping[str, Dataset]:
    """The splits of a folder with arrays (.npy), with pictures among them or not.

    Columns as of `datasets`' imagefolder: `image` ({bytes: None, path}); the columns of metadata.csv or
    metadata.jsonl files, whose `file_name` is relative to them; without those, `label` from the names of the
    sub-folders when there are at least two, all equally deep.
    """
    import datasets

    parts = {path.name: split_of(path.name) for path in sorted(folder.iterdir()) if path.is_dir()}
    named = {name: split for name, split in parts.items() if split}
    roots: dict[str, list[Path]] = {}
    for name, split in named.items():
        roots.setdefault(split, []).append(folder / name)
    rows = {split: [row for root in paths for row in _rows(root)] for split, paths in roots.items()}
    rows = rows or {"train": _rows(folder)}
    names = sorted({row["label"] for part in rows.values() for row in part if "label" in row})
    splits = {}
    for split, part in rows.items():
        labelled = len(names) > 1 and all("label" in row for row in part)
        keys = list(dict.fromkeys(key for row in part for key in row if labelled or key != "label"))
        data = datasets.Dataset.from_dict({key: [row.get(key) for row in part] for key in keys})
        splits[split] = data.cast_column("label", datasets.ClassLabel(names=names)) if labelled else data
    return splits


def _rows(root: Path) -> list[Row]:
    """One row a file below `root`, with its metadata, or with its folder's name as `label`."""
    rows: dict[Path, Row] = {}
    described = False
    for where, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        here = Path(where)
        for file in sorted(files):
            if file in ("metadata.csv", "metadata.jsonl"):
                described = True
                for row in _metadata(here / file):
                    rows.setdefault(here / row["file_name"], {}).update(row)
            elif os.path.splitext(file)[1].lower() in PICTURES and not file.startswith("."):
                rows.setdefault(here / file, {})
    depths = {len(path.relative_to(root).parts) for path in rows}
    out = []
    for path, row in sorted(rows.items()):
        first = {"image": {"bytes": None, "path": str(path)}}
        label = {} if described or depths == {1} or len(depths) > 1 else {"label": path.parent.name}
        out.append({**first, **row, **label})
    return out


def _metadata(path: Path) -> list[Row]:
    """Rows of a metadata file. Raises UserError when it does not say which file a row belongs to."""
    import pyarrow.csv

    if path.suffix == ".csv":
        rows = pyarrow.csv.read_csv(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for row in rows:
        if not isinstance(row.get("file_name"), str):
            raise UserError(f"'{path}' needs a column 'file_name', its columns are {', '.join(map(str, row))}")
    return rows
