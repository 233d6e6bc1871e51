"""`Activity`: something that takes time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

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
        first: how much was done when it began, by a run before it, say.
        note: what there is to say of it beside, "loss 0.31".
    """

    what: str
    total: int | None = None
    done: int | None = None
    began: float = field(default_factory=time.monotonic)
    told: bool = False
    first: int = 0
    note: str = ""

    def left(self, now: float) -> float | None:
        """Seconds that it will still take if the rest goes as fast; None: unknown. now: `time.monotonic`."""
        if self.total is None or self.done is None or self.done <= self.first:
            return None
        return (now - self.began) / (self.done - self.first) * max(self.total - self.done, 0)

    def text(self, now: float) -> str:
        """ "embedding the test rows: 3,200 of 50,000 (12 s, 2:56 left)"."""
        seconds, left = now - self.began, self.left(now)
        times = [clock(seconds)] if seconds >= 1 else []
        times += [f"{clock(left)} left"] if times and left is not None and left >= 1 else []
        return self.what + (f": {self.count}" if self.count else "") + (f" ({', '.join(times)})" if times else "")

    @property
    def count(self) -> str:
        """ "3,200 of 50,000"; "" where it is not told."""
        of = f" of {self.total:,}" if self.total is not None else ""
        return f"{self.done:,}{of}" if self.done is not None else ""

    def plain(self, now: float) -> dict[str, object]:
        """It as JSON values: `what`, `done`, `total`, `seconds`, `left`; null for what is not known."""
        left = self.left(now)
        facts = {"what": self.what, "done": self.done, "total": self.total, "seconds": round(now - self.began, 1)}
        return {**facts, "left": None if left is None else round(left, 1)}


def clock(seconds: float) -> str:
    """ "12 s", "3:20", "1:03:20"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
