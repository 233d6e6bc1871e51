"""A table that lies beside files and says more of them: found by a column that names the files, or whom they are of."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.modality.table import joined

from .csv_layout import csv_layout
from .explained import explained, warn_once
from .formats import TABLES, table_format
from .text_files import csv_rows, json_rows

logger = logging.getLogger("mmssl")

Rows = list[dict[str, Any]]
ENDINGS = (".csv", ".tsv", ".tab", ".parquet", ".jsonl", ".ndjson", ".json")
LARGEST = 1 << 28
"""Bytes of a table that is looked into."""
MOST = 16
"""Tables that are looked into, those at the top first."""
LEAST = 0.5
"""Share of the files that a column has to name."""
LEVELS = 5
"""Ways of naming a file: its path, that without its ending, its name, that without its ending; or a folder on its path
or the beginning of its name, which several files share."""


@dataclass(frozen=True)
class Beside:
    """What a table says of files.

    Attributes:
        path: of the table.
        columns: its columns, without the one that holds the files' names.
        rows: the rows that name a file; of each file those of them that do, by their numbers here.
        of: file -> numbers of rows.
    """

    path: str
    columns: list[str]
    rows: Rows
    of: Mapping[str, list[int]]


def table_beside(folder: Path, tables: Sequence[str], files: Sequence[Sequence[str]]) -> Beside | None:
    """The table of which a column names most of the files, and at least half; None where there is none. It is said.

    Args:
        folder: whose files they are.
        tables: the tables in it that are no samples.
        files: of each sample its files.
    """
    best: tuple[tuple[float, int, int], Beside, str] | None = None
    near = sorted((path for path in tables if path.lower().endswith(ENDINGS)), key=lambda path: path.count(os.sep))
    for path in near[:MOST]:
        if os.path.getsize(path) > LARGEST:
            continue
        try:
            rows = table_rows(Path(path))
        except UserError as error:
            warn_once(f"{error}: it adds nothing to the files beside it")
            continue
        for column in dict.fromkeys(name for row in rows for name in row):
            for level in range(LEVELS):
                named = _named(folder, rows, column, level, files)
                share = sum(bool(of) for of in named) / max(len(files), 1)
                if share < LEAST:
                    continue
                # by names rather than by numbers, and by what more rows have: of COCO's captions not their own number
                rank = round(share, 1), -level, len({number for numbers in named for number in numbers})
                if best is None or rank > best[0]:
                    of = {file: numbers for sample, numbers in zip(files, named, strict=True) for file in sample}
                    kept = dict.fromkeys(name for row in rows for name in row if name != column or level > 2)
                    best = rank, Beside(path, list(kept), rows, of), column
                break  # the closest way of naming that will do
    if best is None:
        return None
    (_, closeness, _), found, column = best
    others = [name for name in found.columns if name != column]
    left = len(found.rows) - len({number for numbers in found.of.values() for number in numbers})
    whom = "names whom they are of" if -closeness == LEVELS - 1 else "names them"
    warn_once(
        f"'{os.path.relpath(found.path, folder)}' says more of the files: its column '{column}' {whom} "
        f"({sum(bool(found.of[sample[0]]) for sample in files):,} of {len(files):,}), and {joined(others, 6)} "
        f"{'are' if len(others) > 1 else 'is'} read beside them"
        + (f"; {left:,} of its {len(found.rows):,} rows name no file" if left else "")
    )
    return found


def is_csv(name: str) -> bool:
    """Whether a table is text of fields, whose types nobody has said."""
    return TABLES.get(table_format(name) or "") == "csv"


def has_commas(name: str) -> bool:
    """Whether a csv file may have commas before fractions, as they separate no fields."""
    return csv_layout(name, os.path.basename(name)).separator != ","


def table_rows(path: Path) -> Rows:
    """All rows of a csv, parquet or JSON lines file; UserError where it cannot be read."""
    with explained(f"'{path}'"):
        if path.suffix == ".parquet":
            from .arrow_files import arrow_tables, check_parquet

            check_parquet(path, path)
            return [row for table in arrow_tables(str(path), str(path), "parquet") for row in table.to_pylist()]
        if is_csv(path.name):
            found = csv_rows(str(path), path.name, separator="\t" if path.suffix.lower() == ".tsv" else None)
            return [dict(zip(names, row, strict=True)) for names, of in found for row in of]
        return [row for chunk in json_rows(str(path), path.name) for row in chunk]


def _named(folder: Path, rows: Rows, column: str, level: int, files: Sequence[Sequence[str]]) -> list[list[int]]:
    """Of each sample the numbers of the rows whose value in this column names it, in this way."""
    by_name: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        value = row.get(column)
        if isinstance(value, str | int) and not isinstance(value, bool) and (name := _value(str(value), level)):
            by_name.setdefault(name, []).append(number)
    shared = level == LEVELS - 1
    if shared and (len(by_name) < 2 or any(len(numbers) > 1 for numbers in by_name.values())):
        return [[] for _ in files]  # a table of visits says nothing of a file that names the patient alone
    out = []
    for sample in files:
        names = dict.fromkeys(name for file in sample for name in _names(os.path.relpath(file, folder), level))
        out.append(next((by_name[name] for name in names if name in by_name), []))
    return out


def _value(text: str, level: int) -> str:
    """A name in a table as it is compared with those of files."""
    plain = os.path.normpath(text.strip().replace("\\", "/")) if text.strip() else ""
    if level >= 2:
        plain = plain.rpartition("/")[2]
    return _number(plain)


def _names(relative: str, level: int) -> Iterator[str]:
    """What a file, named relative to the folder, is called in this way."""
    path = relative.replace(os.sep, "/")
    stem = os.path.splitext(path.removesuffix(".gz"))[0]
    if level < LEVELS - 1:
        yield _number((path, stem, path.rpartition("/")[2], stem.rpartition("/")[2])[level])
        return
    *folders, name = stem.split("/")
    yield from (_number(part) for part in reversed(folders))
    yield from (_number(name[: match.start()]) for match in re.finditer(r"[_ .-]", name))


def _number(name: str) -> str:
    """007 and 7 are one number in names."""
    return (name.lstrip("0") or "0") if name.isdigit() else name
