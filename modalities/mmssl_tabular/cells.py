"""What one cell may hold: is it missing, which type of column is it from, and what number or category is it.

A cell comes from csv, parquet, Arrow or pandas, so the same thing arrives as text, as a numpy scalar or as Python's
own. Here it becomes a float or a category's name, or `BadSample` says what was found instead.
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import numbers
import re
from collections.abc import Collection, Sequence
from decimal import Decimal

import numpy as np

from mmssl.errors import BadSample
from mmssl.modality.notation import NO_NUMBER, Numbers, date_value, dates_of, is_plain, numbers_of, strangers, word

logger = logging.getLogger("mmssl")
PLAIN = Numbers()
DATES = {
    "iso": "2024-05-31 or 2024-05-31 12:30",
    "year_first": "2024/5/31",
    "day_first": "31/5/2024",
    "month_first": "5/31/2024",
    "named": "31 May 2024",
}
"""How a date of each notation looks, for messages."""

TRUE = {"true", "t", "yes", "y", "1", "on", "ja", "j", "oui", "si", "sí", "sim", "wahr", "vrai"}
FALSE = {"false", "f", "no", "n", "0", "off", "nein", "nee", "non", "não", "falsch", "faux"}
BOOLEANS = ("false", "true")
DAY = 86400.0
EMPTY = frozenset(["", "?"])
"""Text that is no value in any column."""
NO_VALUE = EMPTY | frozenset(NO_NUMBER)
"""Text that is no value where the others are numbers, dates or truth values."""
_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0+")


def is_missing(value: object, words: Collection[str]) -> bool:
    """Null in any spelling: None, NaN, NaT, pandas' NA, or what is one of `words`: text (spaces trimmed), or a number
    that is written so (-999 and -999.0 are "-999")."""
    if value is None or type(value).__name__ == "NAType":
        return True
    if isinstance(value, str):
        return value.strip() in words
    if isinstance(value, (float, np.floating, Decimal, np.datetime64, dt.datetime)) and bool(value != value):
        return True
    if words is EMPTY or words is NO_VALUE or isinstance(value, bool):  # none of these is written as a number
        return False
    return isinstance(value, (int, float, np.number, Decimal)) and category_of(value) in words


def number_of(value: object, written: Numbers = PLAIN) -> float:
    """A cell of a numeric column; text as its column is written. Raises BadSample for what is no finite number."""
    try:
        if isinstance(value, dt.timedelta):
            return value.total_seconds()
        if not isinstance(value, (str, bool, numbers.Number, np.number, np.bool_)) or isinstance(value, complex):
            raise TypeError
        if isinstance(value, str) and written != PLAIN:
            noted = written.value(value)
            if noted is None:
                raise TypeError
            return noted
        found = _plain_number(value) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise BadSample(f"found {shown(value)}, expected a number{_as_written(written)}") from None
    if not math.isfinite(found):
        raise BadSample(f"found {found}, expected a finite number")
    return found


def _plain_number(text: str) -> float:
    """Text as programs write numbers, or else as people do: (5), and 5 behind a typographic minus, are -5."""
    try:
        return float(text)
    except ValueError:
        noted = PLAIN.value(text)
        if noted is None:
            raise
        return noted


def seconds_of(value: object, order: str = "iso") -> float:
    """A cell of a date column as seconds since 1970; without a time zone it counts as UTC. Raises BadSample.

    order: the notation of its text, one of `mmssl.modality.notation.ORDERS`.
    """
    try:
        found = value.astype("datetime64[us]").astype(object) if isinstance(value, np.datetime64) else value
        if isinstance(found, str):
            found = date_value(found, order)
        if isinstance(found, dt.date) and not isinstance(found, dt.datetime):
            found = dt.datetime(found.year, found.month, found.day)
        if not isinstance(found, dt.datetime):
            raise TypeError
        return float((found if found.tzinfo else found.replace(tzinfo=dt.timezone.utc)).timestamp())  # noqa: UP017
    except (TypeError, ValueError, OverflowError):
        raise BadSample(f"found {shown(value)}, expected a date such as {DATES[order]}") from None


def date_of(seconds: float, clock: bool) -> str:
    """Seconds since 1970 as a date, of one with a time of the day with that."""
    unit = 60.0 if clock else DAY  # scaled, it has lost a few seconds
    try:
        found = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=round(seconds / unit) * unit)
    except OverflowError:  # a guess may lie anywhere
        return f"{seconds:.4g} s"
    return found.strftime("%Y-%m-%d %H:%M" if clock else "%Y-%m-%d")


def boolean_of(value: object) -> str:
    """A cell of a boolean column as "false" or "true". Raises BadSample."""
    name = category_of(value).lower()
    if name in TRUE or name in FALSE:
        return BOOLEANS[name in TRUE]
    raise BadSample(f"found {shown(value)}, expected true or false")


def category_of(value: object) -> str:
    """A category's name. 3, 3.0, "3" and "3.0" are one category: whole numbers with gaps become floats on the way; so
    are two spellings of an accent (Unicode's NFC and NFD) that nobody tells apart."""
    if isinstance(value, str):
        name = word(value)
        whole = _WHOLE.fullmatch(name)
        return name if whole is None else whole[1]
    if isinstance(value, (bool, np.bool_)):
        return BOOLEANS[bool(value)]
    if isinstance(value, (numbers.Real, np.number, Decimal)):
        found = float(value)
        if isinstance(value, (int, np.integer)):
            return str(int(value))
        return str(int(found)) if found.is_integer() else repr(found)
    if isinstance(value, (dt.date, dt.time, dt.timedelta, np.datetime64)):
        return str(value)
    raise BadSample(f"found {shown(value)}, expected text, a number, a boolean or a date")


def shown(value: object) -> str:
    """A value in a message: its type where it is no plain one, cut where it is long."""
    text = repr(value) if isinstance(value, (str, bool, int, float)) else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 60 else text[:57] + "..."


def calendar(seconds: np.ndarray) -> np.ndarray:
    """(n, 6) sine and cosine of the place in the year (365.2425 days), the week (from Monday) and the day."""
    days = np.asarray(seconds, np.float64) / DAY
    turns = np.stack([days / 365.2425, (days + 3) / 7, days], -1)  # 1 January 1970 was a Thursday
    angle = 2 * np.pi * (turns - np.floor(turns))
    return np.stack([np.sin(angle), np.cos(angle)], -1).reshape(len(days), 6)


def infer(values: Sequence[object]) -> str:
    """The kind of a column from its values that are not missing.

    Booleans in any writing, and 0/1 columns: boolean. Numbers and text that is all numbers in one notation (but for
    codes with leading zeros): numeric. Dates and text that is all dates in one notation: date. Everything else is
    categorical; ordinal only the user can say.
    """
    if not values:
        return "categorical"
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return "boolean"
    texts = [v for v in values if isinstance(v, str)]
    if len(texts) == len(values):
        names = {text.strip() for text in texts}
        if are_truths(names):
            return "boolean"
        if all(is_plain(n) for n in names):
            return "boolean" if {float(n) for n in names} == {0, 1} else "numeric"
        if dates_of(names)[0] is not None:
            return "date"
        return "categorical" if numbers_of(names)[0] is None else "numeric"
    if all(isinstance(v, (dt.date, np.datetime64)) for v in values):
        return "date"
    plain = (numbers.Real, np.number, Decimal, dt.timedelta)
    if all(isinstance(v, plain) and not isinstance(v, (bool, np.bool_)) for v in values):
        whole = not isinstance(values[0], dt.timedelta)
        return (
            "boolean"
            if whole and {float(v) for v in values if not isinstance(v, dt.timedelta)} == {0, 1}  # type: ignore[arg-type]
            else "numeric"
        )
    return "categorical"


def are_truths(names: Collection[str]) -> bool:
    """Whether these texts say yes and no; one of both alone is a word, but for true and false themselves."""
    small = {name.lower() for name in names}
    return small <= {"true", "false"} or (small <= TRUE | FALSE and bool(small & TRUE) and bool(small & FALSE))


def strangers_among(name: str, values: Sequence[object]) -> set[str]:
    """`mmssl.modality.notation.strangers` of a column's values, and a line that says so."""
    texts = [value for value in values if isinstance(value, str)]
    found = strangers(texts) if len(texts) == len(values) else set()
    if found:
        logger.warning(
            "column '%s': %s (%.1f %% of the cells) among its numbers or dates: read as empty; set "
            "modalities.tabular.types: {%r: categorical} if the whole column is one of words",
            name,
            ", ".join(map(shown, sorted(found))),
            100 * sum(text.strip() in found for text in texts) / len(texts),
            name,
        )
    return found


def share_of_numbers(values: Sequence[object]) -> float:
    """How many of these values read as numbers, to warn of a column where a few do not."""

    def is_number(text: str) -> bool:
        found = numbers_of([text])[0]
        return is_plain(text) or (found is not None and not found.unit.isalpha())

    return sum(not isinstance(v, str) or is_number(v.strip()) for v in values) / max(len(values), 1)


def _as_written(written: Numbers) -> str:
    return "" if written == PLAIN else f" ({written.text})"
