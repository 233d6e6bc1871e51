"""Files of biosignals by their endings: WFDB by wfdb, EDF and its like by mne, arrays, one text file a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...boundary import reading_sample
from ...errors import BadSample
from . import mne_files, tables
from .matlab import check_matlab
from .mne_files import Channels, mne_parts, mne_seconds, open_mne
from .recording import NAMES, RATE, SIGNAL, UNIT, Recording, check_file, numbers
from .wfdb_records import Known, open_wfdb, wfdb_parts, wfdb_seconds

HEADERS = (".hea", *mne_files.ENDINGS)
"""Endings of files that are recordings without a doubt."""
ARRAYS = (".npy", ".mat", *tables.ENDINGS)
"""Endings of files that may be."""


def open_file(path: Path, channels: Channels, known: Known, checksums: bool = True, usual: str = ".hea") -> Recording:
    """The recording in a file.

    Args:
        path: of it; of a WFDB record the header, the samples or their common name.
        channels: which channels of an EDF file and its like are taken.
        known: which signals of a WFDB record are.
        checksums: whether WFDB samples that differ from their checksums are refused.
        usual: how a file of an ending that says nothing is read.

    Raises:
        BadSample: says what is wrong with it.
    """
    ending = path.suffix.lower()
    if ending in tables.ENDINGS:
        return tables.open_table(path)
    if ending == ".mat" and not path.with_suffix(".hea").is_file():
        return open_matlab(path)
    if path.name.lower().endswith(mne_files.ENDINGS) or ending in mne_files.COMPANIONS:
        return open_mne(path, channels)
    record = ending in (".hea", ".dat", ".mat") or path.with_name(f"{path.name}.hea").is_file()
    return open_wfdb(path, checksums, known) if record or usual == ".hea" else open_mne(path, channels)


def stretches(recording: Recording, rate: float | None) -> list[tuple[float, float]] | None:
    """(begin, end) in seconds of what was measured in an opened recording; None where nothing says its rate."""
    found = recording.rate or rate
    if found is None:
        return None
    return [(first / found, last / found) for first, last in recording.spans or [(0, recording.length)]]


def seconds_of(path: Path) -> float | None:
    """How long a recording without gaps is by a look at its header; None: it has to be opened."""
    if path.suffix.lower() == ".hea":
        return wfdb_seconds(path)
    return mne_seconds(path)


def parts_of(path: Path) -> list[Path]:
    """The further files of a recording."""
    return wfdb_parts(path) if path.suffix.lower() == ".hea" else mne_parts(path)


def is_recording(path: Path) -> bool:
    """Whether a file of `ARRAYS` is one."""
    return tables.is_recording(path) if path.suffix.lower() in tables.ENDINGS else True


def open_matlab(path: Path) -> Recording:
    """The recording in a `.mat` file that is no part of a WFDB record: its array of numbers, and what it says of it."""
    check_matlab(check_file(path))
    with path.open("rb") as file:
        if file.read(128)[124:126] == b"\x00\x02":
            raise BadSample(f"{path.name} is of MATLAB 7.3 (HDF5), expected version 7: save it with -v7, or as .npy")
    with reading_sample(f"{path.name} cannot be read as mat"):
        from scipy.io import loadmat

        said = loadmat(str(path), squeeze_me=True, simplify_cells=True)
    values: dict[str, Any] = {}
    for name, value in said.items():
        if not name.startswith("__"):
            values |= value if isinstance(value, dict) else {name: value}
    lower = {name.lower(): value for name, value in values.items()}
    named = next((lower[key] for key in (*SIGNAL, "val") if _is_signal(lower.get(key))), None)
    arrays = [value for value in values.values() if _is_signal(value)]
    if named is None and not arrays:
        raise BadSample(f"{path.name}: found {', '.join(values) or 'nothing'}, expected an array of numbers")
    recording = Recording.of(numbers(max(arrays, key=np.size) if named is None else named), None)
    rate = next((lower[key] for key in RATE if np.size(lower.get(key, ())) == 1), None)
    recording.rate = None if rate is None else float(rate)
    names = next((lower[key] for key in NAMES if np.size(lower.get(key, ())) == recording.count), None)
    recording.names = None if names is None else [str(name).strip() for name in np.atleast_1d(names)]
    unit = next((lower[key] for key in UNIT if isinstance(lower.get(key), str)), None)
    recording.units = None if unit is None else [str(unit)] * recording.count
    return recording


def _is_signal(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and 0 < value.ndim <= 2 and value.size > 2
