"""`train.log`: everything that a run says, with the time, in its folder."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import LONGEST, RunError, UserError, one_line
from ..files import replaceable
from ..models.privacy import hidden
from ..saying import secrets_hidden, speaker

logger = logging.getLogger("mmssl")

NAME = "train.log"
MOST = 1000
"""Lines that are kept until the folder is known."""


class RunLog(logging.Handler):
    """Writes what is said, and the warnings of mmssl, from the start of the block to its end, behind what is there.

    The first process writes `train.log`; the others, which say nothing and warn of nothing that the first one does not,
    `train.RANK.log` once there is an error to tell of. A full disk costs lines, never the run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rank = int(os.environ.get("RANK", "0"))
        self._path: Path | None = None
        self._file: FileIO | None = None
        self._failed = False
        self._held: list[bytes] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(secrets_hidden())
        speaker.listeners.append(self.hear)
        self._stack.callback(speaker.listeners.remove, self.hear)
        logger.addHandler(self)
        self._stack.callback(logger.removeHandler, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.hear("---- done")
        else:
            said, name = one_line(error, LONGEST), type(error).__name__
            plain = isinstance(error, UserError | RunError) or said == name
            self.hear(f"---- ended: {said if plain else f'{name}: {said}'}")
        self._stack.close()
        self.close()

    def open(self, folder: Path) -> None:
        """The run is in this folder; what was said before is written now."""
        self._path = folder / (NAME if self.rank == 0 else f"train.{self.rank}.log")
        held, self._held = self._held, []
        if self.rank == 0:
            held.insert(0, _stamped(f"---- process {os.getpid()} on {socket.gethostname()}"))
        for line in held:
            self._write(line)

    def drop(self) -> None:
        """The folder goes: nothing more is written."""
        file, self._path, self._file = self._file, None, None
        if file is not None:
            file.close()

    def hear(self, text: str) -> None:
        """Write a line or several."""
        line = _stamped(hidden(text))
        if self._path is not None:
            self._write(line)
        elif len(self._held) < MOST:
            self._held.append(line)

    def emit(self, record: logging.LogRecord) -> None:
        """A warning. Where nobody else listens Python would show it by itself, were this handler not there."""
        self.hear(f"{record.levelname.lower()}: {record.getMessage()}")
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not self._others(logging.getLogger(record.name)):
            last.handle(record)

    def _others(self, of: logging.Logger | None) -> bool:
        """Whether a record of this logger reaches another handler."""
        while of is not None:
            if any(handler is not self for handler in of.handlers):
                return True
            of = of.parent if of.propagate else None
        return False

    def _write(self, line: bytes) -> None:
        if self._path is None:
            return
        try:
            if self._file is None:
                self._file = replaceable(self._path).open("ab", buffering=0)  # a line is on its way when this returns
            self._file.write(line)
        except (OSError, UserError) as error:
            failed, self._failed = self._failed, True  # first: the warning comes back here
            if not failed:
                logger.warning("%s could not be written (%s); the run goes on", self._path, one_line(error))

    def close(self) -> None:
        """The end of the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # of a disk that is gone; what was written is written
                file.close()
        super().close()


def _stamped(text: str) -> bytes:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return "".join(f"{now}  {line}\n" for line in text.splitlines()).encode()
