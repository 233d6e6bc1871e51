"""WFDB records (.hea with .dat, .mat or what the header names) by wfdb."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mmssl.errors import BadSample, UserError
from mmssl.modality.biosignals.recording import Array, Recording, check_file

if TYPE_CHECKING:
    from wfdb import Record

ENDINGS = (".hea", ".dat")
CHECKED = 2_000_000
"""Samples (of all leads) up to which a record is read at once, and compared with the checksums in its header."""
FIRST_LINE = re.compile(r"[^\s/]+ +(\d+) +\S+ +(\d+)")  # name, signals, rate, samples; a / behind the name: segments


def open_wfdb(path: Path) -> Recording:
    """The record of a .hea or .dat file, or of their common name. Physical units as the header says.

    Raises BadSample for what is truncated, damaged (its checksum differs) or no WFDB record.
    """
    name = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    header_file = name.with_name(name.name + ".hea")
    if path.suffix and path.suffix.lower() not in ENDINGS and not header_file.is_file():
        raise BadSample(f"{path.name}: expected a WFDB record (.hea, .dat) or an array (.npy)")
    if not header_file.is_file() and path.suffix.lower() == ".dat" and path.is_file():
        raise BadSample(f"{path.name} has no header: expected {header_file.name} beside it")
    check_file(header_file)
    try:
        import wfdb
    except ModuleNotFoundError as error:
        raise UserError("WFDB records need the package 'wfdb': pip install 'mmssl[ecg]'") from error
    record = _whole(wfdb, name, header_file)
    if record is not None:
        return _recording(record, lambda first, last: _physical(record, name)[:, first:last])
    try:
        header = wfdb.rdheader(str(name))
    except Exception as error:  # wfdb raises whatever the line that it did not understand led to
        raise BadSample(f"{header_file.name} is no readable WFDB header: {type(error).__name__}: {error}") from error
    if not header.n_sig or not header.sig_len:
        raise BadSample(
            f"{header_file.name}: the record has {header.n_sig or 0} signals of {header.sig_len or 0} samples"
        )
    for file in {*(getattr(header, "file_name", None) or [])} - {"~"}:
        check_file(header_file.with_name(file))
    return _recording(header, lambda first, last: _read(wfdb, name, header, first, last))


def _recording(header: Record, load: Callable[[int, int], Array]) -> Recording:
    units = None if getattr(header, "units", None) is None else [unit or "mV" for unit in header.units]
    names = None if header.sig_name is None or None in header.sig_name else list(header.sig_name)
    return Recording(header.n_sig, header.sig_len, load, names, float(header.fs), units)


def _whole(wfdb: ModuleType, name: Path, header_file: Path) -> Record | None:
    """A small record read at once, digital, or None: for a large one, one of several segments, one without checksums,
    and one that cannot be read so, of which the slower way says what is wrong.

    wfdb takes longer over a header than over ten seconds of twelve leads, and reads it again with the samples.
    """
    lines = (line for line in header_file.read_text(errors="replace").splitlines() if line.strip() and line[0] != "#")
    found = FIRST_LINE.match(next(lines, ""))
    if found is None or not 0 < int(found[1]) * int(found[2]) <= CHECKED:
        return None
    try:
        record = wfdb.rdrecord(str(name), physical=False)
    except Exception:
        return None
    there = record.d_signal is not None and record.d_signal.shape == (int(found[2]), int(found[1]))
    return record if there and _has_checksums(record) else None


def _physical(record: Record, name: Path) -> Array:
    """(C, T) in the header's units, NaN where the record has no value; compared with its checksums."""
    if record.p_signal is None:
        _compare(record, name)
        try:
            record.dac(return_res=64, inplace=True)
        except Exception as error:  # a header that wfdb read but whose gains or formats make no sense
            raise BadSample(f"{name.name}.hea makes no sense: {type(error).__name__}: {error}") from error
    return np.asarray(record.p_signal, dtype=np.float64).T


def _read(wfdb: ModuleType, name: Path, header: Record, first: int, last: int) -> Array:
    """(C, last - first) in the header's units, NaN where the record has no value."""
    try:
        signal = np.asarray(wfdb.rdrecord(str(name), sampfrom=first, sampto=last, return_res=64).p_signal, np.float64)
    except Exception as error:  # numpy's errors over a file that is too short, wfdb's over a format
        raise BadSample(f"cannot read record {name.name} (truncated?): {type(error).__name__}: {error}") from error
    if signal.shape != (last - first, header.n_sig):
        raise BadSample(f"record {name.name} is truncated: {len(signal)} of {last - first} samples")
    return signal.T


def _has_checksums(header: Record) -> bool:
    known = getattr(header, "checksum", None)
    single = getattr(header, "samps_per_frame", None) in (None, [1] * header.n_sig)
    return single and known is not None and None not in known


def _compare(record: Record, name: Path) -> None:
    for lead, said, found in zip(record.sig_name, record.checksum, record.calc_checksum(), strict=True):
        if (said - found) % 65536:
            raise BadSample(
                f"record {name.name} is damaged: the checksum of '{lead}' is {found}, its header says {said}"
            )
