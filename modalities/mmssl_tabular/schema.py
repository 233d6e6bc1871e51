"""What `fit` learns of each column, and which columns tell of each other. It travels with the model, as JSON."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.errors import BadSample, UserError

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

    def __post_init__(self) -> None:
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
                return cells.number_of(value)
            if self.kind == "date":
                return cells.seconds_of(value)
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


def fit_column(
    name: str, values: Sequence[object], kind: str | None, order: Sequence[object] | None, config: Config
) -> tuple[Column, np.ndarray]:
    """The column as its `values` (None = missing) say, and what they read as (NaN: missing or broken).

    Args:
        name: the column's.
        values: its cells, None where one is missing.
        kind: the type that the recipe says; None: it is found.
        order: the categories of an ordinal column that the recipe says, lowest first.
        config: the modality's options.

    Raises:
        UserError: no value can be read as the kind that was asked for.
    """
    there = [value for value in values if value is not None]
    _refuse_nested(name, there)
    kind = kind or ("ordinal" if order else cells.infer(there))
    column = Column(name, kind, 1 - len(there) / max(len(values), 1))
    if kind == "ordinal":
        column.categories = _levels(name, there, order)
    elif kind == "boolean":
        column.categories = list(cells.BOOLEANS)
    elif kind == "categorical":
        column.categories = _frequent(name, there, config)
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
    return column, raw


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
    if (found := cells.notation(values)) is not None:
        logger.warning(
            "column '%s' is taken as categorical, but %s looks like %s", name, cells.shown(found[0]), found[1]
        )
    elif 0.5 < cells.share_of_numbers(values) < 1:
        odd = next(v for v in values if cells.share_of_numbers([v]) == 0)
        logger.warning(
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
    joint = (one_hot.T @ one_hot / max(n, 1)).astype(np.float64).reshape(count, width, count, width)
    marginal = one_hot.mean(0, dtype=np.float64).reshape(count, width)
    out = []
    for i in range(count):
        expected = marginal[i][:, None, None] * marginal[None]
        part = joint[i]
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


def to_state(columns: Sequence[Column], links: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Columns and what `related` says of them, as JSON."""
    return {"columns": [asdict(column) for column in columns], "related": [list(row) for row in links]}


def from_state(state: dict[str, Any]) -> list[Column]:
    """The columns of what `to_state` gave."""
    return [Column(**column) for column in state["columns"]]
