"""Whether a column of labels holds amounts (prices, ages in days), of which each value is no class of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable

LEAST = 20
"""Different whole numbers below which they are classes."""
REPEATED = 3
"""Rows of one value, on average, from which on whole numbers are classes."""
SPARSE, WIDE, SELDOM = 100, 10, 10
"""Or amounts, too, are so many different whole numbers, spread over so many times as many, each of fewer rows."""


def are_amounts(values: Iterable[object]) -> bool:
    """Whether numbers are amounts, and not the numbers of classes.

    So they are with a fraction in any of them; where nearly every row has another one; and where there are many, seldom
    the same and with gaps between them, as prices are that somebody rounded. Numbers of classes lie close together.

    values: labels of rows; unknown ones (None, NaN) do not count, and anything that is no number is a class.
    """
    known = [v for v in values if v is not None and not (isinstance(v, float) and not math.isfinite(v))]
    if not known or any(isinstance(v, bool) or not isinstance(v, int | float) for v in known):
        return False
    numbers = [float(v) for v in known if isinstance(v, int | float)]
    if not all(v.is_integer() for v in numbers):
        return True
    different, rows = set(numbers), len(numbers)
    count, span = len(different), max(different) - min(different) + 1
    if count < LEAST:
        return False
    gaps = count >= SPARSE and span >= WIDE * count and rows < SELDOM * count
    return rows < REPEATED * count or gaps
