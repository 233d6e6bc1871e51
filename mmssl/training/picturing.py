"""Pictures of what the model sees while it trains: `report.html` brought up to date, and the trackers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import RunError, UserError, one_line
from ..recipe.config import TrainConfig
from ..reporting.looking import Seen, Subject, look
from ..reporting.page import NAME, write_report
from ..reporting.record import read_record
from ..reporting.sheets import sheets
from .engine import on_first
from .health import eagerly
from .observers import Measured, Moment, Observer
from .parallel import Parallel
from .trackers import track_pictures

logger = logging.getLogger("mmssl")


class Pictures(Observer):
    """Every so many steps or minutes (by the clock with a line of the log), but after the last, which has its own page.

    The first process looks and writes, at the model in float32 and evaluation mode, and all wait for it; where each
    holds a share of the model all look. Nothing of the training changes: no weight, no random number, no line of
    metrics.jsonl. What cannot be written is a warning.
    """

    name = "pictures"
    verb = "drawing"
    logged = False

    def __init__(self, parallel: Parallel, subject: Callable[[], Subject], train: TrainConfig, folder: Path) -> None:
        """What is looked at, and when.

        Args:
            parallel: the processes.
            subject: reads the rows; called once, now, where a process will look.
            train: says when.
            folder: of the run.
        """
        self.parallel, self.accelerator, self.folder = parallel, parallel.accelerator, folder
        self.every, self.minutes, self.compiled = train.report_every, train.report_minutes, train.compile is True
        self.subject: Subject | None = None
        self._tracking, self._at = True, time.monotonic()

        def read() -> None:
            self.subject = subject()

        on_first(self.accelerator, read)  # all hear of it where there are no rows
        if parallel.cut and not self.accelerator.is_main_process:
            read()

    def due(self, moment: Moment) -> bool:
        """Every `train.report_every` steps and `train.report_minutes` minutes."""
        if moment.step == 0 or moment.last:
            return False
        by_steps = self.every is not None and moment.step % self.every == 0
        late = self.minutes is not None and time.monotonic() - self._at >= 60 * self.minutes
        # clocks differ between processes, what they do must not
        return by_steps or (self.minutes is not None and moment.logs and self.parallel.agreed(late))

    def look(self, moment: Moment) -> Measured:
        """Look at the samples, and write; no numbers come of it."""
        devices = [torch.accelerator.current_device_index()] if torch.cuda.is_available() else []
        with eagerly(self.compiled), torch.random.fork_rng(devices=devices):
            if self.parallel.cut:
                seen = self._seen()
                on_first(self.accelerator, lambda: self._write(seen, moment.step))
            else:
                on_first(self.accelerator, lambda: self._write(self._seen(), moment.step))
        self._at = time.monotonic()
        return {}

    def _seen(self) -> Seen:
        assert self.subject is not None
        return look(self.subject)

    def _write(self, seen: Seen, step: int) -> None:
        """The page, and what the trackers can show."""
        try:
            write_report([(read_record(self.folder), seen)], self.folder / NAME)
        except (UserError, RunError, OSError) as error:
            logger.warning("%s was not written after step %d (%s); training goes on", NAME, step, one_line(error))
        if self._tracking and self.accelerator.trackers:
            self._tracking = track_pictures(self.accelerator, *sheets(seen), step)
