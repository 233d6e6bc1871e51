"""Which training rows a model is to forget: those that `--forget` names, among those that it may have learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..curation.selecting import write_reasons
from ..data.fingerprint import sketch
from ..data.labels import Target
from ..data.row_files import KEPT, kept_rows
from ..data.sources import used_columns
from ..data.splits import take_share, without
from ..errors import UserError, nearest
from .options import FinetuneConfig
from .partition import Examples, Modalities, Partition, Pool, counts_of, open_pool, open_split, taken

if TYPE_CHECKING:
    from datasets import Dataset

FORGOTTEN, UNSEEN, ALIKE = "forgotten", "never seen", "never seen, alike"
"""Kinds of rows that are measured, beside kept ones; the first is also why `kept.parquet` leaves a row out."""
LEAST = 10
"""So few rows that were never seen are too few to measure by, or to stop by."""


@dataclass
class Named:
    """What is forgotten, and beside what.

    Attributes:
        rows: kept and forgotten training rows (`train`), rows never seen to stop by (`validation`) and to measure on.
        gone: (n,) bool, which of the training rows are forgotten.
        alike: (m,) bool, which of the rows to measure on have what the forgotten ones were named by.
        whole: the split that they are of.
        named: (rows of `whole`,) bool, all that were named.
        text: what was named, for people.
    """

    rows: Partition
    gone: NDArray[np.bool_]
    alike: NDArray[np.bool_]
    whole: Dataset
    named: NDArray[np.bool_]
    text: str

    @property
    def whole_classes(self) -> bool:
        """Whether no kept row has a label that a forgotten one has."""
        labels = self.rows.train.labels
        assert labels is not None
        y = labels.numpy()
        return not set(y[self.gone].tolist()) & set(y[~self.gone].tolist())

    def write_kept(self, output: Path) -> None:
        """A selection of all other rows, for a training without them. RunError where it cannot be written."""
        reasons = np.where(self.named, FORGOTTEN, KEPT).tolist()
        about = {**sketch(self.whole, used_columns(self.rows.columns)), "forget": self.text}
        write_reasons(self.whole, reasons, about, {}, output)


def wanted_of(text: str) -> tuple[str, list[str]] | None:
    """(column, its values) of COLUMN=VALUE,VALUE; None where a file is named."""
    column, equals, values = text.partition("=")
    if not equals or Path(text).is_file():
        return None
    found = [value.strip() for value in values.split(",")]
    if not column.strip() or not all(found):
        raise UserError(f"--forget: found '{text}', expected COLUMN=VALUE, COLUMN=VALUE,VALUE or a file")
    return column.strip(), found


def values_of(source: Dataset, column: str) -> list[set[str]]:
    """How each row's value may be written: as it is, and as its class is called."""
    import datasets

    known = source.column_names
    if column not in known:
        raise UserError(f"--forget: the data have no column '{column}'{nearest(column, known)}")
    feature = source.features[column]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    values: list[Any] = source.with_format(None)[column][:]
    return [_written(value) | ({str(names[value])} if names and value is not None else set()) for value in values]


def _written(value: Any) -> set[str]:
    if value is None:
        return set()
    whole = {str(int(value))} if isinstance(value, bool | float) and float(value).is_integer() else set()
    return {str(value)} | whole


def with_values(source: Dataset, column: str, wanted: Sequence[str]) -> NDArray[np.bool_]:
    """(rows,) which of them have one of these values."""
    return np.array([bool(found & set(wanted)) for found in values_of(source, column)], bool)


def named_in(whole: Dataset, text: str) -> NDArray[np.bool_]:
    """(rows,) which rows of a split are named. UserError where a value is in no row, or a file is about other rows."""
    said = wanted_of(text)
    if said is None:
        found = np.zeros(len(whole), bool)
        found[kept_rows(text, whole, "--forget")] = True
        return found
    column, wanted = said
    known = set().union(*values_of(whole, column))
    for value in wanted:
        if value not in known:
            there = sorted(known)
            shown = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
            raise UserError(f"--forget: no row has '{value}' in '{column}'{nearest(value, there)}; it holds {shown}")
    return with_values(whole, column, wanted)


def open_named(
    label: Sequence[str],
    modalities: Modalities,
    options: FinetuneConfig,
    rule: Mapping[str, object] | None = None,
    target: Target | None = None,
) -> Named:
    """Open the data, and part them: what is forgotten, what is kept, what was never seen.

    The arguments are those of `open_pool`. Raises UserError where one of the parts would be empty.
    """
    assert options.forget is not None
    whole = open_split(options, options.split, modalities, whole=True)
    named = named_in(whole, options.forget)
    pool = open_pool(label, modalities, options, rule, target)
    train = pool.train
    assert train.numbers is not None and pool.target is not None
    if pool.target.task != "classification":
        raise UserError(f"--forget: found a {pool.target.task} task, expected classes")
    gone = named[train.numbers]
    if not gone.any() or gone.all():
        found = f"{'none' if not gone.any() else 'all'} of the {len(train):,} training rows with a label"
        raise UserError(f"--forget: {found} are named by {options.forget}")
    others = int(named.sum() - gone.sum())
    if others:
        of = f"{others:,} of the {named.sum():,} rows that are named"
        pool.notes.append(f"--forget: {of} are held out or have no label, and are not among those that are forgotten")
    return Named(*_shared(pool, gone, options), whole, named, options.forget)


def _shared(
    pool: Pool, gone: NDArray[np.bool_], options: FinetuneConfig
) -> tuple[Partition, NDArray[np.bool_], NDArray[np.bool_]]:
    """(the rows by what they are for, which of those to train on are forgotten, which to measure on are like them)."""
    test = pool.test
    aside = take_share(counts_of(test, pool.target), 0.5, test.groups, options.seed + 1)
    measured = taken(test, without(len(test), aside))
    if min(len(aside), len(measured)) < LEAST:
        raise UserError(f"test: found {len(test)} rows that were never seen, expected at least {2 * LEAST}")
    said = wanted_of(options.forget or "")
    alike = np.zeros(len(measured), bool)
    if said is not None and said[0] in measured.source.column_names:
        alike = with_values(measured.source, *said)
    everything = np.arange(len(pool.train))
    names = {"train": options.split, "validation": f"half of {pool.test_name}", "test": f"half of {pool.test_name}"}
    rows = Partition(
        pool.train,
        taken(test, aside),
        measured,
        pool.train,
        everything,
        len(pool.train),
        pool.columns,
        pool.target,
        names,
        pool.notes,
        pool.held,
    )
    return rows, gone, alike


def parts_of(named: Named) -> dict[str, Examples]:
    """Forgotten, kept and never seen rows, with those of the last that have what the forgotten were named by."""
    rows = named.rows
    found = {
        FORGOTTEN: taken(rows.train, np.flatnonzero(named.gone)),
        "kept": taken(rows.train, np.flatnonzero(~named.gone)),
        UNSEEN: rows.test,
    }
    alike = np.flatnonzero(named.alike)
    return found | ({ALIKE: taken(rows.test, alike)} if LEAST <= len(alike) < len(rows.test) else {})
