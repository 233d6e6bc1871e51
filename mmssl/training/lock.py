"""One process writes to a run's folder at a time: two would delete each other's checkpoints."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from ..errors import RunError, UserError
from ..files import clear_left

logger = logging.getLogger("mmssl")
LOCK, HOLDER = ".lock", ".lock.json"


class RunLock:
    """Holds a run's folder for this process, until `release` or the end of the process, killed or not.

    The operating system keeps the lock, so none is left behind by a crash; who holds it is told of in a file beside it.

    made: the folder, where it was not there before.
    """

    def __init__(self) -> None:
        self._lock: FileLock | None = None
        self._holder: Path | None = None
        self.made: Path | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, folder: Path) -> None:
        """Take the folder, which is there already.

        Raises:
            UserError: another process holds it; names the process.
            RunError: nothing can be written to it.
        """
        lock = FileLock(folder / LOCK, blocking=False, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"--output {folder}: another process writes to this run{_holder_of(folder)}; "
                "let it end, stop it, or name another folder"
            ) from None
        except OSError as error:
            raise RunError(f"{folder} could not be written: {error.strerror or error}") from error
        self._lock, self._holder = lock, folder / HOLDER
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            self._holder.write_text(json.dumps(facts))
            clear_left(folder.rglob(".*.partial"))
        except OSError as error:
            self.release()
            raise RunError(f"{folder} could not be written: {error.strerror or error}") from error

    def release(self) -> None:
        """Give the folder up, where it is held."""
        if self._lock is None or self._holder is None:
            return
        # the locked file itself stays: a third process may have opened it already, and would lock a deleted one
        try:
            self._holder.unlink(missing_ok=True)
        except OSError as error:  # read-only by now: the lock itself is given up in any case
            logger.warning("%s could not be deleted (%s)", self._holder, error)
        self._lock.release()
        self._lock = self._holder = None


def _holder_of(folder: Path) -> str:
    try:
        facts = json.loads((folder / HOLDER).read_text())
        return f" (process {facts['pid']} on {facts['host']}, since {facts['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
