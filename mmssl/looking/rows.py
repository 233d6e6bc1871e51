"""The rows of data as `mmssl check` looks at them: of each split, with what reads them and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import NoSplit, UserError
from ..evaluation.held_out import files_of, opened_rows
from ..modality import Preprocessor
from ..modality.table import label_name
from ..recipe.config import Recipe
from ..training.building import flat, open_training_data, readers_of
from .findings import NOTE, Finding

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class Rows:
    """Rows of each split, how they are read, and what is said of them."""

    recipe: Recipe
    splits: dict[str, Dataset]
    columns: dict[str, str | list[str]]
    readers: dict[str, Preprocessor]
    label: str | None
    group: str | None
    said: list[Finding] = field(default_factory=list)


def open_rows(recipe: Recipe) -> Rows:
    """The splits of a recipe's data. UserError, as of a run."""
    opened = open_training_data(recipe)
    data, evaluation = recipe.data, recipe.evaluation
    readers = readers_of(recipe.modalities)
    columns = {name: opened.columns[name] for name in readers}
    if not hasattr(opened.source, "__len__"):
        raise UserError("data.streaming: found true, expected false: rows are looked at here and there")
    splits: dict[str, Dataset] = {data.split: opened.source}
    if opened.held is not None:
        splits["held out"] = opened.held.rows.select(opened.held.held)
    for split in ("validation", evaluation.split):
        if split in splits or data.split == "all":
            continue
        try:
            words = set(flat(columns.values()))
            found = opened_rows(data, data.path, data.name, split, words, files_of(data, readers, columns))
            splits[split] = found
        except NoSplit:
            continue
    label = evaluation.label or label_name(opened.source.column_names or ())
    label = None if label in set(flat(columns.values())) else label
    said = [] if opened.held is None else [Finding(NOTE, "held-out", opened.said[-1])]
    group = evaluation.group if evaluation.group in (opened.source.column_names or ()) else None
    return Rows(recipe, splits, columns, readers, label, group, said)
