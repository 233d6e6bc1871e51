"""Columns that say something of a row beside its inputs: what the task is, the classes, and how a raw value becomes a
tensor.

In training they are one more part of the batch, read by a `Preprocessor` like every modality, so that they take the
same way (workers, streams, mixtures, processes), a row whose label is unknown trains nothing and a broken row is absent
as a whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmssl.errors import BadSample, UserError, nearest
from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.notation import word

if TYPE_CHECKING:
    from datasets import Dataset

Encoded = int | list[float]
"""A class's number, or the numbers of a row with several labels or regression targets."""
LABEL = "label of the task"
"""The name of the labels in a batch; no modality can be called so."""
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Target:
    """What a label is.

    Attributes:
        task: classification, multilabel or regression.
        columns: where it is read from.
        classes: the labels (classification, several labels in one column) or the columns' own names.
        names: what data sets with numbered classes call them.
        mean: of every regression target, in training.
        std: likewise; targets are standardised with both.
    """

    task: str
    columns: list[str]
    classes: list[int | str] = field(default_factory=list)
    names: list[str] | None = None
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """C: how many numbers a head gives a row; one a class, a label or a regression target."""
        return len(self.mean) if self.task == "regression" else len(self.classes)

    @property
    def column(self) -> str | list[str]:
        """The column, or columns, as a batch's `columns` name them."""
        return self.columns[0] if len(self.columns) == 1 else self.columns

    def encode(self, raw: Any) -> Encoded | None:
        """A class's number, a list of 0 and 1, or of standardised numbers; None where it is unknown."""
        if self.task == "classification":
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
        return asdict(self)


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

    def __init__(self, target: Target) -> None:
        super().__init__(None)
        self.target = target

    def read(self, raw: object, choice: int = 0) -> Encoded | None:
        """`Target.encode` of a raw label; BadSample where it cannot be read as what the label is."""
        try:
            return self.target.encode(raw)
        except (ValueError, TypeError) as error:
            raise BadSample(f"label {raw!r}: {error}") from error

    def collate(self, samples: Sequence[Encoded | None]) -> Inputs:
        """Labels of B rows to `value` and `present`; an unknown one (None) is 0 and not present."""
        if self.target.task == "classification":
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
    import datasets

    values = read_columns(source, columns)
    feature = source.features[columns[0]]
    names = list(feature.names) if len(columns) == 1 and isinstance(feature, datasets.ClassLabel) else None
    if task == "auto":
        task = _guess(values, names)
    where = f"--label {','.join(columns)}"
    known = {column: [v for v in rows if _plain(v) is not None] for column, rows in values.items()}
    for column, rows in known.items():
        if not rows:
            raise UserError(f"--label: column '{column}' is empty")
    if task == "regression":
        return _regression(known, where)
    if task == "multilabel":
        return _multilabel(known, where)
    if len(columns) > 1:
        raise UserError(f"{where}: classification takes one column; several are task=multilabel or task=regression")
    rows = known[columns[0]]
    wrong = next((v for v in rows if not isinstance(v, int | str) and not isinstance(_plain(v), int)), None)
    if wrong is not None:
        hint = "task=multilabel" if isinstance(wrong, list) else "task=regression"
        raise UserError(f"{where}: found {wrong!r} ({type(wrong).__name__}), expected classes; did you mean {hint}?")
    classes = sorted({_plain(v) for v in rows} - ({-1} if names else set()), key=lambda v: (isinstance(v, str), v))
    if len(classes) < 2:
        raise UserError(
            f"{where}: all {len(rows)} labels are {classes[0]!r}, expected at least two classes"
            if classes
            else f"{where}: found no known label"
        )
    if len(classes) > MOST_CLASSES:
        raise UserError(
            f"{where}: found {len(classes)} different labels, expected classes (at most {MOST_CLASSES}); "
            "for numbers say task=regression"
        )
    return Target("classification", list(columns), classes, None if names is None else [names[c] for c in classes])


def _guess(values: dict[str, list[object]], names: list[str] | None) -> str:
    """classification, multilabel or regression, by what the columns hold."""
    known = [v for rows in values.values() for v in rows if v is not None]
    if names is None and any(isinstance(v, list) for v in known):
        return "multilabel"
    plain = [_plain(v) for v in known if not isinstance(v, list)]
    if len(values) > 1:
        return "multilabel" if all(v in (0, 1) for v in plain) else "regression"
    return "regression" if any(isinstance(v, float) for v in plain) else "classification"


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


def _multilabel(known: dict[str, list[Any]], where: str) -> Target:
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
    classes = sorted({_plain(v) for row in rows for v in row}, key=lambda v: (isinstance(v, str), v))
    if len(classes) < 2:
        raise UserError(f"{where}: found {len(classes)} different labels, expected at least two")
    return Target("multilabel", columns, classes)


def encode_all(source: Dataset, target: Target) -> list[Encoded | None]:
    """The encoded label of every row, None where it is unknown."""
    values = read_columns(source, target.columns)
    rows = zip(*values.values(), strict=True)
    alone = len(target.columns) == 1
    out = []
    for number, row in enumerate(rows):
        raw = row[0] if alone else dict(zip(target.columns, row, strict=True))
        try:
            out.append(target.encode(raw))
        except (ValueError, TypeError):
            raise UserError(f"--label: row {number} holds {raw!r}, which is no {target.task} label") from None
    return out


def stack(encoded: Sequence[Encoded | None], target: Target) -> Tensor:
    """(n,) int64 class numbers or (n, C) float32, of rows whose label is known."""
    kind = torch.int64 if target.task == "classification" else torch.float32
    return torch.tensor(list(encoded), dtype=kind)
