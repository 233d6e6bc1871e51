"""WFDB records (.hea with .dat, .mat or what the header names) by wfdb."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmssl.biosignals.recording import Array, Recording, check_file
from mmssl.errors import BadSample, UserError

ENDINGS = (".hea", ".dat")
CHECKED = 2_000_000
"""Samples (of all leads) up to which a record that is read whole is compared with the checksums in its header."""


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
    try:
        header = wfdb.rdheader(str(name))
    except Exception as error:  # wfdb raises whatever the line that it did not understand led to
        raise BadSample(f"{header_file.name} is no readable WFDB header: {type(error).__name__}: {error}") from error
    if not header.n_sig or not header.sig_len:
        raise BadSample(f"{header_file.name}: the record has {header.n_sig or 0} signals of {header.sig_len or 0} "
                        f"samples")
    for file in {*(getattr(header, "file_name", None) or [])} - {"~"}:
        check_file(header_file.with_name(file))

    def load(first: int, last: int) -> Array:
        return _read(wfdb, name, header, first, last)

    units = None if getattr(header, "units", None) is None else [unit or "mV" for unit in header.units]
    names = None if header.sig_name is None or None in header.sig_name else list(header.sig_name)
    return Recording(header.n_sig, header.sig_len, load, names, float(header.fs), units)


def _read(wfdb: Any, name: Path, header: Any, first: int, last: int) -> Array:
    """(C, last - first) in the header's units, NaN where the record has no value."""
    whole = (first, last) == (0, header.sig_len) and header.n_sig * header.sig_len <= CHECKED
    digital: bool = whole and _has_checksums(header)
    try:
        record = wfdb.rdrecord(str(name), sampfrom=first, sampto=last, physical=not digital, return_res=64)
        if digital:
            _compare(record, name)
            record.dac(return_res=64, inplace=True)
        signal = np.asarray(record.p_signal, dtype=np.float64)
    except BadSample:
        raise
    except Exception as error:  # numpy's errors over a file that is too short, wfdb's over a format
        raise BadSample(f"cannot read record {name.name} (truncated?): {type(error).__name__}: {error}") from error
    if signal.shape != (last - first, header.n_sig):
        raise BadSample(f"record {name.name} is truncated: {len(signal)} of {last - first} samples")
    return signal.T


def _has_checksums(header: Any) -> bool:
    known = getattr(header, "checksum", None)
    single = getattr(header, "samps_per_frame", None) in (None, [1] * header.n_sig)
    return single and known is not None and None not in known


def _compare(record: Any, name: Path) -> None:
    for lead, said, found in zip(record.sig_name, record.checksum, record.calc_checksum(), strict=True):
        if (said - found) % 65536:
            raise BadSample(f"record {name.name} is damaged: the checksum of '{lead}' is {found}, its header says "
                            f"{said}")
