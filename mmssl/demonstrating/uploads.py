"""What somebody gives to be searched by, as the raw value that the model's preprocessor reads: files, words, a row."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import BadSample
from ..evaluation.rows import reads_text
from ..modality import Modality, Preprocessor

Way = Literal["text", "row", "file"]
LONGEST = 20_000
"""Characters of a text or a row that is searched by."""
LEAST_FILE = 1 << 22
"""Bytes of a csv file that are read for its first row."""


def way_of(modality: Modality, reader: Preprocessor, columns: str | list[str] | None) -> Way | None:
    """How a modality is given: as words, as the cells of a row, as files; None: only by a row of the data."""
    if reads_text(modality, reader):
        return "text"
    if reader.reads or reader.reads_else:
        return "file"
    return "row" if isinstance(columns, list) else None


def has_parts(reader: Preprocessor) -> bool:
    """Whether a sample may be several files (a header and its signals)."""
    return type(reader).parts is not Preprocessor.parts


def endings(reader: Preprocessor, most: int = 8) -> str:
    """Endings of the files that are read, in words."""
    every = [*reader.reads, *reader.reads_else]
    return ", ".join(every[:most]) + (", ..." if len(every) > most else "")


def text_of(words: str | None) -> str:
    """Words to be searched by. BadSample where there are none, or too many."""
    text = (words or "").strip()
    if not text:
        raise BadSample("there are no words yet: write some")
    if len(text) > LONGEST:
        raise BadSample(f"these are {len(text):,} characters, expected at most {LONGEST:,}")
    return text


def of_files(paths: Sequence[str | Path], reader: Preprocessor, folder: Path) -> Any:
    """The raw value of a sample in files, which are copied side by side into `folder` under their own names.

    The one that the reader knows by its ending is the sample, the others lie beside it. BadSample where there is none.
    """
    if not paths:
        raise BadSample("there is no file yet: choose one")
    copies = [Path(shutil.copyfile(path, folder / Path(path).name)) for path in paths]
    for known in (reader.reads, reader.reads_else):
        main = next((copy for copy in copies if copy.name.lower().endswith(known)), None) if known else None
        if main is not None:
            return reader.value(str(main))
    if len(copies) > 1:
        raise BadSample(f"none of these {len(copies)} files is {reader.noun}, expected one of {endings(reader)}")
    return reader.value(str(copies[0]))  # endings may lie: its bytes decide


def unreadable(paths: Sequence[str | Path], reader: Preprocessor, reason: str) -> str:
    """The sentence for files that could not be read: why; of one whose ending is not known what is, as a decoder knows
    nothing to say of it."""
    names = [Path(path).name for path in paths]
    known = (*reader.reads, *reader.reads_else)
    if len(names) != 1 or not known or names[0].lower().endswith(known):
        return reason
    return f"'{names[0]}' cannot be read as {reader.noun}, expected one of {endings(reader)}"


def as_lines(row: Mapping[str, object]) -> str:
    """A row as it is written to be changed: `column: value`, a line each; nothing behind the colon: a missing cell."""
    return "\n".join(f"{name}: {'' if value is None else ' '.join(str(value).split())}" for name, value in row.items())


def row_of(text: str | None, columns: Sequence[str]) -> dict[str, object]:
    """A row from lines as `as_lines` writes them; columns that are left out are missing cells.

    BadSample for what is no such line, an unknown column or one that comes twice.
    """
    row: dict[str, object] = {}
    longest_first = sorted(columns, key=len, reverse=True)  # a name may hold a colon itself
    for line in text_of(text).splitlines():
        if not line.strip():
            continue
        name = next((name for name in longest_first if line.strip().startswith(f"{name}:")), None)
        if name is None:
            known = ", ".join(columns[:8]) + (", ..." if len(columns) > 8 else "")
            raise BadSample(f"found the line '{line.strip()[:80]}', expected `column: value` with one of {known}")
        if name in row:
            raise BadSample(f"found '{name}' twice, expected each column once")
        row[name] = line.strip()[len(name) + 1 :].strip() or None
    return {name: row.get(name) for name in columns}


def first_row(path: str | Path, columns: Sequence[str]) -> str:
    """The first row of a csv file, as `as_lines` writes it. BadSample where it has none, or none of the columns."""
    with open(path, "rb") as file:
        start = file.read(LEAST_FILE)
    try:
        text = start.decode("utf-8-sig")
        lines = text.splitlines()[:2]
        dialect = csv.Sniffer().sniff(lines[0], ",;\t|") if lines else csv.excel
        found = next(csv.DictReader(io.StringIO(text), dialect=dialect), None)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadSample(f"'{Path(path).name}' is no table of text with commas, semicolons or tabs ({error})") from error
    if found is None or not set(found) & set(columns):
        have = "no row" if found is None else f"the columns {', '.join(map(str, list(found)[:8]))}"
        raise BadSample(f"'{Path(path).name}' has {have}, expected some of {', '.join(columns[:8])}")
    return as_lines({name: found.get(name) or None for name in columns})
