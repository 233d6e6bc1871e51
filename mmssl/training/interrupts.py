"""Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP: where they are answered and where they wait."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

logger = logging.getLogger("mmssl")
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupts:
    """Within it all raise KeyboardInterrupt, but not while the weights or the account of a step change (`held`), nor
    while the checkpoint is written that the first one asked for (`saving`).

    So a preempted run writes its checkpoint, and one that is interrupted goes on exactly where it was. A second signal
    there is told to wait; a third ends the process at once, with the checkpoint before.
    """

    def __init__(self) -> None:
        self.hold = self.pending = False
        self.count = 0
        self.before: dict[int, Handler] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored: a job in the background
                    self.before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self.hold or self.count > 2:
            raise KeyboardInterrupt
        self.pending = True
        if self.count == 2:
            logger.warning("the checkpoint is being written, wait; once more ends the run without it")

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """For what follows the first signal, which has been answered already."""
        self.hold = True
        try:
            yield
        finally:
            self.hold = self.pending = False

    @contextlib.contextmanager
    def together(self, agreed: Callable[[bool], bool] | None) -> Iterator[Callable[[], None]]:
        """For processes of which none can do anything alone: a signal within is answered where all call what this
        yields, by all at once.

        agreed: whether any process says so; None: one that is interrupted leaves nobody waiting.
        """
        if agreed is None:
            yield lambda: None
            return

        def answered() -> None:
            if agreed(self.pending):
                self.pending = False
                raise KeyboardInterrupt

        self.hold = True
        try:
            yield answered
        finally:
            self.hold = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal within is answered at its end."""
        before, self.hold = self.hold, True
        try:
            yield
        finally:
            self.hold = before
        if not before and self.pending:
            self.pending = False
            raise KeyboardInterrupt
