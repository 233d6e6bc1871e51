"""Options of the tabular modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mmssl.errors import UserError
from mmssl.modality.view import View as Base
from mmssl.options import option, strict

KINDS = ("numeric", "categorical", "boolean", "ordinal", "date")


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for tables. Types that are not set are found on the data."""

    types: dict[str, str] = option(factory=dict, choices=KINDS, help="column -> type, where the guess is wrong")
    orders: dict[str, list[Any]] = option(factory=dict, help="ordinal column -> its categories, lowest first")
    scale: str = option("quantile", choices=("quantile", "standard"), help="how numbers are scaled")
    max_categories: int = option(
        256, min=1, max=1_000_000, help="the most frequent ones of a column; the others become one"
    )
    min_count: int = option(1, min=1, max=1_000_000_000, help="rarer categories become one called other")
    missing: list[str] | None = option(
        None, help="what means an empty cell; null: no text and ?, and in numbers and dates also NA, NaN, null, - ..."
    )
    decimal: str | None = option(None, choices=(".", ","), help="sign before fractions; null: found, column by column")
    dates: dict[str, str] = option(
        factory=dict, choices=("day_first", "month_first"), help="column -> which of 3/4/2024, where no value says it"
    )

    def __post_init__(self) -> None:
        for name in self.orders:
            if self.types.get(name, "ordinal") != "ordinal":
                raise UserError(f"orders.{name}: found an order, but types.{name} is {self.types[name]}")


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view; they are applied in this order, 0 or null leaves a step out."""

    crossing: ClassVar[tuple[str, ...]] = ("resample",)

    noise_std: float = option(0.0, min=0, max=1_000, help="added to numbers, in standard deviations of the column")
    resample: float = option(0.0, min=0, max=1, help="share of the cells that take another row's value (SCARF)")
    correlated: str | None = option(
        None, choices=("seed", "rest"), help="hide a column and those it tells most of, or all the others"
    )
    drop: float = option(0.0, min=0, below=1, help="share of the cells that are hidden, independently")
    alike: bool = option(False, help="all rows of a batch undergo the same, such as one hidden set: one draw for all")
