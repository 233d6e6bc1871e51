"""What a command says: its lines, on stdout; and on stderr what it is at, while nothing else is to be seen.

Whatever may take longer than a few seconds is put into `doing`. After 5 s without a word it is said what is being
done, and then every 30 s; on a terminal in a line of its own, every second, that goes when something is said. Nothing
is said of what takes less, and nothing by any but the first of several processes. Passwords and tokens in addresses are
never said (`mmssl.models.privacy.hidden`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .models.privacy import hidden

FIRST, AGAIN = 5.0, 30.0
"""Seconds of silence before it is said what is being done: at first, and then."""
BEAT = 0.5
"""Seconds between two looks at the clock."""

Listener = Callable[[str], None]
Advance = Callable[[int], None]
"""Called with how much is done."""


@dataclass(eq=False)
class Activity:
    """Something that takes time.

    Attributes:
        what: in words, "embedding the test rows".
        total: how much there is to do; None: unknown.
        done: how much of it is; None: not told.
        began: `time.monotonic`.
        told: it was said that it is being done.
    """

    what: str
    total: int | None = None
    done: int | None = None
    began: float = field(default_factory=time.monotonic)
    told: bool = False

    def text(self, now: float) -> str:
        """ "embedding the test rows: 3,200 of 50,000 (12 s)"."""
        of = f" of {self.total:,}" if self.total is not None else ""
        count = f": {self.done:,}{of}" if self.done is not None else ""
        seconds = now - self.began
        return f"{self.what}{count}" + (f" ({seconds:.0f} s)" if seconds >= 1 else "")


class Speaker:
    """The one place that writes lines, and tells what is being done while there are none.

    Attributes:
        listeners: get every line that is said.
        screen: shows what is being done in place of stderr: a progress bar on a terminal.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.screen: Listener | None = None
        self.begin()

    def begin(self) -> None:
        """Nothing is being done; also in a process that was forked while something was, which is not its own."""
        self.activities: list[Activity] = []
        self.spoke = self.changed = 0.0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._beats: threading.Thread | None = None
        self._shown = False  # a line on the terminal that goes

    def say(self, text: str) -> None:
        """A line (or several) to stdout, at once."""
        text = hidden(text)
        with self._lock:
            self._clear()
            print(text, flush=True)
        self.note(text)

    def note(self, text: str) -> None:
        """A line for the listeners alone: it is seen otherwise."""
        self.spoke = time.monotonic()
        for listener in self.listeners:
            listener(hidden(text))

    @contextlib.contextmanager
    def doing(self, activity: Activity) -> Iterator[Activity]:
        """Tell of it as long as the block takes."""
        if os.environ.get("RANK", "0") != "0":
            yield activity
            return
        with self._lock:
            self.activities.append(activity)
        if len(self.activities) == 1:
            self.spoke = activity.began
            self._over = threading.Event()
            self._beats = threading.Thread(target=self._beat, args=(self._over,), name="mmssl-progress", daemon=True)
            self._beats.start()
        try:
            yield activity
        finally:
            with self._lock:
                if activity in self.activities:  # not in a process that was forked meanwhile
                    self.activities.remove(activity)
                if not self.activities:
                    self._over.set()
                self.changed = time.monotonic()
                self._clear()

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT):
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Tell what is being done, if it is time. now: `time.monotonic`."""
        with self._lock:
            if not self.activities:
                return
            activity = self.activities[-1]
            if self.screen is not None:
                self.screen(activity.text(now))
            elif sys.stderr.isatty():
                if now - max(self.spoke, self.changed) >= 1:  # who ends something may print next
                    width = max(shutil.get_terminal_size().columns - 1, 20)
                    self._write(f"\r\x1b[K{hidden(activity.text(now))[:width]}")
                    self._shown = True
            elif now - self.spoke >= (AGAIN if activity.told else FIRST):
                activity.told, self.spoke = True, now
                self._write(f"... {hidden(activity.text(now))}\n")

    def _clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more: no reason to stop working
            sys.stderr.write(text)
            sys.stderr.flush()


speaker = Speaker()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=speaker.begin)


def say(text: str) -> None:
    """A line (or several) to stdout, at once, and to the log of the run."""
    speaker.say(text)


@contextlib.contextmanager
def doing(what: str, total: int | None = None) -> Iterator[Advance]:
    """Tell what is being done, once it takes a while. Yields what is to be called with how much of `total` is done."""
    with speaker.doing(Activity(what, total)) as activity:

        def advance(done: int) -> None:
            activity.done = done

        yield advance


class WithoutSecrets(logging.Filter):
    """Takes passwords and tokens out of the addresses in what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it holds one; let all pass."""
        text = record.getMessage()
        bare = hidden(text)
        if bare != text:
            record.msg, record.args = bare, ()
        return True


@contextlib.contextmanager
def secrets_hidden() -> Iterator[None]:
    """Within the block warnings hold no passwords and tokens of addresses."""
    logger, bare = logging.getLogger("mmssl"), WithoutSecrets()
    logger.addFilter(bare)
    try:
        yield
    finally:
        logger.removeFilter(bare)
