"""What a file or folder is by its name: a table, a picture, a sound, a video, a split."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmssl.errors import UserError
from mmssl.modality.endings import PICTURES, SOUNDS, VIDEOS

TABLES = {
    "parquet": "parquet",
    "csv": "csv",
    "data": "csv",
    "tab": "csv",
    "tsv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
    "arrow": "arrow",
    "txt": "text",
    "tar": "webdataset",
}
"""File ending -> how it is read."""
ELSEWHERE = {
    **dict.fromkeys(("xlsx", "xls", "xlsm", "ods"), "excel"),
    "sav": "spss",
    "dta": "stata",
    "sas7bdat": "sas",
    "feather": "feather",
    "orc": "orc",
}
"""Ending of tables that are not read here -> how pandas calls them."""
_UNPACK = "unpack it and give the folder, which is read as it is"
_PICKLE = (
    "pickles are never opened here, as they may run anything: where you trust it, pandas.read_pickle('{file}')"
    ".to_parquet('{stem}.parquet') in Python makes a table of it, networkx.write_graphml a file of a graph"
)
_HDF5 = "numpy.save('{stem}.npy', h5py.File('{file}')['NAME'][:]) in Python writes an array of it, h5ls its names"
_SQL = (
    "pandas.read_sql('select * from TABLE', sqlite3.connect('{file}')).to_csv('{stem}.csv', index=False) in Python "
    "makes a csv of a table"
)
_R = "write.csv(readRDS('{file}'), '{stem}.csv', row.names=FALSE) in R makes a csv of it"
WAYS_OUT = {
    **dict.fromkeys(("zip", "7z", "rar", "tgz"), _UNPACK),
    **dict.fromkeys(("pkl", "pickle", "gpickle", "joblib"), _PICKLE),
    **dict.fromkeys(("h5", "hdf5", "hdf"), _HDF5),
    **dict.fromkeys(("sqlite", "sqlite3", "db"), _SQL),
    **dict.fromkeys(("rds", "rdata"), _R),
}
"""Ending of other data that are not read here -> what to do; {file}, {stem}: its name, with and without the ending."""
PACKED = (".gz", ".bz2", ".xz", ".zst")

MEDIA = {
    ending: kind
    for kind, endings in {"image": PICTURES, "audio": SOUNDS, "video": VIDEOS}.items()
    for ending in endings
}
"""File ending -> the modality that reads it, which is the name of its column."""
ARRAYS = ".npy"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables beside media files, which say more of them."""
FOREIGN = frozenset("thumbs.db desktop.ini ehthumbs.db license licence changelog citation.cff".split())
"""Files, in small letters, that lie in folders and are no data."""

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
"""Words in names -> the split they mean, as `datasets` reads them."""
_FOLDER = re.compile(rf"(.*?)(?<![a-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])(.*)", re.DOTALL)


def table_format(path: str) -> str | None:
    """The key of TABLES for this file name, or None."""
    name = path.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    ending = name.rpartition(".")[2]
    return ending if "." in name and ending in TABLES else None


def without_query(path: str) -> str:
    """An address without what is asked for and signed in it (`?X-Amz-Signature=...`), any other path as it is: there
    a question mark stands for a letter."""
    return path.partition("?")[0] if path.startswith(("http://", "https://")) else path


def way_out(names: Iterable[str]) -> str:
    """What makes data that are read of the first of some files that other programs know; empty where none do."""
    for name in names:
        ending, file = os.path.splitext(name)[1].lower().removeprefix("."), os.path.basename(name)
        stem = os.path.splitext(file)[0]
        if (kind := ELSEWHERE.get(ending)) is not None:
            return f"; pandas.read_{kind}({file!r}).to_csv({stem + '.csv'!r}, index=False) in Python makes a csv of it"
        if (words := WAYS_OUT.get(ending)) is not None:
            return "; " + words.format(file=file, stem=stem)
    return ""


def media_kind(name: str) -> str | None:
    """The column that a file of this name belongs into: image, audio or video; None: it is no such file."""
    return MEDIA.get(os.path.splitext(name)[1].lower())


def is_noise(name: str) -> bool:
    """Whether a file or folder is hidden, or what a system or a packer leaves behind."""
    small = name.lower()
    return name.startswith((".", "__MACOSX", "__pycache__")) or small in FOREIGN or small.startswith("readme")


def split_of(name: str) -> str | None:
    """The split that a word in a table's file name says it is ("digits-test.csv" -> "test"), or None."""
    for word in re.split(r"[^a-z0-9]+", name.lower()):
        if word in WORDS:
            return WORDS[word]
    return None


def by_split(files: Iterable[Path | str]) -> dict[str, list[str]]:
    """Tables, here or behind URLs, by the split in their names; all are "train" unless every name says its split."""
    names = [str(file) for file in files]
    named: dict[str, list[str]] = {}
    for name in names:
        named.setdefault(split_of(os.path.basename(without_query(name))) or "", []).append(name)
    return {"train": names} if "" in named else named


def folder_splits(names: Sequence[str]) -> dict[str, str] | None:
    """Folder name -> split, where all of these folders are named for splits; None where they are not.

    A name is that of a split when it is the word alone, or when the folders differ in nothing but the word
    ("train2017", "val2017"). "bus", "car" and "train" are classes, and so are "test tube" and "train station".
    """
    found = [_FOLDER.fullmatch(name.lower()) for name in names]
    matches = [match for match in found if match is not None]
    if not matches or len(matches) < len(found):
        return None
    if len({(match[1], match[3]) for match in matches}) > 1 or (len(names) == 1 and matches[0][1] + matches[0][3]):
        return None
    return {name: WORDS[match[2]] for name, match in zip(names, matches, strict=True)}


def with_content(data_files: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files without those of 0 bytes, which many writers leave for a part without rows."""
    full = {split: [f for f in files if os.path.getsize(f)] for split, files in data_files.items()}
    for split, files in full.items():
        if not files:
            raise UserError(f"data.path: the file '{data_files[split][0]}' is empty (0 bytes)")
    return full
