"""Rows to measure on where the data have no split for it: the same ones for every command that asks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.errors import UserError, nearest

from .listing import whole_of
from .splits import Counts, Rows, take_share

if TYPE_CHECKING:
    from datasets import Dataset

SHARE = 0.2
LEAST = 10
"""Rows below which none is held out."""
MOST_CLASSES = 50
"""Different numbers above which they are no classes but amounts, and are held out by fifths."""


@dataclass(frozen=True)
class Rule:
    """How rows are held out.

    Attributes:
        label: the columns that every part has alike, as far as it can be.
        group: the column whose rows stay together.
        share: of all rows.
        rows: how many there were when this was first done; None: it is now.
    """

    label: tuple[str, ...] = ()
    group: str | None = None
    share: float = SHARE
    rows: int | None = None

    def of(self, source: Dataset) -> bool:
        """Whether this is the rule of these data: as many rows, with its columns."""
        wanted = {*self.label, *([self.group] if self.group else [])}
        return self.rows == len(source) and wanted <= set(source.column_names)

    @property
    def text(self) -> str:
        """In words."""
        by = f", by {', '.join(self.label)}" if self.label else ""
        return f"{self.share:.0%} of the rows{by}" + (f", {self.group} kept together" if self.group else "")


def alike(source: Dataset, group: str | None) -> list[Hashable] | None:
    """A name a row: rows of one name say much of each other. Those of a group, else windows of one recording; None
    where every row stands for itself. Raises UserError where the column of the groups is not there."""
    known = source.column_names
    if group is not None and group not in known:
        raise UserError(f"group: the data has no column '{group}', it has {', '.join(known)}{nearest(group, known)}")
    column = group or whole_of(known)
    return None if column is None else list(source.with_format(None)[column])


def held_rows(source: Dataset, rule: Rule) -> Rows:
    """Numbers of the rows that are held out, in rising order: the same for the same data and rule, whatever the seed.

    Raises UserError where the column of the groups is not there.
    """
    known = source.column_names
    if rule.group is not None and rule.group not in known:
        raise UserError(
            f"group: the data has no column '{rule.group}', it has {', '.join(known)}{nearest(rule.group, known)}"
        )
    if len(source) < LEAST or rule.share <= 0:
        return np.empty(0, np.int64)
    plain = source.with_format(None)
    groups = None if rule.group is None else list(plain[rule.group])
    held = take_share(_strata(plain, [c for c in rule.label if c in known]), rule.share, groups, 0)
    return held if len(held) < len(source) else np.empty(0, np.int64)


def _strata(source: Dataset, label: Sequence[str]) -> Counts:
    """(n, C) how much of each label a row has; one alike for all without labels. An unknown label is one too."""
    n = len(source)
    if not label:
        return np.ones((n, 1))
    columns = [list(source[column]) for column in label]
    if len(columns) > 1 and all(_plain(v) in (0, 1, None) for values in columns for v in values):
        rows = [{i for i, values in enumerate(columns) if _plain(values[row])} for row in range(n)]
        return _several(rows)
    values = [_plain(v) for v in columns[0]]
    if any(isinstance(v, (list, tuple)) for v in values):
        return _several([{str(one) for one in v} if isinstance(v, (list, tuple)) else set() for v in values])
    known = [v for v in values if v is not None]
    numbers = all(isinstance(v, (int, float)) for v in known)
    distinct = set(known)
    if numbers and known and (len(distinct) > MOST_CLASSES or any(isinstance(v, float) for v in known)):
        edges = np.quantile(np.array(known, np.float64), [0.2, 0.4, 0.6, 0.8])
        codes = [5 if v is None else int(np.searchsorted(edges, v, side="right")) for v in values]
        return np.eye(6)[codes][:, sorted(set(codes))]
    if len(distinct) > n / 4:
        return np.ones((n, 1))
    order = sorted(distinct, key=lambda v: (isinstance(v, str), v))
    number: dict[object, int] = {v: i for i, v in enumerate([*order, *([None] if len(known) < n else [])])}
    return np.eye(len(number))[[number[v] for v in values]]


def _several(rows: Sequence[set[Any]]) -> Counts:
    names = sorted({name for row in rows for name in row}, key=str)
    counts = np.array([[float(name in row) for name in names] for row in rows]).reshape(len(rows), len(names))
    return np.concatenate([counts, counts.sum(1, keepdims=True) == 0], 1)


def _plain(value: object) -> Any:
    """A label as whole number, number, text or list; None for the unknown."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    return int(value) if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()) else value
