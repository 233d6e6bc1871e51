"""WFDB records (.hea with .dat, .mat or what the header names) by wfdb.

wfdb's defaults that change values are set by intent, see docs/explanation/readers.md. Shapes: C signals, T samples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...boundary import is_ours, reading_sample
from ...errors import BadSample, UserError
from .processing import resampled
from .recording import Array, Load, Recording, check_file
from .wfdb_companions import check_companions
from .wfdb_segments import joined, part_header

if TYPE_CHECKING:
    from wfdb import Record

ENDINGS = (".hea", ".dat")
CHECKED = 2_000_000
"""Samples (of all leads) up to which a record is read at once, and compared with the checksums in its header."""
Known = Callable[[str], bool]
"""Whether a signal of this name is one of the modality's channels."""
FIRST_LINE = re.compile(r"[^\s/]+ +(\d+) +\S+ +(\d+)")  # name, signals, rate, frames; a / behind the name: segments
EXPONENT = re.compile(r"\S+\s+\d+\s+[\d.]+[eE][+-]?\d")


def open_wfdb(path: Path, checksums: bool = True, known: Known = bool) -> Recording:
    """The record of a .hea or .dat file, or of their common name. Physical units as the header says.

    A record of several segments is put together by the names of its signals; where it says nothing of one of them, it
    is NaN. Of signals with several samples a frame all are read; where rates differ, all come at the highest rate that
    a known one has.

    Args:
        path: of the header or the samples.
        checksums: whether samples that differ from the header's checksums are refused.
        known: which signals are the modality's.

    Raises:
        BadSample: it is truncated, damaged (its checksum differs) or no WFDB record.
    """
    name = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    header_file = name.with_name(name.name + ".hea")
    if path.suffix and path.suffix.lower() not in ENDINGS and not header_file.is_file():
        raise BadSample(f"{path.name}: expected a WFDB record (.hea, .dat) or an array (.npy)")
    if not header_file.is_file() and path.suffix.lower() == ".dat" and path.is_file():
        raise BadSample(f"{path.name} has no header: expected {header_file.name} beside it")
    check_companions(check_file(header_file))
    try:
        import wfdb
    except ModuleNotFoundError as error:
        raise UserError("WFDB records need the package 'wfdb': pip install 'mmssl[ecg]'") from error
    record = _whole(wfdb, name, header_file)
    if record is not None:
        many = samples_a_frame(record, known)
        return _recording(
            record, many, lambda first, last: even(_physical(record, name, checksums), record, many)[:, first:last]
        )
    header = _header(wfdb, name)
    if hasattr(header, "seg_name"):
        parts = [part_header(name, header, title, lambda path: _header(wfdb, path)) for title in header.seg_name]
        return joined(name, header, parts, lambda part: samples_a_frame(part, known), lambda *of: _read(wfdb, *of))
    if not header.n_sig or not header.sig_len:
        raise BadSample(
            f"{header_file.name}: the record has {header.n_sig or 0} signals of {header.sig_len or 0} samples"
        )
    check_parts(header_file, [file for file in getattr(header, "file_name", None) or [] if file != "~"])
    many = samples_a_frame(header, known)
    return _recording(header, many, lambda first, last: _read(wfdb, name, header, many, first, last))


def _header(wfdb: ModuleType, name: Path) -> Any:
    """wfdb's `Record` or `MultiRecord` without samples. (It would read the headers of segments by itself, and fail over
    those whose signals have no names.)"""
    check_file(name.with_name(f"{name.name}.hea"))
    with reading_sample(f"{name.name}.hea is no readable WFDB header"):
        header = wfdb.rdheader(str(name))
    return with_units(header, name.with_name(f"{name.name}.hea"))


def with_units(header: Any, header_file: Path) -> Any:
    """wfdb's header with the units of signals whose letters are not ASCII: it drops these, and of \u00b5V leaves V."""
    lines = [line for line in header_file.read_bytes().splitlines() if line.strip() and not line.startswith(b"#")]
    for row, line in enumerate(lines[1:]):
        words = line.split()
        if len(words) > 2 and not words[2].isascii() and row < len(getattr(header, "units", None) or ()):
            try:
                gain = words[2].decode()
            except UnicodeDecodeError:
                gain = words[2].decode("latin-1")
            header.units[row] = gain.rpartition("/")[2]
    return header


def check_parts(header_file: Path, names: Sequence[str]) -> None:
    """Each file that a header names lies beside it and is not empty; else BadSample."""
    for file in dict.fromkeys(names):
        if Path(file).name != file:
            raise BadSample(f"{header_file.name} names '{file}', expected the name of a file beside it")
        check_file(header_file.with_name(file))


def samples_a_frame(header: Record, known: Known) -> int:
    """How many samples a frame all signals are read at: the most that a known one has, without any, any signal."""
    counts = getattr(header, "samps_per_frame", None) or [1] * header.n_sig
    names = header.sig_name or [None] * header.n_sig
    leads = [count for count, name in zip(counts, names, strict=True) if name and known(name)]
    return int(max(leads or counts))


def _recording(header: Record, many: int, load: Load) -> Recording:
    units = [unit or "mV" for unit in header.units or [""] * header.n_sig]  # mV where none is written: WFDB's rule
    names = None if not header.sig_name or not all(header.sig_name) else list(header.sig_name)
    return Recording(header.n_sig, header.sig_len * many, load, names, float(header.fs) * many, units)


def _whole(wfdb: ModuleType, name: Path, header_file: Path) -> Record | None:
    """A small record read at once, digital, or None: for a large one, one of several segments, one without checksums,
    and one that cannot be read so, of which the slower way says what is wrong.

    wfdb takes longer over a header than over ten seconds of twelve leads, and reads it again with the samples.
    """
    lines = (line for line in header_file.read_text(errors="replace").splitlines() if line.strip() and line[0] != "#")
    first = next(lines, "")
    if EXPONENT.match(first):
        raise BadSample(
            f"{header_file.name}: the rate is '{first.split()[2]}', expected a number without an exponent: wfdb would "
            "read another one"
        )
    found = FIRST_LINE.match(first)
    if found is None or not 0 < int(found[1]) * int(found[2]) <= CHECKED:
        return None
    try:
        record = wfdb.rdrecord(str(name), physical=False, smooth_frames=False)
    except Exception as error:
        if is_ours(error):
            raise
        return None
    if record.e_d_signal is None or len(record.e_d_signal) != int(found[1]) or not _has_checksums(record):
        return None
    lengths = [int(found[2]) * count for count in record.samps_per_frame]
    whole = [len(signal) for signal in record.e_d_signal] == lengths
    return with_units(record, header_file) if whole else None


def _physical(record: Record, name: Path, checksums: bool) -> list[Array]:
    """One array a signal in the header's units, NaN where the record has no value; compared with its checksums."""
    if record.e_p_signal is None:
        if checksums:
            _compare(record, name)
        with reading_sample(f"{name.name}.hea makes no sense"):  # wfdb read it, but not its gains or formats
            record.dac(expanded=True, return_res=64, inplace=True)
    return [np.asarray(signal, dtype=np.float64) for signal in record.e_p_signal]


def _read(wfdb: ModuleType, name: Path, header: Record, many: int, first: int, last: int) -> Array:
    """(C, last - first) of a record of one segment in the header's units, `many` samples a frame; NaN where it has no
    value."""
    start, stop = first // many, -(-last // many)
    with reading_sample(f"cannot read record {name.name} (truncated?)"):
        record = wfdb.rdrecord(str(name), sampfrom=start, sampto=stop, smooth_frames=False, return_res=64)
        signals = [np.asarray(signal, np.float64) for signal in record.e_p_signal]
    lengths = [(stop - start) * count for count in header.samps_per_frame or [1] * header.n_sig]
    if [len(signal) for signal in signals] != lengths:
        raise BadSample(f"record {name.name} is truncated: {min(map(len, signals), default=0)} of {lengths[0]} samples")
    return even(signals, header, many)[:, first - start * many : last - start * many]


def even(signals: Sequence[Array], header: Record, many: int) -> Array:
    """(C, T) of signals of their own rates, all at `many` samples a frame."""
    counts = header.samps_per_frame or [1] * len(signals)
    rows = [
        signal if count == many else resampled(signal[None], header.fs * count, header.fs * many)[0]
        for signal, count in zip(signals, counts, strict=True)
    ]
    return np.stack(rows)


def _has_checksums(header: Record) -> bool:
    known = getattr(header, "checksum", None)
    return known is not None and None not in known


def _compare(record: Record, name: Path) -> None:
    if not any(record.checksum):  # what writers put down that do not compute them
        return
    for lead, said, signal in zip(record.sig_name, record.checksum, record.e_d_signal, strict=True):
        found = int(np.sum(signal, dtype=np.int64)) % 65536
        if (said - found) % 65536:
            raise BadSample(
                f"record {name.name} is damaged: the checksum of '{lead}' is {found}, its header says {said} "
                "(option checksums: false reads it all the same)"
            )


def wfdb_seconds(path: Path) -> float | None:
    """How long a record is by the first line of its header; None where that does not say it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        words = next((line.split() for line in file if line.strip() and not line.startswith("#")), [])
    if len(words) < 4:
        return None
    rate = re.match(r"[0-9.]+(e[+-]?\d+)?", words[2], re.IGNORECASE)
    frames = int(words[3]) if words[3].isdigit() else 0
    return frames / float(rate[0]) if rate and frames and float(rate[0]) > 0 else None


def wfdb_parts(path: Path) -> list[Path]:
    """The files that a header names: of samples, or of segments with theirs."""
    with path.open(encoding="utf-8", errors="replace") as file:
        said = [line.split() for line in file if line.strip() and not line.lstrip().startswith("#")]
    if not said:
        return []
    names = [words[0] for words in said[1:] if words[0] != "~" and Path(words[0]).name == words[0]]
    if "/" not in said[0][0]:
        return [path.with_name(name) for name in dict.fromkeys(names)]
    segments = [path.with_name(f"{name}.hea") for name in dict.fromkeys(names)]
    return segments + [
        part for segment in segments if segment.is_file() and segment != path for part in wfdb_parts(segment)
    ]
