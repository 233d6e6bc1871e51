"""The files that a recording names: they lie beside it, or below its folder, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ...boundary import regular_file
from ...errors import BadSample

_NAMED = re.compile(r"^\s*(?:DataFile|MarkerFile)\s*=\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


def check_named(header: Path) -> None:
    """BadSample where a BrainVision header names a file outside its own folder, or one that is no regular file."""
    if header.suffix.lower() != ".vhdr":
        return
    for name in named_in(header):
        check_beside(header, [name])


def named_in(header: Path) -> list[str]:
    """The files that a BrainVision header names."""
    found = _NAMED.findall(header.read_text(encoding="latin-1"))
    return [name.replace("$b", header.stem) for name in found if name]


def check_beside(header: Path, files: Iterable[object]) -> None:
    """BadSample where one of the files of a recording lies outside the folder of its header."""
    folders = (header.absolute().parent, header.resolve().parent)
    for file in files:
        if file is None:
            continue
        path = Path(os.path.normpath(folders[0] / str(file)))
        if not any(path.is_relative_to(folder) for folder in folders):
            raise BadSample(f"{header.name} names the file '{str(file):.100}', expected one beside it")
        if path.exists() and not path.is_dir():
            regular_file(path)
