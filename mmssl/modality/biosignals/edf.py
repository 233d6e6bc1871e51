"""Headers of EDF and BDF files: what mne does not say of them. Units, gaps between records, whether all of it is there.

EDF+: Kemp and Olivan 2003, https://www.edfplus.info/specs/edfplus.html.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import BadSample
from .recording import VOLTS

ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
"""Labels of what holds no samples, but notes and the times of the records."""
BY_MNE = ("\u03bcV", "\u00b5V", "\x83\xcaV", "uV", "mV", "V")
"""Units that mne turns into volts; numbers in any other it leaves as they are."""
UNSAID = re.compile(r"(\W*V?|n/?a|none|unknown|[aA]\.?[uU]\.?)", re.IGNORECASE)
"""What stands for a unit where none was written, or where its first letter was lost: `.V`."""
JITTER = 0.01
"""Seconds that the written time of a record may differ from the one that follows from the record before."""


@dataclass(frozen=True)
class Header:
    """What an EDF or BDF file says of itself.

    Attributes:
        labels: of all signals, annotations among them.
        units: of each as written, read as Latin-1, as mne does.
        counts: samples of each in a record.
        begin: byte at which the first record begins.
        records: how many there are; negative: unknown.
        seconds: length of a record.
        wide: numbers of 3 bytes (BDF).
        parted: there may be gaps between records (EDF+D).
    """

    labels: list[str]
    units: list[str]
    counts: list[int]
    begin: int
    records: int
    seconds: float
    wide: bool
    parted: bool

    def unit(self, signal: int) -> str | None:
        """The unit that mne's numbers of a signal are in; None where the file does not say it."""
        text = self.units[signal]
        if text in BY_MNE:
            return "V"
        text = _as_utf8(text)
        return text if text.lower() in VOLTS else None if UNSAID.fullmatch(text) else text


def read_header(path: Path) -> Header:
    """The header of an EDF or BDF file; BadSample when it is none, or shorter than its header says (mne would read
    what there is)."""
    size = path.stat().st_size
    wide = path.suffix.lower() == ".bdf"
    with path.open("rb") as file:
        head = file.read(256)
        if len(head) < 256 or head[:8] != (b"\xffBIOSEMI" if wide else b"0       "):
            raise BadSample(f"{path.name} is no {'BDF' if wide else 'EDF'} file: it does not begin with such a header")
        try:
            begin, records, signals = int(head[184:192]), int(head[236:244]), int(head[252:256])
            seconds = float(head[244:252])
            labels = [file.read(16).strip().decode("latin-1") for _ in range(signals)]
            file.seek(256 + 96 * signals)
            units = [file.read(8).strip().decode("latin-1") for _ in range(signals)]
            file.seek(256 + 216 * signals)
            counts = [int(file.read(8)) for _ in range(signals)]
        except ValueError as error:
            raise BadSample(f"{path.name}: the header is damaged: {error}") from error
    # what mne takes as it is, or puts 1 in its place of: other samples, at another rate
    if begin != 256 * (signals + 1) or min(counts, default=1) < 1 or records < -1:
        raise BadSample(
            f"{path.name}: the header is damaged: {begin} bytes of {signals} signals, {records} records of "
            f"{min(counts, default=0)} samples or more"
        )
    if not 0 < seconds < math.inf and any(label not in ANNOTATIONS for label in labels):
        raise BadSample(f"{path.name}: a record has {seconds:g} s, expected more than 0")
    wanted = begin + records * sum(counts) * (3 if wide else 2)
    if records >= 0 and size < wanted:
        raise BadSample(f"{path.name} is truncated: {size} bytes of the {wanted} that its header calls for")
    parted = head[192:197] in (b"EDF+D", b"BDF+D")
    return Header(labels, units, counts, begin, records, seconds, wide, parted)


def _as_utf8(text: str) -> str:
    """What was written in UTF-8, against the standard, and read as Latin-1."""
    try:
        return text.encode("latin-1").decode()
    except UnicodeDecodeError:
        return text


def onsets(path: Path, header: Header) -> list[float]:
    """Seconds at which each record begins, from the first one's beginning; BadSample where the file does not say them.

    They stand at the beginning of the first annotation signal of each record: `+12.5`, and two bytes 20.
    """
    number = next((row for row, label in enumerate(header.labels) if label in ANNOTATIONS), None)
    if number is None:
        raise BadSample(f"{path.name}: records with gaps between them, and no annotations that say where they are")
    each = 3 if header.wide else 2
    record = sum(header.counts) * each
    first = header.begin + sum(header.counts[:number]) * each
    count = header.records if header.records >= 0 else (path.stat().st_size - header.begin) // record
    times = []
    with path.open("rb") as file:
        for at in range(count):
            file.seek(first + at * record)
            found = re.match(rb"[+-]\d+(\.\d*)?(?=[\x14\x15])", file.read(min(header.counts[number] * each, 64)))
            if found is None:
                raise BadSample(f"{path.name}: record {at} does not say when it begins")
            times.append(float(found[0]))
    return [time - times[0] for time in times]


def runs(path: Path, header: Header, rate: float, a_record: int) -> list[tuple[int, int, int]]:
    """Stretches of records without a gap: (sample on the clock, sample in the file, samples).

    Args:
        path: of the file.
        header: its header, with `parted`.
        rate: samples a second.
        a_record: samples of a record.

    Raises:
        BadSample: records are not in the order of their time, or one begins before another ends.
    """
    found: list[tuple[int, int, int]] = []
    began, expected = 0.0, 0.0  # when this run began, and when a record without a gap before it would
    for number, time in enumerate(onsets(path, header)):
        late = time - expected
        if late < -max(JITTER, 1.5 / rate):
            raise BadSample(f"{path.name}: record {number} begins at {time:g} s, before the one before it has ended")
        if found and late <= max(JITTER, 1.5 / rate):
            clock, place, length = found[-1]
            found[-1] = (clock, place, length + a_record)
        else:
            began = time
            found.append((round(began * rate), number * a_record, a_record))
        expected = began + found[-1][2] / rate
    return found
