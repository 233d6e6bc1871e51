"""Which of several processes is slow: each times its own part of every step, without waiting for the others.

A process's own seconds of a step are those from reading its rows to the end of its backward pass, without the time in
the exchanges of a loss (`mmssl.distributed`) and without DistributedDataParallel's wait for the others' gradients,
which comes last. On a GPU they are taken by its own clock, in which an exchange of a loss is not told apart from work.
Under `train.parallel: fsdp2` processes wait for each other in every block, so that what they compute cannot be told
apart: their own seconds are those that they waited for their rows, or read and decoded them, which comes before.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.quarantine import Bad
from ..distributed import exchanged
from .effort import Effort, tokens_of
from .metrics import Meter, Row
from .parallel import Parallel

logger = logging.getLogger("mmssl")

SLOW, LINES = 1.5, 3
"""A process is told of that is slower than the median by this factor in so many lines of the log in a row."""
WORTH = 0.05
"""Share of a step by which reading has to be slower, too."""


class Clock:
    """Times this process's own part of each step; nothing where it is alone, or all wait for each other anyway.

    reads: of several of the latter kind, whose time for reading is told.
    """

    def __init__(self, parallel: Parallel) -> None:
        self.device = parallel.accelerator.device
        several = parallel.accelerator.num_processes > 1
        self.on, self.reads = several and not parallel.cut, several and parallel.cut
        self.seconds, self.steps = 0.0, 0
        self._began: Any = None
        self._exchanged = 0.0
        self._pairs: list[tuple[Any, Any]] = []

    def begin(self) -> None:
        """A step begins."""
        if self.on:
            self._began, self._exchanged = self._now(), exchanged.seconds

    def end_behind(self, loss: Tensor) -> None:
        """It ends with the work of the backward pass from this loss, which comes next."""
        if self.on:
            # behind all of this process's gradients, ahead of DDP's wait, which is asked for when the last of them is
            # there: such calls are made in their order
            loss.register_hook(lambda _: torch.autograd.Variable._execution_engine.queue_callback(self._end))

    def _end(self) -> None:
        if self.device.type == "cuda":
            self._pairs.append((self._began, self._now()))
        else:
            self.seconds += self._now() - self._began - (exchanged.seconds - self._exchanged)
        self.steps += 1

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def take(self) -> float | None:
        """Seconds a step since the last call; None without any. The device is waited for."""
        for began, ended in self._pairs:
            ended.synchronize()
            self.seconds += began.elapsed_time(ended) / 1000
        found = self.seconds / self.steps if self.steps else None
        self.seconds, self.steps, self._pairs = 0.0, 0, []
        return found


@dataclass
class Told:
    """What a process says of itself at a line of the log, of the steps since the last one.

    Attributes:
        bad, read: as in `Meter`.
        seconds: its own, a step, or for reading its rows; None: not told.
        tokens: that went through its encoders.
        flops: of its steps; None: unknown.
        peak: FLOPs a second that its device can do; None: unknown.
        memory: GB; None: unknown.
    """

    bad: list[Bad]
    read: int
    seconds: float | None = None
    tokens: int = 0
    flops: float | None = None
    peak: float | None = None
    memory: float | None = None

    @classmethod
    def of(cls, meter: Meter, clock: Clock, effort: Effort) -> Told:
        """What this process says."""
        tokens, flops = tokens_of(meter), effort.flops(meter)
        seconds = meter.waited / max(meter.steps, 1) if clock.reads else clock.take()
        return cls(meter.bad, meter.read, seconds, tokens, flops, effort.peak, effort.memory())


class Stragglers:
    """Tells of a process that stays behind the others: once, and again when it is another one.

    reads: seconds are those for reading rows.
    """

    def __init__(self, reads: bool = False) -> None:
        self.reads = reads
        self.suspect, self.lines, self.told = -1, 0, -1

    def row(self, seconds: Sequence[float | None], step: float = 0.0) -> Row:
        """`rank_seconds/max`, `rank_seconds/median` and `slowest_rank`, of the seconds of all; nothing of one alone.

        step: seconds that a step takes.
        Of an even number the median is the lower one of the two in the middle: of two, the faster one.
        """
        known = [each for each in seconds if each is not None]
        if len(known) < 2 or len(known) < len(seconds):
            return {}
        most, median = max(known), statistics.median_low(known)
        slowest = known.index(most)
        self._watch(slowest, most, median, WORTH * step if self.reads else 0.0)
        return {"rank_seconds/max": most, "rank_seconds/median": median, "slowest_rank": slowest}

    def _watch(self, slowest: int, most: float, median: float, worth: float) -> None:
        if most <= SLOW * median or most - median < worth:
            self.suspect, self.lines = -1, 0
            return
        self.lines = self.lines + 1 if slowest == self.suspect else 1
        self.suspect = slowest
        if self.lines >= LINES and slowest != self.told:
            self.told = slowest
            logger.warning(
                "process %d takes %.2g s %s, the median of all is %.2g s: all wait for it; look at its machine, "
                "its data and what else runs there",
                slowest,
                most,
                "to read the rows of a step" if self.reads else "a step",
                median,
            )


def costs(told: Sequence[Told], seconds: float) -> Row:
    """What the steps of all processes cost: a part of the line. seconds: that they took."""
    peaks, flops = [of.peak for of in told], [of.flops for of in told]
    share = None
    if None not in peaks and None not in flops:
        share = sum(f for f in flops if f is not None) / seconds / sum(p for p in peaks if p is not None)
    memory = [of.memory for of in told if of.memory is not None]
    return {
        "tokens_per_second": sum(of.tokens for of in told) / seconds,
        "mfu": share,
        "memory": max(memory, default=None),
    }
