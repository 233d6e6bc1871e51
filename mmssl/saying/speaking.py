"""`Speaker`: the one place that writes lines, and tells what is being done while there are none.

After 3 s without a word it is said what is being done, and then every 30 s; on a terminal at its foot, every second,
which goes when something is said. Nothing is said of what takes less, and nothing by any but the first of several
processes. Of imports it is said before they begin (`loading`): they keep the interpreter to themselves for seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ..models.privacy import hidden
from .activity import Activity, Advance
from .lines import Others, line_of

if TYPE_CHECKING:
    from .screen import Screen

FIRST, AGAIN = 3.0, 30.0
"""Seconds of silence before it is said what is being done: at first, and then."""
EACH = 5.0
"""Seconds between two JSON lines of progress."""
BEAT = 0.5
"""Seconds between two looks at the clock."""

T = TypeVar("T")
Listener = Callable[[str], None]


class Speaker:
    """The one of a process.

    Attributes:
        listeners: get every line that is said, however it is said.
        quiet: nothing but errors and results is written.
        json: messages and progress are JSON lines on stderr.
        muted: messages are not said for now; what is being done is told as ever.
    """

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.quiet = self.json = self.muted = False
        self._screen: Screen | None = None
        self.begin()

    def begin(self) -> None:
        """Nothing is being done; also in a process that was forked while something was, which is not its own."""
        self.activities: list[Activity] = []
        self.spoke = self.changed = 0.0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._beats: threading.Thread | None = None
        if self._screen is not None:
            self._screen.forget()

    # ------------------------------------------------------------------------------------------------ what is written

    def say(self, text: str) -> None:
        """A message of a line or several, at once: to stdout, or as a JSON line to stderr."""
        text = hidden(text)
        if self.muted:
            return
        if self.json:
            self.event("message", text=text)
        elif not self.quiet:
            self.print(text)
        self.note(text)

    def note(self, text: str) -> None:
        """A line for the listeners alone: it is seen otherwise."""
        self.spoke = time.monotonic()
        for listener in self.listeners:
            listener(hidden(text))

    def measured(self, line: str, row: Mapping[str, Any]) -> None:
        """Numbers of what is being done, which a terminal shows beside it (`Activity.note`), in a line elsewhere.

        row: the numbers, for programs.
        """
        if self.json:
            self.event("metrics", **row)
            self.note(line)
        elif self.on_terminal:
            self.note(line)
        else:
            self.say(line)

    def warn(self, text: str, serious: bool = False) -> None:
        """A warning, where nobody else shows it. serious: an error."""
        text = hidden(text)
        if self.json:
            self.event("error" if serious else "warning", text=text, **({"code": None} if serious else {}))
        elif serious or not self.quiet:
            self.clear()
            self._write(f"{text}\n")

    def complain(self, lines: list[str], code: int, mark: str = "error: ") -> None:
        """Why a command ends: a line each on stderr, behind a mark. code: of its exit."""
        self.clear()
        if self.json:
            for line in lines:
                self._write(line_of("error", {"text": line, "code": code}))
        else:
            self._write("".join(f"{mark}{line}\n" for line in lines))

    def print(self, what: Any) -> None:
        """To stdout: a text, or something that rich draws, which is for a terminal."""
        with self._lock:
            self.clear()
            if not isinstance(what, str):
                from rich.console import Console

                Console().print(what)
                return
            try:
                print(what, flush=True)
            except BrokenPipeError:  # who reads it (`| head`) has had enough; Python flushes it once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def ask(self, question: str) -> str:
        """What is answered on the terminal; nothing is told of meanwhile."""
        with self._lock:
            self.clear()
            try:
                return input(question)
            except EOFError:  # Ctrl-D
                raise KeyboardInterrupt from None

    def event(self, event: str, **facts: object) -> None:
        """A JSON line to stderr; none where it is to be quiet."""
        if not self.quiet or event == "error":
            with self._lock:
                self._write(line_of(event, facts))

    def clear(self) -> None:
        """Take away what stands at the foot of the terminal."""
        with self._lock:
            if self._screen is not None:
                self._screen.hide()

    def _write(self, text: str) -> None:
        out: Any = sys.stderr
        with contextlib.suppress(OSError, ValueError):  # nobody reads stderr any more: no reason to stop working
            out = out.bare if isinstance(out, Others) else out
            out.write(text)
            out.flush()

    # -------------------------------------------------------------------------------------------- what is being done

    @contextlib.contextmanager
    def doing(self, activity: Activity, at_once: bool = False) -> Iterator[Activity]:
        """Tell of it as long as the block takes. at_once: also of what takes no time."""
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
        if at_once:
            self.look(activity.began, at_once=True)
        try:
            yield activity
        finally:
            with self._lock:
                if activity in self.activities:  # not in a process that was forked meanwhile
                    self.activities.remove(activity)
                if not self.activities:
                    self._over.set()
                self.changed = time.monotonic()
                self.clear()

    @property
    def on_terminal(self) -> bool:
        """Whether somebody looks at a terminal whose lines can be drawn again."""
        if self.quiet or self.json:
            return False
        drawn = self._screen is not None and self._screen.live is not None  # then stderr is rich's
        return drawn or (sys.stderr.isatty() and os.environ.get("TERM", "xterm") not in ("dumb", "unknown"))

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT):
            self.look(time.monotonic())

    def look(self, now: float, at_once: bool = False) -> None:
        """Tell what is being done, if it is time. now: `time.monotonic`; at_once: it is."""
        with self._lock:
            if not self.activities or self.quiet:
                return
            activity = self.activities[-1]
            if self.on_terminal:
                if (
                    at_once or now - max(self.spoke, self.changed) >= 1 or self._shows
                ):  # who ends something may print next
                    self._draw(now)
                return
            if at_once or now - self.spoke >= ((EACH if self.json else AGAIN) if activity.told else FIRST):
                activity.told, self.spoke = True, now
                if self.json:
                    self.event("progress", **activity.plain(now))
                else:
                    self._write(f"... {hidden(activity.text(now))}\n")

    @property
    def _shows(self) -> bool:
        return self._screen is not None and self._screen.live is not None

    def _draw(self, now: float) -> None:
        from .screen import Screen  # rich is there in time, when somebody waits anyway

        if self._screen is None:
            self._screen = Screen()
        self._screen.show(self.activities, now)


speaker = Speaker()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=speaker.begin)


def say(text: str) -> None:
    """A message (of a line or several), at once, and to the log of the run."""
    speaker.say(text)


def result(what: Any) -> None:
    """What a command found, on stdout: a text, or for a terminal something that rich draws."""
    speaker.print(what)


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """Within the block messages are not said: of what is done over and over, and thrown away."""
    before = speaker.muted
    speaker.muted = True
    try:
        yield
    finally:
        speaker.muted = before


def told(parts: Iterable[T], what: str, total: int, size: int | None = None) -> Iterator[T]:
    """The parts, one after the other, told of as what is being done; size: how much each of them is, None: 1."""
    with doing(what, total) as advance:
        for number, part in enumerate(parts, 1):
            yield part
            advance(min(number * (size or 1), total))


@contextlib.contextmanager
def doing(what: str, total: int | None = None) -> Iterator[Advance]:
    """Tell what is being done, once it takes a while. Yields what is to be called with how much of `total` is done."""
    with speaker.doing(Activity(what, total)) as activity:

        def advance(done: int) -> None:
            activity.done = done

        yield advance


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the first imports of a command, which take seconds: said at once, where they are still to be done."""
    with speaker.doing(Activity("loading torch and transformers"), at_once="torch" not in sys.modules):
        yield
