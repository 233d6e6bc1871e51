"""What `fit` learns of each column, and which columns tell of each other. It travels with the model, as JSON."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.errors import BadSample, UserError
from mmssl.modality.notation import Numbers, dates_of, is_bound, numbers_of

from . import cells

if TYPE_CHECKING:
    from .options import Config

logger = logging.getLogger("mmssl")

KNOTS = 256
"""Quantiles that a numeric column's scale is made of."""
BINS = 10
"""Numbers are cut into so many bins of equal count to measure what columns tell of each other."""
LEVELS = 20
"""Categories counted there; the rarer ones count as one."""
OTHER = 0
"""Code of a category that `fit` did not meet, or dropped as too rare."""


@dataclass
class Column:
    """One column. Its cells are numbers (scaled) or codes: 0 other, then 1.. `categories` in their order.

    Attributes:
        name: the column's.
        kind: one of `options.KINDS`.
        missing: share of empty cells among those fitted on.
        categories: their names, in the order of their codes.
        mean: of a numeric column with scale "standard", and of dates in seconds.
        std: of the same.
        knots: of scale "quantile": raw numbers, between them linear.
        scaled: what the knots map to.
        clock: dates with a time of the day.
        decimal, group, unit, bounds: how numbers are written in text (`mmssl.modality.notation.Numbers`).
        absent: words that stand for an empty cell among its numbers or dates, as they were found.
        order: how dates are (`mmssl.modality.notation.ORDERS`).
    """

    name: str
    kind: str
    missing: float = 0.0
    categories: list[str] = field(default_factory=list)
    mean: float = 0.0
    std: float = 1.0
    knots: list[float] = field(default_factory=list)
    scaled: list[float] = field(default_factory=list)
    clock: bool = False
    decimal: str = "."
    group: str = ""
    unit: str = ""
    order: str = "iso"
    bounds: bool = False
    absent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.written = Numbers(self.decimal, self.group, self.unit, self.bounds)
        self.codes = {name: code for code, name in enumerate(self.categories, 1)}

    @property
    def is_category(self) -> bool:
        """Whether cells are codes and no numbers."""
        return self.kind in ("categorical", "boolean")

    @property
    def elements(self) -> int:
        """Numbers of a cell: one, but for dates also sine and cosine of year, week and day."""
        return 7 if self.kind == "date" else 1

    def read(self, value: object) -> float:
        """A cell that is not missing, before scaling. Raises BadSample that names the column."""
        try:
            if self.kind == "numeric":
                return cells.number_of(value, self.written)
            if self.kind == "date":
                return cells.seconds_of(value, self.order)
            name = cells.boolean_of(value) if self.kind == "boolean" else cells.category_of(value)
            if self.kind == "ordinal" and name not in self.codes:
                raise BadSample(f"found {cells.shown(value)}, expected one of {', '.join(self.categories)}")
            return self.codes.get(name, OTHER)
        except BadSample as error:
            raise BadSample(f"column '{self.name}': {error}") from None

    def scale(self, raw: np.ndarray) -> np.ndarray:
        """(n,) what `read` returned, NaN where missing, to (n, elements); codes stay as they are."""
        if self.is_category:
            return raw[:, None]
        if self.knots:
            first = np.where(np.isnan(raw), np.nan, np.interp(raw, self.knots, self.scaled))
        else:
            first = (raw - self.mean) / self.std
        if self.kind != "date":
            return first[:, None]
        turns = cells.calendar(raw)
        if not self.clock:
            turns[:, 4:] = np.nan  # no such element: a date alone has no time of the day
        return np.concatenate([first[:, None], turns], 1)

    def told(self, cell: float) -> str:
        """The first element of a cell, after `scale`, as people read it."""
        if np.isnan(cell):
            return "(empty)"
        if self.is_category:
            code = round(cell)
            return self.categories[code - 1] if 0 < code <= len(self.categories) else "(other)"
        raw = float(np.interp(cell, self.scaled, self.knots)) if self.knots else cell * self.std + self.mean
        if self.kind == "ordinal":
            return self.categories[min(max(round(raw), 1), len(self.categories)) - 1]
        if self.kind == "date":
            return cells.date_of(raw, self.clock)
        size = self.knots[-1] - self.knots[0] if self.knots else self.std
        digits = 5 - math.floor(math.log10(size)) if size > 0 else 6  # what float32 has kept of it
        return f"{round(raw, digits) + 0.0:.6g}"


def fit_column(
    name: str,
    values: Sequence[object],
    kind: str | None,
    levels: Sequence[object] | None,
    config: Config,
    decimal: str | None = None,
) -> tuple[Column, np.ndarray]:
    """The column as its `values` say, and what they read as (NaN: missing or broken).

    Args:
        name: the column's.
        values: its cells.
        kind: the type that the recipe says; None: it is found.
        levels: the categories of an ordinal column that the recipe says, lowest first.
        config: the modality's options.
        decimal: the sign before fractions, where the recipe or other columns say it.

    Raises:
        UserError: no value can be read as the kind that was asked for.
    """
    kind, absent = kind or ("ordinal" if levels else None), set[str]()
    if kind is None:
        plain = present(values, no_value(config, "numeric"))
        kind = cells.infer(plain)
        absent = cells.strangers_among(name, plain) if kind == "categorical" else absent
        if kind == "categorical":  # what is no number has words of its own: NA is also a country
            kind = cells.infer(present(plain, absent) if absent else present(values, no_value(config, "categorical")))
    missing = no_value(config, kind) | absent if absent else no_value(config, kind)
    values = [None if cells.is_missing(value, missing) else value for value in values]
    there = [value for value in values if value is not None]
    _refuse_nested(name, there)
    column = Column(name, kind, 1 - len(there) / max(len(values), 1), absent=sorted(absent))
    if kind == "ordinal":
        column.categories = _levels(name, there, levels)
    elif kind == "boolean":
        column.categories = list(cells.BOOLEANS)
    elif kind == "categorical":
        column.categories = _frequent(name, there, config)
    else:
        _find_notation(column, there, config, decimal)
    column.__post_init__()
    raw = np.full(len(values), np.nan)
    reason = ""
    for row, value in enumerate(values):
        if value is not None:
            try:
                raw[row] = column.read(value)
            except BadSample as error:  # the data pipeline meets it again, and puts it into quarantine
                reason = reason or str(error)
    known = raw[~np.isnan(raw)]
    if len(there) and not len(known):
        raise UserError(f"types.{name}: no value of the column is {kind} ({reason})")
    if not column.is_category:
        _fit_scale(column, known, config.scale)
        _say_placeholder(column, known)
    return column, raw


def _say_placeholder(column: Column, known: np.ndarray) -> None:
    """Numbers such as -999, far below all others and met again and again, mostly stand for an empty cell."""
    if column.kind == "numeric" and len(known) and float(known.min()) in (-9.0, -99.0, -999.0, -9999.0, -99999.0):
        lowest = float(known.min())
        often = int((known == lowest).sum())
        if often > 1 and (known[known != lowest] >= 0).all():
            logger.warning(
                "column '%s': %g stands there %d times, below all other numbers; if it means an empty cell, set "
                "modalities.tabular.missing: ['', '?', 'NA', '%g']",
                column.name,
                lowest,
                often,
                lowest,
            )


def no_value(config: Config, kind: str) -> frozenset[str]:
    """What means an empty cell in a column of this kind."""
    if config.missing is not None:
        return frozenset(config.missing)
    return cells.NO_VALUE if kind in ("numeric", "date", "boolean") else cells.EMPTY


def present(values: Sequence[object], missing: Collection[str]) -> list[object]:
    """The values that are no empty cells."""
    return [value for value in values if not cells.is_missing(value, missing)]


def decimal_of(columns: Sequence[Sequence[object]], config: Config) -> str | None:
    """The sign before fractions that the columns of a table agree on, where their texts say one."""
    if config.decimal is not None:
        return config.decimal
    found = set()
    for values in columns:
        there = present(values, no_value(config, "numeric"))
        texts = {value.strip() for value in there if isinstance(value, str)}
        if not texts or len(texts) < len(set(map(str, there))):
            continue
        for decimal in (".", ","):
            other = "," if decimal == "." else "."
            if numbers_of(texts, decimal)[0] is not None and numbers_of(texts, other)[0] is None:
                found.add(decimal)
    return found.pop() if len(found) == 1 else None


def _find_notation(column: Column, values: Sequence[object], config: Config, decimal: str | None) -> None:
    """How the numbers or dates of a column are written, where they are text; what is not plain is said."""
    texts = {value.strip() for value in values if isinstance(value, str)}
    if not texts:
        return
    if column.kind == "date":
        order, _ = dates_of(texts)
        column.order = config.dates.get(column.name) or order or "iso"
        return
    found, is_open = numbers_of(texts, decimal)
    if found is None or found == Numbers():
        return
    column.decimal, column.group, column.unit, column.bounds = found.decimal, found.group, found.unit, found.bounds
    if found.bounds:
        texts = {text for text in texts if is_bound(text)}
    example = min(texts, key=lambda text: (found.value(text) == _as_float(text), text))
    doubt = "; no value says it for sure: set modalities.tabular.decimal where that is wrong" if is_open else ""
    say = logger.warning if is_open or found.bounds else logger.info
    say(
        "column '%s': %s is read as %g (%s%s)",
        column.name,
        cells.shown(example),
        found.value(example),
        found.text,
        doubt,
    )


def _as_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _fit_scale(column: Column, known: np.ndarray, scale: str) -> None:
    if column.kind == "date":
        column.clock = bool((known % cells.DAY != 0).any())
    elif scale == "quantile" and column.kind == "numeric" and len(known):
        column.knots, column.scaled = _normal_scores(known)
        return
    if len(known):
        column.mean, column.std = float(known.mean()), float(known.std()) or 1.0


def _normal_scores(known: np.ndarray) -> tuple[list[float], list[float]]:
    """Knots and what they map to: normal quantiles of the middle rank (ties share one), then mean 0 and variance 1."""
    ordered = np.sort(known)
    knots = np.unique(np.quantile(ordered, np.linspace(0, 1, KNOTS + 1), method="nearest"))
    rank = (np.searchsorted(ordered, knots, "left") + np.searchsorted(ordered, knots, "right")) / 2 / len(ordered)
    scores = np.array([NormalDist().inv_cdf(float(p)) for p in rank])
    every = np.interp(ordered, knots, scores)
    std = float(every.std()) or 1.0
    return knots.tolist(), ((scores - every.mean()) / std).tolist()


def _frequent(name: str, values: Sequence[object], config: Config) -> list[str]:
    """The categories that are kept, in alphabetical order."""
    counts: Counter[str] = Counter()
    for value in values:
        counts[cells.category_of(value)] += 1
    ranked = sorted((c for c in counts if counts[c] >= config.min_count), key=lambda c: (-counts[c], c))
    kept = ranked[: config.max_categories]
    if len(kept) < len(counts):
        share = 1 - sum(counts[c] for c in kept) / len(values)
        logger.warning(
            "column '%s': %d of %d categories are kept, the others (%.0f %% of the cells) are one called other%s",
            name,
            len(kept),
            len(counts),
            100 * share,
            "; is it an identifier or text?" if len(counts) > len(values) / 2 else "",
        )
    if dates_of(v for v in values if isinstance(v, str))[1]:
        example = min(v for v in values if isinstance(v, str))
        logger.warning(
            "column '%s': %s is a date, but no value says whether day or month comes first: the column is taken as "
            "words; set modalities.tabular.dates.%s: day_first or month_first",
            name,
            cells.shown(example),
            name,
        )
    elif 0.5 < cells.share_of_numbers(values) < 1:
        odd = next(v for v in values if cells.share_of_numbers([v]) == 0)
        codes = isinstance(odd, str) and odd.strip().isdigit()  # 01067: words on purpose
        (logger.info if codes else logger.warning)(
            "column '%s' is taken as categorical: most values are numbers, but %s is not; set types.%s: numeric, "
            "and missing if that means an empty cell",
            name,
            cells.shown(odd),
            name,
        )
    return sorted(kept)


def _levels(name: str, values: Sequence[object], order: Sequence[object] | None) -> list[str]:
    """The categories of an ordinal column in their order: the given one, else that of the numbers they are."""
    if order is not None:
        return [cells.category_of(level) for level in order]
    levels = {cells.category_of(value) for value in values}
    try:
        return sorted(levels, key=float)
    except ValueError:
        raise UserError(f"orders.{name}: an ordinal column of text needs its order, e.g. [low, middle, high]") from None


def _refuse_nested(name: str, values: Sequence[object]) -> None:
    for value in values:
        if isinstance(value, (list, tuple, dict, set, bytes, np.ndarray)):
            raise UserError(
                f"column '{name}' holds {type(value).__name__}, expected numbers, text, booleans or dates; "
                "leave it out of data.columns"
            )


def related(columns: Sequence[Column], raw: np.ndarray) -> list[list[int]]:
    """For each column all others, the one with the most mutual information first; raw: (n, N) unscaled cells.

    Numbers count by tenths, an empty cell is a value as any other. Ties: the earlier column first.
    """
    codes = np.stack([_levels_of(column, raw[:, i]) for i, column in enumerate(columns)], 1)
    n, count = codes.shape
    width = int(codes.max()) + 1 if codes.size else 1
    one_hot = np.zeros((n, count * width), np.float32)
    one_hot[np.arange(n)[:, None], codes + np.arange(count) * width] = 1
    marginal = one_hot.mean(0, dtype=np.float64).reshape(count, width)
    out = []
    for i in range(count):  # a column at a time: of all pairs at once 1,500 columns would take gigabytes
        own = one_hot[:, i * width : (i + 1) * width]
        part = (own.T @ one_hot / max(n, 1)).astype(np.float64).reshape(width, count, width)
        expected = marginal[i][:, None, None] * marginal[None]
        ratio = np.divide(part, expected, out=np.ones_like(part), where=part > 0)
        information = (part * np.log(ratio)).sum((0, 2))
        information[i] = np.inf
        out.append(np.argsort(-information, kind="stable")[1:].tolist())
    return out


def _levels_of(column: Column, raw: np.ndarray) -> np.ndarray:
    """(n,) small integers: bin or code, the last one for missing."""
    there = ~np.isnan(raw)
    out = np.full(len(raw), max(BINS, LEVELS) + 1, np.int64)
    if column.is_category:
        values, inverse, counts = np.unique(raw[there], return_inverse=True, return_counts=True)
        rank = np.empty(len(values), np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(values))
        out[there] = np.minimum(rank, LEVELS)[inverse]
    elif there.any():
        edges = np.unique(np.quantile(raw[there], np.linspace(0, 1, BINS + 1)[1:-1]))
        out[there] = np.searchsorted(edges, raw[there], "right")
    return out


def to_state(columns: Sequence[Column], links: Sequence[Sequence[int]]) -> dict[str, object]:
    """Columns and what `related` says of them, as JSON."""
    return {"columns": [asdict(column) for column in columns], "related": [list(row) for row in links]}


def from_state(state: dict[str, Any]) -> list[Column]:
    """The columns of what `to_state` gave."""
    return [Column(**column) for column in state["columns"]]
