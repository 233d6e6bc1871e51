"""What a modality is shown of data whose columns nobody named, so that it can choose: names, types, some values."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np

from .notation import NO_NUMBER, dates_of, numbers_of, strangers

LABELS = frozenset({"label", "labels", "target", "targets", "class"})
"""Columns that are the label wherever nobody says another."""
PERHAPS_LABELS = re.compile(
    r"(?:.*[_\s.-])?(?:label|target|class|classes|outcome|diagnosis)|y|response|result|category|status|quality"
    r"|churn(?:ed)?|default(?:ed)?|survived|income|price|grade|risk|species",
    re.IGNORECASE,
)
"""Names of columns that are often what somebody wants to predict, and often not."""
ID_NAME = re.compile(
    r"(?:.*[_\s.-])?(?:id|ids|uuid|guid|uid)|[A-Za-z]*[a-z](?:Id|ID|UUID)|(?:row|record)[_ ]?(?:id|no|nr|number|index)?"
    r"|index|idx|unnamed: 0|file|file_?name|filepath|file_path",
    re.IGNORECASE,
)
FEW = 20
"""Different values of a column that is called an id and is a category all the same."""
SURE = 20
"""Rows that have to differ before a column without a telling name is taken for an identifier."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its name.
        values: of the rows looked at, those that are not null, as the data have them, undecoded.
        rows: the numbers of these rows in the data.
        media: image, audio or video, where the values are files of this kind: declared, by name, or by their bytes.
    """

    name: str
    values: Sequence[Any]
    rows: Sequence[int]
    media: str | None = None

    @property
    def texts(self) -> list[str] | None:
        """The values, where all are strings."""
        return list(self.values) if self.values and all(isinstance(v, str) for v in self.values) else None

    @cached_property
    def noted(self) -> str | None:
        """numbers or dates, where the values are such, also as people write them (`12,5`, `<0.5`, `31.12.2024`)."""
        if self.values and all(isinstance(v, (date, np.datetime64)) for v in self.values):
            return "dates"
        if self.texts is None:
            return None
        texts = {text.strip() for text in self.texts} - set(NO_NUMBER)
        texts -= strangers(text for text in self.texts if text.strip() in texts)
        if numbers_of(texts)[0] is not None:
            return "numbers"
        order, is_open = dates_of(texts)
        return "dates" if order is not None or is_open else None

    @property
    def is_words(self) -> bool:
        """Whether the values are strings that are neither numbers nor dates."""
        return self.texts is not None and self.noted is None

    @property
    def is_plain(self) -> bool:
        """Whether the values are what a cell may hold: no lists, structs, bytes or arrays."""
        return not any(isinstance(v, (bytes, list, tuple, dict, set, np.ndarray)) for v in self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of arrays of numbers, the first one's; empty for all other values."""
        try:
            first = np.asarray(self.values[0]) if self.values else np.empty(0, object)
        except ValueError:
            return ()
        return first.shape if first.dtype.kind in "iuf" else ()

    def within(self, keys: Collection[str], beside: Collection[str]) -> Column:
        """Of structs that hold one of `keys` and one of `beside`, in any case, the values of the first; else itself."""
        found = []
        for value in self.values:
            lower = {str(k).lower(): v for k, v in value.items()} if isinstance(value, dict) else {}
            inner = next((lower[key] for key in keys if lower.get(key) is not None), None)
            if inner is None or not any(key in lower for key in beside):
                return self
            found.append(inner)
        return replace(self, values=found)

    @property
    def distinct(self) -> float:
        """Share of different values; of plain values only."""
        return len(set(map(str, self.values))) / max(len(self.values), 1)

    @property
    def words(self) -> float:
        """Words of a text, on average; of a list of texts those of the first. 0 for what is no text."""
        first = [v[0] if isinstance(v, list) and v and isinstance(v[0], str) else v for v in self.values]
        if not first or not all(isinstance(v, str) for v in first):
            return 0.0
        return sum(len(v.split()) for v in first) / len(first)

    @property
    def is_running_text(self) -> bool:
        """Whether this is language, and no names of categories: many words, mostly different ones."""
        if self.texts is None:
            return self.words >= 2  # a list of captions
        return (self.words >= 5 and self.distinct > 0.3) or (self.words >= 2.5 and self.distinct > 0.9)

    @property
    def identifier(self) -> str | None:
        """Why this tells rows apart and says nothing of them; None where it is no identifier."""
        if not self.values or not self.is_plain:
            return None
        different = len(set(map(str, self.values)))
        if ID_NAME.fullmatch(self.name) and (different > FEW or self.distinct == 1):
            return "identifier, by its name"
        whole = [int(v) for v in self.values if _is_whole(v)]
        if len(whole) == len(self.values) and len(whole) > 2:
            steps = {(b - a) - (n - m) for (a, b), (m, n) in zip(_pairs(whole), _pairs(self.rows), strict=True)}
            if steps == {0}:
                return "row numbers"
            long = min(map(abs, whole)) >= 10_000 and len({len(str(v)) for v in whole}) == 1
            return "identifier, all different" if long and different == len(whole) >= SURE else None
        if self.texts is not None and different == len(self.values) >= SURE and self.words < 1.5:
            return None if all(map(_looks_like_number, self.texts)) else "identifier, all different"
        return None


@dataclass
class Table:
    """Data whose columns a modality may choose among.

    Attributes:
        columns: name -> what is known of it.
        taken: name -> what has it: another modality, or why it is no input (the label, the split).
        left_out: what a modality that takes all it can did not take: name -> why.
    """

    columns: Mapping[str, Column]
    taken: dict[str, str]
    left_out: dict[str, str] = field(default_factory=dict)

    def free(self) -> Iterator[Column]:
        """The columns that nothing has."""
        return (column for name, column in self.columns.items() if name not in self.taken)


def label_name(names: Iterable[str]) -> str | None:
    """Which of these columns is the label where nobody says one: `label`, else the only one with a label's name."""
    found = [name for name in names if name.lower() in LABELS]
    return "label" if "label" in found else found[0] if len(found) == 1 else None


def joined(names: Collection[str], most: int = 12) -> str:
    """Names for a message, the first of them."""
    shown = list(names)[:most]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def _pairs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    return itertools.pairwise(values)


def _is_whole(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"-?(0|[1-9]\d{0,17})", value.strip()) is not None
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _looks_like_number(text: str) -> bool:
    """Whether a text begins and ends as numbers, money and dates do."""
    return re.fullmatch(r"\W{0,3}\d[\d.,:/' T+-]*\W{0,2}[A-Za-z%]{0,3}", text.strip()) is not None
