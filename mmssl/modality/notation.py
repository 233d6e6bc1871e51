"""Numbers and dates as people write them, and which notation a whole column is in.

One value does not say whether 1,234 is more than a thousand or a little more than one, nor which number of 3/4/2024 is
the month. So the notation is found once, on all values of a column, and kept: a field is then read alike wherever it
is met again. What no value decides is not guessed in silence: `numbers_of` and `dates_of` say that it is open.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

NO_NUMBER = tuple(
    "NA N/A n/a na n.a. #N/A <NA> NaN nan -nan -NaN NULL null None none ? - -- . #DIV/0! #VALUE! #REF!".split()
)
"""What stands for no value in a column that else holds only numbers, dates or truth values. Among words these are
words: NA is also a country."""

_SPACES = re.compile("[\u00a0\u202f\u2009]")
_CURRENCY = r"[$€£¥₹₽₩]|US\$|USD|EUR|GBP|CHF|JPY|CNY|INR|CAD|AUD|SEK|NOK|DKK|PLN|CZK|BRL|R\$|Fr\.|kr\.?"
_SYMBOLS = frozenset("$€£¥₹₽₩%‰°")
_UNIT = r"%|‰|°[CF]?|[^\W\d_]{1,10}\.?(?:/[^\W\d_]{1,6})?[²³]?"
_NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[+-])?\s?(?P<before>{_CURRENCY})?\s?(?P<inner>[+-])?"
    rf"(?P<body>\d[\d.,' ]*\d|\d|[.,]\d+|\d+[.,])(?P<exponent>[eE][+-]?\d+)?"
    rf"(?:\s?(?P<after>{_CURRENCY}|{_UNIT}))?(?P<close>\))?"
)
_CODE = re.compile(r"0\d")  # 007 is a code and no number
_BOUND = re.compile(r"(?:<=|>=|=<|=>|[<>≤≥])\s?(?=[\d.,$€£¥-])")
"""In front of what lies below or above what was measured: `<0.5`."""
SURE = 10
"""Different numbers in a column from which on a few `<0.5` are numbers, too, and no names of ranges (`<18`, `>65`)."""
_HEAD = r"[1-9]\d{0,2}"
_WAYS = ((".", ""), (".", ","), (".", " "), (".", "'"), (",", "."), (",", " "), (",", "'"), (",", ""))
"""(decimal sign, sign between thousands), those first that are taken where several fit."""


def _body(decimal: str, group: str) -> re.Pattern[str]:
    d, whole = re.escape(decimal), r"\d*"
    if group:
        whole = rf"(?:{_HEAD}(?:{re.escape(group)}\d{{3}})+|\d*)"
    return re.compile(rf"{whole}(?:{d}\d*)?")


_BODIES = {way: _body(*way) for way in _WAYS}


@dataclass(frozen=True)
class Numbers:
    """How the numbers of a column are written.

    Attributes:
        decimal: the sign before the fraction.
        group: what stands between thousands; empty: nothing.
        unit: what stands before or after all or some of them, as it is compared (`5 years` and `1 year` are one).
        bounds: some are bounds (`<0.5`), each read as the number that it names.
    """

    decimal: str = "."
    group: str = ""
    unit: str = ""
    bounds: bool = False

    def value(self, text: str) -> float | None:
        """The number that a text is, None where it is none in this notation; its unit is left aside."""
        found = _parts(_BOUND.sub("", text.strip(), count=1) if self.bounds else text)
        if found is None or not _BODIES[self.decimal, self.group].fullmatch(found.body):
            return None
        if found.unit not in ("", self.unit):
            return None
        plain = found.body.replace(self.group, "") if self.group else found.body
        number = float(found.sign + plain.replace(self.decimal, ".") + found.exponent)
        return number if math.isfinite(number) else None

    @property
    def text(self) -> str:
        """In words, for messages."""
        said = [f"decimal {'comma' if self.decimal == ',' else 'point'}"]
        if self.group:
            said.append(f"thousands apart by {'a space' if self.group == ' ' else repr(self.group)}")
        said += [f"unit {self.unit}"] if self.unit else []
        return ", ".join(said + (["bounds as the number they name"] if self.bounds else []))


@dataclass(frozen=True)
class _Parts:
    sign: str
    body: str
    exponent: str
    unit: str


def _parts(text: str) -> _Parts | None:
    text = _SPACES.sub(" ", text.strip()).replace("\u2019", "'").replace("\u2212", "-")
    match = _NUMBER.fullmatch(text)
    if match is None or bool(match["open"]) != bool(match["close"]) or _CODE.match(match["body"]):
        return None
    signs = (match["sign"] or "") + (match["inner"] or "")
    if len(signs) > 1 or (match["before"] and match["after"]):
        return None
    negative = (signs == "-") != bool(match["open"])
    unit = match["before"] or match["after"] or ""
    if len(unit) > 3 and unit.isalpha():
        unit = unit.removesuffix("s")
    return _Parts("-" if negative else "", match["body"], match["exponent"] or "", unit)


def is_plain(text: str) -> bool:
    """Whether a text is a number as programs write them; 007 is a code."""
    text = text.strip()
    try:
        return not _CODE.match(text.lstrip("+-")) and math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def numbers_of(texts: Iterable[str], decimal: str | None = None) -> tuple[Numbers | None, bool]:
    """(the notation that all of these texts are numbers in, or None; whether another one would read other numbers).

    Bounds (`<0.5`) are numbers among `SURE` and more that are none, and more than they are.

    decimal: the sign before fractions, where it is known: only notations with it are looked for.
    """
    distinct = {text.strip() for text in texts}
    bounds = {text for text in distinct if is_bound(text)}
    if bounds:
        if len(distinct) - len(bounds) < max(SURE, len(bounds)):
            return None, False
        distinct = {_BOUND.sub("", text, count=1) for text in distinct}
    ways = [way for way in _WAYS if decimal in (None, way[0])]
    units: dict[str, int] = {}
    undecided: set[str] = set()
    for text in distinct:
        found = _parts(text)
        if found is None:
            return None, False
        units[found.unit] = units.get(found.unit, 0) + 1
        ways = [way for way in ways if _BODIES[way].fullmatch(found.body)]
        if not ways:
            return None, False
        if len(undecided) < 1000:
            undecided.add(text)
    named = [unit for unit in units if unit]
    if not distinct or len(named) > 1 or (named and not _SYMBOLS & set(named[0]) and "" in units):
        return None, False  # 12 and 12a are no numbers with and without a unit
    unit = named[0] if named else ""
    readings = [Numbers(*way, unit, bool(bounds)) for way in ways]
    chosen = readings[0]
    return chosen, any(chosen.value(text) != other.value(text) for other in readings[1:] for text in undecided)


def is_bound(text: str) -> bool:
    """Whether a text is a number that something lies below or above: `<0.5`, `> 1000`."""
    match = _BOUND.match(text.strip())
    return match is not None and _parts(text.strip()[match.end() :]) is not None


def strangers(texts: Iterable[str]) -> set[str]:
    """The few words in a column of text that else holds numbers or dates ("not done", "see report"), which say that
    there is no value; empty where it holds no such words, or something else.

    They are a tenth of the cells at most and ten different ones, and what is left are `2 * SURE` different values.
    """
    cells = [text.strip() for text in texts]
    odd = {text for text in cells if re.match(r"\D{0,6}\d", text) is None or len(text) > 40}
    rest = set(cells) - odd
    few = 0 < len(odd) <= 10 and sum(text in odd for text in cells) <= 0.1 * len(cells)
    if not few or len(rest) < 2 * SURE or (numbers_of(rest)[0] is None and dates_of(rest)[0] is None):
        return set()
    return odd


def word(text: str) -> str:
    """A name as it is compared with others: no blanks around it, and an accent in one spelling (Unicode's NFC; macOS
    writes names of files in NFD), since nobody tells such names apart."""
    found = text.strip()
    return found if found.isascii() else unicodedata.normalize("NFC", found)


# --- dates -------------------------------------------------------------------------------------------------------

_MONTHS = {
    name: number
    for number, names in enumerate(
        "jan jän|feb|mar mär mrz|apr|may mai|jun|jul|aug|sep|oct okt|nov|dec dez".split("|"), 1
    )
    for name in names.split()
}
_MONTH = rf"(?P<month>(?:{'|'.join(_MONTHS)})[a-zä]*)\.?"
_TIME = (
    r"(?:[ T,]+(?P<h>\d{1,2}):(?P<min>\d\d)(?::(?P<s>\d\d)(?P<frac>[.,]\d+)?)?\s?(?P<half>[ap]\.?m\.?)?"
    r"\s?(?P<zone>Z|UTC|GMT|[+-]\d\d:?\d\d)?)?"
)
_YMD = re.compile(rf"(?P<a>\d{{4}})(?P<sep>[-/.])(?P<b>\d{{1,2}})(?:(?P=sep)(?P<c>\d{{1,2}}))?{_TIME}", re.I)
_XXY = re.compile(rf"(?P<a>\d{{1,2}})(?P<sep>[-/.]|\. )(?P<b>\d{{1,2}})(?P=sep)(?P<c>\d{{4}}|\d{{2}}){_TIME}", re.I)
_DAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,? )?"
_TH = r"(?:st|nd|rd|th|\.)?"
_NAMED = (
    re.compile(
        rf"{_DAY}(?P<day>\d{{1,2}})(?:st|nd|rd|th|\.)?[ -]?{_MONTH}[ ,-]*(?P<year>\d{{4}}|\d{{2}}){_TIME}", re.I
    ),
    re.compile(rf"{_DAY}{_MONTH} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<year>\d{{4}}){_TIME}", re.I),
)
ORDERS = ("iso", "year_first", "day_first", "month_first", "named")
"""Notations of dates; iso: as Python's `fromisoformat` reads them."""


def date_value(text: str, order: str) -> dt.datetime | None:
    """The time that a text is in this notation, None where it is none."""
    text = text.strip()
    try:
        if order == "iso":
            return dt.datetime.fromisoformat(text)
        if order == "named":
            match = _NAMED[0].fullmatch(text) or _NAMED[1].fullmatch(text)
            if match is None:
                return None
            month = _MONTHS[match["month"][:3].lower()]
            return _time(match, int(match["year"]), month, int(match["day"]))
        match = (_YMD if order == "year_first" else _XXY).fullmatch(text)
        if match is None:
            return None
        a, b, c = (int(match[part] or 1) for part in "abc")
        if order == "year_first":
            return _time(match, a, b, c)
        return _time(match, c, b, a) if order == "day_first" else _time(match, c, a, b)
    except (ValueError, KeyError):
        return None


def _time(match: re.Match[str], year: int, month: int, day: int) -> dt.datetime:
    if year < 100:
        year += 1900 if year > 68 else 2000  # as POSIX has it
    hour, half = int(match["h"] or 0), (match["half"] or "").lower()[:1]
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    micro = round(float((match["frac"] or "0").replace(",", ".")) * 1e6) if match["frac"] else 0
    zone = (match["zone"] or "").upper()
    where = None
    if zone in ("Z", "UTC", "GMT"):
        where = dt.timezone.utc  # noqa: UP017
    elif zone:
        minutes = int(zone[1:3]) * 60 + int(zone[-2:])
        where = dt.timezone(dt.timedelta(minutes=-minutes if zone[0] == "-" else minutes))
    return dt.datetime(year, month, day, hour, int(match["min"] or 0), int(match["s"] or 0), min(micro, 999999), where)


def dates_of(texts: Iterable[str]) -> tuple[str | None, bool]:
    """(the one of `ORDERS` that all of these texts are dates in, or None; whether day and month may be the other way).

    31/5/2024 decides for day first in the whole column. Points stand for day first where nothing decides (31.5.2024 is
    how people write who use points), and a part that is 1 throughout, beside another that changes, is the day.
    """
    distinct = {text.strip() for text in texts}
    if not distinct or not all(re.match(r"\D{0,6}\d", text) or text[:3].lower() in _MONTHS for text in distinct):
        return None, False
    fitting = [order for order in ORDERS if all(date_value(text, order) is not None for text in distinct)]
    if "day_first" not in fitting or "month_first" not in fitting:
        return (fitting[0] if fitting else None), False
    parts = [match for match in map(_XXY.fullmatch, distinct) if match is not None]
    if all(match["sep"][0] == "." for match in parts):
        return "day_first", False
    firsts, seconds = ({int(match[key]) for match in parts} for key in "ab")
    if firsts == {1} and len(seconds) > 2:
        return "day_first", False
    if seconds == {1} and len(firsts) > 2:
        return "month_first", False
    return None, True
