"""How large samples are, in a line a modality: what `mmssl init` tells of files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..data.loading import read_rows
from ..errors import UserError
from ..modality import select
from .opening import reader

if TYPE_CHECKING:
    from datasets import Dataset

SOME = 16
"""Samples that are looked at."""
TOLD = ("image", "volume", "video", "audio", "graph")
"""Modalities that it is told of; of recordings, texts and cells there are lines already."""
TAKEN = " taken"
"""How the name of a size ends that a preprocessor cuts its samples to."""


def sizes_told(rows: Dataset, columns: Mapping[str, str | list[str]]) -> Iterator[str]:
    """ "  samples of audio: seconds 0.3 to 2.28, rate 8,000 (16 looked at)". columns: modality -> its column(s)."""
    for name in [one for one in TOLD if one in columns]:
        column, read = columns[name], reader(name)
        some = read_rows(rows, [column] if isinstance(column, str) else column, SOME)
        try:
            found = [one.sizes for one in read.readable([select(row, column) for row in some], read.look)]
        except UserError:  # not one is read, which is said when the recipe's own reader is fitted
            continue
        keys = dict.fromkeys(key for sizes in found for key in sizes if not key.endswith(TAKEN))
        told = [_told(key, [sizes[key] for sizes in found if key in sizes]) for key in keys]
        if told:
            yield f"  samples of {name}: {', '.join(told)} ({len(found)} looked at)"


def _told(key: str, values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{key} {low:,.4g}" + (f" to {high:,.4g}" if high > low else "")
