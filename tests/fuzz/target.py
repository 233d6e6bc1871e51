"""What a format is to the fuzzer, and who reads it by a modality."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from toys import samples as samples_of

from mmssl.modality import Preprocessor, load_modality

Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        files: name -> right content; what is read lies in a folder of its own with all of them.
        damage: of the content of one of them.
        read: reads the folder, given the name of the file that was damaged.
        share: of the variants, as the format is quick or slow to read.
        damaged: which of the files are damaged; all of them where it is empty.
    """

    files: dict[str, bytes]
    damage: Damage
    read: Callable[[Path, str], object]
    share: int = 4
    damaged: tuple[str, ...] = ()


@cache
def preprocessor(case: str) -> Preprocessor[Any]:
    package = load_modality(samples_of.modality_of(case))
    return package.Preprocessor(package.Config(**samples_of.TINY[case])).fit(samples_of.made(case))


def by_bytes(case: str) -> Callable[[Path, str], object]:
    def read(folder: Path, name: str) -> object:
        p = preprocessor(case)
        return p.collate([p.read((folder / name).read_bytes()), None])

    return read


def by_path(case: str, opened: str | None = None) -> Callable[[Path, str], object]:
    def read(folder: Path, name: str) -> object:
        p = preprocessor(case)
        return p.collate([p.read(str(folder / (opened or name))), None])

    return read
