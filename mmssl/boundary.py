"""The one place where what others wrote is read: whatever goes wrong with it is its own fault, told in one line.

Decoders raise what the bytes led them to: an `IndexError`, a `KeyError`, a `tokenize.TokenError`. No list of them is
ever complete, so that here all of them count as the sample's fault (`reading_sample`) or the folder's (`reading_of`),
but for those that are known to be ours: the user's settings, a missing package, and a machine that has run out of
memory, descriptors or disk. Decoders themselves catch only what they can say better.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from .errors import BadSample, RunError, UserError, one_line
from .limits import current

MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""OSErrors that say something of the machine and nothing of the file."""
JSON_BYTES = 64 << 20
"""The longest JSON file of a model that is read: a vocabulary of a million words has 30 MB."""

LONGEST = 1000
"""Characters of a reason: a decoder may quote all that it has read."""

_PLACES: ContextVar[tuple[Path, ...] | None] = ContextVar("places", default=None)
"""The folders that samples may name files in; None: any of this machine."""


def is_ours(error: BaseException) -> bool:
    """Whether an exception is the fault of the settings, the installation or the machine, not of what was read."""
    if isinstance(error, BadSample) or _is_claim(error):
        return False
    if isinstance(error, UserError | RunError | MemoryError | ModuleNotFoundError) or not isinstance(error, Exception):
        return True
    if isinstance(error, OSError):
        return error.errno in MACHINE
    return type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this


def _is_claim(error: BaseException) -> bool:
    """Whether NumPy was asked for more numbers at once than `data.limits.values`: a count in a file says so, and no
    machine is too small for it."""
    shape = getattr(error, "shape", None)
    if not isinstance(error, MemoryError) or not isinstance(shape, tuple):
        return False
    return math.prod(number for number in shape if isinstance(number, int)) > current().values


def reason(error: BaseException) -> str:
    """One line: what was raised, by which file and line of whose code; what a `BadSample` says speaks for itself."""
    if isinstance(error, BadSample):
        return one_line(error)
    text = one_line(error)
    said = type(error).__name__ if text == type(error).__name__ else f"{type(error).__name__}: {text}"
    place = _place(error)
    return f"{said} (at {place})" if place else said


def _place(error: BaseException) -> str:
    """`package/file.py:12` of the innermost frame of an exception."""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    parts = Path(trace.tb_frame.f_code.co_filename).parts
    inside = parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-2:]
    return f"{'/'.join(inside)}:{trace.tb_lineno}"


@contextlib.contextmanager
def reading_sample(what: str = "") -> Iterator[None]:
    """Whatever is raised within over a sample's bytes becomes a `BadSample` with type and place, unless it is ours.

    Args:
        what: in front of the reason, where a decoder knows more than the exception: "a.edf cannot be read as edf".

    Raises:
        BadSample: it is the sample's fault.
        RunError: the machine has run out of something.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BadSample):
            if one_line(error, LONGEST) == str(error):
                raise
            raise BadSample(one_line(error, LONGEST)) from error
        if is_ours(error):
            raise_ours(error, "cannot read the data")
        raise BadSample(f"{what}: {reason(error)}" if what else reason(error)) from error


@contextlib.contextmanager
def reading_of(what: str) -> Iterator[None]:
    """Whatever is raised within over the files of a model becomes a `UserError` "`what` (type: reason, place)".

    Raises:
        UserError: it is the files' fault.
        RunError: the machine has run out of something.
    """
    try:
        yield
    except Exception as error:
        if is_ours(error):
            raise_ours(error, what)
        raise UserError(f"{what} ({reason(error)})") from error


def raise_ours(error: BaseException, what: str) -> None:
    """Raise what is not the bytes' fault: out of descriptors, disk or memory as one line."""
    if isinstance(error, OSError):
        raise RunError(f"{what}: {error.strerror or one_line(error)}") from error
    if isinstance(error, MemoryError):
        raise RunError(f"{what}: there is not enough memory ({one_line(error)})") from error
    raise error


# ------------------------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def only_below(places: Sequence[Path] | None) -> Iterator[None]:
    """Within it, samples may name files below these folders alone; None: any file of this machine."""
    token = _PLACES.set(None if places is None else tuple(place.resolve() for place in places))
    try:
        yield
    finally:
        _PLACES.reset(token)


def regular_file(path: str | Path) -> Path:
    """A file that a sample names, made sure to be one: no device, pipe or socket, and where the sample may read.

    Raises BadSample.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character
        said = getattr(error, "strerror", None) or error
        raise BadSample(f"cannot read file '{_short(path)}': {said}") from error
    if not stat.S_ISREG(found.st_mode):
        raise BadSample(f"'{_short(path)}' is {kind_of(found.st_mode)}, expected a regular file")
    within_places(path)
    return path


def within_places(path: Path) -> None:
    """BadSample where a sample names a file or folder that its data have no part in."""
    places = _PLACES.get()
    if places is not None and not any(path.resolve().is_relative_to(place) for place in places):
        raise BadSample(f"'{_short(path)}' is a place on this machine, which data from elsewhere may not name")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:200]}..."


def kind_of(mode: int) -> str:
    """What a file of this mode is, in words."""
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISLNK: "a link",
        stat.S_ISREG: "a file",
    }
    return next((words for test, words in kinds.items() if test(mode)), "no regular file")


def check_folder(folder: Path) -> None:
    """UserError unless all that a model's folder holds lies in it, links resolved, and is a regular file or a folder.

    The cache of the Hub's client holds a repository's files as links to its own blobs, which are right.
    """
    for where, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            own_file(folder, Path(where, name))


def own_file(folder: Path, path: Path) -> None:
    """UserError where a path below a model's folder is there but leads out of it, or is a device, a pipe or a socket.

    See `check_folder`.
    """
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    shown, root = os.path.relpath(path, folder), folder.resolve()
    target = path.resolve()
    if not target.is_relative_to(root) and not all(place.is_relative_to(_hub_cache()) for place in (root, target)):
        raise UserError(f"{folder}: '{shown}' is a link to a place outside the folder, expected a file of its own")
    mode = target.stat().st_mode if target.exists() else mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{folder}: '{shown}' is {kind_of(mode)}, expected a regular file")


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).resolve()


def inside(folder: Path, name: object, what: str) -> Path:
    """The path of a file in a folder by a relative name that a stranger wrote; UserError where it leads elsewhere."""
    if not isinstance(name, str) or not name or "\x00" in name or "\\" in name:
        raise UserError(f"{what}: found {name!r}, expected the name of a file in the folder")
    parts = name.split("/")
    if name.startswith(("/", "~")) or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise UserError(f"{what}: found {name!r}, expected a name that leads to a file in the folder")
    return folder / name


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file of a model. UserError "`what` is damaged (...)" where there is none."""
    with reading_of(f"{what} is damaged"):
        size = path.stat().st_size
        if size > JSON_BYTES:
            raise ValueError(f"found {size:,} bytes, expected at most {JSON_BYTES:,}")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"found {type(data).__name__}, expected an object")
        return data


def good_samples(samples: Iterable[object], look: Callable[[object], object], noun: str) -> Iterator[object]:
    """What `look` makes of the samples that are there and not broken; UserError after the last where none could be
    read, with the first reason. noun: what a sample is, for the message."""
    tried, good, reason = 0, 0, ""
    for raw in samples:
        tried += 1
        try:
            with reading_sample():
                value = None if raw is None else look(raw)
        except BadSample as error:
            reason = reason or str(error)
            continue
        if value is not None:
            good += 1
            yield value
    if not good:
        as_what = f" as {noun}" if noun else ""
        raise UserError(f"none of {tried} samples could be read{as_what}" + (f": {reason}" if reason else ""))
