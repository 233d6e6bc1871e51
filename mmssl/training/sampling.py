"""The order of the samples that a recipe asks for (`data.sampler`), from a column that is opened with its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..boundary import read_json_object
from ..data.orders import Balanced, Distinct, Kept, Numbers, Order, Paced, Same, Together, Weighted, codes_of
from ..data.row_files import about_of, read_values, refuse_others
from ..errors import RunError, UserError, nearest, one_line
from ..files import write_whole

if TYPE_CHECKING:
    from ..recipe.config import Recipe
    from .beside import Beside
    from .building import TrainingData
    from .renewing import GivenColumns

KEPT = "sampler.json"
GROUPED: dict[str, Callable[[int, int, Numbers], Order]] = {
    "distinct": Distinct.of,
    "same": Same.of,
    "together": Together.of,
    "balanced": Balanced.of,
}
"""Kind -> what makes it of a seed, a batch size, and a number a row."""


def waits(recipe: Recipe, renewed: GivenColumns | None) -> bool:
    """Whether the order goes by columns that the model in training gives, so that there is none before it did."""
    asked = recipe.data.sampler
    if asked is None or renewed is None or asked.file is not None:
        return False
    return any(name in renewed.names for name in (*asked.columns, asked.each))


def order_of(recipe: Recipe, opened: TrainingData, beside: Beside | None = None) -> Order | None:
    """The order of the rows that are trained on; None: the plain one. beside: columns which the data have not.

    Raises UserError where the column is not there or says nothing, its file is about other data, or no batch can be
    made by it.
    """
    asked = recipe.data.sampler
    if asked is None:
        return None
    columns = [_values(recipe, opened, name, beside) for name in asked.columns]
    seed, size = recipe.seed, recipe.train.batch_size
    if asked.kind in GROUPED:
        codes = np.stack([codes_of(values) for values in columns])
        told = [None if min(row) < 0 else tuple(row) for row in codes.T.tolist()]  # of several: what all say together
        codes = codes_of(told)
        if codes.max(initial=-1) < 0:
            raise UserError(f"data.sampler.column: no row has a value in {', '.join(asked.columns)}")
        return GROUPED[asked.kind](seed, size, codes)
    numbers = _numbers(columns[0], asked.columns[0])
    if asked.kind == "weighted":
        return Weighted.of(seed, size, numbers)
    if asked.kind == "kept":
        parts = None if asked.each is None else codes_of(_values(recipe, opened, asked.each, beside))
        return Kept.of(seed, size, numbers, asked.keep, asked.order == "lowest", parts)
    return Paced.of(seed, size, numbers, asked.start, asked.over, asked.order == "lowest")


def _values(recipe: Recipe, opened: TrainingData, name: str, beside: Beside | None) -> list[Any]:
    """A column's values, of the rows that are trained on."""
    asked, source = recipe.data.sampler, opened.source
    assert asked is not None
    if asked.file is None:
        if beside is not None and name in beside:
            return beside.values(name, "data.sampler.column")
        known = [*(source.column_names or []), *([] if beside is None else beside.known)]
        if name not in known:
            raise UserError(
                f"data.sampler.column: the data has no column '{name}', its columns are {', '.join(known)}"
                f"{nearest(name, known)}; data.sampler.file names a file that has it"
            )
        return list(source.with_format(None)[name])
    about = about_of(asked.file, "data.sampler.file")
    refuse_others(asked.file, about, opened.whole(), "data.sampler.file")
    values = read_values(asked.file, name, "data.sampler.column")
    return values if opened.numbers is None else [values[row] for row in opened.numbers.tolist()]


def _numbers(values: list[Any], name: str) -> np.ndarray:
    """A column as numbers, nan where there is none."""
    found = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        try:
            found[row] = np.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            what = type(value).__name__
            raise UserError(f"data.sampler.column: '{name}' holds {what} in row {row}, expected numbers") from None
    return found


def said_of(order: Order, recipe: Recipe) -> str:
    """What a reader should know of an order."""
    asked = recipe.data.sampler
    assert asked is not None
    rows = np.unique(order.epoch(0)[0])
    left = order.size - len(rows)
    more = f"; {left:,} of {order.size:,} rows are not in the first one" if left else ""
    return f"data.sampler: {asked.kind} by {', '.join(asked.columns)}, {order.steps:,} steps an epoch{more}"


def keep_order(order: Order, folder: Path, resume: bool) -> None:
    """Keep what the first epoch is, by a hash; UserError where a run that goes on would have another."""
    place = folder / KEPT
    now = {"sha256": hashlib.sha256(order.epoch(0)[0].tobytes()).hexdigest()}
    if resume and place.is_file():
        if read_json_object(place, f"{place}") != now:
            raise UserError("--resume: data.sampler's column says something else than when the run was started")
        return
    try:
        write_whole(place, json.dumps(now) + "\n")
    except OSError as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error
