"""`Outputs`: what a frozen tower made of each row, kept in a file and read in place of the rows themselves.

`mmssl.training.storing` writes them. Shapes: n rows, m samples (a row with five captions has five), W width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BadSample
from ..modality import Inputs, Preprocessor

POOLED = "pooled"
"""The key of a batch that holds a tower's outputs where others hold its inputs."""


class Stored(Protocol):
    """What is known of each row without reading it: `read` and `collate` stand in for a preprocessor's."""

    def read(self, index: int, choice: int = 0) -> Any:
        """Of row `index`; None where there is nothing."""

    def collate(self, samples: Sequence[Any]) -> Inputs:
        """A batch of what `read` gave."""


class Given:
    """A column about the rows that is not among theirs, read as its preprocessor reads one of theirs.

    values: (n,) raw values; None where there is none. They may be put in the place of others between two passes.
    """

    def __init__(self, reader: Preprocessor[Any], values: Sequence[Any]) -> None:
        self.reader, self.values = reader, values

    def read(self, index: int, choice: int = 0) -> Any:
        """Of row `index`; None where there is nothing."""
        raw = self.values[index]
        return None if raw is None else self.reader.read(raw)

    def collate(self, samples: Sequence[Any]) -> Inputs:
        """A batch of what `read` gave."""
        return self.reader.collate(samples)


class Unknown(Given):
    """A column of which nothing is known, of rows that are looked at outside of training."""

    def __init__(self, reader: Preprocessor[Any]) -> None:
        super().__init__(reader, ())

    def read(self, index: int, choice: int = 0) -> Any:
        """Nothing."""
        return None


class Outputs:
    """Of one modality: `read` and `collate` stand in for its preprocessor's.

    The files are mapped into memory where they are read: a worker is handed their place alone.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self._open: tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], dict[str, str]] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "name": self.name, "_open": None}

    def file(self, what: str) -> Path:
        """`pooled.npy` (m, W), `present.npy` (m,), `starts.npy` (n + 1,) or `about.json` of this modality."""
        return self.folder / f"{self.name}.{what}"

    def _opened(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64], dict[str, str]]:
        if self._open is None:
            faults = json.loads(self.file("about.json").read_text())["faults"]
            arrays = (np.load(self.file(f"{what}.npy"), mmap_mode="r") for what in ("pooled", "present", "starts"))
            self._open = (*arrays, faults)
        assert self._open is not None
        return self._open

    @property
    def width(self) -> int:
        """W."""
        return int(self._opened()[0].shape[1])

    def rows(self) -> NDArray[np.float32]:
        """(k, W) those of the m samples that are there, in memory."""
        pooled, present, _, _ = self._opened()
        return np.asarray(pooled)[np.asarray(present)]

    def read(self, index: int, choice: int = 0) -> NDArray[np.float32] | None:
        """(W,) of row `index`, of one of its samples by `choice`; None where it is absent. BadSample: it was broken."""
        pooled, present, starts, faults = self._opened()
        first, last = int(starts[index]), int(starts[index + 1])
        # of one sample nothing is drawn, so that the row may be kept (`mmssl.data.memory`)
        at = first + (choice % (last - first) if last - first > 1 else 0)
        if present[at]:
            return pooled[at]
        if str(at) in faults:
            raise BadSample(faults[str(at)])
        return None

    def collate(self, samples: Sequence[NDArray[np.float32] | None]) -> Inputs:
        """{"pooled": (B, W), "present": (B,)}; absent rows are zero."""
        rows = np.zeros((len(samples), self.width), np.float32)
        for row, sample in zip(rows, samples, strict=True):
            if sample is not None:
                row[:] = sample
        there = torch.tensor([sample is not None for sample in samples])
        return {POOLED: torch.from_numpy(rows), "present": there}
