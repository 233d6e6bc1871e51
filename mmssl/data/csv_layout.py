"""How a csv file is laid out: its separator, its comments, and whether its first row names the columns."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmssl.errors import UserError
from mmssl.limits import check_table, current
from mmssl.modality.notation import NO_NUMBER, dates_of, is_plain, numbers_of
from mmssl.reading import AS_FOUND, Reading

from .explained import warn_once
from .letters import open_text

SEPARATORS = (",", ";", "\t", "|")
LOOKED_AT = 1 << 20
"""Characters that the layout is found in."""
HEAD = 1 << 16
"""Those of a text that may be a table."""
ROWS_LOOKED_AT = 200
STEPS = (1, 2, 5, 10)
"""Between numbers that are names of columns: years, mostly."""


@dataclass(frozen=True)
class Layout:
    """What is known before the rows are read.

    Attributes:
        names: of the columns.
        separator: between fields.
        header: whether the first row after `skip` lines holds the names.
        skip: lines before it: comments, titles, and what Excel says of the separator.
        spaced: a space follows every separator.
        units: the row below the names says in which units the columns are.
        said: what a user should know of it, in sentences.
    """

    names: tuple[str, ...]
    separator: str
    header: bool
    skip: int = 0
    spaced: bool = False
    units: bool = False
    said: tuple[str, ...] = ()


def csv_layout(path: str, name: str, reading: Reading = AS_FOUND, separator: str | None = None) -> Layout:
    """How a csv file is laid out, by its first million letters. Raises UserError where it is empty.

    Args:
        path: where it lies.
        name: what it is called, for messages and its packing.
        reading: what the user says of it.
        separator: where it is known.
    """
    csv.field_size_limit(current().line)  # the default of 131,072 characters is less than a long text has
    with open_text(path, name, "", reading.encoding) as file:
        sample = file.read(LOOKED_AT)
        cut = len(sample) == LOOKED_AT
        if cut and "\n" not in sample and "\r" not in sample:  # a row of very many columns
            sample += file.readline()
            cut = False
    # before they are taken apart
    check_table("columns", 1 + max(map(sample.partition("\n")[0].count, SEPARATORS)), "columns", name)
    skip, said = 0, []
    if (told := re.match(r"sep=(.)\r?\n", sample)) is not None:  # what Excel writes into a first line
        separator, skip, sample = told[1], 1, sample[told.end() :]
    lines, sample = _comments(sample)
    if lines:
        said.append(f"its first {lines} lines are comments (#)" if lines > 1 else "its first line is a comment (#)")
    titles, sample = _titles(sample)
    if titles:
        said.append(f"its first {titles} lines are no rows of the table (a title?) and passed over")
    separator = separator or _separator(sample, cut)
    rows = _rows(sample, separator, cut)
    spaced = _spaced(rows)
    if spaced:
        rows = _rows(sample, separator, cut, spaced=True)
    if not rows:
        raise UserError(f"data.path: '{name}' has no header, expected the names of its columns in the first line")
    check_table("columns", len(rows[0]), "columns", name)
    header = has_names(rows) if reading.header == "auto" else bool(reading.header)
    units = header and has_units(rows)
    if units:
        said.append(f"its second row ({', '.join(filter(None, rows[1]))[:60]}) says units, and is passed over")
    if header:
        first = [rows[0][0].lstrip("# ") if rows[0][0].startswith("#") else rows[0][0], *rows[0][1:]]
        names, twice = _names(first)
        if twice:
            said.append(f"names that stand there twice are numbered ({', '.join(twice[:3])})")
        if reading.header == "auto" and sum(map(is_plain, names)) > len(names) / 2:
            said.append(f"its first row ({', '.join(names[:3])} ...) holds names; data.header=false makes it values")
    else:
        names = [f"column_{number}" for number in range(1, len(rows[0]) + 1)]
        if reading.header == "auto":
            some = ", ".join(field[:20] for field in rows[0][:4])
            said.append(
                f"its first row ({some}{' ...' if len(rows[0]) > 4 else ''}) holds values as the others do, so it has "
                f"no header, and the columns are called column_1 to column_{len(names)}; "
                "data.header=true makes it names"
            )
    return Layout(tuple(names), separator, header, skip + lines + titles, spaced, units, tuple(said))


def tell_table(path: str, name: str, encoding: str | None = None) -> None:
    """Say of a text file that it looks like a table with tabs, which spreadsheets call Unicode text: every line would
    be a text, with the labels in it."""
    with open_text(path, name, "", encoding) as file:
        sample = file.read(HEAD)
    rows = _rows(sample, "\t", len(sample) == HEAD)
    widths = [len(row) for row in rows]
    if len(rows) >= 10 and widths[0] > 1 and widths.count(widths[0]) >= 0.95 * len(rows):
        warn_once(
            f"'{name}' has {widths[0]} fields in every line, with tabs between them: each line is read as a text; "
            "called .tsv it is read as a table"
        )


def tell(name: str, layout: Layout) -> None:
    """Say once what was found."""
    for sentence in layout.said:
        warn_once(f"'{name}': {sentence}")


def _comments(sample: str) -> tuple[int, str]:
    """(lines of comments at the top, the rest). `#a,b` above rows of two fields holds names, and is no comment."""
    lines = io.StringIO(sample, newline="").readlines()  # as reading the file counts them
    first = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    marked = [i for i, line in enumerate(lines[:first]) if line.startswith("#")]
    if not marked or first == len(lines):
        return 0, sample
    if sum(line.startswith("#") for line in lines[first : first + 50]) > 3:  # rows that begin with the sign
        return 0, sample
    last = lines[marked[-1]]
    below = lines[first]
    for separator in SEPARATORS:
        if not last.startswith("##") and 0 < last.count(separator) == below.count(separator):
            first = marked[-1]
            break
    return first, "".join(lines[first:])


def _titles(sample: str) -> tuple[int, str]:
    """(lines above the names that hold one field at most where the table has three and more: titles, the rest).

    Whatever sign separates fields: names with `;` between them are one field to a comma that marks fractions below.
    """
    lines = io.StringIO(sample, newline="").readlines()
    found = []
    for separator in SEPARATORS:
        reader = csv.reader(lines[:50], delimiter=separator)
        rows = [(reader.line_num, sum(bool(field.strip()) for field in row)) for row in reader]
        usual = sorted(count for _, count in rows)[len(rows) // 2] if rows else 0
        if usual < 3:
            continue
        first = next((n for n, (_, count) in enumerate(rows) if count > 1), 0)
        title = first and rows[first][1] >= 0.6 * usual and any(count for _, count in rows[:first])
        found.append(rows[first - 1][0] if title else 0)
    skip = min(found, default=0)
    return skip, "".join(lines[skip:]) if skip else sample


def has_units(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the row below the names says units (`mmHg`, `1/min`): words in several columns that else hold numbers, in
    most of those."""
    below = rows[2:ROWS_LOOKED_AT]
    words = numbers = 0
    for field, *values in zip(rows[1] if len(rows) > 1 else (), *below, strict=False):
        known = [_kind(value) for value in values if value.strip() and value.strip() not in NO_NUMBER]
        if len(known) < 5 or sum(kind is not None for kind in known) < 0.9 * len(known):
            continue
        if _kind(field) is not None:
            return False
        numbers += 1
        words += bool(field.strip()) and field.strip() not in NO_NUMBER
    return words >= 2 and words > numbers / 2


def _rows(sample: str, separator: str, cut: bool, spaced: bool = False) -> list[list[str]]:
    """The first rows, blank lines aside; without the last one where it may be cut off."""
    reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator, skipinitialspace=spaced)
    rows = list(itertools.islice((row for row in reader if row), ROWS_LOOKED_AT))
    return rows[:-1] if cut and len(rows) > 1 else rows


def _separator(sample: str, cut: bool) -> str:
    """The comma where the first row has one, but another sign that all rows agree on where commas only mark fractions,
    or where rows do not agree on them."""
    found: dict[str, tuple[bool, float]] = {}
    for separator in SEPARATORS:
        rows = _rows(sample, separator, cut)[:50]
        if rows and len(rows[0]) > 1:
            fields = [field for row in rows for field in row if field.strip()]
            clean = sum(_kind(field) is not None for field in fields) / max(len(fields), 1)
            found[separator] = (len({len(row) for row in rows}) == 1, clean)
    even = [separator for separator, (agreed, _) in found.items() if agreed]
    if "," in found:
        agreed, clean = found[","]
        better = [s for s in even if s != "," and (not agreed or found[s][1] > clean)]
        return max(better, key=lambda s: found[s][1]) if better else ","
    return even[0] if even else ","


def _spaced(rows: Sequence[Sequence[str]]) -> bool:
    """Whether (nearly) every separator is followed by a space, which then belongs to no field."""
    fields = [field for row in rows for field in row[1:] if field.strip()]
    return len(fields) > 0 and sum(field.startswith(" ") for field in fields) > 0.9 * len(fields)


def _kind(field: str) -> str | None:
    """number or date; None for words."""
    field = field.strip()
    if is_plain(field):
        return "number"
    found, _ = numbers_of([field])
    if found is not None and not found.unit.isalpha():
        return "number"
    order, is_open = dates_of([field])
    return "date" if order is not None or is_open else None


def has_names(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names the columns, by what stands below.

    Words above numbers are names. Numbers above numbers are values, but for steady steps (0, 1, 2 or 2019, 2020).
    Where all is words, values are met again further down in the same column, and names are not.
    """
    first, below = rows[0], rows[1:ROWS_LOOKED_AT]
    names, alike = 0, []
    again = counted = 0
    for number, field in enumerate(first):
        field = field.strip()
        values = [row[number].strip() for row in below if number < len(row)]
        values = [value for value in values if value and value not in NO_NUMBER]
        if not values or not field or field in NO_NUMBER:
            continue
        counted += 1
        again += field in values
        kinds = [_kind(value) for value in values]
        for kind in ("number", "date"):
            if kinds.count(kind) > 0.9 * len(kinds):
                if _kind(field) != kind:
                    names += 1
                else:
                    alike.append((field, values))
    if names >= max(len(alike), 1):
        return True
    if alike:
        return _steps(alike)
    return not (again and 2 * again >= counted) or list(first) in [list(row) for row in below]


def _steps(alike: Sequence[tuple[str, Sequence[str]]]) -> bool:
    """Whether numbers in the first row go on in steady steps, or are a year above what are no years."""
    if not all(re.fullmatch(r"\d{1,4}", field) for field, _ in alike):
        return False
    numbers = [int(field) for field, _ in alike]
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    years = all(1800 <= number <= 2100 for number in numbers)
    if len(numbers) > 2 or (len(numbers) == 2 and years):
        return len(steps) == 1 and steps <= set(STEPS)
    return len(numbers) == 1 and years and not any(re.fullmatch(r"(18|19|20)\d\d", v) for v in alike[0][1])


def _names(header: Sequence[str]) -> tuple[list[str], list[str]]:
    """(each column's name, those changed because they stand there twice); one without is `Unnamed: NUMBER`."""
    names: dict[str, None] = {}
    last: dict[str, int] = {}
    twice: list[str] = []
    given = {found.strip() for found in header}
    for number, found in enumerate(header):
        plain = found.strip() or f"Unnamed: {number}"
        name, again = plain, last.get(plain, 1)
        while name in names or (again > 1 and name in given):
            again += 1
            name = f"{plain}_{again}"
        last[plain] = again
        if name != plain:
            twice.append(name)
        names[name] = None
    return list(names), twice
