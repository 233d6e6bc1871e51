"""Which column says who or what a row is of (a patient, a speaker): rows of one lie on one side of every split."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..modality.table import FEW, Column, joined

GROUPS = re.compile(
    r"(?:.*[_\s.-])?(patient|subject|speaker|performer|person|participant|user|customer|author|animal|mouse|donor|site"
    r"|hospital|device|session|run|recording)(?:e?n|s)?(?:[_\s.-]?(?:id|no|nr|number|nummer|num|name|code|key))?",
    re.IGNORECASE,
)
"""Names of columns that say who or what a row is of, the strongest first."""
TOGETHER = "rows of one lie on one side of every split"
OWNER = "who a row is of"
"""Why such a column is no input."""
MANY_ROWS = 1.5
"""Rows of each value, on average, from which on an identifier says what several rows are of."""


def group_of(columns: Mapping[str, Column]) -> tuple[tuple[str, str] | None, dict[str, str], list[str]]:
    """((the column that says who a row is of, and why) or None; columns that are no inputs for that -> why; lines).

    By their names, else an identifier whose values come back.

    columns: those that no modality reads, without the label.
    """
    words = GROUPS.pattern.split("(")[2].split(")")[0].split("|")
    fit, left = [], {}
    for name, column in columns.items():
        match = GROUPS.fullmatch(name)
        different = len(set(map(str, column.values)))
        if match and column.is_plain and 2 <= different:
            fit.append((words.index(match[1].lower()), column.texts is None, name, different == len(column.values)))
    if not fit:
        return _identifier(columns)
    _, _, first, alone = min(fit)
    left = dict.fromkeys((name for _, _, name, _ in fit), OWNER)
    if alone:
        return None, left | {first: "another one in every row"}, []
    return (first, f"{TOGETHER}, by its name"), left, []


def _identifier(columns: Mapping[str, Column]) -> tuple[tuple[str, str] | None, dict[str, str], list[str]]:
    again = {}
    for name, column in columns.items():
        rows = len(column.values) / max(len(set(map(str, column.values))), 1)
        if column.identifier is not None and rows >= MANY_ROWS:
            again[name] = rows
    if not again:
        return None, {}, []
    name, rows = next(iter(again.items()))
    others = f", not {joined(list(again)[1:])}" if again.keys() - {name} else ""
    said = f"'{name}' has {rows:.1f} rows of each value: rows of one are kept together{others} (group=COLUMN: another)"
    return (name, f"{TOGETHER}: an identifier with {rows:.1f} rows of each value"), {name: OWNER}, [said]


def same_as(columns: Mapping[str, Column], group: Column) -> dict[str, str]:
    """Columns of words that tell whose a row is, one to each (an address of mail) -> why they are no inputs."""
    of = dict(zip(group.rows, map(str, group.values), strict=True))
    left = {}
    for name, column in columns.items():
        if not column.is_plain or not column.is_words:
            continue
        pairs = {(str(v), of[row]) for v, row in zip(column.values, column.rows, strict=True) if row in of}
        if len(pairs) > FEW and len(pairs) == len({v for v, _ in pairs}) == len({g for _, g in pairs}):
            left[name] = f"one to each '{group.name}'"
    return left
