"""What a recording's header counts, looked at before mne takes time and memory for it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from ...errors import BadSample

COUNT = re.compile(r"^\s*NumberOfChannels\s*=\s*(\d{1,18})", re.IGNORECASE | re.MULTILINE)
CHANNEL = re.compile(r"^\s*Ch\d+\s*=", re.IGNORECASE | re.MULTILINE)
GDF_HEADER, CNT_HEADER, CNT_SIGNAL = 256, 900, 75
"""Bytes of a header, and of what it says of each signal: in GDF the same, in Neuroscan's CNT two numbers."""
CNT_SURE = 2_000_000_000
"""Bytes from which on the place of the events, 32 bits in a CNT header, means nothing."""


def check_counts(path: Path) -> None:
    """BadSample where a BrainVision, GDF or CNT header counts more channels than it describes, or has room for; also
    where a CNT file ends before its events."""
    ending, size = path.suffix.lower(), path.stat().st_size
    if ending == ".vhdr":
        text = path.read_text(encoding="latin-1")
        room, found = len(CHANNEL.findall(text)), max(map(int, COUNT.findall(text)), default=0)
    elif ending == ".gdf":
        head = _head(path)
        place, kind = (252, "<H") if head[4:5] == b"2" else (252, "<I")
        room, found = size // GDF_HEADER - 1, _number(head, place, kind)
    elif ending == ".cnt":
        room, found = (size - CNT_HEADER) // CNT_SIGNAL, _number(_head(path), 370, "<H")
        events = _number(_head(path), 886, "<i")
        if size < CNT_SURE and events > size:
            raise BadSample(f"{path.name} is truncated: {size:,} bytes, its table of events begins at {events:,}")
    else:
        return
    if found > room:
        raise BadSample(f"{path.name}: its header counts {found:,} channels, and describes {max(room, 0):,} at most")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(CNT_HEADER)


def _number(head: bytes, place: int, kind: str) -> int:
    """A number in a header; 0 where the file ends before it."""
    return int(struct.unpack_from(kind, head, place)[0]) if len(head) >= place + struct.calcsize(kind) else 0
