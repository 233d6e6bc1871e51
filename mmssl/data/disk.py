"""Decoded samples that are kept on disk (`data.cache`), so that clips and sounds are decoded once, and not in every
epoch, run and process.

A sample lies under a hash of what it was made of: the file (its path, size and time; of one in a table its bytes), the
stretch of it, the preprocessor's options and state, and the versions of what decodes. So nothing of it is ever wrong,
and any number of processes, runs and recipes share a folder. What is read from here is bit for bit what would have been
decoded. As in memory (`mmssl.data.memory`) what is drawn anew every time (the stretch of a longer recording) is not
kept, unless only so many `variants` of a row are drawn.

Every file is written under another name first, so that nobody reads half of one; a damaged one (by its checksum) is
decoded anew. Where the folder gets too large, one process at a time deletes what was not read for longest.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmssl import __version__
from mmssl.boundary import regular_file
from mmssl.errors import UserError, one_line
from mmssl.modality import Preprocessor
from mmssl.options.schema import to_dict

from .memory import Watched

logger = logging.getLogger("mmssl")
MAGIC = b"mmssl\0c1"
SLICE, FULL = 64, 8
"""A process looks at the whole folder when it has written a 64th of what is allowed; then an eighth is made free. So
eight processes at once stay below the bound."""
DECODERS = ("av", "soundfile", "torchaudio", "torch", "numpy", "pillow", "mne", "wfdb")
LOCK = "lock"
Array = np.ndarray[Any, Any]


class Disk:
    """A folder of samples, of at most `limit` bytes. May travel to worker processes: each counts what it writes.

    variants: of a row, where something of it is drawn; None: any number, which are not kept.
    """

    def __init__(self, folder: str | Path, limit: int, variants: int | None = None) -> None:
        """UserError where nothing can be written there."""
        self.folder, self.limit, self.variants = Path(folder).expanduser().absolute(), limit, variants
        self.unseen = limit  # bytes written since this process looked at the folder; at first it looks
        self.failed = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOCK).touch()
        except OSError as error:
            raise UserError(
                f"data.cache.path: found '{folder}', which cannot be written to ({error.strerror}); expected a folder"
            ) from error

    def place(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / key[:2] / key[2:]

    def get(self, key: str) -> list[Array] | None:
        """The arrays under a key; None where there are none, or they are damaged."""
        path = self.place(key)
        try:
            with path.open("rb") as file:
                found = _read(file)
                os.utime(file.fileno())  # it was read last
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            logger.warning("data.cache: %s is passed over and decoded anew (%s)", path, one_line(error))
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return found

    def put(self, key: str, arrays: list[Array]) -> None:
        """Keep arrays, and make room. Where that cannot be done, it is said once, and this process keeps no more."""
        path = self.place(key)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                size = _write(file, arrays)
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            logger.warning("data.cache: nothing more is kept in %s (%s)", self.folder, one_line(error))
            self.failed = True
            return
        self.unseen += size
        if self.unseen >= self.limit // SLICE:
            self.unseen = 0
            self.make_room()

    def make_room(self) -> None:
        """Delete what was not read for longest, where the folder is too large; nothing while another process does."""
        import fcntl

        with (self.folder / LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
            found = sorted((about.st_mtime_ns, about.st_size, path) for path, about in self._files())
            bound = self.limit - self.limit // FULL
            total = sum(size for _, size, _ in found)
            for _, size, path in found:
                if total <= bound:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Those of samples, and what processes that were killed left behind."""
        for part in os.scandir(self.folder):
            if part.is_dir(follow_symlinks=False):
                for file in os.scandir(part.path):
                    with contextlib.suppress(FileNotFoundError):
                        yield file.path, file.stat(follow_symlinks=False)


def _write(file: Any, arrays: list[Array]) -> int:
    parts = [np.ascontiguousarray(array) for array in arrays]
    check = 0
    for part in parts:
        check = zlib.crc32(part.data.cast("B") if part.size else b"", check)
    said = json.dumps({"arrays": [(part.dtype.str, part.shape) for part in parts], "crc32": check}).encode()
    file.write(MAGIC + struct.pack("<I", len(said)) + said)
    for part in parts:
        file.write(part.data)
    return int(file.tell())


def _read(file: Any) -> list[Array]:
    head = file.read(len(MAGIC) + 4)
    if head[: len(MAGIC)] != MAGIC:
        raise ValueError("it is no sample of this cache")
    said = json.loads(file.read(*struct.unpack("<I", head[len(MAGIC) :])))
    arrays, check = [], 0
    for kind, shape in said["arrays"]:
        array = np.empty(tuple(shape), np.dtype(kind))
        if array.size:
            data = array.data.cast("B")
            if file.readinto(data) != array.nbytes:
                raise ValueError("it is cut off")
            check = zlib.crc32(data, check)
        arrays.append(array)
    if check != said["crc32"]:
        raise ValueError("its checksum differs")
    return arrays


class OnDisk:
    """What reads samples in a preprocessor's place: from disk where they are there, and else by it."""

    def __init__(self, reader: Preprocessor[Any], disk: Disk) -> None:
        self.reader, self.disk = reader, disk
        self.of: bytes | None = None

    def read(self, raw: object, choice: int = 0) -> Any:
        """As `Preprocessor.read`."""
        told = _told(raw)
        if told is None:
            return self.reader.read(raw, choice)
        watched = choice if isinstance(choice, Watched) else Watched(choice)
        whole, drawn = self._key(told), None
        found = self.disk.get(whole)
        if found is None and self.disk.variants is not None:
            drawn = self._key(told + str(int.__int__(watched)).encode())
            found = self.disk.get(drawn)
            watched.used = found is not None  # as whoever keeps it in memory wants to know
        if found is not None:
            return found[0] if len(found) == 1 else tuple(found)
        sample = self.reader.read(raw, watched)
        key = drawn if watched.used else whole
        if sample is not None and key is not None and not self.disk.failed:
            self.disk.put(key, [sample] if isinstance(sample, np.ndarray) else list(sample))
        return sample

    def _key(self, told: bytes) -> str:
        return hashlib.blake2b(self._made_by() + told, digest_size=20).hexdigest()

    def _made_by(self) -> bytes:
        """What of the preprocessor, and of what it decodes with, a sample depends on."""
        if self.of is None:
            kind = type(self.reader)
            said = [f"{kind.__module__}.{kind.__qualname__}", to_dict(self.reader.config), self.reader.state]
            self.of = json.dumps([*said, _versions()], sort_keys=True, default=str).encode()
        return self.of


@functools.cache
def _versions() -> list[str]:
    found = [f"mmssl {__version__}"]
    for name in DECODERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def _told(raw: object) -> bytes | None:
    """What tells the contents of a raw value, at little cost; None of what is decoded already."""
    place, path = b"", None
    if isinstance(raw, Mapping):
        if not {"bytes", "path"} <= set(raw) <= {"bytes", "path", "start", "stop"}:
            return None
        place = json.dumps([raw.get("start"), raw.get("stop")]).encode()
        path, raw = raw["path"], raw["bytes"] if raw["bytes"] is not None else raw["path"]
    if isinstance(raw, (bytes, bytearray, memoryview)):
        # decoders may go by the ending
        ending = os.path.splitext(path)[1] if isinstance(path, str) else ""
        return b"bytes" + place + ending.encode() + hashlib.blake2b(raw, digest_size=20).digest()
    if not isinstance(raw, (str, Path)):
        return None
    if not os.path.isfile(raw):
        return None
    real = os.path.realpath(regular_file(raw))  # a row may not name every file, whoever decoded it before
    about = os.stat(real)
    return json.dumps([real, about.st_size, about.st_mtime_ns]).encode() + place


def on_disk(readers: Mapping[str, Any], disk: Disk | None) -> dict[str, Any]:
    """Name -> reader, those of what takes long to decode, and is arrays, by way of the disk."""
    if disk is None:
        return dict(readers)
    return {
        name: OnDisk(reader, disk) if isinstance(reader, Preprocessor) and reader.kept_on_disk else reader
        for name, reader in readers.items()
    }
