"""Decoded samples that are kept in memory, so that a small data set is decoded once and not in every epoch.

A sample is kept where nothing of it was drawn: `Watched` is the random integer that `Preprocessor.read` picks variants
by, and knows whether anybody asked for its value. What is drawn anew every time (one of several captions, a stretch of
a long recording) is read anew every time, so that batches are the same with and without this memory.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch


class Watched(int):
    """An int that knows whether its value was used: in arithmetic, a comparison or a conversion."""

    used = False


def _watch(name: str) -> Callable[..., Any]:
    own = getattr(int, name)

    def method(self: Watched, *args: object) -> Any:
        self.used = True
        return own(self, *args)

    return method


_PLAIN = {"__new__", "__init__", "__class__", "__getattribute__", "__setattr__", "__delattr__", "__dir__", "__doc__"}
_PLAIN |= {"__init_subclass__", "__subclasshook__", "__reduce__", "__reduce_ex__", "__getnewargs__", "__sizeof__"}
for _name in dir(int):
    if _name not in _PLAIN and callable(getattr(int, _name)):
        setattr(Watched, _name, _watch(_name))


def size_of(sample: object) -> int:
    """About how many bytes a decoded sample has."""
    if isinstance(sample, np.ndarray):
        # of a view of larger memory (colours with a fourth byte a pixel) what it keeps alive
        held = abs(sample.strides[0]) * len(sample) if sample.ndim else 0
        return max(int(sample.nbytes), held) + 128
    if isinstance(sample, torch.Tensor):
        return sample.nbytes + 512
    if dataclasses.is_dataclass(sample) and not isinstance(sample, type):
        return 64 + sum(size_of(getattr(sample, field.name)) for field in dataclasses.fields(sample))
    if isinstance(sample, Mapping):
        return 256 + sum(sys.getsizeof(key) + size_of(value) for key, value in sample.items())
    if isinstance(sample, (list, tuple, set, frozenset)):
        return 64 + sum(8 + size_of(value) for value in sample)
    return sys.getsizeof(sample)


class Memory:
    """Row -> its decoded samples, up to `limit` bytes; what comes when it is full is not kept.

    Nothing is thrown out: of a data set that does not fit, another row of the epoch would be what is missing.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self.rows: dict[int, dict[str, Any]] = {}

    def get(self, row: int) -> dict[str, Any] | None:
        """modality -> sample (None = absent) of a row that is kept."""
        return self.rows.get(row)

    def put(self, row: int, samples: dict[str, Any]) -> None:
        """Keep the samples of a row, where there is room."""
        if self.used >= self.limit:
            return
        size = size_of(samples)
        if self.used + size <= self.limit:
            self.rows[row] = samples
            self.used += size
