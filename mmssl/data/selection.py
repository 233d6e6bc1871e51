"""Which rows: of a split, of those that a column `split` names, so many of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from mmssl.errors import NoSplit, nearest

from .explained import stream_rows
from .sampler import order

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .shards import Row

    Source: TypeAlias = Dataset | IterableDataset

SPLIT_NAMES = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}


def column_names(source: Source) -> list[str]:
    """Names of the columns; those of the first row where a stream does not declare them."""
    names = source.column_names
    return list(next(iter(source), {}) if names is None else names)


def no_split(what: str, split: str, known: Sequence[str]) -> NoSplit:
    """The error of a split that is not there."""
    return NoSplit(
        f"data.split: {what} has no split '{split}', its splits are {', '.join(known)}{nearest(split, known)}"
    )


def pick(splits: Mapping[str, Source], split: str, what: str) -> Source:
    """One of several opened splits."""
    if list(splits) == ["train"]:
        return rows_of_split(splits["train"], split, what)
    if split in splits:
        return splits[split]
    raise no_split(what, split, [str(key) for key in splits])


def rows_of_split(source: Source, split: str, what: str) -> Source:
    """Rows of `split` of data that has no named splits: by its column `split`, or all of it, which is "train"."""
    import datasets

    values: list[Any] = []
    if "split" in column_names(source):
        if isinstance(source, datasets.Dataset):
            values = source.with_format(None)["split"][:]
        else:
            values = [row["split"] for row in source.select_columns(["split"]).take(1000)]
    known = sorted({value for value in values if isinstance(value, str)})
    if split not in known and not SPLIT_NAMES & {value.lower() for value in known}:
        if split not in ("train", str(getattr(source, "split", None))):
            raise no_split(what, split, ["train"])
        return source
    if isinstance(source, datasets.IterableDataset):
        chosen = source.filter(_Says(split), batched=True)
        if is_empty(chosen):
            raise no_split(what, split, known)
        return chosen
    if split not in known:
        raise no_split(what, split, known)
    return source.select(np.flatnonzero(np.array(values, dtype=object) == split))


class _Says:
    """A filter on the column `split` (a class: worker processes need to pickle it)."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __call__(self, batch: dict[str, list[object]]) -> list[bool]:
        return [value == self.split for value in batch["split"]]


def _has_text(row: Row) -> bool:
    return bool(row["text"].strip())


def without_blank_lines(source: Source) -> Source:
    """A text file's lines without the blank ones, which are no samples."""
    import datasets

    if isinstance(source, datasets.IterableDataset):
        return source.filter(_has_text)
    return source.select([index for index, line in enumerate(source["text"]) if line.strip()])


def limited(source: Source, limit: int | None) -> Source:
    """So many rows: a fixed random selection, of a stream the first ones."""
    import datasets

    if limit is None:
        return source
    if isinstance(source, datasets.IterableDataset):
        return source.take(limit)
    return source.select(np.sort(order(len(source), 0, 0)[:limit])) if limit < len(source) else source


def row_numbers(source: Source) -> Sequence[int] | None:
    """Of each row of a selection, its number in the data that were selected from; None where all rows are there."""
    chosen = getattr(source, "_indices", None)  # `datasets` has no public way to ask
    return None if chosen is None else chosen.column(0).to_numpy()


def place_of(source: Source) -> Callable[[int], tuple[str | None, int]] | None:
    """A function from the number of a row of a selection to (None, its number in the data); None: the same number."""
    numbers = row_numbers(source)
    return None if numbers is None else lambda index: (None, int(numbers[index]))


def is_empty(source: Source) -> bool:
    """Whether there is no row; of a stream the first one is read."""
    import datasets

    if isinstance(source, datasets.IterableDataset):
        return next(stream_rows(source), None) is None
    return len(source) == 0
