"""Files of biosignals by mne: EDF, BDF, FIF, EEGLAB (.set), BrainVision (.vhdr), Neuroscan (.cnt), and others."""

from __future__ import annotations

import functools
import glob
import gzip
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...boundary import reading_sample
from ...errors import BadSample, UserError
from .edf import ANNOTATIONS, Header, read_header, runs
from .matlab import check_matlab
from .mne_companions import check_beside, check_named, named_in
from .mne_counts import check_counts
from .recording import Array, Place, Recording, check_file

if TYPE_CHECKING:
    from mne.io import BaseRaw

ENDINGS = (".edf", ".bdf", ".gdf", ".fif", ".fif.gz", ".set", ".vhdr", ".cnt", ".mff", ".nxe")
KEPT = (".fif", ".edf", ".bdf")
"""Formats whose headers are kept in memory, as mne takes longer over one than over the samples of a window; it would
keep samples, too, of some of the others."""
NO_PLACES = (".cnt",)
"""Formats that say places on a flat map, which mne puts onto a sphere of its own."""
UNUSED = ("BAD", "EDGE BOUNDARY GAP")
"""What annotations begin with, in any case, that say what is not to be used."""
JOINS = ("BOUNDARY", "NEW SEGMENT")
"""What they begin with where the recording was paused, or something was cut out of it: EEGLAB, BrainVision."""
WAY_OUT = "mne.io.read_raw({name!r}{how}).save({stem!r}) in Python makes a FIF file of it, which is read"
COMPANIONS = {".eeg": ".vhdr", ".vmrk": ".vhdr", ".fdt": ".set"}


@dataclass(frozen=True)
class Channels:
    """Which channels of a file are a modality's.

    Attributes:
        kind: how mne calls them; where a file has none of this kind, what mne takes for EEG, as it does all of which a
            file does not say it.
        others: those of a file's names that surely are none.
        place: from mne's head frame to the modality's own; None: places are of no use.
    """

    kind: str = "eeg"
    others: Callable[[Sequence[str]], list[str]] = lambda names: []
    place: Callable[[Any], Place] | None = None


def open_mne(path: Path, channels: Channels = Channels()) -> Recording:  # noqa: B008 - frozen
    """The channels of a modality in a file; others, as far as the file or their names tell them, are left out.

    Samples are in volts where the file says their unit. What it marks as bad (`BAD...`), as skipped, or what lies
    between the records of an EDF+D file, is NaN. Raises BadSample for what is truncated or not what its ending says.
    """
    ending = path.suffix.lower()
    if ending in COMPANIONS:
        raise BadSample(f"{path.name} is a part of a recording: give the {COMPANIONS[ending]} file")
    if not path.name.lower().endswith(ENDINGS):
        raise BadSample(f"{path.name}: expected a file of one of the formats {', '.join(ENDINGS)}, .npy")
    _refuse_unread(path)
    check_file(path)
    header = read_header(path) if ending in (".edf", ".bdf") else None
    check_named(path)
    check_counts(path)
    if ending == ".set":
        check_matlab(path)
    try:
        import mne  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"{ending} files need the package 'mne': pip install 'mmssl[eeg]'") from error
    exclude = () if header is None else _excluded(header, channels)
    with reading_sample(f"{path.name} cannot be read as {ending[1:]}"):
        raw = _opened(path, exclude, *_version(path)) if ending in KEPT else _open(path, exclude)
        notes = _notes(path, raw, header)
    check_beside(path, getattr(raw, "filenames", ()))
    kinds = raw.get_channel_types()
    picks = [row for row, kind in enumerate(kinds) if kind == (channels.kind if channels.kind in kinds else "eeg")]
    if not picks:
        raise BadSample(f"{path.name} has no {channels.kind.upper()} channel, only {', '.join(sorted(set(kinds)))}")
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

    recording = Recording(
        len(picks), length, load, names, rate, _units(raw, header, picks, exclude), list(raw.info["bads"])
    )
    recording.places = {} if channels.place is None or ending in NO_PLACES else _places(raw, picks, channels.place)
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


def _excluded(header: Header, channels: Channels) -> tuple[str, ...]:
    """Channels that are left out before mne brings all to the highest rate that one has: an ECG would set that of the
    EEG. None where nothing would be left."""
    labels = [label for label in header.labels if label not in ANNOTATIONS]
    other = channels.others(labels)
    return tuple(other) if len(other) < len(labels) else ()


def _open(path: Path, exclude: tuple[str, ...], *_version: int) -> BaseRaw:
    """mne's object for the file, which holds the header and no samples."""
    import mne

    ending = path.suffix.lower()
    with mne.utils.use_log_level("ERROR"):  # once: each call that is told `verbose` by itself takes a while over it
        if path.name.lower().endswith((".fif", ".fif.gz")):
            check_tags(path)
        if ending == ".fif":
            return mne.io.read_raw_fif(path, preload=False)
        if ending == ".cnt":
            return _open_cnt(path)
        if ending not in (".edf", ".bdf"):
            return mne.io.read_raw(path, preload=False)
        read = mne.io.read_raw_bdf if ending == ".bdf" else mne.io.read_raw_edf
        return _in_either(lambda encoding: read(path, preload=False, exclude=list(exclude), encoding=encoding))


def _open_cnt(path: Path) -> BaseRaw:
    """As `_open`, of Neuroscan. `header="new"`: mne's "auto" also takes the fifth letter of a channel's name for the
    mark of a bad one, so that VEOGL and the like were left out in silence."""
    import mne

    try:
        return mne.io.read_raw_cnt(path, header="new", preload=False)
    except RuntimeError as error:
        if "data_format" not in str(error):
            raise
        out = _way_out(path, ", data_format='int16'")
        raise BadSample(f"{path.name} does not say whether its samples have 16 or 32 bits: {out}") from error


def _refuse_unread(path: Path) -> None:
    """BadSample for what no reader here opens, with the way out."""
    if path.suffix.lower() == ".mff":
        raise BadSample(f"{path.name}: EGI's .mff is not read here: {_way_out(path)}")
    if path.suffix.lower() == ".cnt" and path.is_file():
        with path.open("rb") as file:
            if file.read(4) in (b"RIFF", b"RF64"):
                raise BadSample(f"{path.name} is a .cnt of ANT Neuro, expected Neuroscan's: {_way_out(path)}")


def _way_out(path: Path, how: str = "") -> str:
    return WAY_OUT.format(name=path.name, how=how, stem=f"{path.stem}_raw.fif")


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
    any case, and the gaps of files that were cut together. A mark without length is a sample at least; so is a place
    where two stretches were joined, whose length is that of what was there."""
    found: list[tuple[object, int, int]] = []
    for onset, seconds, text, channels in notes:
        join = text.upper().startswith(JOINS)
        if not text.upper().startswith(UNUSED) and not (join and onset > 0):  # a first segment begins with the file
            continue
        rows: Any = [names.index(name) for name in channels if name in names] if channels else slice(None)
        first = round(onset * rate)
        count = 1 if join else max(round(seconds * rate), 1)
        found.append((rows, max(first, 0), min(max(first + count, 0), length)))
    return [hole for hole in found if hole[1] < hole[2]]


def _spans(pieces: list[tuple[int, int, int]], holes: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """(first, last sample) of what is left; None: all of it."""
    spans = [(clock, clock + count) for clock, _, count in pieces]
    for low, high in holes:
        spans = [cut for a, b in spans for cut in ((a, min(b, low)), (max(a, high), b)) if cut[0] < cut[1]]
    return None if len(pieces) == 1 and not holes else spans


# --------------------------------------------------------------------------------------------------- units and places


def _units(raw: BaseRaw, header: Header | None, picks: list[int], exclude: tuple[str, ...]) -> list[str | None]:
    """The unit of the samples that mne gives of each channel; None where the file does not say it."""
    if header is not None:
        kept = {row for row, label in enumerate(header.labels) if label not in ANNOTATIONS}
        rows = sorted(row for row in kept if header.labels[row] not in exclude)
        return [header.unit(rows[pick]) for pick in picks]
    factors = raw._raw_extras[0].get("units") if str(raw.filenames[0]).lower().endswith(".gdf") else None
    if factors is not None:  # mne takes numbers without a unit for volts
        return ["V" if factors[pick] != 1 else None for pick in picks]
    return ["V"] * len(picks)


def _places(raw: BaseRaw, picks: list[int], convert: Callable[[Any], Place]) -> dict[str, Place]:
    """Channel -> the place that the file gives its electrode, in the modality's frame."""
    from mne.io.constants import FIFF

    found = {}
    for pick in picks:
        channel = raw.info["chs"][pick]
        place = np.asarray(channel["loc"][:3], dtype=np.float64)
        if channel["coord_frame"] == FIFF.FIFFV_COORD_HEAD and np.isfinite(place).all() and place.any():
            found[raw.ch_names[pick]] = convert(place)
    return found


# ---------------------------------------------------------------------------------------------------------- folders


def mne_seconds(path: Path) -> float | None:
    """How long an EDF or BDF file without gaps is by its header; None: it has to be opened."""
    if path.suffix.lower() not in (".edf", ".bdf"):
        return None
    header = read_header(path)
    return None if header.parted or header.records <= 0 else header.records * header.seconds


def mne_parts(path: Path) -> list[Path]:
    """The files that belong to a recording: named in a BrainVision header, beside a `.set`, further parts of a FIF."""
    ending = path.suffix.lower()
    if ending == ".vhdr":
        return [path.with_name(name) for name in named_in(path)]
    if ending == ".set":
        return [path.with_suffix(".fdt"), path.with_suffix(".FDT")]
    if ending == ".fif":
        return sorted(path.parent.glob(f"{glob.escape(path.stem)}-[0-9]*.fif"))
    return []
