"""Files: those that come with mmssl, and writing whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .boundary import kind_of
from .errors import RunError, UserError


def shipped_folder(name: str) -> Path:
    """`configs` or `hub_cards`: inside the package in a wheel, at the root of the repository in a source tree."""
    here = Path(__file__).resolve().parent
    for folder in (here / name, here.parent / name):
        if folder.is_dir():
            return folder
    raise RunError(f"this installation of mmssl lacks its folder '{name}': pip install --force-reinstall mmssl")


def replaceable(path: Path) -> Path:
    """`path`, where nothing is or a regular file, which a new one may take the place of.

    UserError for everything else: a device (`/dev/null` would be gone for the whole machine), a pipe, a folder; and a
    link, of which it is not clear whether it or what it leads to is meant, and which may lead anywhere.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):  # of the latter whoever makes the folder says why
        return path
    if not stat.S_ISREG(mode):
        raise UserError(f"output: '{path}' is {kind_of(mode)}, expected a regular file to replace, or nothing")
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. OSError when it cannot be written, UserError as of `replaceable`."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


UNKNOWN_THERE = (errno.EINVAL, errno.ENOTSUP)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk. OSError where that cannot be done; a folder whose file system
    knows no such thing (some that are mounted over a network) is left to it.

    Before a file gets another name, else a crash of the machine, or a disk that turns read-only, may leave an empty
    file under it; and after, else it may be gone from there, though the run has said that it is written.
    """
    if os.name == "nt" and path.is_dir():  # which Windows opens for nobody
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNKNOWN_THERE or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file to write into that takes the place of `path` at the end; whole or not at all.

    What was there before stays until then. The folder is made where it is missing. OSError when it cannot be written,
    UserError where what is there is no regular file.
    """
    replaceable(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        sync(partial)
        os.replace(partial, replaceable(path))
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def clear_left(partials: Iterable[Path]) -> None:
    """Remove those of these files of `whole_file` that a process was writing which was killed. OSError where it cannot.

    What a process writes that is still there, is left to it; so is all on Windows, where asking after one ends it.
    """
    for rest in [] if os.name == "nt" else list(partials):
        number = rest.name.split(".")[-2]
        if number.isdigit() and rest.is_file() and not _there(int(number)):
            rest.unlink(missing_ok=True)


def _there(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into that takes the place of `folder` at the end; whole or not at all.

    What was there before stays until then. OSError when it cannot be written, UserError where what is there is a file
    or a link.
    """
    if folder.is_symlink() or folder.exists() and not folder.is_dir():
        raise UserError(
            f"output: '{folder}' is {kind_of(folder.lstat().st_mode)}, expected a folder to replace, or nothing"
        )
    from safetensors import SafetensorError

    partial, old = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "old"))
    if old.exists() and not folder.exists():  # a process was killed between two renames
        old.rename(folder)
    for rest in (partial, old):
        shutil.rmtree(rest, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        for file in [*partial.rglob("*"), partial]:
            if not file.is_symlink():
                sync(file)
        if folder.exists():
            folder.rename(old)  # only now, and it is back under its name if the next line fails
        partial.rename(folder)
        sync(folder.parent)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for rest in (partial, old):
            shutil.rmtree(rest, ignore_errors=True)
