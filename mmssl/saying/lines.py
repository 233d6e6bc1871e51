"""JSON lines on stderr (`--log json`), one object a line.

{"event": "progress", "time": 1764471625.1, "what": "embedding the rows", "done": 3200, "total": 50000,
 "seconds": 12.0, "left": 175.5}
{"event": "metrics", "time": ..., "step": 40, "steps": 100, "loss": 0.31, ...}  a line of metrics.jsonl
{"event": "message", "time": ..., "text": ...}
{"event": "warning", "time": ..., "text": ...}
{"event": "error", "time": ..., "text": ..., "code": 2}  code: of the exit; null: unknown
{"event": "other", "time": ..., "text": ...}  another library's words
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from .speaking import Speaker


def line_of(event: str, facts: Mapping[str, object]) -> str:
    """One object in one line, with the time in seconds since 1970."""
    return json.dumps({"event": event, "time": round(time.time(), 3), **facts}, ensure_ascii=False) + "\n"


class Lines(logging.Handler):
    """Gives mmssl's warnings to the speaker, who keeps them to itself where it is to be quiet."""

    def __init__(self, speaker: Speaker) -> None:
        super().__init__()
        self.speaker = speaker

    def emit(self, record: logging.LogRecord) -> None:
        """A warning, or worse."""
        self.speaker.warn(record.getMessage(), serious=record.levelno >= logging.ERROR)


class Others(io.TextIOBase):
    """Takes the place of stderr: each line that somebody else writes there becomes an object of its own.

    bare: stderr itself.
    """

    def __init__(self, bare: TextIO, speaker: Speaker) -> None:
        self.bare, self.speaker = bare, speaker
        self._open = ""

    def write(self, text: str) -> int:
        """Hold text until its line is complete; a bar that is drawn again and again ends its lines by a return."""
        *whole, self._open = (self._open + text).replace("\r", "\n").split("\n")
        for line in whole:
            if line.strip() and not self.speaker.quiet:
                self.speaker.event("other", text=line)
        return len(text)

    def flush(self) -> None:
        """What was written whole."""
        self.bare.flush()

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """For who starts processes with it."""
        return self.bare.fileno()

    def end(self) -> None:
        """Write a line that nobody ended."""
        if self._open.strip():
            self.write("\n")
        self._open = ""


@contextlib.contextmanager
def others_in_lines(speaker: Speaker) -> Iterator[None]:
    """Within the block stderr is `Others`."""
    bare, found = sys.stderr, Others(sys.stderr, speaker)
    sys.stderr = found
    try:
        yield
    finally:
        found.end()
        sys.stderr = bare
