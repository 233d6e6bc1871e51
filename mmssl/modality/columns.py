"""Further columns of a modality: a question and its answer, the left and the right picture, one moment and the next.

What a modality reads by itself is its main column, which the view "clean" shows. A view may read another one of the
same kind, and the same encoder::

    data: {columns: {text: question, answer: reply}}     # name of the input -> column of the data
    views: {reply: {text: {column: answer}}}             # "answer" is read as `text` is

A batch holds a further column under its own name beside the modalities, absent where a sample lacks it, so that
readers, mixtures and quarantine treat it as they treat a modality. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

COLUMN = "column"
"""The option of a view that names what it reads in place of the modality's main column."""
T = TypeVar("T")


def further_columns(views: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Name -> modality, of all that views read beside the main columns."""
    found: dict[str, str] = {}
    for specs in views.values():
        for modality, spec in specs.items() if isinstance(specs, Mapping) else ():
            column = spec.get(COLUMN) if isinstance(spec, Mapping) else None
            if isinstance(column, str):
                found.setdefault(column, modality)
    return found


def with_further(of: Mapping[str, T], further: Mapping[str, str]) -> dict[str, T]:
    """What there is of each modality (its reader), for further columns that of their modality."""
    return {**of, **{name: of[modality] for name, modality in further.items() if modality in of}}


def without_column(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a view that are its augmentation's."""
    return {key: value for key, value in spec.items() if key != COLUMN}
