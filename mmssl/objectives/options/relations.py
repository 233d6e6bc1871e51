"""Options of what columns of the data say of pairs of samples: see `mmssl.objectives.parts.relations`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UserError
from ...options import SET, Needs, needs, option, strict
from .labels import LabelColumn


def label_column(name: str | list[str], kind: str, where: str) -> LabelColumn:
    """What is asked of the data."""
    return LabelColumn(name if isinstance(name, str) else tuple(name), kind, where)


@strict
@dataclass(kw_only=True)
class PositiveOptions:
    """Which other samples a sample belongs with."""

    column: str | list[str] = option(help="column(s) that are equal for samples that belong together")
    within: float | None = option(
        None, min=0, max=1e12, help="of a column of numbers: they lie at most so far apart (slices, times, ages)"
    )
    grade: str | None = option(
        None, help="column of numbers: how much a sample's key is to those it belongs with; at 0 it is a negative"
    )
    form: str = option(
        "outside",
        choices=("outside", "inside", "each"),
        help="several positives: mean of the logarithms (SupCon), logarithm of the sum (LOOK), or each told from the "
        "negatives alone",
    )
    pair: bool = option(True, help="the sample's own other side is a positive, too; false: it is no key at all")

    def __post_init__(self) -> None:
        if not self.column:
            raise UserError("column: found none, expected the name of a column, or a list of names")
        if self.within is not None and not isinstance(self.column, str):
            raise UserError(f"within: found {self.within:g} with columns {self.column}, expected a single column")


@strict
@dataclass(kw_only=True)
class RelationOptions:
    """Which samples belong together, and which are told apart, by columns of the data."""

    positives: PositiveOptions | None = option(
        None, help="samples that belong together beside each with itself (SupCon); null: none do"
    )
    negatives_column: str | list[str] | None = option(
        None, help="column(s): a sample is told from others only by what they say of both; null: from all"
    )
    negatives_of: str = option(
        "same", choices=("same", "other"), help="of the same value, as of one cluster (MCL), or of another one"
    )
    neighbours: int | None = option(
        None, min=1, max=1_000_000, help="only so many keys are compared, the nearest to what asks (LOOK); null: all"
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (needs("negatives_of", negatives_column=SET),)

    @property
    def related(self) -> bool:
        """Whether columns or neighbours say what a sample is compared with."""
        return self.positives is not None or bool(self.negatives_column) or self.neighbours is not None

    @property
    def columns(self) -> dict[str, LabelColumn]:
        """Role -> what is asked of the data: together, grade, apart."""
        found = {}
        if self.positives is not None:
            kind = "id" if self.positives.within is None else "number"
            found["together"] = label_column(self.positives.column, kind, "positives.column")
            if self.positives.grade is not None:
                found["grade"] = label_column(self.positives.grade, "number", "positives.grade")
        if self.negatives_column:
            found["apart"] = label_column(self.negatives_column, "id", "negatives_column")
        return found

    @property
    def label_columns(self) -> tuple[LabelColumn, ...]:
        """As of every objective."""
        return tuple(self.columns.values())
