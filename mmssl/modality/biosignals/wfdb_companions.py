"""What a WFDB header says before wfdb reads it: the files that it names lie beside it, and it describes its signals."""

from __future__ import annotations

import re
from pathlib import Path

from ...boundary import regular_file
from ...errors import BadSample
from .matlab import check_matlab

DEEPEST = 2
"""A record of several segments, and its segments: WFDB has no more levels."""
FORMAT = re.compile(r"(?P<code>\d+)(?:x(?P<many>\d+))?(?::(?P<skew>\d+))?")
"""How a signal is stored, its samples a frame, and the frames it comes late by: `16x4:2+24`."""
FLAC, FLAC_SAMPLES = ("508", "516", "524"), 1 << 16
"""Formats that are packed, and how many equal samples a byte of them holds at most; of the others it is one."""
DIGITS = 18
"""Of a count that is read: more bytes than any file has."""


def check_companions(header: Path, depth: int = 0) -> None:
    """BadSample where a header names a file outside its own folder, or one that is no regular file, or counts signals
    that it does not describe.

    wfdb joins whatever stands there to the folder's name, so that `../../x` and `/x` lead out of it.
    """
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not said:
        return
    segments = "/" in said[0][0]
    if not segments:
        _check_claims(header, said)
    for name in dict.fromkeys(words[0] for words in said[1:]):
        if name == "~":  # no file: a signal that is null, a segment that was not recorded
            continue
        if not re.fullmatch(r"[^/\\:\x00]+", name) or name in (".", ".."):
            raise BadSample(f"{header.name} names the file '{name:.100}', expected one beside it")
        path = header.with_name(f"{name}.hea" if segments else name)
        if not path.exists():
            continue  # for who reads it to say
        regular_file(path)
        if path.suffix.lower() == ".mat":
            check_matlab(path)
        if segments:
            if depth + 1 >= DEEPEST:
                raise BadSample(f"{header.name}: its segments have segments themselves")
            check_companions(path, depth + 1)


def _check_claims(header: Path, said: list[list[str]]) -> None:
    """BadSample where the first line counts more signals than lines follow, or a signal more samples than its file can
    hold: wfdb takes memory for what a header says before it looks at the file."""
    count, frames = (said[0][place] if len(said[0]) > place else "" for place in (1, 3))
    if _number(count) > len(said) - 1:
        raise BadSample(f"{header.name}: found {count:.20} signals in its first line, expected {len(said) - 1}")
    wanted: dict[str, int] = {}
    for name, kind in (words[:2] for words in said[1:] if len(words) > 1 and words[0] != "~"):
        found = FORMAT.match(kind)
        if found is not None:
            a_frame, skew = _number(found["many"] or "1"), _number(found["skew"] or "0")
            room = FLAC_SAMPLES if found["code"] in FLAC else 1
            wanted[name] = wanted.get(name, 0) + -(-(max(_number(frames), 1) + skew) * a_frame // room)
    for name, least in wanted.items():
        path = header.with_name(name)
        if path.is_file() and least > path.stat().st_size > 0:
            raise BadSample(
                f"{name} is truncated: {path.stat().st_size:,} bytes, {header.name} asks for {least:,} at least"
            )


def _number(text: str) -> int:
    """A count in a header; what has more digits than any file has bytes is as large as that. 0: none."""
    return int(text[:DIGITS]) if text.isdecimal() else 0
