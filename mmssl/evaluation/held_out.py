"""The rows that an evaluation looks at, opened: those to measure on, those that probes learn from, those outside."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import limits
from ..data.cells import resolved
from ..data.explained import warn_once
from ..data.fingerprint import told
from ..data.holding import Rule, held_rows
from ..data.kinds import Files
from ..data.listing import whole_of
from ..data.row_files import kept_among, selected
from ..data.sampler import order
from ..data.selection import limited as first_limited
from ..data.sources import Columns, open_source, used_columns
from ..data.splits import Rows, without
from ..data.windows import Windows
from ..errors import NoSplit
from .rows import label_column, spread, subset

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source
    from ..modality import Preprocessor
    from ..recipe.config import DataConfig, EvaluationConfig

DEFAULT_SPLIT = "test"


@dataclass
class Sources:
    """test: held-out rows, None when there are none; train: rows for the probes; split: what they are called; tested:
    (n,) the numbers of the test rows in the split, or the rows, that they were taken from."""

    test: Dataset | None
    train: Dataset | None
    split: dict[str, str | None]
    notes: list[str] = field(default_factory=list)
    same_rows: bool = False
    tested: Rows = field(default_factory=lambda: np.empty(0, np.int64))


def read_columns(config: EvaluationConfig, columns: Columns, modalities: Iterable[str] = ()) -> set[str]:
    """The columns that modalities read, the label aside: in csv files they are words, and a label may be a number."""
    return {*used_columns({**{name: name for name in modalities}, **columns})} - {config.label or "label"}


def files_of(data: DataConfig, readers: Mapping[str, Preprocessor], columns: Columns | None = None) -> Files:
    """How folders become rows for these preprocessors, as the options of the data say; columns: default theirs."""
    return Files(readers, data.columns if columns is None else columns, Windows(data.windows, data.stride))


def opened_rows(
    data: DataConfig, path: str, name: str | None, split: str, words: Iterable[str], files: Files | None
) -> Source:
    """All rows of a split, read as `data` says."""
    return open_source(
        path,
        name=name,
        split=split,
        streaming=data.streaming,
        words=words,
        fetch=data.fetch,
        reading=data.reading,
        files=files,
    )


@dataclass
class Held:
    """rows: all of them; rest, held: the numbers of those to learn from and of those to measure on; rule: how."""

    rows: Dataset
    rest: Rows
    held: Rows
    rule: Rule


def hold_out(
    data: DataConfig,
    config: EvaluationConfig,
    words: set[str],
    rule: Mapping[str, Any] | None = None,
    files: Files | None = None,
) -> Held | None:
    """The rows that are held out where the data have no split to test on.

    Args:
        data: where the rows come from.
        config: what is measured; its label and group are what the rows are held out by.
        words, files: see `open_source`. Windows of one file stay together, where no group is named.
        rule: of the model, as its config has it: the rows that it did not learn from, where the data are those.

    Returns:
        None where there is a split to test on, or the rows are a stream or too few, or none is to be held out.
    """
    import datasets

    asked = config.split == DEFAULT_SPLIT and not elsewhere(data, config) and config.test_share > 0
    if data.streaming or not asked or _or_none(data, data.path, data.name, config.split, words, files) is not None:
        return None
    rows = opened_rows(data, data.path, data.name, data.split, words, files)
    if not isinstance(rows, datasets.Dataset):
        return None
    label = label_column(rows, config.label)[0]
    windows = whole_of(rows.column_names)
    chosen = Rule((label,) if label else (), config.group or windows, config.test_share)
    kept = None if rule is None else Rule(**{**rule, "label": tuple(rule["label"])})
    if kept is not None and kept.of(rows) and config.group in (None, kept.group):
        chosen = kept
    held = held_rows(rows, chosen)
    if not len(held):
        parts = "" if chosen.group is None else f" in {len(set(rows.with_format(None)[chosen.group]))} parts"
        warn_once(f"none of {len(rows):,} rows{parts} is held out ({chosen.text}): they are too few for that")
        return None
    used = Rule(chosen.label, chosen.group, chosen.share, len(rows))
    return Held(rows, without(len(rows), held), held, used)


def said_of(found: Held, split: str) -> str:
    """What a reader should know of rows that were held out."""
    return f"the data has no split '{split}': {len(found.held):,} rows are held out ({found.rule.text})"


def elsewhere(data: DataConfig, config: EvaluationConfig) -> bool:
    """Whether what is measured on are other data than those of `data`, whatever they are called."""
    if config.path is None or config.path == data.path:
        return False
    here = os.path.exists(config.path) and os.path.exists(data.path)
    return not (here and os.path.samefile(config.path, data.path))


def open_sources(
    data: DataConfig,
    config: EvaluationConfig,
    seed: int,
    train_source: Source | None,
    words: set[str],
    rule: Mapping[str, object] | None = None,
    files: Files | None = None,
) -> Sources:
    """The test rows, and the rows that probes learn from: the training split of the data that is tested on where it
    has one, else the pretraining data (`train_source` when that is open already); words, files: see `open_source`;
    rule: see `hold_out`."""
    import datasets

    limits.apply(data.limits)
    path = config.path or data.path
    other = elsewhere(data, config)
    name = config.name or (None if other else data.name)
    notes: list[str] = []

    def limited(source: Source, limit: int | None, extra: int) -> Dataset:
        rows, remark = subset(source, limit, seed + extra, data.shuffle_buffer)
        notes.extend([remark] if remark else [])
        return rows

    shared = hold_out(data, config, words, rule, files)
    if shared is not None:
        notes.append(said_of(shared, config.split))
        rest = kept_among(shared.rows, data.select, shared.rest)
        learned = first_limited(shared.rows.select(rest), data.limit) if train_source is None else train_source
        called: dict[str, str | None] = {"test": f"{shared.rule.share:g} of {data.split}", "train": data.split}
        held = kept_among(shared.rows, config.select, shared.held, "evaluation.select")
        rows = limited(shared.rows.select(held), config.limit, 0)
        tested = held[spread(len(held), config.limit, seed)]
        return Sources(rows, limited(learned, config.train_limit, 1), called, notes, tested=tested)
    split = config.split
    test: Source | None = _or_none(data, path, name, split, words, files, optional=config.split == DEFAULT_SPLIT)
    if test is None and other:
        # other data than the model was trained on is held out whatever its only split is called
        split = "train"
        test = _or_none(data, path, name, split, words, files)
    train = None
    if other and split != data.split:
        train = _or_none(data, path, name, data.split, words, files)
    if train is None and train_source is None:
        whole = opened_rows(data, data.path, data.name, data.split, words, files)
        train = first_limited(selected(whole, data.select), data.limit)
    elif train is None:
        train = train_source
    assert train is not None
    same = not other and split == data.split and name == data.name
    if test is not None and not other and not same and name == data.name and _may_share(split, data.split):
        train, removed = _apart(test, split, train, data)
        same = train is None
        if removed:
            notes.append(f"{removed:,} rows of '{data.split}' are also in '{split}': probes do not learn from them")
    measured, tested = None, np.empty(0, np.int64)
    if isinstance(test, datasets.Dataset):
        every = kept_among(test, config.select, np.arange(len(test)), "evaluation.select")
        measured = limited(test if config.select is None else test.select(every), config.limit, 0)
        tested = every[spread(len(every), config.limit, seed)]
    elif test is not None:
        measured = limited(selected(test, config.select, "evaluation.select"), config.limit, 0)
        tested = np.arange(len(measured))
    return Sources(
        measured,
        limited(test if train is None else train, config.train_limit, 1),
        {"test": split if measured is not None else None, "train": data.split},
        notes,
        same,
        tested,
    )


def _or_none(
    data: DataConfig,
    path: str,
    name: str | None,
    split: str,
    words: Iterable[str],
    files: Files | None,
    optional: bool = True,
) -> Source | None:
    """The opened split, or None when it is optional and the data has no split of that name."""
    try:
        return opened_rows(data, path, name, split, words, files)
    except NoSplit:
        if optional:
            return None
        raise


def has_split(data: DataConfig, path: str, name: str | None, split: str) -> bool:
    """Whether data, read as `data` says, have a split of that name."""
    return _or_none(data, path, name, split, (), None) is not None


def open_outside(data: DataConfig, config: EvaluationConfig, words: set[str], files: Files | None) -> Source:
    """The other data that the task `ood` tells from the held-out rows; words, files: see `open_source`."""
    assert config.ood is not None
    return open_source(config.ood, split=config.ood_split, words=words, reading=data.reading, files=files)


# --- rows in common ----------------------------------------------------------------------------------------------


def _may_share(one: str, other: str) -> bool:
    """Whether two names of splits may mean the same rows: parts of one split, or all of them."""
    first, second = ({re.sub(r"\[.*", "", part).strip() for part in name.split("+")} for name in (one, other))
    return bool(first & second) or "all" in first | second


def _apart(test: Source, split: str, train: Source, data: DataConfig) -> tuple[Source | None, int]:
    """(the training rows that are no test rows, None where none is left; how many were removed), by their numbers in
    the data, or, where these are not known, by what they hold. What no split is known of is left as it is."""
    import datasets

    if not isinstance(test, datasets.Dataset) or not isinstance(train, datasets.Dataset) or not train.info.splits:
        return train, 0
    tested, learned = _numbers(test, split, None), _numbers(train, data.split, data.limit)
    if tested is None or learned is None:
        tested, learned = _contents(test), _contents(train)
    shared = np.isin(learned, tested)
    if not shared.any():
        return train, 0
    left = np.flatnonzero(~shared)
    return (train.select(left) if len(left) else None), int(shared.sum())


def _numbers(source: Dataset, split: str, limit: int | None) -> NDArray[np.int64] | None:
    """The number of each row in all splits of the data one after the other; None where it cannot be told."""
    import datasets

    known = {str(name): int(of.num_examples) for name, of in (source.info.splits or {}).items()}
    first = dict(zip(known, np.cumsum([0, *known.values()]).tolist(), strict=False))
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute(known)
        found = np.concatenate(
            [first[p.splitname] + np.arange(p.from_ or 0, p.to or known[p.splitname]) for p in parts]
        )
    except (ValueError, KeyError, AssertionError):
        return None
    if limit is not None and limit < len(found):
        found = found[np.sort(order(len(found), 0, 0)[:limit])]
    return found if len(found) == len(source) else None


def _contents(source: Dataset) -> NDArray[np.int64]:
    """A number for what each row holds."""
    plain = source if resolved(source) is not None else source.with_format(None)
    return np.array([hash(repr(sorted((k, told(v)) for k, v in row.items()))) for row in plain], np.int64)
