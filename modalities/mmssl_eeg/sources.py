"""Continuous recordings to rows of windows, for data that has one row a sample or one file an hour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mmssl.errors import UserError
from mmssl.modality.biosignals.mne_files import Channels, open_mne

from .electrodes import from_head, others


def windows(
    source: str | Path | Mapping[str, Sequence[float]],
    seconds: float,
    *,
    step: float | None = None,
    rate: float | None = None,
    channels: Sequence[str] | None = None,
) -> Iterator[dict[str, object]]:
    """Rows for `datasets.Dataset.from_list`, one for each whole window of a recording.

    Args:
        source: a file (rows hold `path` and `start`, and the file is read again at each: no copy of the data; a window
            in which nothing was measured is left out), or a table with one row a sample: column -> T numbers (rows
            hold the windows themselves and `rate`).
        seconds: length of a window.
        step: seconds between beginnings, default `seconds`.
        rate: rows a second of a table.
        channels: the table's columns that are channels, default all.

    Raises:
        BadSample: the file cannot be read.
        UserError: a table without `rate`, or without one of the columns.
    """
    if isinstance(source, (str, Path)):
        recording = open_mne(Path(source), Channels("eeg", others, from_head))
        assert recording.rate is not None
        spans = recording.spans or [(0, recording.length)]
        for first in _starts(recording.length, recording.rate, seconds, step):
            if any(low < first + seconds * recording.rate and first < high for low, high in spans):  # not in a gap
                yield {"path": str(source), "start": first / recording.rate}
        return
    if rate is None:
        raise UserError("rate: a table does not say how many rows are a second")
    names = list(source if channels is None else channels)
    missing = [name for name in names if name not in source]
    if missing:
        raise UserError(f"channels: the table has no column {', '.join(missing)}, its columns are {', '.join(source)}")
    columns = {name: np.asarray(source[name], dtype=np.float64) for name in names}
    count = round(seconds * rate)
    for first in _starts(min(map(len, columns.values())), rate, seconds, step):
        cut = {name: column[first : first + count].tolist() for name, column in columns.items()}
        yield cut | {"rate": rate}


def _starts(length: int, rate: float, seconds: float, step: float | None) -> range:
    """First samples of all whole windows."""
    return range(0, length - round(seconds * rate) + 1, max(round((step or seconds) * rate), 1))
