"""csv, JSON and text files to rows, with nothing guessed: which bytes are which letters, and which fields are numbers.

Written here, because the readers below `datasets` change values on the way: pandas makes null of the word NA and 7 of
007, takes a first column for row names where rows are longer than the header, and fills up short ones in silence;
Arrow's JSON makes times of text that looks like one.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from mmssl.errors import UserError, one_line
from mmssl.limits import check_table
from mmssl.reading import AS_FOUND, Reading

from .csv_layout import SEPARATORS, Layout, csv_layout
from .explained import warn_once
from .formats import table_format
from .letters import open_text
from .packed import PIECE

if TYPE_CHECKING:
    from .shards import Row

ROWS = 10_000
"""Rows of a chunk."""
CELLS = 1 << 22
"""Fields of a chunk, where its rows are wide."""


# --- text --------------------------------------------------------------------------------------------------------


def text_samples(path: str, name: str, unit: str, encoding: str | None = None) -> Iterator[list[str]]:
    """The samples of a text file in chunks: its lines that are not blank, its paragraphs, or all of it."""
    with open_text(path, name, None, encoding) as file:
        if unit == "file":
            whole = _rest(file, "", name)
            yield [whole] if whole.strip() else []
            return
        lines = (line.rstrip("\n") for line in file)
        found = _paragraphs(lines) if unit == "paragraph" else (line for line in lines if line.strip())
        yield from _chunks(found, name)


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    """Lines between two blank ones, as one."""
    part: list[str] = []
    for line in lines:
        if line.strip():
            part.append(line.strip())
        elif part:
            yield " ".join(part)
            part = []
    if part:
        yield " ".join(part)


def _chunks(items: Iterator[object], name: str) -> Iterator[list[Any]]:
    """ROWS items at a time. UserError where they are more than `data.limits.rows`."""
    count = 0
    while chunk := list(itertools.islice(items, ROWS)):
        count += len(chunk)
        check_table("rows", count, "rows", name)
        yield chunk


def _rest(file: TextIO, begun: str, name: str, values: bool = False) -> str:
    """The text of a file that is read whole, of which some is read already; values: it is JSON, which are counted."""
    parts, found, size = [begun, file.read(PIECE)], begun.count(","), len(begun)
    while part := parts[-1]:
        size += len(part)
        found += part.count(",") + part.count("[") + part.count("{")
        check_table("bytes", size, "characters that are read at once", name)
        if values:
            check_table("values", found, "values that are read at once", name)
        parts.append(file.read(PIECE))
    return "".join(parts)


# --- csv ---------------------------------------------------------------------------------------------------------


def csv_rows(
    path: str, name: str, reading: Reading = AS_FOUND, separator: str | None = None
) -> Iterator[tuple[list[str], list[list[str | None]]]]:
    """Chunks of (names of the columns, rows) of a csv file: every field the text that it is, None where it is empty.

    A row with fewer fields than the columns has None for the others, comments, titles, units, rows without a value
    and a repeated header are passed over, and the log says so.

    Raises:
        UserError: a row has more fields than there are columns, a quote is never closed, or the file is of another
            encoding.
    """
    layout = csv_layout(path, name, reading, separator)
    names, passed = list(layout.names), _Passed()
    with open_text(path, name, "", reading.encoding) as file:
        for _ in range(layout.skip):
            file.readline()
        reader = csv.reader(file, delimiter=layout.separator, strict=True, skipinitialspace=layout.spaced)
        rows: list[list[str | None]] = []
        most, count = min(ROWS, max(CELLS // len(names), 1)), 0
        try:
            for row in _records(reader, layout, name, passed):
                rows.append([field or None for field in row])
                if len(rows) == most:
                    count += most
                    check_table("rows", count, "rows", name)
                    yield names, rows
                    rows = []
        except csv.Error as error:
            line = reader.line_num + layout.skip
            raise UserError(
                f"data.path: '{name}' line {line}: {error}; a field in quotes ends with a quote before the separator, "
                'and a quote within it is written twice ("")'
            ) from error
    passed.tell(name)
    check_table("rows", count + len(rows), "rows", name)
    if rows:
        yield names, rows


@dataclass
class _Passed:
    """What of a csv file was not taken as it stands."""

    short: int = 0
    first_short: int = 0
    comments: int = 0
    headers: int = 0
    empty: int = 0

    def tell(self, name: str) -> None:
        if self.short:
            warn_once(
                f"'{name}': {self.short:,} rows have fewer fields than the header (the first in line "
                f"{self.first_short}): those missing are empty"
            )
        if self.comments:
            warn_once(f"'{name}': {self.comments:,} lines within it are comments (#) and passed over")
        if self.empty:
            warn_once(f"'{name}': {self.empty:,} rows without a value are passed over")
        if self.headers:
            warn_once(f"'{name}': its header stands there {self.headers + 1:,} times and is taken once")


def _records(reader: Any, layout: Layout, name: str, passed: _Passed) -> Iterator[list[str]]:
    """The rows of values, each as wide as there are columns."""
    records = (row for row in reader if row)
    header = next(records) if layout.header else None
    width = len(layout.names)
    if layout.units:
        next(records, None)
    for row in records:
        if len(row) != width:
            if row[0].lstrip().startswith("#"):
                passed.comments += 1
                continue
            line = reader.line_num + layout.skip
            if any(field.strip() for field in row[width:]):
                raise _ragged(name, line, row, layout.names, layout.separator)
            if len(row) < width:
                passed.short, passed.first_short = passed.short + 1, passed.first_short or line
            row = [*row[:width], *[""] * (width - len(row))]
        elif width > 1 and row == header:
            passed.headers += 1
            continue
        if width > 1 and not any(map(str.strip, row)):
            passed.empty += 1
            continue
        yield row


def _ragged(name: str, line: int, row: Sequence[str], names: Sequence[str], separator: str) -> UserError:
    others = [s for s in SEPARATORS if s != separator and any(s in column for column in names)]
    shown = {"\t": "tab"}
    hint = f"or is the separator {' or '.join(repr(shown.get(s, s)) for s in others)}?" if others else ""
    return UserError(
        f"data.path: '{name}' line {line} has {len(row)} fields, the header {len(names)} ({', '.join(names[:5])}): "
        f"a field that holds {shown.get(separator, separator)!r} must stand in quotes{'; ' if hint else ''}{hint}"
    )


# --- JSON --------------------------------------------------------------------------------------------------------


def json_rows(path: str, name: str, reading: Reading = AS_FOUND) -> Iterator[list[Row]]:
    """Chunks of the objects of a JSON file: one a line, one after the other, a list of them, or one that holds a list.

    Values are those of the file: text stays text. Raises UserError with the line where it is no JSON.
    """
    with open_text(path, name, None, reading.encoding) as file:
        first = ""
        while not first.strip():
            first = file.readline()
            if not first:
                return
        second = "" if table_format(name) != "json" else next((line for line in file if line.strip()), "")
        if _is_object(first) and (second or table_format(name) != "json"):
            objects = _lines(itertools.chain([first], [second] if second else [], file), name)
        else:
            objects = iter(_whole(_rest(file, first + second, name, values=True), name))
        for chunk in _chunks(objects, name):
            for row in chunk:
                if not isinstance(row, dict):
                    raise UserError(
                        f"data.path: '{name}' holds {type(row).__name__} where an object was expected, "
                        'such as {"text": ...}'
                    )
            yield chunk


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines(lines: Iterator[str], name: str) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                at = f"line {number}, column {error.colno}"
                raise UserError(f"data.path: cannot read '{name}': JSON parse error in {at}: {error.msg}") from error


def _whole(text: str, name: str) -> list[Any]:
    """The objects of a text that is not one of them a line."""
    decoder, at, found = json.JSONDecoder(), 0, []
    try:
        while (at := re.compile(r"[\s,]*").match(text, at).end()) < len(text):  # type: ignore[union-attr]
            value, at = decoder.raw_decode(text, at)
            found.append(value)
    except ValueError as error:
        raise UserError(f"data.path: cannot read '{name}': JSON parse error: {one_line(error)}") from error
    if len(found) == 1 and isinstance(found[0], list):
        found = [{"text": value} if isinstance(value, str) else value for value in found[0]]
    elif len(found) == 1 and isinstance(found[0], dict):
        lists = [
            value for value in found[0].values() if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        found = lists[0] if len(lists) == 1 else _joined(found[0], name) or found
    return found


def _joined(whole: Mapping[str, Any], name: str) -> list[Any]:
    """Rows of one object: columns of cells, by number or by the row's name (as pandas writes them), or COCO's pictures,
    a row a caption. Empty where it is something else; UserError where it holds several lists of objects."""
    columns = list(whole.values())
    if len(columns) > 1 and all(isinstance(of, dict) and of.keys() == columns[0].keys() for of in columns):
        return [{column: of[key] for column, of in whole.items()} for key in columns[0]]
    if all(isinstance(of, list) and len(of) == len(columns[0]) > 1 for of in columns):
        if not any(isinstance(value, list | dict) for of in columns for value in of):
            return [dict(zip(whole, values, strict=True)) for values in zip(*columns, strict=True)]
    lists = {key: of for key, of in whole.items() if isinstance(of, list) and of and isinstance(of[0], dict)}
    pictures, said = lists.get("images", []), lists.get("annotations", [])
    if pictures and said and all("id" in one for one in pictures) and all("image_id" in one for one in said):
        by_id = {one["id"]: one for one in pictures}
        return [{**by_id.get(one["image_id"], {}), **one} for one in said]
    if len(lists) > 1:
        shown = ", ".join(f"{key} ({len(of):,})" for key, of in lists.items())
        raise UserError(
            f"data.path: '{name}' holds several lists of objects, {shown}, expected one, with an object a sample: "
            "write that list, joined with what it needs of the others, to a file of its own"
        )
    return []
