"""What lies in a folder: files of data, tables, metadata, and what is left out, which is counted and said.

Looked through here and not by `datasets`, whose folder builders take words in file names for splits (one `train.png`
among forty pictures makes it the data), read no folder with brackets in its name, pass over linked folders, and want
torchcodec for sounds. `listing.py` makes rows of the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmssl.errors import UserError

from .explained import warn_once
from .formats import METADATA, WORDS, folder_splits, is_noise, split_of, table_format
from .kinds import Kind, endings_of


@dataclass
class Found:
    """What lies in a folder and below it; files are full paths, in the order of their names.

    Attributes:
        files: those whose endings a modality reads, and everything else that is neither of the other two.
        tables: files of table formats, metadata aside.
        metadata: tables that say more of the files.
        hidden: files that a modality would read, but for their names or those of their folders.
        has_configs: its README.md configures the data, as on the Hub.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    has_configs: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is no file that could be data."""
        return not (self.files or self.tables or self.metadata)

    @property
    def every(self) -> list[str]:
        """The files and the tables."""
        return sorted([*self.files, *self.tables])

    def tell_left_out(self, used: Iterable[str], why: str = "") -> None:
        """Say how many files are no rows, once in a process."""
        chosen = set(used)
        left = [path for path in self.every if path not in chosen]
        hidden = f"{len(self.hidden):,} hidden" if self.hidden else ""
        if left or hidden:
            counts = ", ".join(part for part in (endings_of(left) if left else "", hidden) if part)
            warn_once(
                f"'{self.folder}': {len(chosen):,} files are read, {len(left) + len(self.hidden):,} are left out "
                f"({counts}{why})"
            )

    def split_tables(self) -> dict[str, list[str]]:
        """The tables at the top whose names say a split."""
        named: dict[str, list[str]] = {}
        for path in self.tables:
            split = split_of(os.path.basename(path))
            if split and Path(path).parent == self.folder:
                named.setdefault(split, []).append(path)
        return named


def scan(folder: Path, kinds: Iterable[Kind] = ()) -> Found:
    """Look through a folder and what is linked into it, each real folder once; hidden and foreign files aside.

    kinds: the files that are looked for; a folder with one of their endings (`.mff`) is a file.

    Raises UserError where a folder cannot be read.
    """
    kinds = tuple(kinds)
    found = Found(folder, has_configs=_has_configs(folder / "README.md"))
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"data.path: cannot read the folder '{error.filename}': {error.strerror}") from error

    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(where)
        if real in seen:  # a link that leads back, or a second one to the same place
            folders.clear()
            continue
        seen.add(real)
        whole = [name for name in folders if os.path.splitext(name)[1] and any(k.may_read(name) for k in kinds)]
        for name in [name for name in folders if is_noise(name)]:
            found.hidden += [
                os.path.join(place, file)
                for place, _, inside in os.walk(os.path.join(where, name))
                for file in inside
                if any(kind.may_read(file) for kind in kinds)
            ]
        folders[:] = sorted(name for name in folders if not is_noise(name) and name not in whole)
        for name in [*files, *whole]:
            path = os.path.join(where, name)
            if is_noise(name):
                if name.startswith(".") and any(kind.may_read(name) for kind in kinds):
                    found.hidden.append(path)
            elif not _is_text(name):
                found.files.append(path)
            elif name in METADATA:
                found.metadata.append(path)
            else:
                (found.tables if table_format(name) else found.files).append(path)
    for paths in (found.files, found.tables, found.metadata, found.hidden):
        paths.sort()
    return found


def _is_text(name: str) -> bool:
    """Whether a file name is letters in the encoding of the system: others no table of paths can hold."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _has_configs(readme: Path) -> bool:
    """Whether a README.md configures the data, as on the Hub."""
    if not readme.is_file():
        return False
    head = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return head is not None and re.search(r"^configs:", head.group(1), re.MULTILINE) is not None


def split_roots(folder: Path, files: Iterable[str]) -> dict[str, list[Path]] | None:
    """Split -> the folders that are it, by the folders at the top that hold `files`; None where they are no splits.

    One folder that holds all the others is looked into: an unpacked archive.
    """
    top = folder
    relative = [PurePosixPath(file).relative_to(PurePosixPath(folder)).parts for file in files]
    while relative:
        names = sorted({parts[0] for parts in relative if len(parts) > 1})
        if any(len(parts) == 1 for parts in relative) or not names:
            return None
        splits = folder_splits(names)
        if splits is not None:
            roots: dict[str, list[Path]] = {}
            for name, split in sorted(splits.items(), key=lambda item: list(WORDS.values()).index(item[1])):
                roots.setdefault(split, []).append(top / name)
            return roots
        if len(names) > 1:
            return None
        top, relative = top / names[0], [parts[1:] for parts in relative]
    return None


def below(path: str, folder: Path) -> bool:
    """Whether a file lies in a folder or further down."""
    return path.startswith(f"{folder}{os.sep}")


def split_folders(folder: Path, path: str) -> list[str]:
    """The folders on the way to a file that are called like splits."""
    return [part for part in Path(path).parent.relative_to(folder).parts if part.lower() in WORDS]
