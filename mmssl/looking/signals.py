"""Recordings: whether they are ECG, EEG or other series, and what their options have to say because nothing else does.

By the names of channels first (electrodes of the 10-05 system, leads), then by what the data are called, then by their
number and rate: 12 channels at 100 to 1,000 Hz are an ECG. Without a rate nothing can be brought to seconds: a series.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..boundary import reading_sample
from ..errors import BadSample, UserError
from ..modality import load_modality
from ..modality.biosignals.preparation import SignalPreprocessor
from ..modality.biosignals.processing import typical
from ..modality.biosignals.recording import Recording, Unsaid, parse

WORDS = {"ecg": r"e[ck]g|electrocardio\w*|heart\w*", "eeg": r"eeg|i?eeg|electroenceph\w*"}
TYPICAL = {"ecg": "mV", "eeg": "uV"}
UNITS = {"ecg": (("mV", 1.0), ("uV", 1e-3), ("V", 1e3)), "eeg": (("uV", 1.0), ("V", 1e6), ("mV", 1e3))}
"""Modality -> units that are tried, with how many of its own (mV, uV) they are."""
PLAUSIBLE = {"ecg": (0.02, 10.0), "eeg": (1.0, 5000.0)}
"""Amplitudes that tell which unit is meant."""
HERTZ = re.compile(r"(\d+(?:[.,]\d+)?)\s*Hz", re.IGNORECASE)
TEN_SECONDS = (1000, 2500, 5000, 10000)
"""Samples of an ECG of ten seconds at the usual rates."""
WHOLE = 32.0
"""Seconds up to which a recording is taken whole."""
MOST = 400
"""Patches of a sample, at most, of a recording that is taken whole."""


@dataclass
class Signals:
    """What recordings are.

    Attributes:
        modality: ecg, eeg or series.
        channels: how many they have.
        samples: how many the longest has.
        rate: samples a second; None: nothing says it.
        options: of the modality: what nothing else says, each with its reason.
        doubt: why it might be another modality; empty: no doubt.
    """

    modality: str
    channels: int
    samples: int
    rate: float | None
    options: dict[str, tuple[Any, str]] = field(default_factory=dict)
    doubt: str = ""


def look_at_signals(values: Sequence[object], where: str, column: str = "") -> Signals:
    """What recordings are, by some of them.

    Args:
        values: raw values or names of files.
        where: the data: what is told beside them (README.md, JSON files) is read, too.
        column: what they are called in the data.

    Raises:
        UserError: none of them can be read.
    """
    readers = {name: signal_reader(name) for name in ("ecg", "eeg")}
    recordings, reason = [], "no value"
    for value in values:
        try:
            with reading_sample():
                found = parse(value, readers["eeg"].open, Unsaid())
                if found is not None:
                    recordings.append(found)
        except BadSample as error:
            reason = str(error)
    if not recordings:
        raise UserError(f"data: no recording of some could be read: {reason}")
    first = recordings[0]
    beside = _beside(where, [first.count])
    names = first.names or beside.names
    rate = first.rate or beside.rate
    modality, doubt = _which(names, first, rate, f"{Path(where).name} {column}", readers)
    guessed = ""
    if modality == "ecg" and rate is None and first.length in TEN_SECONDS:
        rate, guessed = first.length / 10, f"nothing says the rate: {first.length:,} samples are taken for ten seconds"
    if modality != "series" and rate is None:
        doubt = f"they may be {modality.upper()}, but nothing says their rate (modalities.{modality}.source_rate)"
        modality = "series"
    out = Signals(modality, first.count, max(one.length for one in recordings), rate, doubt=doubt)
    if modality == "series":
        _of_series(out, first, rate)
    else:
        _of_biosignal(out, recordings, guessed or beside.rate_from, names, beside)
    return out


def signal_reader(name: str) -> SignalPreprocessor:
    """The preprocessor of ecg or eeg, with its default options."""
    package = load_modality(name)
    found: SignalPreprocessor = package.Preprocessor(package.Config())
    return found


def _which(
    names: Sequence[str] | None, first: Recording, rate: float | None, called: str, readers: Mapping[str, Any]
) -> tuple[str, str]:
    """(modality, why it might be another)."""
    for kind, reader in readers.items():
        known = [name for name in names or () if reader.known(name) is not None]
        if len(known) >= max(1, 0.5 * len(names or ())):
            return kind, ""
    by_name = _called(called)
    if by_name is not None:
        return by_name, f"the data are called '{called.strip()}'"
    if names:
        return "series", ""
    if first.count == 12 and (rate is None or 100 <= rate <= 1000) and first.length >= 500:
        return "ecg", f"12 channels{f' at {rate:g} Hz' if rate else ''}; of another kind: --column series=COLUMN"
    return "series", "nothing names their channels"


def told_signals(where: str, counts: Collection[int]) -> bool:
    """Whether data are called after signals, or something beside them says a rate, or the names of so many channels."""
    found = _beside(where, counts)
    return found.rate is not None or found.names is not None or _called(Path(where).name) is not None


def _called(text: str) -> str | None:
    """ECG or EEG, as what data are called says."""
    fit = (k for k, w in WORDS.items() if re.search(rf"(?:^|[^a-z])(?:{w})|(?:{w})(?:$|[^a-z])", text.lower()))
    return next(fit, None)


@dataclass
class _Beside:
    names: list[str] | None = None
    names_from: str = ""
    rate: float | None = None
    rate_from: str = ""


def _beside(where: str, counts: Collection[int]) -> _Beside:
    """What lies beside the data and says their rate and the names of their channels, of which there are so many: JSON
    files, then README.md."""
    place = Path(where).expanduser()
    folder = place if place.is_dir() else place.parent
    found = _Beside()
    if not folder.is_dir() or not place.exists():
        return found
    for file in sorted(folder.glob("*.json"))[:8]:
        if file.stat().st_size > 1 << 20:
            continue
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for key, value in said.items() if isinstance(said, dict) else ():
            if isinstance(value, list) and len(value) in counts and all(isinstance(one, str) for one in value):
                found.names, found.names_from = found.names or value, found.names_from or file.name
            if re.search(r"rate|hz|freq|^fs$", str(key).lower()) and isinstance(value, int | float) and value > 0:
                found.rate, found.rate_from = found.rate or float(value), found.rate_from or f"says {file.name}"
    readme = folder / "README.md"
    if found.rate is None and readme.is_file():
        said_there = HERTZ.search(readme.read_text(encoding="utf-8", errors="replace")[:20_000])
        if said_there:
            found.rate, found.rate_from = float(said_there[1].replace(",", ".")), "says README.md; is it theirs?"
    return found


def _of_series(out: Signals, first: Recording, rate: float | None) -> None:
    length = min(out.samples, 512)
    out.options["length"] = (length, f"the longest has {out.samples:,} steps" if length == out.samples else "the most")
    if length < 64:
        out.options["window"] = (4, f"of {length} steps, so that there are several patches")
    if first.count > 1 and first.count * length / 8 > 2 * MOST:
        out.options["patch"] = ("time", f"{first.count} channels in one patch: one each would make too many")


def _of_biosignal(
    out: Signals, recordings: Sequence[Recording], rate_from: str, names: Sequence[str] | None, beside: _Beside
) -> None:
    """Options of ECG or EEG that nothing in the recordings says."""
    first, kind = recordings[0], out.modality
    assert out.rate is not None
    if first.rate is None:
        out.options["source_rate"] = (out.rate, rate_from)
    if first.names is None and not (kind == "ecg" and first.count == 12):
        if names is not None:
            out.options["source_channels"] = (list(names), f"says {beside.names_from}")
        elif kind == "ecg" and first.count == 1:
            out.options["source_channels"] = (["II"], "nothing says which lead it is")
        else:
            called = [f"channel {number}" for number in range(1, first.count + 1)]
            out.options["source_channels"] = (called, "nothing says where they are")
    elif first.names is None:
        out.doubt = out.doubt or "12 channels without names are taken for the leads in their usual order"
    if all(unit is None for unit in first.units or [None]):
        _unit(out, recordings)
    seconds = out.samples / out.rate
    patches = seconds * (2 * first.count if kind == "eeg" else 4)  # as the shipped recipes cut them
    if seconds < WHOLE and patches <= MOST:
        out.options["seconds"] = (round(seconds, 3), "the longest, whole")


def _unit(out: Signals, recordings: Sequence[Recording]) -> None:
    """The unit in which amplitudes are plausible."""
    sizes = []
    for one in recordings:
        signal = one.load(0, min(one.length, 20_000))
        sizes.append(typical(signal - np.nanmean(signal, axis=1, keepdims=True)))
    size, (least, most) = float(np.median(sizes)), PLAUSIBLE[out.modality]
    usual = TYPICAL[out.modality]
    unit = next((unit for unit, factor in UNITS[out.modality] if least <= size * factor <= most), None)
    if unit is None:
        wide = [size / 1000, size * 1000]
        out.options["plausible"] = (wide, f"nothing says the unit, and {size:.3g} is none of a signal in V, mV or uV")
    elif unit != usual:
        out.options["source_unit"] = (unit, f"nothing says it: a typical amplitude is {size:.3g}")
