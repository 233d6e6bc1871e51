"""Which rows an evaluation looks at: the two sources, their subsets, labels, class names and texts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..data.amounts import are_amounts
from ..data.choosing import choose_columns
from ..data.explained import stream_rows
from ..data.holding import alike
from ..data.sources import column_names
from ..errors import BadSample, UserError, nearest
from ..modality import Modality, Preprocessor
from ..modality.notation import word
from ..modality.table import PERHAPS_LABELS, label_name

if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.sources import Source


def spread(count: int, limit: int | None, seed: int) -> list[int]:
    """At most `limit` of the rows 0..count-1, in rising order: the same ones for the same arguments, and drawn at
    random, because data may be sorted by class and an even stride may meet a period in it."""
    if limit is None or limit >= count:
        return list(range(count))
    order = np.random.Generator(np.random.Philox(seed)).permutation(count)
    return sorted(int(i) for i in order[:limit])


STREAM_LIMIT = 5000
"""Rows that are read from a streaming source when no limit is given: its length is not known."""


def subset(source: Source, limit: int | None, seed: int, buffer: int = 1000) -> tuple[Dataset, str | None]:
    """A map-style dataset of at most `limit` rows of `source`, and a remark when that is less than was asked for.

    Of a streaming source the rows are drawn from its first `limit + buffer`, and kept in memory.
    """
    import datasets

    if isinstance(source, datasets.Dataset):
        chosen = spread(len(source), limit, seed)
        return (source if len(chosen) == len(source) else source.select(chosen)), None
    wanted = STREAM_LIMIT if limit is None else limit
    # not `shuffle().take()`: in datasets 5.2 closing a shuffled stream of parquet sleeps five seconds
    read = list(islice(stream_rows(source), wanted + buffer))
    rows = [read[i] for i in spread(len(read), wanted, seed)]
    if not rows:
        raise UserError("data: the streaming source has no rows")
    remark = None
    if limit is None and len(rows) < len(read):
        remark = f"streaming data: {wanted} rows were read (set a limit to read more)"
    return datasets.Dataset.from_list(rows, features=source.features), remark


def present_columns(
    source: Source, names: Sequence[str], mapping: Mapping[str, str | list[str]]
) -> tuple[dict[str, str | list[str]], dict[str, str]]:
    """(modality -> column(s)) of the modalities that the data has, and (modality -> reason) of those it lacks."""
    found: dict[str, str | list[str]] = {}
    lacking: dict[str, str] = {}
    known = column_names(source)
    for name in names:
        columns = mapping.get(name, name)
        missing = [c for c in ([columns] if isinstance(columns, str) else columns) if c not in known]
        if missing:
            lacking[name] = f"the data has no column '{missing[0]}'{nearest(missing[0], known)}"
        else:
            found[name] = columns
    return found, lacking


def check_named(source: Source, modalities: Sequence[str], columns: Mapping[str, str | list[str]]) -> None:
    """UserError for a modality that is named in `columns` and that the model or, there, the data does not have."""
    for name in columns:
        if name not in modalities:
            known = ", ".join(modalities)
            raise UserError(f"columns.{name}: the model has no '{name}', it has {known}{nearest(name, modalities)}")
    for name, reason in present_columns(source, list(columns), columns)[1].items():
        raise UserError(f"columns.{name}: {reason}, its columns are {', '.join(column_names(source))}")


def find_columns(
    source: Source,
    preprocessors: Mapping[str, Preprocessor],
    columns: Mapping[str, str | list[str]],
    wanted: Sequence[str] | None = None,
    without: Mapping[str, str] | None = None,
) -> tuple[dict[str, str | list[str]], list[str]]:
    """(modality -> column(s) of those that take part, what to say of those that nobody named).

    Args:
        source: the data.
        preprocessors: those of the model.
        columns: modality -> column(s), where they are not called alike.
        wanted: the modalities that must take part; None: those that the data has columns for.
        without: columns that are no inputs -> why.

    Raises:
        UserError: one that was named is not there, or none is.
    """
    modalities = list(preprocessors)
    check_named(source, modalities, columns)
    for name in wanted or ():
        if name not in modalities:
            known = ", ".join(modalities)
            raise UserError(f"modalities: the model has no '{name}', it has {known}{nearest(name, modalities)}")
    chosen, said = choose_columns(
        {name: preprocessors[name] for name in wanted or modalities}, columns, source, without or {}
    )
    found, lacking = present_columns(source, wanted or modalities, {**columns, **chosen})
    for name in wanted or ():
        if name in lacking:
            raise UserError(f"columns.{name}: {lacking[name]}")
    if not found:
        raise UserError(
            f"--column: the model takes {', '.join(modalities)}, the data has the columns "
            f"{', '.join(column_names(source))}; name the column with --column {modalities[0]}=COLUMN"
        )
    return found, said


@dataclass(frozen=True)
class Labels:
    """The labels of test and training rows on one scale.

    Attributes:
        column: its name.
        values: the distinct labels, sorted.
        test: (n,) int64 index into `values`, -1 where the label is unknown.
        train: likewise; None where the training rows have no such column.
        names: the class names that the data declares for all label numbers, if it does.
        alike: see `mmssl.data.holding.alike`, of the training rows.
    """

    column: str
    values: list[Any]
    test: Tensor
    train: Tensor | None
    names: list[str] | None = None
    alike: list[Hashable] | None = None

    @property
    def doubtful(self) -> str:
        """What to say of many numbers that are taken for classes; empty where nothing."""
        if self.names is not None or len(self.values) < DOUBTFUL or not isinstance(self.values[0], int):
            return ""
        found = f"the label '{self.column}' holds {len(self.values):,} different whole numbers, each taken for a class"
        return f"{found}; label_task=regression judges them by R2"


DOUBTFUL = 50
"""Different whole numbers as classes from which on this is said."""


def label_column(source: Source, wanted: str | None) -> tuple[str | None, str]:
    """The label's column, or None and why. An explicitly wanted one that does not exist is a UserError."""
    import datasets

    known = source.column_names
    if wanted is not None:
        if wanted not in known:
            have = ", ".join(known)
            hint = nearest(wanted, known)
            raise UserError(f"evaluation.label: the data has no column '{wanted}', it has {have}{hint}")
        return wanted, ""
    if (named := label_name(known)) is not None:
        return named, ""
    classes = [name for name, feature in source.features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(classes) == 1:
        return classes[0], ""
    if classes:
        return None, f"several columns hold labels ({', '.join(classes)}): choose one with evaluation.label"
    perhaps = next((name for name in known if PERHAPS_LABELS.fullmatch(name)), None)
    hint = "" if perhaps is None else f"; evaluation.label={perhaps}, if that is what you want to predict"
    return None, f"the data has no label column (evaluation.label){hint}"


def _values(source: Dataset, column: str) -> list[object]:
    """A whole column as plain Python values, without the transform that turns names of files into paths."""
    return list(source.with_format(None)[column])


def _label_values(source: Dataset, column: str, names: Sequence[str] | None) -> list[Any]:
    """Plain ints or strings, None where unknown; raises TypeError with the reason for anything else."""
    out: list[object] = []
    for value in _values(source, column):
        if value is None or (isinstance(value, float) and math.isnan(value)):
            out.append(None)
        elif isinstance(value, float) and not value.is_integer():
            raise TypeError(f"column '{column}' holds real numbers ({value:g}), no classes; label_task=regression")
        elif isinstance(value, bool | int | float):
            # -1 is the `datasets` convention for a hidden label
            number = int(value)
            out.append((None if number < 0 else names[number]) if names else number)
        elif isinstance(value, str):
            out.append(word(value) or value)
        else:
            raise TypeError(f"column '{column}' holds {type(value).__name__}, expected integers or strings")
    return out


@dataclass(frozen=True)
class Numbers:
    """Labels that are amounts, of which R2 is told.

    Attributes:
        column: its name.
        test: (n,) float64, NaN where it is unknown.
        train: likewise; None where the training rows have no such column.
        alike: see `mmssl.data.holding.alike`, of the training rows.
    """

    column: str
    test: Tensor
    train: Tensor | None
    alike: list[Hashable] | None = None

    @property
    def said(self) -> str:
        """What they are, in words."""
        known = torch.cat([self.test] if self.train is None else [self.test, self.train])
        known = known[known.isfinite()]
        return f"the label '{self.column}' holds numbers ({len(known.unique()):,} different in {len(known):,} rows)"


def read_labels(
    test: Dataset, train: Dataset | None, wanted: str | None, group: str | None = None, task: str = "auto"
) -> tuple[Labels | Numbers | None, str]:
    """The labels of both sources on one scale, or None and why there are none. `train` may lack the column.

    group: the column of what is alike; UserError where labelled training rows lack it.
    task: see `mmssl.recipe.evaluation.LABEL_TASKS`.
    """
    import datasets

    column, reason = label_column(test, wanted)
    if column is None:
        return None, reason
    sources = [test] + ([train] if train is not None and column in train.column_names else [])
    features = [source.features[column] for source in sources]
    declared = [f.names if isinstance(f, datasets.ClassLabel) else None for f in features]
    try:
        if task == "regression" or (task == "auto" and not any(declared) and _amounts(sources, column)):
            numbers = [_number_values(source, column, names) for source, names in zip(sources, declared, strict=True)]
            return _numbers_of(column, numbers, train, group)
        return _classes_of(column, sources, declared, train, group)
    except TypeError as error:
        return None, str(error)


def _amounts(sources: Sequence[Dataset], column: str) -> bool:
    return are_amounts(value for source in sources for value in _values(source, column))


def _number_values(source: Dataset, column: str, names: Sequence[str] | None) -> Tensor:
    """(n,) float64, NaN where it is unknown; TypeError for what is no number."""
    values = _values(source, column)
    if names is not None:
        raise TypeError(f"column '{column}' holds the names of classes, expected numbers for label_task=regression")
    numbers = []
    for value in values:
        if value is not None and not isinstance(value, int | float):
            raise TypeError(f"column '{column}' holds {value!r}, expected numbers for label_task=regression")
        numbers.append(math.nan if value is None else float(value))
    found = torch.tensor(numbers, dtype=torch.float64)
    return torch.where(found.isfinite(), found, torch.nan)


def _numbers_of(
    column: str, read: Sequence[Tensor], train: Dataset | None, group: str | None
) -> tuple[Numbers | None, str]:
    if not any(bool(values.isfinite().any()) for values in read):
        return None, f"column '{column}' holds no labels"
    learned = read[1] if len(read) > 1 else None
    together = None if train is None or learned is None else alike(train, group)
    return Numbers(column, read[0], learned, together), ""


def _classes_of(
    column: str,
    sources: Sequence[Dataset],
    declared: Sequence[list[str] | None],
    train: Dataset | None,
    group: str | None,
) -> tuple[Labels | None, str]:
    """TypeError where they are no classes."""
    shared = declared[0] if all(names == declared[0] for names in declared) else None
    # numbers that stand for different names in the two sources are compared by name
    read = [
        _label_values(source, column, None if shared else names)
        for source, names in zip(sources, declared, strict=True)
    ]
    if shared:
        read = [[None if v is None or v < 0 else v for v in values] for values in read]
    distinct = {v for values in read for v in values if v is not None}
    if len({type(v) for v in distinct}) > 1:
        read = [[None if v is None else str(v) for v in values] for values in read]
        distinct = {str(v) for v in distinct}
    if not distinct:
        return None, f"column '{column}' holds no labels"
    order = sorted(distinct)
    number = {v: i for i, v in enumerate(order)}
    indexed = [torch.tensor([-1 if v is None else number[v] for v in values], dtype=torch.int64) for values in read]
    learned = indexed[1] if len(indexed) > 1 else None
    together = None if train is None or learned is None else alike(train, group)
    return Labels(column, order, indexed[0], learned, shared, together), ""


def class_names(
    labels: Labels, test: Dataset, train: Dataset | None, given: Sequence[str] | None
) -> tuple[list[str], list[int]] | str:
    """(class names, for each of `labels.values` the number of its class), or the reason why there are no names.

    In order: the names the user gives, those the dataset declares, a column `<label>_name`, labels that are words.
    Raises UserError when given names do not fit the labels.
    """
    values = labels.values
    if given is not None:
        return list(given), _fit_names(values, given)
    if labels.names is not None:
        return list(labels.names), [int(v) for v in values]
    for column in (f"{labels.column}_name", "label_name"):
        pairs = [(labels.test, test), (labels.train, train)]
        named = [(y, source) for y, source in pairs if y is not None and column in source.column_names]
        if named:
            return _names_column(labels, named, column)
    if isinstance(values[0], str):
        return list(values), list(range(len(values)))
    return f"no class names: set evaluation.classes (column '{labels.column}' holds numbers)"


def _fit_names(values: Sequence[Any], given: Sequence[str]) -> list[int]:
    if all(isinstance(v, int) for v in values) and min(values) >= 0 and max(values) < len(given):
        return [int(v) for v in values]
    if all(v in given for v in values):
        return [list(given).index(v) for v in values]
    if len(values) == len(given):
        return list(range(len(values)))
    raise UserError(
        f"evaluation.classes: {len(given)} names for {len(values)} different labels ({values[0]!r} .. {values[-1]!r}); "
        "expected one name a label, in the labels' order"
    )


def _names_column(
    labels: Labels, named: Sequence[tuple[Tensor, Dataset]], column: str
) -> tuple[list[str], list[int]] | str:
    names: dict[int, str] = {}
    for numbers, source in named:
        for number, name in zip(numbers.tolist(), _values(source, column), strict=True):
            if number < 0 or name is None:
                continue
            if names.setdefault(number, str(name)) != str(name):
                value = labels.values[number]
                return f"column '{column}' gives label {value!r} several names ('{names[number]}', '{name}')"
    order = sorted(names)
    if len(order) < len(labels.values):
        nameless = next(v for i, v in enumerate(labels.values) if i not in names)
        return f"column '{column}' names no class for label {nameless!r}"
    return [names[i] for i in order], order


def reads_text(modality: Modality, preprocessor: Preprocessor) -> bool:
    """Whether a modality can be given a prompt: it works on ids, and a plain string is a sample of it."""
    if not modality.ids:
        return False
    try:
        return preprocessor.read("word") is not None
    except BadSample:
        return False


def texts_of(source: Dataset, column: str) -> list[list[str]]:
    """The texts of every row: its string, or its list of strings, without the empty ones."""
    out = []
    for value in _values(source, column):
        listed = value if isinstance(value, list) else [value]
        out.append([text.strip() for text in listed if isinstance(text, str) and text.strip()])
    return out
