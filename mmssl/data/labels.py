"""Columns that say something of a row beside its inputs: what the task is, the classes, and how a raw value becomes a
tensor.

In training they are one more part of the batch, read by a `Preprocessor` like every modality, so that they take the
same way (workers, streams, mixtures, processes), a row whose label is unknown trains nothing and a broken row is absent
as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import BadSample, UserError, nearest
from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.notation import word

from .amounts import are_amounts

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Encoded = int | list[float]
"""A class's number, or the numbers of a row with several labels or regression targets."""
LABEL = "label of the task"
"""The name of the labels in a batch; no modality can be called so."""
MOST_CLASSES = 1000
TASKS = ("classification", "multilabel", "regression", "ordinal")
NUMBERED = ("classification", "ordinal")
"""Tasks whose labels are one number of several each."""


@dataclass(frozen=True)
class Target:
    """What a label is.

    Attributes:
        task: classification, multilabel, regression or ordinal (graded).
        columns: where it is read from.
        classes: the labels (classification, several labels in one column), the grades from the lowest, or the columns'
            own names.
        names: what data sets with numbered classes call them.
        mean: of every regression target, in training.
        std: likewise; targets are standardised with both.
        weights: "balanced" ones of classes or labels (`mmssl.losses.supervised.class_weights`), where they are kept.
    """

    task: str
    columns: list[str]
    classes: list[Any] = field(default_factory=list)
    names: list[str] | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """C: how many numbers a head gives a row; one a class, label or regression target, or a step between grades."""
        if self.task == "ordinal":
            return len(self.classes) - 1
        return len(self.mean) if self.task == "regression" else len(self.classes)

    @property
    def column(self) -> str | list[str]:
        """The column, or columns, as a batch's `columns` name them."""
        return self.columns[0] if len(self.columns) == 1 else self.columns

    def encode(self, raw: Any) -> Encoded | None:
        """A class's or grade's number, a list of 0 and 1, or of standardised numbers; None where it is unknown."""
        if self.task in NUMBERED:
            value = _plain(raw)
            return None if value is None or value not in self.classes else self.classes.index(value)
        if self.task == "multilabel" and len(self.columns) == 1:
            if raw is None:
                return None
            there = {_plain(v) for v in raw}
            return [float(c in there) for c in self.classes]
        values = [raw] if len(self.columns) == 1 else [raw[c] for c in self.columns]
        if self.task == "multilabel":
            return None if any(v is None for v in values) else [float(bool(v)) for v in values]
        numbers = [_number(v) for v in values]
        if any(v is None for v in numbers):
            return None
        return [(float(v or 0.0) - m) / s for v, m, s in zip(numbers, self.mean, self.std, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `task.json`; `Target(**it)` is the inverse."""
        return {name: value for name, value in asdict(self).items() if name != "weights" or value}


def _plain(value: object) -> Any:
    """A label as a number or a string; None for the unknown."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, bool) or isinstance(value, float) and value.is_integer():
        return int(value)
    return word(value) or value if isinstance(value, str) else value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


class LabelPreprocessor(Preprocessor[Encoded]):
    """The labels of a batch: `value` (B,) int64 or (B, C) float32, `present` (B,) bool."""

    beside = True

    def __init__(self, target: Target, whole: bool = False) -> None:
        """whole: a label that is none of the classes is broken, not unknown: they were fitted on part of the rows."""
        super().__init__(None)
        self.target, self.whole = target, whole

    def read(self, raw: object, choice: int = 0) -> Encoded | None:
        """`Target.encode` of a raw label; BadSample where it cannot be read as what the label is."""
        try:
            found = self.target.encode(raw)
        except (ValueError, TypeError) as error:
            raise BadSample(f"label {raw!r}: {error}") from error
        if self.whole and self.target.task != "regression" and len(self.target.columns) == 1:
            self._refuse_other(raw)
        return found

    def _refuse_other(self, raw: Any) -> None:
        known = self.target.classes
        values = raw or () if self.target.task == "multilabel" else [raw]
        other = [v for v in map(_plain, values) if v is not None and v not in known]
        if other and not (other == [-1] and self.target.names):
            raise BadSample(
                f"label {other[0]!r} is none of the {len(known)} that the first rows have: name the classes"
            )

    def collate(self, samples: Sequence[Encoded | None]) -> Inputs:
        """Labels of B rows to `value` and `present`; an unknown one (None) is 0 and not present."""
        if self.target.task in NUMBERED:
            return _beside(torch.tensor([0 if s is None else s for s in samples], dtype=torch.int64), samples)
        zero = [0.0] * self.target.outputs
        return _beside(torch.tensor([zero if s is None else s for s in samples], dtype=torch.float32), samples)


class IdPreprocessor(Preprocessor[int]):
    """Which rows of a batch say the same: `value` (B,) int64, equal for equal values alone, `present` (B,) bool.

    The number of a value is a hash of 63 bits, the same in every process, run and data set, so that nothing has to be
    fitted and a patient seen for the first time late in a stream is one more. Of several columns: of the combination,
    unknown where one of them is.
    """

    beside = True

    def __init__(self, unknown: object = None) -> None:
        """unknown: a value that stands for none (-1 of numbered classes)."""
        super().__init__(None)
        self.unknown = unknown

    def read(self, raw: object, choice: int = 0) -> int | None:
        """The number of a value; None where it is unknown. BadSample for what is no cell (a list, a picture)."""
        values = [_plain(value) for value in (raw.values() if isinstance(raw, dict) else [raw])]
        odd = next((v for v in values if v is not None and not isinstance(v, (str, int, float))), None)
        if odd is not None:
            raise BadSample(f"found {type(odd).__name__}, expected a word or a number, which rows are told apart by")
        if any(value is None or value == self.unknown for value in values):
            return None
        digest = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def collate(self, samples: Sequence[int | None]) -> Inputs:
        """An unknown one is 0 and not present."""
        return _beside(torch.tensor([s or 0 for s in samples], dtype=torch.int64), samples)


class NumberPreprocessor(Preprocessor[float]):
    """A number of each row of a batch as it stands in the data: `value` (B,) float32, `present` (B,) bool."""

    beside = True

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: object, choice: int = 0) -> float | None:
        """None where it is unknown (null, NaN, infinite); BadSample where it is no number."""
        try:
            return _number(raw)
        except (ValueError, TypeError) as error:
            raise BadSample(f"found {raw!r}, expected a number") from error

    def collate(self, samples: Sequence[float | None]) -> Inputs:
        """An unknown one is 0 and not present."""
        return _beside(torch.tensor([s or 0.0 for s in samples], dtype=torch.float32), samples)


def _beside(value: Tensor, samples: Sequence[object | None]) -> Inputs:
    return {"value": value, "present": torch.tensor([s is not None for s in samples], dtype=torch.bool)}


# ----------------------------------------------------------------------------------------------------- from the data


def read_columns(source: Dataset, columns: Sequence[str], what: str = "--label") -> dict[str, list[Any]]:
    """Whole columns as plain values. UserError names the nearest column where there is none of that name."""
    known = list(source.column_names)
    for column in columns:
        if column not in known:
            raise UserError(
                f"{what}: the data has no column '{column}', it has {', '.join(known)}{nearest(column, known)}"
            )
    plain = source.with_format(None)
    return {column: list(plain[column]) for column in columns}


def make_target(source: Dataset, columns: Sequence[str], task: str) -> Target:
    """The target that these columns of the training rows are. UserError where they cannot be, with the reason."""
    return target_of(read_columns(source, columns), task, class_names(source, columns), f"--label {','.join(columns)}")


def class_names(source: Dataset | IterableDataset, columns: Sequence[str]) -> list[str] | None:
    """What the data call the numbered classes of a column; None where they do not say."""
    import datasets

    feature = (source.features or {}).get(columns[0])
    return list(feature.names) if len(columns) == 1 and isinstance(feature, datasets.ClassLabel) else None


def target_of(
    values: Mapping[str, Sequence[Any]],
    task: str,
    names: list[str] | None,
    where: str,
    classes: Sequence[Any] | None = None,
) -> Target:
    """What the values of some columns are as a target.

    Args:
        values: column -> what the training rows hold.
        task: one of `TASKS`, or auto: by what they hold.
        names: of numbered classes.
        where: the option, for messages.
        classes: those there are, in their order; None: those that are found, sorted.

    Raises:
        UserError: they cannot be that, or say the same of all rows.
    """
    if task == "auto":
        task = _guess(values, names)
    known = {column: [v for v in rows if _plain(v) is not None] for column, rows in values.items()}
    for column, rows in known.items():
        if not rows:
            raise UserError(f"{where}: column '{column}' is empty")
    if classes is not None and (task == "regression" or len(known) > 1):
        raise UserError(f"{where}: found classes for {task} of {len(known)} columns, expected none")
    if task == "regression":
        return _regression(known, where)
    if task == "multilabel":
        return _multilabel(known, where, classes)
    if len(known) > 1:
        raise UserError(f"{where}: {task} takes one column; several are task=multilabel or task=regression")
    ((column, rows),) = known.items()
    return _numbered(column, rows, task, names, where, classes)


def _numbered(
    column: str, rows: Sequence[Any], task: str, names: list[str] | None, where: str, asked: Sequence[Any] | None
) -> Target:
    """Classes, or grades from the lowest: numbers, or words in an order that somebody says."""
    kinds = (int, float) if task == "ordinal" and asked is None else (int, str)
    wrong = next((v for v in rows if not isinstance(v, kinds) and not isinstance(_plain(v), kinds)), None)
    if wrong is not None and asked is None:
        found = f"{where}: found {wrong!r} ({type(wrong).__name__}), expected"
        if task == "ordinal":
            raise UserError(f"{found} numbers, or the words in `classes`, from the lowest")
        hint = "task=multilabel" if isinstance(wrong, list) else "task=regression"
        raise UserError(f"{found} classes; did you mean {hint}?")
    there = {_plain(v) for v in rows} - ({-1} if names else set())
    classes = [_plain(v) for v in asked] if asked else sorted(there, key=lambda v: (isinstance(v, str), v))
    if names is not None and set(classes) <= set(names):
        classes = [names.index(c) for c in classes]
    known = there & set(classes)
    if len(known) < 2:
        raise UserError(
            f"{where}: all {len(rows)} labels are {known.pop()!r}, expected at least two classes"
            if known
            else f"{where}: found no known label"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{where}: found {len(classes)} different labels, expected classes (at most {MOST_CLASSES}); "
            "for numbers say task=regression"
        )
    called = None if names is None else [names[c] for c in classes]
    return Target(task, [column], classes, called)


def _guess(values: Mapping[str, Sequence[object]], names: list[str] | None) -> str:
    """classification, multilabel or regression, by what the columns hold."""
    known = [v for rows in values.values() for v in rows if v is not None]
    if names is None and any(isinstance(v, list) for v in known):
        return "multilabel"
    plain = [_plain(v) for v in known if not isinstance(v, list)]
    if len(values) > 1:
        return "multilabel" if all(v in (0, 1) for v in plain) else "regression"
    return "regression" if names is None and are_amounts(plain) else "classification"


def _regression(known: dict[str, list[object]], where: str) -> Target:
    mean, std = [], []
    for column, rows in known.items():
        try:
            numbers = np.array([v for v in map(_number, rows) if v is not None], np.float64)
        except (ValueError, TypeError):
            raise UserError(f"{where}: column '{column}' holds {rows[0]!r}, expected numbers for regression") from None
        if len(numbers) < 2 or numbers.std() == 0:
            raise UserError(f"{where}: column '{column}' is constant, there is nothing to learn")
        mean.append(float(numbers.mean()))
        std.append(float(numbers.std()))
    return Target("regression", list(known), mean=mean, std=std)


def _multilabel(known: dict[str, list[Any]], where: str, asked: Sequence[Any] | None) -> Target:
    columns = list(known)
    if len(columns) > 1:
        for column, rows in known.items():
            odd = next((v for v in rows if _plain(v) not in (0, 1)), None)
            if odd is not None:
                raise UserError(f"{where}: column '{column}' holds {odd!r}, expected 0 and 1 (task=multilabel)")
        flat = {c: {_plain(v) for v in rows} for c, rows in known.items()}
        constant = next((c for c, there in flat.items() if len(there) < 2), None)
        if constant is not None:
            raise UserError(f"{where}: column '{constant}' is constant, there is nothing to learn")
        return Target("multilabel", columns, list(columns))
    rows = known[columns[0]]
    odd = next((v for v in rows if not isinstance(v, list)), None)
    if odd is not None:
        raise UserError(f"{where}: found {odd!r}, expected a list of labels in every row (task=multilabel)")
    there = {_plain(v) for row in rows for v in row}
    classes = [_plain(v) for v in asked] if asked else sorted(there, key=lambda v: (isinstance(v, str), v))
    if len(there & set(classes)) < 2:
        raise UserError(f"{where}: found {len(classes)} different labels, expected at least two")
    return Target("multilabel", columns, classes)


def encode_all(source: Dataset, target: Target) -> list[Encoded | None]:
    """The encoded label of every row, None where it is unknown."""
    out = []
    for number, raw in enumerate(rows_of(read_columns(source, target.columns), target)):
        try:
            out.append(target.encode(raw))
        except (ValueError, TypeError):
            raise UserError(f"--label: row {number} holds {raw!r}, which is no {target.task} label") from None
    return out


def rows_of(values: Mapping[str, Sequence[Any]], target: Target) -> Iterator[Any]:
    """What `Target.encode` takes of each row. values: column -> what the rows hold."""
    for row in zip(*(values[column] for column in target.columns), strict=True):
        yield row[0] if len(row) == 1 else dict(zip(target.columns, row, strict=True))


def stack(encoded: Sequence[Encoded | None], target: Target) -> Tensor:
    """(n,) int64 class numbers or (n, C) float32, of rows whose label is known."""
    kind = torch.int64 if target.task in NUMBERED else torch.float32
    return torch.tensor(list(encoded), dtype=kind)
