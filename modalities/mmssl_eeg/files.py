"""EEG files by mne: EDF, BDF, FIF, EEGLAB (.set), BrainVision (.vhdr), and what else it opens."""

from __future__ import annotations

import functools
import gzip
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample, UserError
from mmssl.modality.biosignals.matlab import check_matlab
from mmssl.modality.biosignals.recording import Array, Place, Recording, check_file

from .companions import check_beside, check_named
from .edf import ANNOTATIONS, Header, read_header, runs
from .electrodes import from_head, others

if TYPE_CHECKING:
    from collections.abc import Callable

    from mne.io import BaseRaw

ENDINGS = (".edf", ".bdf", ".gdf", ".fif", ".fif.gz", ".set", ".vhdr", ".cnt", ".mff", ".nxe")
KEPT = (".fif", ".edf", ".bdf")
"""Formats whose headers are kept in memory, as mne takes longer over one than over the samples of a window; it would
keep samples, too, of some of the others."""
UNUSED = ("BAD", "EDGE BOUNDARY GAP")
"""What annotations begin with, in any case, that say what is not to be used."""
COMPANIONS = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set"}


def open_eeg(path: Path) -> Recording:
    """The EEG channels of a file; those of other kinds, as far as the file or their names tell them, are left out.

    Samples are in volts where the file says their unit. What it marks as bad (`BAD...`), as skipped, or what lies
    between the records of an EDF+D file, is NaN. Raises BadSample for what is truncated or not what its ending says.
    """
    ending = path.suffix.lower()
    if ending in COMPANIONS:
        raise BadSample(f"{path.name} is a part of a recording: give the {COMPANIONS[ending]} file")
    if not path.name.lower().endswith(ENDINGS):
        raise BadSample(f"{path.name}: expected a file of one of the formats {', '.join(ENDINGS)}, .npy")
    check_file(path) if ending != ".mff" else None
    header = read_header(path) if ending in (".edf", ".bdf") else None
    check_named(path)
    if ending == ".set":
        check_matlab(path)
    try:
        import mne  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("EEG files need the package 'mne': pip install 'mmssl[eeg]'") from error
    with reading_sample(f"{path.name} cannot be read as {ending[1:]}"):
        raw = _opened(path, *_version(path)) if ending in KEPT else _open(path)
        notes = _notes(path, raw, header)
    check_beside(path, getattr(raw, "filenames", ()))
    picks = [row for row, kind in enumerate(raw.get_channel_types()) if kind == "eeg"]
    if not picks:
        raise BadSample(f"{path.name} has no EEG channel, only {', '.join(sorted(set(raw.get_channel_types())))}")
    names = [raw.ch_names[row] for row in picks]
    rate = float(raw.info["sfreq"])
    pieces = [(0, 0, int(raw.n_times))]
    if header is not None and header.parted:
        pieces = runs(path, header, rate, int(raw.n_times) // max(header.records, 1))
    length = pieces[-1][0] + pieces[-1][2]
    holes = _holes(notes, names, rate, length)

    def load(first: int, last: int) -> Array:
        out = np.full((len(picks), last - first), np.nan)
        for clock, place, count in pieces:
            low, high = max(first, clock), min(last, clock + count)
            if low < high:
                shift = place - clock
                out[:, low - first : high - first] = _read(raw, picks, low + shift, high + shift, path.name)
        for rows, low, high in holes:
            out[rows, max(low - first, 0) : max(high - first, 0)] = np.nan
        return out

    recording = Recording(len(picks), length, load, names, rate, _units(raw, header, picks), list(raw.info["bads"]))
    recording.places = _places(raw, picks)
    recording.spans = _spans(pieces, [(low, high) for rows, low, high in holes if rows == slice(None)])
    return recording


def check_tags(path: Path) -> None:
    """BadSample where a tag of a FIF file leads back: mne follows it round for ever.

    A tag begins with four big-endian int32: its kind, its type, the bytes that follow, and where the next one lies (0:
    behind these bytes, -1: nowhere), as in the FIFF specification (section 2).
    """
    place = 0
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while len(head := file.read(16)) == 16:
            _, _, size, following = struct.unpack(">4i", head)
            if following < 0:
                return
            after = following or place + 16 + size
            if after <= place:
                raise BadSample(f"FIF: the tag at byte {place} leads back to byte {after}")
            place = after
            file.seek(place)


def _open(path: Path, *_version: int) -> BaseRaw:
    """mne's object for the file, which holds the header and no samples."""
    import mne

    ending = path.suffix.lower()
    with mne.utils.use_log_level("ERROR"):  # once: each call that is told `verbose` by itself takes a while over it
        if path.name.lower().endswith((".fif", ".fif.gz")):
            check_tags(path)
        if ending == ".fif":
            return mne.io.read_raw_fif(path, preload=False)
        if ending not in (".edf", ".bdf"):
            return mne.io.read_raw(path, preload=False)
        read = mne.io.read_raw_bdf if ending == ".bdf" else mne.io.read_raw_edf
        labels = [label for label in read_header(path).labels if label not in ANNOTATIONS]
        # left out before mne brings all channels to the highest rate that one has: an ECG would set that of the EEG
        other = others(labels)
        exclude = other if len(other) < len(labels) else []
        return _in_either(lambda encoding: read(path, preload=False, exclude=exclude, encoding=encoding))


def _in_either(read: Callable[[str], Any]) -> Any:
    """What a reader of mne's makes of texts in UTF-8, or in Latin-1 where it says that they are none of UTF-8."""
    try:
        return read("utf8")
    except Exception as error:  # of one reader it has no class of its own
        if not isinstance(error, UnicodeDecodeError) and "latin1" not in str(error):
            raise
        return read("latin1")


_opened = functools.lru_cache(maxsize=64)(_open)


def _version(path: Path) -> tuple[int, int, int]:
    """What is different for a file that was written anew."""
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(raw: BaseRaw, picks: list[int], first: int, last: int, name: str) -> Array:
    """(C, last - first) of consecutive samples of the file."""
    with reading_sample(f"cannot read {name} (truncated?)"):
        signal = np.asarray(raw[picks, first:last][0], dtype=np.float64)
    if signal.shape[1] != last - first:
        raise BadSample(f"{name} is truncated: {signal.shape[1]} of {last - first} samples")
    return signal


# ------------------------------------------------------------------------------------ what is not to be used, and where


Note = tuple[float, float, str, tuple[str, ...]]
"""When an annotation begins in seconds from the recording's beginning, how long it is, its text, its channels (none:
all)."""


def _notes(path: Path, raw: BaseRaw, header: Header | None) -> list[Note]:
    """The file's annotations."""
    if header is not None and header.parted:
        import mne

        # mne lets go of those behind the end of the samples, which the gaps put off
        found, zero = _in_either(lambda encoding: mne.read_annotations(path, encoding=encoding)), 0.0
    else:
        found, zero = raw.annotations, raw.first_time
    return [
        (
            float(note["onset"]) - zero,
            float(note["duration"]),
            str(note["description"]),
            tuple(note.get("ch_names") or ()),
        )
        for note in found
    ]


def _holes(notes: list[Note], names: list[str], rate: float, length: int) -> list[tuple[Any, int, int]]:
    """(rows, first, last sample) of what the annotations say is not to be used: mne's own rule, `BAD` in front, in
    any case, and the gaps of files that were cut together."""
    found: list[tuple[Any, int, int]] = []
    for onset, seconds, text, channels in notes:
        if not text.upper().startswith(UNUSED):
            continue
        rows: Any = [names.index(name) for name in channels if name in names] if channels else slice(None)
        first = round(onset * rate)
        found.append((rows, max(first, 0), min(max(first + round(seconds * rate), 0), length)))
    return [hole for hole in found if hole[1] < hole[2]]


def _spans(pieces: list[tuple[int, int, int]], holes: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """(first, last sample) of what is left; None: all of it."""
    spans = [(clock, clock + count) for clock, _, count in pieces]
    for low, high in holes:
        spans = [cut for a, b in spans for cut in ((a, min(b, low)), (max(a, high), b)) if cut[0] < cut[1]]
    return None if len(pieces) == 1 and not holes else spans


# --------------------------------------------------------------------------------------------------- units and places


def _units(raw: BaseRaw, header: Header | None, picks: list[int]) -> list[str | None]:
    """The unit of the samples that mne gives of each channel; None where the file does not say it."""
    if header is not None:
        kept = set(range(len(header.labels)))
        kept -= {row for row, label in enumerate(header.labels) if label in ANNOTATIONS}
        if len(kept) != len(raw.ch_names):
            other = others([header.labels[row] for row in sorted(kept)])
            kept -= {row for row in kept if header.labels[row] in other}
        rows = sorted(kept)
        return [header.unit(rows[pick]) for pick in picks]
    factors = raw._raw_extras[0].get("units") if str(raw.filenames[0]).lower().endswith(".gdf") else None
    if factors is not None:  # mne takes numbers without a unit for volts
        return ["V" if factors[pick] != 1 else None for pick in picks]
    return ["V"] * len(picks)


def _places(raw: BaseRaw, picks: list[int]) -> dict[str, Place]:
    """Channel -> the place that the file gives its electrode, in the frame of `standard_1005`."""
    from mne.io.constants import FIFF

    found = {}
    for pick in picks:
        channel = raw.info["chs"][pick]
        place = np.asarray(channel["loc"][:3], dtype=np.float64)
        if channel["coord_frame"] == FIFF.FIFFV_COORD_HEAD and np.isfinite(place).all() and place.any():
            found[raw.ch_names[pick]] = from_head(place)
    return found
