"""What one cell may hold: is it missing, which type of column is it from, and what number or category is it.

A cell comes from csv, parquet, Arrow or pandas, so the same thing arrives as text, as a numpy scalar or as Python's
own. Here it becomes a float or a category's name, or `BadSample` says what was found instead.
"""

from __future__ import annotations

import datetime as dt
import math
import numbers
import re
from collections.abc import Collection, Sequence
from decimal import Decimal

import numpy as np

from mmssl.errors import BadSample

TRUE = {"true", "t", "yes", "y", "1"}
FALSE = {"false", "f", "no", "n", "0"}
BOOLEANS = ("false", "true")
DAY = 86400.0
_CODE = re.compile(r"[+-]?0\d")  # 007 is a code and no number
_ISO = re.compile(r"\d{4}-\d\d")
_WHOLE = re.compile(r"([+-]?(?:0|[1-9]\d*))\.0+")
_GROUPED = r"(?:\d{1,3}(?:[,.' \u00a0\u202f\u2019]\d{3})+(?:[.,]\d+)?|\d+(?:[.,]\d+)?)"
_MONEY = r"(?:[$€£¥₹]|USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|SEK|NOK|DKK|PLN|CZK|BRL|kr|zł|Fr\.?)"
_NOTED = re.compile(rf"\(?[+-]?(?:{_MONEY}\s?)?[+-]?{_GROUPED}(?:\s?{_MONEY}|\s?%|\s?°[CF]?|\s[A-Za-zµ/²³]{{1,6}})?\)?")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mai|okt|dez)[a-z]*\.?"
_DAYS = r"\d{1,2}[/. -]\d{1,2}[/. -]\d{2,4}|\d{4}[/. ]\d{1,2}[/. ]\d{1,2}"
_NAMED = rf"\d{{1,2}}[. -]{{0,2}}{_MONTH}[ ,-]*\d{{2,4}}|{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?,?\s\d{{2,4}}"
_DATED = re.compile(rf"(?:{_DAYS}|{_NAMED})(?:[ T,]+\d{{1,2}}:\d\d.*)?", re.IGNORECASE)


def is_missing(value: object, words: Collection[str]) -> bool:
    """Null in any spelling: None, NaN, NaT, pandas' NA, or text that is one of `words` (spaces trimmed)."""
    if value is None or type(value).__name__ == "NAType":
        return True
    if isinstance(value, str):
        return value.strip() in words
    return isinstance(value, (float, np.floating, Decimal, np.datetime64, dt.datetime)) and bool(value != value)


def number_of(value: object) -> float:
    """A cell of a numeric column. Raises BadSample for what is no finite number."""
    try:
        if isinstance(value, dt.timedelta):
            return value.total_seconds()
        if not isinstance(value, (str, bool, numbers.Number, np.number, np.bool_)) or isinstance(value, complex):
            raise TypeError
        found = float(value.strip()) if isinstance(value, str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise BadSample(f"found {shown(value)}, expected a number{_as_plain(value)}") from None
    if not math.isfinite(found):
        raise BadSample(f"found {found}, expected a finite number")
    return found


def seconds_of(value: object) -> float:
    """A cell of a date column as seconds since 1970; without a time zone it counts as UTC. Raises BadSample."""
    try:
        if isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]").astype(object)
        if isinstance(value, str):
            value = dt.datetime.fromisoformat(value.strip())
        if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
            value = dt.datetime(value.year, value.month, value.day)
        if not isinstance(value, dt.datetime):
            raise TypeError
        return float((value if value.tzinfo else value.replace(tzinfo=dt.timezone.utc)).timestamp())  # noqa: UP017
    except (TypeError, ValueError, OverflowError):
        raise BadSample(f"found {shown(value)}, expected a date such as 2024-05-31 or 2024-05-31 12:30") from None


def boolean_of(value: object) -> str:
    """A cell of a boolean column as "false" or "true". Raises BadSample."""
    name = category_of(value).lower()
    if name in TRUE or name in FALSE:
        return BOOLEANS[name in TRUE]
    raise BadSample(f"found {shown(value)}, expected true or false")


def category_of(value: object) -> str:
    """A category's name. 3, 3.0, "3" and "3.0" are one category: whole numbers with gaps become floats on the way."""
    if isinstance(value, str):
        name = value.strip()
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

    Booleans, and 0/1 columns: boolean. Numbers and text that is all numbers (but for codes with leading zeros):
    numeric. Dates and ISO text: date. Everything else is categorical; ordinal only the user can say.
    """
    if not values:
        return "categorical"
    if all(isinstance(v, (bool, np.bool_)) for v in values):
        return "boolean"
    texts = [v for v in values if isinstance(v, str)]
    if len(texts) == len(values):
        names = {text.strip() for text in texts}
        if {n.lower() for n in names} <= {"true", "false"}:
            return "boolean"
        if all(_is_number(n) for n in names):
            return "boolean" if {float(n) for n in names} == {0, 1} else "numeric"
        return "date" if all(_is_date(n) for n in names) else "categorical"
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


def _is_number(text: str) -> bool:
    try:
        return not _CODE.match(text) and math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def share_of_numbers(values: Sequence[object]) -> float:
    """How many of these values read as numbers, to warn of a column where a few do not."""
    return sum(not isinstance(v, str) or _is_number(v.strip()) for v in values) / max(len(values), 1)


def _is_date(text: str) -> bool:
    try:
        return bool(_ISO.match(text)) and dt.datetime.fromisoformat(text) is not None
    except ValueError:
        return False


def notation(values: Sequence[object]) -> tuple[str, str] | None:
    """(a value, what it looks like) where most of these are numbers or dates in a notation that is not read.

    Which of 1,379 and 1.379 is thousands, and which of 3/4/2024 the month, no value says: they are words, and the user
    is told.
    """
    texts = {v.strip() for v in values if isinstance(v, str)}
    dates = [t for t in texts if _DATED.fullmatch(t)]
    if len(dates) > len(texts) / 2:
        return min(dates), "a date: write dates as 2024-05-31 or 2024-05-31 12:30"
    noted = [t for t in texts if _NOTED.fullmatch(t)]
    odd = [t for t in noted if not _is_number(t) and not _CODE.match(t)]
    if len(noted) > len(texts) / 2 and len(odd) > len(texts) / 10:
        return min(
            odd
        ), "a number with separators or a unit: write numbers as 1234.5, and the unit into the column's name"
    return None


def _as_plain(value: object) -> str:
    return " such as 1234.5" if notation([value]) is not None else ""
