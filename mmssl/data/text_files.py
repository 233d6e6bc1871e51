"""csv, JSON and text files to rows, with nothing guessed: which bytes are which letters, and which fields are numbers.

Written here, because the readers below `datasets` change values on the way: pandas makes null of the word NA and 7 of
007, takes a first column for row names where rows are longer than the header, and fills up short ones in silence;
Arrow's JSON makes times of text that looks like one.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from mmssl.errors import UserError, one_line

from .explained import warn_once
from .formats import table_format

if TYPE_CHECKING:
    from .streams import Row

ROWS = 10_000
"""Rows of a chunk."""
SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 1 << 20
"""Characters that the separator is found in."""
BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"))
BOMS_16 = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
MAX_FIELD = 1 << 30  # of csv: its default of 131,072 characters is less than a long text has


# --- letters -----------------------------------------------------------------------------------------------------


def open_binary(path: str, name: str) -> BinaryIO:
    """A file of this disk or behind a URL, unpacked as its `name` says (.gz, .bz2, .xz, .zst)."""
    if "://" in path:
        from datasets.utils.file_utils import xopen

        raw: Any = xopen(path, "rb")
    else:
        raw = open(path, "rb")  # noqa: SIM115 (whoever asked for it closes it)
    ending = os.path.splitext(name)[1].lower()
    if ending == ".gz":
        return gzip.open(raw)  # type: ignore[return-value]
    if ending == ".bz2":
        import bz2

        return bz2.open(raw)  # type: ignore[return-value]
    if ending == ".xz":
        import lzma

        return lzma.open(raw)  # type: ignore[return-value]
    if ending == ".zst":
        import pyarrow

        return pyarrow.CompressedInputStream(raw, "zstd")
    return raw


def open_text(path: str, name: str, newline: str | None) -> TextIO:
    """As letters: UTF-8, or what a byte order mark says. Nothing else can be known, and nothing is guessed."""
    with open_binary(path, name) as file:
        head = file.read(4)
    encoding = next((found for mark, found in (*BOMS, *BOMS_16) if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head and len(head) == 4:
        raise UserError(f"data.path: '{name}' is no text: save it as UTF-8, or give it the ending of what it is")
    binary = io.BufferedReader(_Raw(open_binary(path, name)))
    return io.TextIOWrapper(binary, encoding=encoding, errors="strict", newline=newline)


class _Raw(io.RawIOBase):
    """Any file that has `read`, as TextIOWrapper wants it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def not_utf8(name: str, error: UnicodeDecodeError) -> UserError:
    """What to do about a file in another encoding."""
    byte = f"the byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "its end"
    return UserError(
        f"data.path: '{name}' is not {error.encoding.upper()} ({byte} fits no letter): convert it, for example with "
        f"`iconv -f latin1 -t utf-8 OLD > NEW` (instead of latin1: cp1252 of Windows, shift-jis, gb18030 ...)"
    )


def text_lines(path: str, name: str) -> Iterator[list[str]]:
    """The lines of a text file that are not blank, in chunks."""
    with open_text(path, name, None) as file:
        lines = (line.rstrip("\n") for line in file)
        yield from _chunks((line for line in lines if line.strip()), ROWS)


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


# --- csv ---------------------------------------------------------------------------------------------------------


def csv_header(path: str, name: str, separator: str | None = None) -> tuple[list[str], str]:
    """(names of the columns, separator) of a csv file. Raises UserError where it has no header."""
    csv.field_size_limit(MAX_FIELD)
    with open_text(path, name, "") as file:
        sample = file.read(LOOKED_AT)
    if (told := re.match(r"sep=(.)\r?\n", sample)) is not None:  # what Excel writes into a first line
        separator, sample = told[1], sample[told.end() :]
    separator = separator or _separator(sample)
    header = next((row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=separator) if row), None)
    if header is None:
        raise UserError(f"data.path: '{name}' has no header, expected the names of its columns in the first line")
    return _names(header), separator


def _separator(sample: str) -> str:
    """The separator that the header holds; where that is no comma, the next rows have to agree."""
    for separator in SEPARATORS:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
        rows = list(itertools.islice((row for row in reader if row), 50))
        if len(sample) == LOOKED_AT:
            rows = rows[:-1] or rows  # the last one may be cut off
        if rows and len(rows[0]) > 1 and (separator == "," or len({len(row) for row in rows}) == 1):
            return separator
    return ","


def _names(header: Sequence[str]) -> list[str]:
    """Each column's name; one without is `Unnamed: NUMBER`, the second of a name `NAME.1`, as pandas has it."""
    names: list[str] = []
    for number, found in enumerate(header):
        plain = found if found.strip() else f"Unnamed: {number}"
        name, again = plain, 0
        while name in names:
            again += 1
            name = f"{plain}.{again}"
        names.append(name)
    return names


def csv_rows(path: str, name: str, separator: str | None = None) -> Iterator[tuple[list[str], list[list[str | None]]]]:
    """Chunks of (names of the columns, rows) of a csv file: every field the text that it is, None where it is empty.

    A row with fewer fields than the header has None for the others, and the log says so.

    Raises:
        UserError: a row has more fields than the header, a quote is never closed, or the file is not UTF-8.
    """
    names, separator = csv_header(path, name, separator)
    width, short, first_short = len(names), 0, 0
    with open_text(path, name, "") as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        records = (row for row in reader if row)
        rows: list[list[str | None]] = []
        try:
            header = next(records)
            if header == ["sep=", ""]:
                next(records)
            for row in records:
                if len(row) != width:
                    if any(row[width:]):
                        raise _ragged(name, reader.line_num, row, names, separator)
                    if len(row) < width:
                        short, first_short = short + 1, first_short or reader.line_num
                    row = [*row[:width], *[""] * (width - len(row))]
                rows.append([field or None for field in row])
                if len(rows) == ROWS:
                    yield names, rows
                    rows = []
        except csv.Error as error:
            line = reader.line_num
            raise UserError(
                f"data.path: '{name}' line {line}: {error}; a field in quotes ends with a quote before the separator, "
                'and a quote within it is written twice ("")'
            ) from error
    if short:
        warn_once(
            f"'{name}': {short:,} rows have fewer fields than the header (the first in line {first_short}): "
            "those missing are empty"
        )
    if rows:
        yield names, rows


def _ragged(name: str, line: int, row: Sequence[str], names: Sequence[str], separator: str) -> UserError:
    others = [s for s in SEPARATORS if s != separator and any(s in column for column in names)]
    shown = {"\t": "tab"}
    hint = f"or is the separator {' or '.join(repr(shown.get(s, s)) for s in others)}?" if others else ""
    return UserError(
        f"data.path: '{name}' line {line} has {len(row)} fields, the header {len(names)} ({', '.join(names[:5])}): "
        f"a field that holds {shown.get(separator, separator)!r} must stand in quotes{'; ' if hint else ''}{hint}"
    )


# --- JSON --------------------------------------------------------------------------------------------------------


def json_rows(path: str, name: str) -> Iterator[list[Row]]:
    """Chunks of the objects of a JSON file: one a line, one after the other, a list of them, or one that holds a list.

    Values are those of the file: text stays text. Raises UserError with the line where it is no JSON.
    """
    with open_text(path, name, None) as file:
        first = ""
        while not first.strip():
            first = file.readline()
            if not first:
                return
        second = "" if table_format(name) != "json" else next((line for line in file if line.strip()), "")
        if _is_object(first) and (second or table_format(name) != "json"):
            objects = _lines(itertools.chain([first], [second] if second else [], file), name)
        else:
            objects = iter(_whole(first + second + file.read(), name))
        for chunk in _chunks(objects, ROWS):
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
        if len(lists) == 1:
            found = lists[0]
    return found
