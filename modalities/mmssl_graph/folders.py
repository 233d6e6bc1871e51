"""Which files and folders are data sets of graphs: TUDatasets, tables of edges, files that hold many graphs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample, UserError

from .json_files import is_graph
from .sources import TABLES, load_store, open_rows
from .tudataset import EDGES

if TYPE_CHECKING:
    from datasets import Dataset

READS = (".npz", ".graphml", ".gml", ".pt")
READS_ELSE = (".json",)
INDICATOR = "_graph_indicator.txt"
MANY = (".npz", ".json", ".pt")
"""Endings of files that may hold several graphs."""


def rows_of(path: Path, split: str) -> Dataset | None:
    """The rows of a file or folder of graphs; None for a folder of one graph a file, and for what holds no graphs.

    Raises UserError for a folder of several data sets, and for one that cannot be read.
    """
    if path.is_file():
        known = path.suffix.lower() in READS or (path.suffix.lower() in READS_ELSE and _is_graph(path))
        return open_rows(str(path), split) if known else None
    data_sets = _tudatasets(path)
    if len(data_sets) > 1:
        names = ", ".join(folder.name for folder in data_sets)
        raise UserError(f"data.path: the folder '{path}' holds several data sets ({names}), expected one: name it")
    if data_sets:
        return open_rows(str(data_sets[0]), split)
    if any((path / f"edges{ending}").is_file() for ending in TABLES):
        return open_rows(str(path), split)
    files = [file for file in _files(path) if file.suffix.lower() in (*READS, *READS_ELSE)]
    files = [file for file in files if file.suffix.lower() in READS or _is_graph(file)]
    if len(files) == 1:
        return open_rows(str(files[0]), split)
    if files and all(file.suffix.lower() in MANY for file in files) and _holds_many(files[0]):
        return _together(path, files, split)
    return None


def _together(folder: Path, files: list[Path], split: str) -> Dataset:
    """The graphs of several files, with the file that each comes from."""
    from datasets import concatenate_datasets

    parts = []
    for file in files:
        rows = open_rows(str(file), split)
        parts.append(rows.add_column("file", [file.relative_to(folder).as_posix()] * len(rows)))
    return concatenate_datasets(parts)


def _holds_many(file: Path) -> bool:
    try:
        store = load_store(file, directed=True, layout="ends_first")
    except BadSample:
        return False
    return store.of is not None and store.items > 1


def _is_graph(file: Path) -> bool:
    try:
        with reading_sample():
            return is_graph(file)
    except BadSample:
        return False


def _files(folder: Path) -> list[Path]:
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        found += [Path(where) / name for name in sorted(files) if not name.startswith(".")]
    return found


def _tudatasets(folder: Path) -> list[Path]:
    """The folders that hold a TUDataset, this one or below it."""
    found = []
    for file in _files(folder):
        name = file.name.removesuffix(INDICATOR)
        if name != file.name and file.with_name(f"{name}{EDGES}").is_file():
            found.append(file.parent)
    return list(dict.fromkeys(found))
