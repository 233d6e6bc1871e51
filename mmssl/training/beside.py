"""Columns about the rows that are not among those of the data: of `data.beside`, and of `data.renewed`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..data.row_files import about_of, read_values, refuse_others
from ..errors import UserError
from .labels import Labels
from .renewing import GivenColumns, Renewed, open_renewed
from .sampling import order_of, waits

if TYPE_CHECKING:
    from ..data.orders import Order
    from ..recipe.config import Recipe
    from .building import TrainingData


class Beside:
    """What is known of the rows that are trained on beside their own columns.

    Attributes:
        renewed: the columns that the model gives; None: none.
    """

    def __init__(self, recipe: Recipe, opened: TrainingData, renewed: GivenColumns | None = None) -> None:
        """UserError where the file of `data.beside` belongs to other data, or has a column that these have, too."""
        self.path, self.opened, self.renewed = recipe.data.beside, opened, renewed
        self.names: list[str] = []
        self._read: dict[str, list[Any]] = {}
        if self.path is not None:
            import pyarrow.parquet as pq

            refuse_others(self.path, about_of(self.path, "data.beside"), opened.whole(), "data.beside")
            self.names = list(pq.read_schema(self.path).names)
        if renewed is not None:
            both = [name for name in renewed.names if name in self.names]
            if both:
                raise UserError(
                    f"data.renewed: '{self.path}' has a column '{both[0]}' already; expected one of the two"
                )

    def __contains__(self, name: str) -> bool:
        """Whether there is a column of that name which the data have not."""
        own = self.opened.source.column_names or ()
        return name not in own and (self.gives(name) or name in self.names)

    def gives(self, name: str) -> bool:
        """Whether the model gives it."""
        return self.renewed is not None and name in self.renewed.names

    @property
    def known(self) -> list[str]:
        """All names, for messages."""
        return [*self.names, *([] if self.renewed is None else self.renewed.names)]

    def values(self, name: str, option: str) -> list[Any]:
        """(n,) a column, of the rows that are trained on. option: for messages."""
        if self.renewed is not None and self.gives(name):
            return self.renewed.values(name)
        assert self.path is not None
        if name not in self._read:
            values = read_values(self.path, name, option)
            numbers = self.opened.numbers
            self._read[name] = values if numbers is None else [values[row] for row in numbers.tolist()]
        return self._read[name]


def about_rows(recipe: Recipe, opened: TrainingData) -> tuple[Beside | None, Renewed | None]:
    """What is known of the rows beside their own columns, and what gives some of it while it trains.

    Raises UserError for what cannot be, or for clusters that nobody asks for.
    """
    renewed = open_renewed(recipe, opened)
    columns = None if renewed is None else renewed.columns
    if recipe.data.beside is None and renewed is None:
        return None, None
    beside = Beside(recipe, opened, columns)
    if renewed is not None and waits(recipe, columns):
        renewed.order = lambda: cast("Order", order_of(recipe, opened, beside))
    return beside, renewed


def follow(renewed: Renewed, labels: Labels) -> None:
    """Have labels follow what a run gives. UserError where nobody asks for any of it."""
    names = set(renewed.columns.names)
    asked = [one for one in labels.given.values() if names & set(one.wanted.columns)]
    if not asked and renewed.order is None:
        known = ", ".join(renewed.columns.names)
        raise UserError(f"data.renewed: found it, but neither data.sampler nor an objective asks for {known}")
    renewed.again += [one.again for one in asked]
