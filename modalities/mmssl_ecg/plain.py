"""The commonest WFDB record, decoded here: one segment, every lead in format 16 and in one file, with checksums.

wfdb takes twenty times longer over the header of such a record than numpy over ten seconds of twelve leads. What is not
written in exactly this form is left to wfdb. See "header(5)" and "signal(5)" of the WFDB Applications Guide (Moody).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmssl.biosignals.recording import Array
from mmssl.errors import BadSample

RECORD = re.compile(r"[^\s/]+ (\d+) (\d+(?:\.\d+)?) (\d+)(?: \d\d?:\d\d:\d\d(?:\.\d+)?(?: \d\d?/\d\d?/\d{4})?)?")
"""Name, signals, rate, samples, and when it was recorded."""
LEAD = re.compile(
    r"([-\w.]+) 16 (\d+(?:\.\d+)?)(?:\((-?\d+)\))?/([\w%]+) \d+ (-?\d+) -?\d+ (-?\d+) 0 (\w[-\w.+]*(?: [-\w.+]+)*)"
)
"""File, format, gain, baseline, unit, resolution, zero, first value, checksum, block size, name."""
MISSING = -32768


@dataclass
class PlainRecord:
    """digital: (T, C) int16, as it lies in the file."""

    digital: NDArray[np.int16]
    rate: float
    names: list[str]
    units: list[str]
    gains: list[float]
    baselines: list[int]
    checksums: list[int]

    def physical(self, name: str) -> Array:
        """(C, T) float64 in `units`, NaN where the record has no value; BadSample where a checksum differs."""
        sums = self.digital.sum(0, dtype=np.int64)
        for lead, said, found in zip(self.names, self.checksums, sums.tolist(), strict=True):
            if (said - found) % 65536:
                raise BadSample(f"record {name} is damaged: the checksum of '{lead}' is {found % 65536}, its header "
                                f"says {said}")
        values = (self.digital - np.asarray(self.baselines, dtype=np.float64)) / np.asarray(self.gains)
        values[self.digital == MISSING] = np.nan
        return values.T


def read_plain(header_file: Path, most: int) -> PlainRecord | None:
    """The record of a header of this form, of `most` samples of all leads together, with all its samples; else None."""
    try:
        lines = header_file.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError:
        return None
    lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    first = RECORD.fullmatch(lines[0]) if lines else None
    if first is None:
        return None
    count, rate, length = int(first[1]), float(first[2]), int(first[3])
    leads = [found for line in lines[1:] if (found := LEAD.fullmatch(line)) is not None]
    plain = 0 < count * length <= most and rate > 0 and count == len(leads) == len(lines) - 1
    if not plain or len({lead[1] for lead in leads}) > 1 or not all(float(lead[2]) for lead in leads):
        return None
    samples = header_file.with_name(leads[0][1])
    if not samples.is_file() or samples.stat().st_size != 2 * count * length:
        return None
    return PlainRecord(
        np.fromfile(samples, dtype="<i2").reshape(length, count), rate, [lead[7] for lead in leads],
        [lead[4] for lead in leads], [float(lead[2]) for lead in leads], [int(lead[3] or lead[5]) for lead in leads],
        [int(lead[6]) for lead in leads],
    )  # fmt: skip
