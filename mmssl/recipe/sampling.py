"""`data.sampler`: which samples are together in a batch, and how often they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..options import needs, option, strict
from ..options.schema import BAD, Draft, Faults

KINDS = ("distinct", "same", "together", "balanced", "weighted", "paced", "kept")
NUMBERS = ("weighted", "paced", "kept")
"""Kinds whose column holds numbers."""


@strict
@dataclass(kw_only=True)
class SamplerConfig:
    """The order of the samples goes by a column of the data, or of a file about their rows."""

    kind: str = option(
        choices=KINDS,
        help="distinct: at most one of a value in a batch; same: a batch of one value; together: rows of a value "
        "one behind the other; balanced: as many of each; weighted: as often as the number says; paced: the best "
        "first, more from epoch to epoch; kept: a share of the rows alone, the best ones",
    )
    column: str | list[str] = option(
        help="the values: groups or clusters, or several columns that tell them together; of weighted, paced and kept "
        "numbers"
    )
    file: str | None = option(None, local=True, help="a file of `mmssl cluster`, or any with a row a row, that has it")
    start: float = option(0.2, above=0, max=1, help="share of the rows in the first epoch of paced")
    over: int = option(10, min=1, max=1_000_000, help="epochs after which all rows come")
    order: str = option("highest", choices=("highest", "lowest"), help="which numbers of paced and kept are the best")
    keep: float = option(0.5, above=0, max=1, help="share of the rows that kept keeps")
    each: str | None = option(None, help="a column: kept keeps as many rows of each of its values")

    @property
    def columns(self) -> list[str]:
        """The columns."""
        return [self.column] if isinstance(self.column, str) else self.column

    NEEDS = (
        needs("start", "over", kind="paced"),
        needs("order", kind=("paced", "kept")),
        needs("keep", "each", kind="kept"),
    )


def check_sampler(data: Any, faults: Faults) -> None:
    """Add a fault where the data are streams or several."""
    sampler = BAD if data is BAD else data.sampler
    if sampler is BAD or sampler is None or isinstance(sampler, Draft):
        return
    if sampler.kind in NUMBERS and not isinstance(sampler.column, str):
        faults.append(f"data.sampler.column: found a list, expected one column of numbers for {sampler.kind}")
    if sampler.column == []:
        faults.append("data.sampler.column: found none, expected a column, or several")
    if data.streaming is True:
        faults.append(
            f"data.sampler: found {sampler.kind}, but the rows of a stream come as they lie; expected streaming: false"
        )
    if data.mix not in (BAD, {}):
        faults.append(
            f"data.sampler: found {sampler.kind} beside data.mix, whose order goes by weight and repeat; expected one"
        )
