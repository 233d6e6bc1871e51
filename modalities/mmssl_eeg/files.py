"""EEG files by mne: EDF, BDF, FIF, EEGLAB (.set), BrainVision (.vhdr), and what else it opens."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmssl.errors import BadSample, UserError, one_line
from mmssl.modality.biosignals.recording import Array, Recording, check_file

if TYPE_CHECKING:
    from mne.io import BaseRaw

ENDINGS = (".edf", ".bdf", ".gdf", ".fif", ".fif.gz", ".set", ".vhdr", ".cnt", ".mff", ".nxe")
KEPT = (".fif", ".edf", ".bdf")
"""Formats whose headers are kept in memory, as mne takes longer over one than over the samples of a window; it would
keep samples, too, of some of the others."""
COMPANIONS = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set"}


def open_eeg(path: Path) -> Recording:
    """The EEG channels of a file, in volts; those of other kinds, as far as the file tells them, are left out.

    Raises BadSample for what is truncated or not what its ending says.
    """
    ending = path.suffix.lower()
    if ending in COMPANIONS:
        raise BadSample(f"{path.name} is a part of a recording: give the {COMPANIONS[ending]} file")
    if not path.name.lower().endswith(ENDINGS):
        raise BadSample(f"{path.name}: expected a file of one of the formats {', '.join(ENDINGS)}, .npy")
    check_file(path) if ending != ".mff" else None
    if ending in (".edf", ".bdf"):
        check_edf(path)
    try:
        import mne  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("EEG files need the package 'mne': pip install 'mmssl[eeg]'") from error
    try:
        raw = _opened(path, *_version(path)) if ending in KEPT else _open(path)
    except Exception as error:  # mne raises whatever the bytes that it did not understand led to
        said = one_line(error)
        raise BadSample(f"{path.name} cannot be read as {ending[1:]}: {type(error).__name__}: {said}") from error
    picks = [row for row, kind in enumerate(raw.get_channel_types()) if kind == "eeg"]
    if not picks:
        raise BadSample(f"{path.name} has no EEG channel, only {', '.join(sorted(set(raw.get_channel_types())))}")

    def load(first: int, last: int) -> Array:
        return _read(raw, picks, first, last, path.name)

    names = [raw.ch_names[row] for row in picks]
    units, bads = ["V"] * len(picks), list(raw.info["bads"])
    return Recording(len(picks), int(raw.n_times), load, names, float(raw.info["sfreq"]), units, bads)


def _open(path: Path, *_version: int) -> BaseRaw:
    """mne's object for the file, which holds the header and no samples."""
    import mne

    with mne.utils.use_log_level("ERROR"):  # once: each call that is told `verbose` by itself takes a while over it
        return (mne.io.read_raw_fif if path.suffix.lower() == ".fif" else mne.io.read_raw)(path, preload=False)


_opened = functools.lru_cache(maxsize=64)(_open)


def _version(path: Path) -> tuple[int, int, int]:
    """What is different for a file that was written anew."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(raw: BaseRaw, picks: list[int], first: int, last: int, name: str) -> Array:
    """(C, last - first) in volts; NaN where the file's annotations say that it was not recording."""
    try:
        signal = np.asarray(raw[picks, first:last][0], dtype=np.float64)
    except Exception as error:
        said = one_line(error)
        raise BadSample(f"cannot read {name} (truncated?): {type(error).__name__}: {said}") from error
    if signal.shape[1] != last - first:
        raise BadSample(f"{name} is truncated: {signal.shape[1]} of {last - first} samples")
    rate = raw.info["sfreq"]
    for note in raw.annotations:
        if re.match(r"(BAD_ACQ_SKIP|EDGE boundary gap)", str(note["description"])):
            onset = round((note["onset"] - raw.first_time) * rate) - first
            signal[:, max(onset, 0) : max(onset + round(note["duration"] * rate), 0)] = np.nan
    return signal


def check_edf(path: Path) -> None:
    """Raises BadSample when an EDF or BDF file is shorter than its header says (mne would read what there is)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(256)
        wide = path.suffix.lower() == ".bdf"
        if len(head) < 256 or head[:8] != (b"\xffBIOSEMI" if wide else b"0       "):
            raise BadSample(f"{path.name} is no {'BDF' if wide else 'EDF'} file: it does not begin with such a header")
        try:
            header, records, signals = int(head[184:192]), int(head[236:244]), int(head[252:256])
            file.seek(256 + 216 * signals)
            counts = [int(file.read(8)) for _ in range(signals)]
        except ValueError as error:
            raise BadSample(f"{path.name}: the header is damaged: {error}") from error
    wanted = header + records * sum(counts) * (3 if wide else 2)
    if records >= 0 and size < wanted:
        raise BadSample(f"{path.name} is truncated: {size} bytes of the {wanted} that its header calls for")
