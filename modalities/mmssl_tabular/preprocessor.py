"""Options of the tabular modality, and its `Preprocessor`: rows of a table to scaled numbers and codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from mmssl import modality as base
from mmssl.errors import UserError, nearest
from mmssl.modality import Inputs
from mmssl.options import option, strict

from . import cells, schema

EMPTY = ["", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"]


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for tables. Types that are not set are found on the data."""

    types: dict[str, str] = option(factory=dict, choices=cells.KINDS, help="column -> type, where the guess is wrong")
    orders: dict[str, list[Any]] = option(factory=dict, help="ordinal column -> its categories, lowest first")
    scale: str = option("quantile", choices=("quantile", "standard"), help="how numbers are scaled")
    max_categories: int = option(256, min=1, help="the most frequent ones of a column; the others become one")
    min_count: int = option(1, min=1, help="rarer categories become one called other")
    missing: list[str] = option(factory=lambda: list(EMPTY), help="text that means an empty cell")

    def __post_init__(self) -> None:
        for name in self.orders:
            if self.types.get(name, "ordinal") != "ordinal":
                raise UserError(f"orders.{name}: found an order, but types.{name} is {self.types[name]}")


class Preprocessor(base.Preprocessor):
    """Rows to {"cells": (B, N, P) float32, "present": (B,) bool, left out when all are}.

    N columns in the order of the data that was fitted on; P is 7 where there are dates, else 1. A cell is a scaled
    number, a code (0: other), or NaN: missing. Elements that a column has not are NaN too.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._missing = frozenset(config.missing)
        self._columns: tuple[Any, list[schema.Column]] = (None, [])

    @property
    def columns(self) -> list[schema.Column]:
        """The schema. Raises UserError before `fit`."""
        if not self.state:
            raise UserError("the tabular preprocessor is not fitted: call fit(rows)")
        if self._columns[0] is not self.state:
            self._columns = (self.state, schema.from_state(self.state))
        return self._columns[1]

    def __call__(self, raw: Sequence[Any]) -> Inputs:
        """Rows as dicts or pandas Series (None = absent), a pandas DataFrame, an Arrow table, or a list of these."""
        rows: list[Any] = []
        for value in [raw] if hasattr(raw, "columns") or hasattr(raw, "to_pylist") else raw:
            if hasattr(value, "to_pylist"):
                rows.extend(value.to_pylist())
            elif hasattr(value, "columns") and hasattr(value, "to_dict"):
                rows.extend(value.to_dict("records"))
            else:
                rows.append(value)
        return super().__call__(rows)

    def fit(self, samples: Iterable[Any]) -> Self:
        """Find each column's type, categories and scale, and which columns tell of each other."""
        rows = [self._row(sample) for sample in samples if sample is not None]
        if not rows:
            raise UserError("no sample holds a row to learn the columns from")
        names = list(rows[0])
        for option_name in ("types", "orders"):
            for name in getattr(self.config, option_name):
                if name not in names:
                    raise UserError(
                        f"{option_name}.{name}: no such column, they are {', '.join(names)}{nearest(name, names)}"
                    )
        fitted, raw = [], []
        for name in names:
            try:
                values = [None if cells.is_missing(row[name], self._missing) else row[name] for row in rows]
            except KeyError:
                raise UserError(f"rows differ in their columns: some have '{name}', some have not") from None
            order = self.config.orders.get(name)
            column, read = schema.fit_column(name, values, self.config.types.get(name), order, self.config)
            fitted.append(column)
            raw.append(read)
        self.state = schema.to_state(fitted, schema.related(fitted, np.stack(raw, 1)))
        return self

    @staticmethod
    def _row(raw: Any) -> Mapping[str, Any]:
        if isinstance(raw, Mapping):
            return raw
        if hasattr(raw, "to_dict") and hasattr(raw, "index"):  # a pandas Series: a row of a DataFrame
            return dict(raw.to_dict())
        raise UserError(
            f"a row of a table is a dict of its columns' values, found {type(raw).__name__}; "
            "in a recipe list them: data.columns: {tabular: [age, income]}"
        )

    def read(self, raw: Any, choice: int = 0) -> np.ndarray | None:
        """One row to (N,) float64 numbers and codes, before scaling; NaN where missing. None: every cell is missing.

        Raises BadSample for a cell that is not of its column's type, UserError where columns are missing or unknown.
        """
        row, columns = self._row(raw), self.columns
        if len(row) != len(columns) or any(column.name not in row for column in columns):
            raise UserError(self._differences(row))
        out = np.full(len(columns), np.nan)
        for i, column in enumerate(columns):
            value = row[column.name]
            if not cells.is_missing(value, self._missing):
                out[i] = column.read(value)
        return None if np.isnan(out).all() else out

    def _differences(self, row: Mapping[str, Any]) -> str:
        known = [column.name for column in self.columns]
        lacking = [name for name in known if name not in row]
        extra = [name for name in row if name not in known]
        parts = [f"no column {', '.join(map(repr, lacking))}"] if lacking else []
        if extra:
            parts.append(f"unknown column {', '.join(map(repr, extra))}{nearest(extra[0], lacking or known)}")
        return f"the table's columns do not fit the model: {'; '.join(parts)} (it knows {', '.join(known)})"

    def collate(self, samples: Sequence[np.ndarray | None]) -> Inputs:
        """What `read` returned (None = absent) to scaled cells; absent rows are NaN throughout."""
        columns = self.columns
        blank = np.full(len(columns), np.nan)
        raw = np.stack([blank if sample is None else sample for sample in samples])
        out = np.full((len(samples), len(columns), max(c.elements for c in columns)), np.nan, np.float32)
        for i, column in enumerate(columns):
            out[:, i, : column.elements] = column.scale(raw[:, i])
        inputs = {"cells": torch.from_numpy(out)}
        present = torch.tensor([sample is not None for sample in samples], dtype=torch.bool)
        return inputs if bool(present.all()) else inputs | {"present": present}

    def sizes(self) -> dict[str, Any]:
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
