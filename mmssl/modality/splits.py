"""Splits of a data set that a modality opens in its own way (`Preprocessor.open_rows`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NoSplit, nearest

if TYPE_CHECKING:
    from datasets import Dataset

ALL = "all"
"""Every row, whatever split it is of."""


def of_split(rows: Dataset, split: str, what: str) -> Dataset:
    """The rows of a split: those of which the column `split` says so; without such a column all are "train".

    what: the data as the user called them, for the error. Raises NoSplit, so that rows are held out where none are.
    """
    if split == ALL:
        return rows
    said: list[object] = list(rows["split"]) if "split" in rows.column_names else ["train"] * len(rows)
    chosen = [number for number, name in enumerate(said) if name == split]
    if not chosen:
        known = sorted({str(name) for name in said if name is not None})
        raise NoSplit(
            f"data.split: '{what}' has no split '{split}', its splits are {', '.join(known) or 'none'}"
            f"{nearest(split, known)}"
        )
    return rows if len(chosen) == len(rows) else rows.select(chosen)
