"""Scores that would say nothing: a label among the inputs is refused, columns that tell it are warned of."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.sampler import order
from ..errors import UserError
from ..modality.table import Column

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("mmssl")
NEARLY = 0.98
"""Accuracy of one column by itself above which it nearly determines the label."""
ROWS, LEAST = 4000, 40
"""Rows that are looked at, and those below which nothing is said."""
BINS = 64
"""Numbers of many values are cut into so many of equal count."""


class LabelRead(UserError):
    """A label that a modality reads as an input.

    Attributes:
        found: what was found, without the way out.
        label: the column.
        modality: what reads it.
    """

    def __init__(self, found: str, label: str, modality: str) -> None:
        self.found, self.label, self.modality = found, label, modality
        super().__init__(
            f"{found}; leave it out of data.columns.{modality} when the model is pretrained (with no columns named, "
            f"evaluation.label={label} does that)"
        )


def refuse_label(label: str | None, columns: Mapping[str, str | list[str]], option: str = "evaluation.label") -> None:
    """LabelRead where the label is among the columns that a modality reads."""
    for name, of in columns.items():
        if label is not None and label in ([of] if isinstance(of, str) else of):
            found = f"{option}: found '{label}', which the modality '{name}' reads as an input: no score of it would"
            raise LabelRead(f"{found} say anything", label, name)


def telling_columns(source: Dataset, columns: Mapping[str, str | list[str]], labels: Sequence[int]) -> list[str]:
    """What to say of columns of cells that nearly determine the label, or that tell rows apart.

    Each column is judged by itself: the most frequent label of each of its values in one half of the rows, tried on the
    other half.

    Args:
        source: labelled rows.
        columns: modality -> its column(s); only of lists of columns something is said.
        labels: the class number of each row, -1 where it is unknown.
    """
    rows = [row for row in order(len(source), 0, 0).tolist() if labels[row] >= 0][:ROWS]
    listed = [column for of in columns.values() if not isinstance(of, str) for column in of]
    if len(rows) < LEAST or not listed:
        return []
    y = [labels[row] for row in rows]
    usual = max(Counter(y).values()) / len(y)
    plain = source.with_format(None).select_columns([c for c in listed if c in source.column_names])[rows]
    said = []
    for name, values in plain.items():
        there = [(v, row) for v, row in zip(values, rows, strict=True) if v is not None]
        column = Column(name, [v for v, _ in there], [row for _, row in there])
        if not column.values or not column.is_plain:
            continue
        if (why := column.identifier) is not None:
            said.append(f"column '{name}' is an input, but tells rows apart ({why})")
        elif (share := told(levels(values), y)) > max(NEARLY, usual + (1 - usual) / 2):
            said.append(
                f"column '{name}' alone tells the label of {share:.1%} of the rows: is it known when the label is not?"
            )
    for line in said:
        logger.warning("%s", line)
    return said


def told(levels: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """Share of the second half of the rows whose label is the usual one at its level in the first half."""
    half = len(levels) // 2
    met: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for level, label in zip(levels[:half], labels[:half], strict=True):
        met[level][label] += 1
    usual = Counter(labels[:half]).most_common(1)[0][0]
    told = {level: counts.most_common(1)[0][0] for level, counts in met.items()}
    right = sum(told.get(level, usual) == label for level, label in zip(levels[half:], labels[half:], strict=True))
    return right / max(len(levels) - half, 1)


def levels(values: Sequence[object]) -> list[Hashable]:
    """Values as they can be counted: amounts by bins of equal count, all else as it is written."""
    numbers = [_number(value) for value in values]
    known = np.array([n for n in numbers if n is not None])
    if len(known) < 0.9 * len(values) or len(np.unique(known)) <= BINS:
        return [str(value) for value in values]
    edges = np.quantile(known, np.linspace(0, 1, min(BINS, max(len(values) // 20, 4)) + 1)[1:-1])
    return [None if n is None else int(np.searchsorted(edges, n)) for n in numbers]


def binned(amounts: Sequence[float]) -> list[int]:
    """Labels that are amounts (NaN: unknown) as numbers of classes, by `levels`; -1 where unknown."""
    of = levels([v if v == v else None for v in amounts])
    number = {level: i for i, level in enumerate(dict.fromkeys(of))}
    return [number[level] if v == v else -1 for v, level in zip(amounts, of, strict=True)]


def _number(value: Any) -> float | None:
    try:
        found = None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
    return found if found == found else None
