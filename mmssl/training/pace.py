"""How long a run will take, said once it has done its first steps."""

from __future__ import annotations

import time

from ..saying import say
from .observers import Measured, Moment, Observer, Verdict

FIRST, LAST = 2, 6
"""Steps of this process between which it is timed: the first one is slow, caches and kernels are made in it."""


class Pace(Observer):
    """Times a few steps and prints what they make of the whole. Measures nothing that is kept.

    speaks: whether this process prints it. It is asked in all: where one looks the others wait for each other, too.
    compiled: the trunks are, in the first steps; what that costs is said, too, of a run from the start.
    """

    name = "pace"
    logged = False

    def __init__(self, speaks: bool = True, compiled: bool = False) -> None:
        self.speaks, self.compiled = speaks, compiled
        self.steps, self.began = 0, 0.0
        self.started: float | None = None

    def due(self, moment: Moment) -> bool:
        """After each of the first steps."""
        if moment.step == 0:
            self.started = time.perf_counter()
        return moment.step > 0 and self.steps < LAST

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Count, and say it at the last of them."""
        self.steps += 1
        now = time.perf_counter()
        if self.steps == FIRST:
            self.began = now
        elif self.steps == LAST and self.speaks and not moment.last:
            each = (now - self.began) / (LAST - FIRST)
            left = (moment.steps - moment.step) * each
            said = f"a step takes {each:.2g} s: about {duration(left)} for the {moment.steps - moment.step:,} to come"
            if self.compiled and self.started is not None:
                more = max(self.began - self.started - FIRST * each, 0.0)
                said += (
                    f"; compiling took {duration(more)} of the first {FIRST} steps (train.compile=false does without)"
                )
            say(said)
        return None


def duration(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h", "2 days"."""
    for unit, length, until in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < until:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 86400:.2g} days"
