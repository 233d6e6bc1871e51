"""Names and places of electrodes: the 10-20, 10-10 and 10-05 systems.

`standard_1005.csv` is mne's template montage `standard_1005` (`colin27_1005` from mne 1.14 on) as it is: electrode,
x, y, z in metres in its own coordinate frame (x to the right ear, y to the nose, z up), written by `write_table`.
"""

from __future__ import annotations

import csv
import functools
import re
import warnings
from collections.abc import Sequence
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
ANYWHERE = re.compile(
    r"\b\w*(EOG|ECG|EKG|EMG)\w*|\b(RESP|RSP|SPO2|SAO2|OSAT|PULSE|PLETH|PPG|STATUS|STI|STIM|TRIG|EVENT|MARKER|ANNOTATION"
    r"|PHOTIC|IBI|BURST|SUPPR|GSR|EDA|GYRO|ACC|CHIN|SNOR|FLOW|AIRFLOW|AIR|NASAL|THOR|ABD|CHEST|BELT|POSITION|BODY"
    r"|LIGHT|SOUND|MIC|LEG|TIB|ETCO2|CO2|CAPNO|CPAP|AUX|COUNTER|TIMESTAMP|BATTERY)(?=[A-Z]*[0-9]*\b)|\bTEMP(ERATURE)?[0-9]*\b",
    re.IGNORECASE,
)
"""Words that no electrode is called by, wherever they stand in a channel's name: a heart, an eye, a chin, a trigger."""
FIRST = re.compile(r"(LOC|ROC|E[12]|PR|HR|DC|OX|POS|BPM)[\s_.-]?[0-9]*(\b|_)", re.IGNORECASE)
"""Short ones that say so only in front, and where the file does not give the channel a place on the head."""

# mne's fiducials of the template: nasion, left, right point before the ear, in metres in the template's frame
NASION = (0.00146763, 0.08506715, -0.03483611)
LEFT = (-0.08061612, -0.02908875, -0.04131077)
RIGHT = (0.08436285, -0.02850276, -0.04127743)

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


def _bare(name: str) -> str:
    """A channel's name without the "EEG" in front."""
    return re.sub(r"^\s*EEG[\s_:-]*(?=\S)", "", name.strip(), flags=re.IGNORECASE)


@functools.lru_cache(maxsize=4096)
def channel_of(name: str) -> str | None:
    """What a channel's name means: "C3", or "Fp1-F7" for the difference of two scalp electrodes; None if unknown.

    Case, an "EEG" in front, dots, blanks and the name of a common reference behind ("EEG C3-REF", "Fc5..", "C3-M2")
    do not matter; T3, T4, T5, T6 are T7, T8, P7, P8.
    """
    text = _bare(name)
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


@functools.lru_cache(maxsize=4096)
def is_other(name: str, placed: bool = False) -> bool:
    """Whether the name says that a channel is no EEG: an ECG, an eye movement, a trigger, ...

    Args:
        name: as the recording has it: "Resp oro-nasal", "EEG EKG1-REF", "EOG(L)", "H.R.".
        placed: whether the recording gives it a place on the head; then only words count that no electrode has.
    """
    if channel_of(name) is not None:
        return False
    text = _bare(name)
    if electrode(re.split(r"\s*[-/:]\s*", text)[0]) is not None:  # an electrode against something else
        return False
    if ANYWHERE.search(re.sub(r"[_\W]+", " ", text)) is not None:
        return True
    return not placed and FIRST.match(text.replace(".", "")) is not None


def is_net(names: Sequence[str]) -> bool:
    """Whether E1 and E2 among these names are electrodes of a net that numbers them, and not eye movements."""
    return sum(re.fullmatch(r"(EEG )?E\d+", name.strip()) is not None for name in names) > 2


def others(names: Sequence[str]) -> list[str]:
    """Those of a recording's channels that are no EEG by their name; it gives none of them a place."""
    net = is_net(names)
    return [name for name in names if is_other(name, net)]


@functools.cache
def _head() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(3, 3) rotation and (3,) origin of mne's head frame in the template's: x through the points before the ears, y
    through the nasion."""
    import numpy as np

    nasion, left, right = (np.array(point) for point in (NASION, LEFT, RIGHT))
    x = (right - left) / np.linalg.norm(right - left)
    origin = left + ((nasion - left) @ x) * x
    y = (nasion - origin) / np.linalg.norm(nasion - origin)
    return np.stack([x, y, np.cross(x, y)], axis=1), origin


def from_head(place: NDArray[np.float64]) -> Place:
    """(x, y, z) in the template's frame of a place in mne's head frame, both in metres."""
    turn, origin = _head()
    x, y, z = (turn @ place + origin).tolist()
    return x, y, z


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
