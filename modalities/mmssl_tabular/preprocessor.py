"""Options of the tabular modality, and its `Preprocessor`: rows of a table to scaled numbers and codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmssl import modality as base
from mmssl.errors import UserError, nearest
from mmssl.modality import Inputs, with_present
from mmssl.modality.looked import Looked
from mmssl.modality.table import Column, Table

from . import cells, schema
from .options import Config

Cells = NDArray[np.float64]
"""(N,) one row: numbers and codes before scaling, NaN where missing."""


def _no_cell(column: Column) -> str | None:
    """Why a column is no column of cells."""
    if not column.values:
        return "empty"
    if not column.is_plain:
        return "no plain values"
    return "running text" if column.is_running_text else column.identifier


class Preprocessor(base.Preprocessor[Cells]):
    """Rows to {"cells": (B, N, P) float32, "present": (B,) bool, left out when all are}.

    N columns in the order of the data that was fitted on; P is 7 where there are dates, else 1. A cell is a scaled
    number, a code (0: other), or NaN: missing. Elements that a column has not are NaN too.
    """

    noun = "a row"
    fitted_by = "call fit(rows)"
    takes_the_rest = True
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._schema: tuple[dict[str, object] | None, list[schema.Column]] = (None, [])

    @property
    def columns(self) -> list[schema.Column]:
        """The schema. Raises UserError before `fit`."""
        state = self.fitted()
        if self._schema[0] is not state:
            self._schema = (state, schema.from_state(state))
        return self._schema[1]

    def __call__(self, raw: Sequence[object]) -> Inputs:
        """Rows as dicts or pandas Series (None = absent), a pandas DataFrame, an Arrow table, or a list of these."""
        rows: list[object] = []
        for value in [raw] if hasattr(raw, "columns") or hasattr(raw, "to_pylist") else raw:
            if hasattr(value, "to_pylist"):
                rows.extend(value.to_pylist())
            elif hasattr(value, "columns") and hasattr(value, "to_dict"):
                rows.extend(value.to_dict("records"))
            else:
                rows.append(value)
        return super().__call__(rows)

    def own_columns(self) -> list[str] | None:
        """Those of the schema."""
        return [column.name for column in self.columns] if self.state else None

    def default_columns(self, table: Table) -> list[str] | None:
        """All columns with plain values but identifiers, running text, and what has been taken."""
        chosen = []
        for name, column in table.columns.items():
            why = table.taken.get(name) or _no_cell(column)
            if why is None:
                chosen.append(name)
            else:
                table.left_out[name] = why
        return chosen or None

    def fit(self, samples: Iterable[object]) -> Self:
        """Find each column's type, categories and scale, and which columns tell of each other.

        Raises:
            UserError: there is no row, rows differ in their columns, or the recipe names one that is not there.
        """
        rows = list(self.readable(samples, self._row))
        names = list(rows[0])
        for option_name in ("types", "orders", "dates"):
            for name in getattr(self.config, option_name):
                if name not in names:
                    raise UserError(
                        f"{option_name}.{name}: no such column, they are {', '.join(names)}{nearest(name, names)}"
                    )
        fitted, raw = [], []
        try:
            values = {name: [row[name] for row in rows] for name in names}
        except KeyError as error:
            raise UserError(f"rows differ in their columns: some have {error}, some have not") from None
        config = self.config
        types = {**dict.fromkeys(config.dates, "date"), **config.types}
        decimal = schema.decimal_of(list(values.values()), config)
        for name in names:
            column, read = schema.fit_column(
                name, values[name], types.get(name), config.orders.get(name), config, decimal
            )
            fitted.append(column)
            raw.append(read)
        self.state = schema.to_state(fitted, schema.related(fitted, np.stack(raw, 1)))
        return self

    @staticmethod
    def _row(raw: object) -> Mapping[str, object]:
        if isinstance(raw, Mapping):
            return raw
        if hasattr(raw, "to_dict") and hasattr(raw, "index"):  # a pandas Series: a row of a DataFrame
            return dict(raw.to_dict())
        raise UserError(
            f"a row of a table is a dict of its columns' values, found {type(raw).__name__}; "
            "in a recipe list them: data.columns: {tabular: [age, income]}"
        )

    def read(self, raw: object, choice: int = 0) -> Cells | None:
        """One row to numbers and codes.

        Args:
            raw: a dict of the columns' values, or a pandas Series.
            choice: of no use here.

        Returns:
            (N,) float64 before scaling, NaN where missing; None: every cell is missing.

        Raises:
            BadSample: a cell that is not of its column's type.
            UserError: columns are missing or unknown.
        """
        row, columns = self._row(raw), self.columns
        if len(row) != len(columns) or any(column.name not in row for column in columns):
            raise UserError(self._differences(row))
        out = np.full(len(columns), np.nan)
        for i, column in enumerate(columns):
            value = row[column.name]
            empty = cells.is_missing(value, schema.no_value(self.config, column.kind))
            if not empty and not (column.absent and cells.is_missing(value, column.absent)):
                out[i] = column.read(value)
        return None if np.isnan(out).all() else out

    def look(self, raw: object) -> Looked | None:
        """The cells; those of numbers are channels of one value, so that they have statistics."""
        row = self.read(raw)
        if row is None:
            return None
        known = [(c, float(v)) for c, v in zip(self.columns, row, strict=True) if not np.isnan(v)]
        numbers = {c.name: np.array([v]) for c, v in known if not c.is_category}
        return Looked({"cells": float(len(known))}, numbers, cells={c.name: v for c, v in known})

    def _differences(self, row: Mapping[str, object]) -> str:
        known = [column.name for column in self.columns]
        lacking = [name for name in known if name not in row]
        extra = [name for name in row if name not in known]
        parts = [f"no column {', '.join(map(repr, lacking))}"] if lacking else []
        if extra:
            parts.append(f"unknown column {', '.join(map(repr, extra))}{nearest(extra[0], lacking or known)}")
        return f"the table's columns do not fit the model: {'; '.join(parts)} (it knows {', '.join(known)})"

    def variants(self, raw: object) -> int:
        """1: a value is read alike each time."""
        return 1

    def collate(self, samples: Sequence[Cells | None]) -> Inputs:
        """What `read` returned (None = absent) to scaled cells; absent rows are NaN throughout."""
        columns = self.columns
        blank = np.full(len(columns), np.nan)
        raw = np.stack([blank if sample is None else sample for sample in samples])
        out = np.full((len(samples), len(columns), max(c.elements for c in columns)), np.nan, np.float32)
        for i, column in enumerate(columns):
            out[:, i, : column.elements] = column.scale(raw[:, i])
        return with_present({"cells": torch.from_numpy(out)}, samples)

    def sizes(self) -> dict[str, object]:
        """What the `Modality` is built with."""
        return {
            "columns": [
                {
                    "name": column.name,
                    "categories": len(column.categories) if column.is_category else None,
                    "elements": column.elements,
                    "missing": column.missing > 0,
                }
                for column in self.columns
            ],
            "related": self.state["related"],
        }
