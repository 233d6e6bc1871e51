"""Which files of a folder are whose samples: the endings that the modalities read, by the column they go into."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample, UserError

from .csv_layout import csv_layout
from .formats import MEDIA, table_format, way_out
from .windows import Windows

if TYPE_CHECKING:
    from mmssl.modality import Preprocessor

Columns = Mapping[str, str | Sequence[str]]


@dataclass
class Chosen:
    """Files of a kind: the samples, the files that belong to them, whether their endings leave no doubt, and those that
    are samples beside another kind's file of the same stem."""

    files: list[str]
    parts: set[str] = field(default_factory=set)
    sure: bool = True
    beside: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """The files of one column.

    Attributes:
        column: its name.
        first: endings of files that are samples.
        second: endings of those that may be, where there is none of the first.
        beside: endings of those that are, beside a file of the same stem that another kind reads.
        readers: who reads them; empty: nobody says so, the ending alone decides.
    """

    column: str
    first: tuple[str, ...]
    second: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    readers: tuple[Preprocessor, ...] = field(default=(), compare=False)

    @property
    def reader(self) -> Preprocessor | None:
        """The first of the readers."""
        return self.readers[0] if self.readers else None

    def may_read(self, name: str) -> bool:
        """Whether a file's ending is one of them."""
        return name.lower().endswith((*self.first, *self.second, *self.beside))

    def value(self, path: str) -> Any:
        """What a row holds of a file."""
        return {"bytes": None, "path": path} if self.reader is None else self.reader.value(path)

    def choose(self, files: Sequence[str]) -> Chosen:
        """Those of the files that are samples."""
        chosen = self._samples(file for file in files if file.lower().endswith(self.first))
        sure = bool(chosen.files)
        if not sure and self.second:
            chosen = self._samples(
                file for file in files if file.lower().endswith(self.second) and self._holds(Path(file))
            )
        beside = [file for file in files if file.lower().endswith(self.beside)] if self.beside else []
        return Chosen(chosen.files, chosen.parts, sure, [file for file in beside if file not in chosen.files])

    def _samples(self, files: Iterable[str]) -> Chosen:
        listed = list(files)
        parts: set[str] = set()
        for file in listed:
            for reader in self.readers:
                try:
                    with reading_sample():
                        parts.update(str(part) for part in reader.parts(Path(file)))
                except BadSample:  # whoever reads the file says what is wrong with it
                    continue
        return Chosen([file for file in listed if file not in parts], parts)

    def _holds(self, file: Path) -> bool:
        """Whether a file of `second` is a sample: not a table that has this very column."""
        try:
            with reading_sample():
                if table_format(file.name) == "csv" and self.column in _names(str(file), file.stat().st_mtime_ns):
                    return False
                return all(reader.holds(file) for reader in self.readers)
        except (BadSample, UserError):
            return False


@functools.lru_cache(4096)
def _names(path: str, changed: int) -> tuple[str, ...]:
    """The columns of a csv file, which is asked again and again; changed: when, so that another one is looked at."""
    return csv_layout(path, os.path.basename(path)).names


def by_ending() -> tuple[Kind, ...]:
    """Pictures, sounds and videos, where nothing says who reads them."""
    kinds: dict[str, list[str]] = {}
    for ending, kind in MEDIA.items():
        kinds.setdefault(kind, []).append(ending)
    return tuple(Kind(name, tuple(endings)) for name, endings in kinds.items())


def kinds_of(readers: Mapping[str, Preprocessor], columns: Columns) -> tuple[Kind, ...]:
    """The columns of files that these modalities read: of its own name each, or as `columns` says.

    Where several read one column (a video's pictures and its sound) it holds what all of them read.
    """
    by_column: dict[str, list[Preprocessor]] = {}
    for name, reader in readers.items():
        column = columns.get(name, name)
        if (reader.reads or reader.reads_else or reader.reads_beside) and (isinstance(column, str) or len(column) == 1):
            by_column.setdefault(column if isinstance(column, str) else column[0], []).append(reader)
    found = []
    for column, of in by_column.items():
        known = [set(reader.reads) | set(reader.reads_else) for reader in of]
        shared = set.intersection(*known)
        every = list(dict.fromkeys([*(e for r in of for e in r.reads), *(e for r in of for e in r.reads_else)]))
        first = tuple(e for e in every if e in shared and any(e in reader.reads for reader in of))
        beside = tuple(of[0].reads_beside) if len(of) == 1 else ()
        found.append(Kind(column, first, tuple(e for e in every if e in shared and e not in first), beside, tuple(of)))
    return tuple(found)


@dataclass(frozen=True)
class Files:
    """How files become rows: what a model or a recipe reads of a folder.

    Attributes:
        readers: modality -> what reads it, fitted or not.
        columns: modality -> the column(s) that it reads, where they are not called alike.
        windows: how long recordings are cut.
    """

    readers: Mapping[str, Preprocessor]
    columns: Columns = field(default_factory=dict)
    windows: Windows = field(default_factory=Windows)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of files that are looked for."""
        main: dict[str, Preprocessor] = {}
        for name, reader in self.readers.items():
            # a further column has its modality's reader; no file says that it is one: metadata does (X_file_name)
            if all(reader is not known for known in main.values()):
                main[name] = reader
        return kinds_of(main, self.columns)


def endings_of(files: Iterable[str], most: int = 8) -> str:
    """The endings of files, counted, for messages: `12 .wav, 3 .csv`."""
    counts = Counter(os.path.splitext(path)[1].lower() or "without ending" for path in files)
    rest = len(counts) - most
    return ", ".join(f"{count:,} {ending}" for ending, count in counts.most_common(most)) + (
        f" and {rest} more" if rest > 0 else ""
    )


def _some(endings: Sequence[str], most: int = 16) -> str:
    return " ".join(endings[:most]) + (f" and {len(endings) - most} more" if len(endings) > most else "")


def nothing_to_read(what: str, files: Sequence[str], kinds: Iterable[Kind]) -> UserError:
    """The error of a folder in which nobody reads anything."""
    reads = "; ".join(f"{kind.column}: {_some(kind.first + kind.second)}" for kind in kinds if kind.first + kind.second)
    found = endings_of(files) or "no file"
    return UserError(
        f"data.path: nothing in {what} is read: found {found}, expected {reads or 'tables (parquet, csv, json)'}"
        f"{way_out(files)}"
    )
