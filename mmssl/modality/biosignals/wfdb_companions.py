"""The files that a WFDB header names: they lie beside it, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from ...boundary import regular_file
from ...errors import BadSample
from .matlab import check_matlab

DEEPEST = 2
"""A record of several segments, and its segments: WFDB has no more levels."""


def check_companions(header: Path, depth: int = 0) -> None:
    """BadSample where a header names a file outside its own folder, or one that is no regular file.

    wfdb joins whatever stands there to the folder's name, so that `../../x` and `/x` lead out of it.
    """
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not said:
        return
    segments = "/" in said[0][0]
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
