"""Ctrl-C and a scheduler's SIGTERM, where they are answered and where they wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None


class Interrupts:
    """Within it both raise KeyboardInterrupt, but not while the weights or the account of a step change (`held`).

    So a preempted run writes its checkpoint, and one that is interrupted goes on exactly where it was.
    """

    def __init__(self) -> None:
        self.hold = self.pending = False
        self.before: dict[int, Handler] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored: a job in the background
                    self.before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self.hold:
            raise KeyboardInterrupt
        self.pending = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A signal within is answered at its end."""
        self.hold = True
        try:
            yield
        finally:
            self.hold = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt
