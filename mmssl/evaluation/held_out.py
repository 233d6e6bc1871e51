"""The rows that an evaluation looks at, opened: those to measure on, those that probes learn from, those outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import limits
from ..data.sources import Columns, open_source, used_columns
from ..errors import NoSplit
from .rows import subset

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source
    from ..recipe.config import DataConfig, EvaluationConfig

DEFAULT_SPLIT = "test"


@dataclass
class Sources:
    """test: held-out rows, None when there are none; train: rows for the probes; split: what they are called."""

    test: Dataset | None
    train: Dataset | None
    split: dict[str, str | None]
    notes: list[str] = field(default_factory=list)
    same_rows: bool = False


def read_columns(config: EvaluationConfig, columns: Columns, modalities: Iterable[str] = ()) -> set[str]:
    """The columns that modalities read, the label aside: in csv files they are words, and a label may be a number."""
    return {*used_columns({**{name: name for name in modalities}, **columns})} - {config.label or "label"}


def open_sources(
    data: DataConfig, config: EvaluationConfig, seed: int, train_source: Source | None, words: set[str]
) -> Sources:
    """The test rows, and the rows that probes learn from: the training split of the data that is tested on where it
    has one, else the pretraining data (`train_source` when that is open already); words: see `open_source`."""
    limits.apply(data.limits)
    path = config.path or data.path
    elsewhere = config.path is not None and config.path != data.path
    name = config.name or (None if elsewhere else data.name)
    notes: list[str] = []

    def opened(path: str, name: str | None, split: str, limit: int | None = None) -> Source:
        return open_source(
            path,
            name=name,
            split=split,
            streaming=data.streaming,
            limit=limit,
            words=words,
            fetch=data.fetch,
            reading=data.reading,
        )

    def limited(source: Source, limit: int | None, extra: int) -> Dataset:
        rows, remark = subset(source, limit, seed + extra, data.shuffle_buffer)
        notes.extend([remark] if remark else [])
        return rows

    split = config.split
    test = _or_none(opened, path, name, split, config.split == DEFAULT_SPLIT)
    if test is None and elsewhere:
        # other data than the model was trained on is held out whatever its only split is called
        split = "train"
        test = _or_none(opened, path, name, split, True)
    train = None
    if elsewhere and split != data.split:
        train = _or_none(opened, path, name, data.split, True)
    if train is None:
        given = train_source is not None
        train = train_source if given else opened(data.path, data.name, data.split, data.limit)
    same = not elsewhere and split == data.split and name == data.name
    rows = None if test is None else limited(test, config.limit, 0)
    return Sources(
        rows,
        limited(train, config.train_limit, 1),
        {"test": split if rows is not None else None, "train": data.split},
        notes,
        same,
    )


def _or_none(
    opened: Callable[[str, str | None, str], Source], path: str, name: str | None, split: str, optional: bool
) -> Source | None:
    """The opened split, or None when it is optional and the data has no split of that name."""
    try:
        return opened(path, name, split)
    except NoSplit:
        if optional:
            return None
        raise


def open_outside(config: EvaluationConfig, words: set[str]) -> Source:
    """The other data that the task `ood` tells from the held-out rows; words: see `open_source`."""
    assert config.ood is not None
    return open_source(config.ood, split=config.ood_split, words=words)
