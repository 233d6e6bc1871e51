"""Names and places of electrodes: the 10-20, 10-10 and 10-05 systems.

`standard_1005.csv` is mne's template montage `standard_1005` (`colin27_1005` from mne 1.14 on) as it is: electrode,
x, y, z in metres in its own coordinate frame (x to the right ear, y to the nose, z up), written by `write_table`.
"""

from __future__ import annotations

import csv
import functools
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLE = Path(__file__).with_name("standard_1005.csv")

RENAMED = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
"""Names of the 10-20 system that the 10-10 system changed; the places are the same."""
EARS = ("A1", "A2", "M1", "M2")
REFERENCES = {"REF", "LE", "AR", "AVG", "CAR", "AV", "LER", "CE", "0"}
OTHER = re.compile(
    r"(ECG|EKG|EOG|HEOG|VEOG|LOC|ROC|E[12]|EMG|CHIN|RESP|RSP|SPO2|SAO2|OSAT|PULSE|PLETH|PR|HR|STATUS|STI|STIM|TRIG|TRIGGER"
    r"|EVENT|EVENTS|MARKER|ANNOTATIONS?|EDF ANNOTATIONS|BDF ANNOTATIONS|PHOTIC|IBI|BURSTS|SUPPR|GSR|TEMP|DC|GYRO|ACC)"
    r"([\s_.-]?([0-9]+|[LR]|[XYZ]|LEFT|RIGHT|UP|DOWN|H|V))*([\s_-]+\w+)?",
    re.IGNORECASE,
)

Place = tuple[float, float, float]


@functools.cache
def table() -> dict[str, Place]:
    """Electrode -> (x, y, z) in metres."""
    with TABLE.open(newline="") as file:
        return {row["electrode"]: (float(row["x"]), float(row["y"]), float(row["z"])) for row in csv.DictReader(file)}


@functools.cache
def _by_lower() -> dict[str, str]:
    return {name.lower(): name for name in table()}


def electrode(name: str) -> str | None:
    """The electrode that one side of a channel's name means, as the table writes it, or None."""
    found = _by_lower().get(re.sub(r"[\s.]+", "", name).lower())
    return None if found is None else RENAMED.get(found, found)


@functools.lru_cache(maxsize=4096)
def channel_of(name: str) -> str | None:
    """What a channel's name means: "C3", or "Fp1-F7" for the difference of two scalp electrodes; None if unknown.

    Case, an "EEG" in front, dots, blanks and the name of a common reference behind ("EEG C3-REF", "Fc5..", "C3-M2")
    do not matter; T3, T4, T5, T6 are T7, T8, P7, P8.
    """
    text = re.sub(r"^\s*EEG[\s_:-]*(?=\S)", "", name.strip(), flags=re.IGNORECASE)
    whole = electrode(text)
    if whole is not None:
        return whole
    parts = re.split(r"\s*[-/:]\s*", text)
    if len(parts) == 3 and parts[2].isdigit():  # mne's number of a channel that is there twice
        parts = parts[:2]
    if len(parts) != 2:
        return None
    first, second = electrode(parts[0]), electrode(parts[1])
    if first is None:
        return None
    if parts[1].upper() in REFERENCES or second in EARS:
        return first
    return None if second is None else f"{first}-{second}"


def place_of(channel: str) -> Place | None:
    """(x, y, z) in metres of a channel as `channel_of` names it; of a difference the point between the two."""
    places = [table().get(part) for part in channel.split("-")]
    if None in places:
        return None
    x, y, z = (sum(axis) / len(places) for axis in zip(*places, strict=True))
    return x, y, z


def is_other(name: str) -> bool:
    """Whether the name says that a channel is no EEG: an ECG, an eye movement, a trigger, ..."""
    return OTHER.fullmatch(name.strip()) is not None


def montage() -> dict[str, NDArray[np.float64]]:
    """Electrode -> place (3,) in metres as the installed mne has it."""
    import mne

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the montage's name changes in mne 1.14
        name = "standard_1005" if "standard_1005" in mne.channels.get_builtin_montages() else "colin27_1005"
        return dict(mne.channels.make_standard_montage(name).get_positions()["ch_pos"])


def write_table() -> None:
    """Write `standard_1005.csv` anew from mne."""
    with TABLE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["electrode", "x", "y", "z"])
        for name, place in montage().items():
            writer.writerow([name, *(repr(round(float(x), 9)) for x in place)])
