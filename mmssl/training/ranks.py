"""Which of several processes is slow, and at what: each times its own part of each step, without waiting for others.

A process's own seconds of a step are those in which it waits for its rows, or reads and decodes them, and those in
which it computes; what is left of a step are exchanges, which end when the slowest process is there. Without shares
they go from reading its rows to the end of its backward pass, without the time in the exchanges of a loss
(`mmssl.distributed`) and without DistributedDataParallel's wait for the others' gradients, which comes last. On a GPU
they are taken by its own clock, in which an exchange of a loss is not told apart from work.

Under `train.parallel: fsdp2` processes wait for each other in front of every block. What is timed then is what a block
does once it is put together, in the forward pass (and where it is recomputed): a part of the computing, but each
process's own, so that a slow one shows.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.quarantine import Bad
from ..distributed import exchanged
from .effort import Effort, tokens_of
from .metrics import Meter, Row
from .parallel import Parallel

logger = logging.getLogger("mmssl")

SLOW, LINES = 1.5, 3
"""A process is told of that is slower than the median by this factor in so many lines of the log in a row."""
WORTH = 0.05
"""Share of a step by which it has to be slower, too."""


class Clock:
    """Times this process's own part of each step; nothing where it is alone.

    cut: of several that wait for each other in every block, whose forward passes are timed.
    """

    def __init__(self, parallel: Parallel, blocks: Iterable[nn.Module] = ()) -> None:
        """blocks: those that are put together by themselves."""
        self.device = parallel.accelerator.device
        self.on = parallel.accelerator.num_processes > 1
        self.cut = parallel.cut
        self.seconds, self.steps = 0.0, 0
        self._within = False
        self._began: Any = None
        self._exchanged = 0.0
        self._pairs: list[tuple[Any, Any]] = []
        for block in blocks if self.on and self.cut else ():
            block.register_forward_pre_hook(self._enter)  # behind the hook that puts it together, which is there
            block.register_forward_hook(self._leave, prepend=True)

    def _enter(self, *_: object) -> None:
        if self._within:
            self._began = self._now()

    def _leave(self, *_: object) -> None:
        if self._within and self._began is not None:
            self._add(self._began, self._now())
            self._began = None

    def begin(self) -> None:
        """A step begins."""
        self._within = self.on
        if self.on and not self.cut:
            self._began, self._exchanged = self._now(), exchanged.seconds

    def end_behind(self, loss: Tensor) -> None:
        """It ends with the work of the backward pass from this loss, which comes next."""
        if self.on and not self.cut:
            # behind all of this process's gradients, ahead of DDP's wait, which is asked for when the last of them is
            # there: such calls are made in their order
            loss.register_hook(lambda _: torch.autograd.Variable._execution_engine.queue_callback(self._end))

    def end(self) -> None:
        """The step's passes are over; blocks that are asked for looks at the run are not timed."""
        self._within, self.steps = False, self.steps + (self.on and self.cut)

    def _end(self) -> None:
        self._add(self._began, self._now())
        if self.device.type != "cuda":
            self.seconds -= exchanged.seconds - self._exchanged
        self.steps += 1

    def _add(self, began: Any, ended: Any) -> None:
        if self.device.type == "cuda":
            self._pairs.append((began, ended))
        else:
            self.seconds += ended - began

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
        seconds: its own, a step; None: not told.
        reading: those of them in which it waited for its rows, or read them.
        tokens: that went through its encoders.
        flops: of its steps; None: unknown.
        peak: FLOPs a second that its device can do; None: unknown.
        memory: GB; None: unknown.
    """

    bad: list[Bad]
    read: int
    seconds: float | None = None
    reading: float = 0.0
    tokens: int = 0
    flops: float | None = None
    peak: float | None = None
    memory: float | None = None

    @classmethod
    def of(cls, meter: Meter, clock: Clock, effort: Effort) -> Told:
        """What this process says."""
        tokens, flops = tokens_of(meter), effort.flops(meter)
        seconds, reading = clock.take(), meter.waited / max(meter.steps, 1)
        if clock.cut and seconds is not None:  # what is timed there is computing alone
            seconds += reading
        return cls(meter.bad, meter.read, seconds, reading, tokens, flops, effort.peak, effort.memory())


class Stragglers:
    """Tells of a process that stays behind the others: once, and again when it is another one."""

    def __init__(self) -> None:
        self.suspect, self.lines, self.told = -1, 0, -1

    def row(self, told: Sequence[Told], step: float = 0.0) -> Row:
        """`rank_seconds/max` and `rank_seconds/median` of the own seconds of all, `slowest_rank`, and how its own are
        shared: `rank_seconds/reading` and `rank_seconds/computing`; nothing of one alone.

        step: seconds that a step takes.
        Of an even number the median is the lower one of the two in the middle: of two, the faster one.
        """
        known = [of.seconds for of in told if of.seconds is not None]
        if len(known) < 2 or len(known) < len(told):
            return {}
        most, median = max(known), statistics.median_low(known)
        slowest = known.index(most)
        reading = min(told[slowest].reading, most)
        self._watch(slowest, most, median, reading, WORTH * step)
        return {
            "rank_seconds/max": most,
            "rank_seconds/median": median,
            "rank_seconds/reading": reading,
            "rank_seconds/computing": most - reading,
            "slowest_rank": slowest,
        }

    def _watch(self, slowest: int, most: float, median: float, reading: float, worth: float) -> None:
        if most <= SLOW * median or most - median < worth:
            self.suspect, self.lines = -1, 0
            return
        self.lines = self.lines + 1 if slowest == self.suspect else 1
        self.suspect = slowest
        if self.lines >= LINES and slowest != self.told:
            self.told = slowest
            logger.warning(
                "process %d takes %.2g s of its own a step, %.2g s to read its rows and %.2g s to compute, the median "
                "of all is %.2g s: all wait for it; look at %s and what else runs there",
                slowest,
                most,
                reading,
                most - reading,
                median,
                "its data" if reading > most - reading else "its machine",
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
