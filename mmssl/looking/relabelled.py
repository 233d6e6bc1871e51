"""Whether a column says the label in other words: such a column is no input."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.sampler import order
from ..evaluation.leaks import levels, told
from ..modality.table import Column

SURE, GAINED = 0.999, 0.8
"""Share of the rows that a column has to tell the label of, to be another word for it; and of those that the usual
value is not right for, where the label tells the column."""
LEAST = 40
"""Rows below which nothing is said of what tells what."""


def made_of(column: Column, by_row: Mapping[int, Any]) -> str | None:
    """Why a column and the label are the same thing in other words; None where they are not.

    by_row: number of a row -> its label.
    """
    pairs = [(v, by_row[row]) for v, row in zip(column.values, column.rows, strict=True) if row in by_row]
    if len(pairs) < LEAST:
        return None
    # in an order of chance: files are often sorted by class
    pairs = [pairs[number] for number in order(len(pairs), 0, 0).tolist()]
    mine, theirs = levels([v for v, _ in pairs]), levels([y for _, y in pairs])
    ways = ((mine, theirs, None, "tells the label"), (theirs, mine, GAINED, "follows the label"))
    for one, other, least, why in ways:
        usual = Counter(other).most_common(1)[0][1] / len(other)
        bound = SURE if least is None else usual + least * (1 - usual)
        if usual < 0.95 and len(set(one)) < 0.5 * len(one) and (share := told(one, other)) >= bound:
            return f"{why} in {share:.0%} of the rows"
    share = told_by_order(pairs)
    return None if share < SURE else f"tells the label by its size in {share:.0%} of the rows"


def told_by_order(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Share of the rows, in the order of a column of numbers, whose label is that of the row before: of a number that
    tells it, also with some noise, nearly all. 0 where the numbers repeat, are none, or one label is usual."""
    numbers = [(v, str(y)) for v, y in pairs if isinstance(v, int | float) and not isinstance(v, bool)]
    labels = Counter(y for _, y in numbers)
    few = not 2 <= len(labels) <= len(numbers) / 10 or labels.most_common(1)[0][1] > 0.95 * len(numbers)
    if few or len(numbers) < len(pairs) or 2 * len({v for v, _ in numbers}) < len(numbers):
        return 0.0
    inner = [y for _, y in sorted(numbers)]
    same = sum(a == b for a, b in itertools.pairwise(inner)) + len(labels) - 1
    return same / (len(inner) - 1)
