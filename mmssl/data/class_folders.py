"""Which folders are classes: those nearest to the files that differ, but for splits and mere parts of the data."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from .explained import warn_once
from .folders import below
from .formats import WORDS
from .windows import File

OWNERS = re.compile(r"(sub|subj|subject|pat|patient|participant|proband|speaker)[-_ ]?[a-z]?\d+", re.IGNORECASE)
"""Folders of whom the files are of."""


def classes_of(
    parts: Mapping[str, Sequence[Mapping[str, object]]], roots: Mapping[str, Sequence[Path]]
) -> dict[str, str] | None:
    """First file of a row -> its class, where the folders of the files are some: those nearest to the files that are
    not all one, and that hold all files of a row.

    Folders are no classes that are splits, nor those of patients (`sub-01`), nor those among which numbered files are
    dealt out in their order (`00/r000` ... `01/r100`): the last two are said.

    Args:
        parts: split -> rows; their files are `File`.
        roots: split -> its folders.
    """
    folders: dict[str, tuple[str | None, ...]] = {}
    for split, rows in parts.items():
        for row in rows:
            files = [value.path for value in row.values() if isinstance(value, File)]
            every = []
            for path in files:
                root = next(root for root in roots[split] if below(path, root))
                every.append(Path(path).parent.relative_to(root).parts)
            if len({len(names) for names in every}) != 1:
                return None
            folders[files[0]] = tuple(same[0] if len(set(same)) == 1 else None for same in zip(*every, strict=True))
    depths = {len(names) for names in folders.values()}
    if len(depths) != 1:
        return None
    # a folder a modality is no class, also of the rows that have one of them alone
    levels = [n for n in range(depths.pop()) if all(of[n] is not None for of in folders.values())]
    for level in reversed(levels):
        found = {path: str(of[level]) for path, of in folders.items()}
        names = sorted(set(found.values()))
        if len(names) > 1:
            return None if {name.lower() for name in names} <= set(WORDS) or _no_classes(names, found) else found
    return None


def _no_classes(names: Sequence[str], found: Mapping[str, str]) -> bool:
    """Whether folders are whom the files are of, or parts into which they were dealt; said where they are."""
    shown = f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
    if all(OWNERS.fullmatch(name) for name in names):
        warn_once(f"the folders {shown} are taken for those of persons, and not for classes: no label is made of them")
        return True
    if len({len(name) for name in names}) > 1 or len(names[0]) < 2 or not all(name.isdigit() for name in names):
        return False
    dealt = sorted(found, key=lambda path: (found[path], _stem(path)))
    stems = [_stem(path) for path in dealt]
    numbered = all(any(letter.isdigit() for letter in stem) for stem in stems)
    if numbered and all(a < b for a, b in itertools.pairwise(stems)):
        warn_once(f"the folders {shown} hold numbered files in their order: parts, and no classes to make labels of")
        return True
    return False


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
