"""What a run says while it trains: `metrics.jsonl`, the trackers, and the progress display."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Self

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.quarantine import Bad
from ..files import replaceable, whole_file
from ..saying import Activity, speaker

logger = logging.getLogger("mmssl")


Row = dict[str, float | None]
"""A line of metrics.jsonl; None: unknown, or not finite."""
TIMED = frozenset(
    {
        "wall_time",
        "samples_per_second",
        "tokens_per_second",
        "data_wait",
        "mfu",
        "memory",
        "rank_seconds/max",
        "rank_seconds/median",
        "rank_seconds/reading",
        "rank_seconds/computing",
        "slowest_rank",
    }
)
"""Keys of a line that tell how fast it went and on what: all others are the same for the same run anywhere."""


class MetricsFile:
    """Appends a JSON line a logged step to a file that is opened once. A full disk costs lines, never the run."""

    def __init__(self, path: Path, last: int) -> None:
        """Open it, without the lines after step `last`: the run goes on from there, they would stand twice."""
        self.path, self.failed = path, False
        self._file: FileIO | None = None
        self.cut(last)

    def cut(self, last: int) -> None:
        """Take out the lines after step `last`; all or none of them."""
        self.close()
        try:
            self._cut(last)
        except OSError as error:
            self._complain(error)

    def _cut(self, last: int) -> None:
        if not self.path.is_file():
            return
        lines = self.path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= last]
        with whole_file(self.path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept))

    def write(self, row: Row) -> bool:
        """Append one line; False when that was not possible."""
        line = (json.dumps(row) + "\n").encode()
        try:
            if self._file is None:
                self._file = replaceable(self.path).open("ab", buffering=0)  # a line is on its way when this returns
            size = os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._file.truncate(size)  # the next line must not be glued to half of this one
                raise
        except OSError as error:
            self._complain(error)
            return False
        return True

    def close(self) -> None:
        """A later line opens the file again."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:  # of a disk that is gone; what was written is written
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self.failed:
            logger.warning("metrics could not be written to %s (%s); training goes on", self.path, error)
        self.failed = True


@dataclass
class Meter:
    """Sums over the steps since the last line: loss parts on the device, counts and times on the host.

    Attributes:
        parts: name -> sum of the loss's part; "" is the loss itself.
        shares: `gradient_shares` of the last step that measured them.
        steps: optimiser steps.
        samples: of all processes.
        waited: seconds that the loop waited for data.
        read: samples that this process read and that are not yet in the quarantine.
        bad: those of them that were broken.
        tokens: patches that went through this process's encoders, as far as the host knows them to be valid.
        places: the others, counted on the device.
        since: when it started, `time.perf_counter`.
    """

    parts: dict[str, Tensor] = field(default_factory=dict)
    shares: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    waited: float = 0.0
    read: int = 0
    bad: list[Bad] = field(default_factory=list)
    tokens: int = 0
    places: Tensor | None = None
    since: float = field(default_factory=time.perf_counter)

    def add(self, parts: dict[str, Tensor]) -> None:
        """Add the parts of a pass, a share of the step's; they stay on the device, nothing waits."""
        for name, value in parts.items():
            value = value.detach().float()
            # a copy: what is logged may be a state that changes before it is read
            self.parts[name] = self.parts[name] + value if name in self.parts else value.clone()

    def averages(self, accelerator: Accelerator) -> dict[str, float]:
        """Averages over steps and processes; all processes must call it together."""
        names = list(self.parts)
        values = torch.stack([self.parts[n] for n in names]) / max(self.steps, 1)
        # one transfer for all parts: here the device is waited for
        values = accelerator.reduce(values, "mean")
        return dict(zip(names, values.tolist(), strict=True))

    def row(self, about: Row, averages: Mapping[str, float]) -> Row:
        """The first part of a line: what it is about, the loss and its parts, and who pulls the encoders."""
        shares = {f"gradient_share/{name}": float(value) for name, value in self.shares.items()}
        return about | {"loss": averages[""]} | loss_parts(averages) | shares

    @property
    def seconds(self) -> float:
        """Since it started."""
        return time.perf_counter() - self.since

    def pace(self, left: int, seconds: float) -> Row:
        """How fast it went, with `left` steps to come: the last entry is for the display alone.

        seconds: that its steps took.
        """
        return {
            "wall_time": round(time.time(), 3),
            "samples_per_second": self.samples / seconds,
            "data_wait": self.waited / seconds,
            "seconds_left": left * seconds / max(self.steps, 1),
        }


def loss_parts(averages: Mapping[str, float]) -> dict[str, float]:
    """Key of the log -> mean, of the parts of the loss."""
    return {f"loss/{name}": value for name, value in averages.items() if name}


def _step_of(line: str) -> float:
    """The step of a line, or infinity for one that was cut off when a run was killed or a disk was full."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def last_losses(path: Path) -> dict[str, float]:
    """The loss and its parts as last logged to a metrics.jsonl; empty where nothing was."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    row: dict[str, float] = next((json.loads(line) for line in reversed(lines) if _step_of(line) < math.inf), {})
    return {k.removeprefix("loss/"): v for k, v in row.items() if k.partition("/")[0] == "loss"}


def last_health(path: Path) -> dict[str, float]:
    """The last measured `health/` and `probe/` values of a metrics.jsonl; empty where none was measured."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, float] = {}
    for row in (json.loads(line) for line in reversed(lines) if _step_of(line) < math.inf):
        own = {k: v for k, v in row.items() if k.startswith(("health/", "probe/")) and v is not None}
        found = own | found
        if any(key.startswith("health/") for key in own):
            break
    return found


TRAINING = "steps of training"
"""What the loop is at."""


class Display:
    """How far the training is, and its last numbers; silent on all processes but the first."""

    def __init__(self, steps: int, start: int, show: bool) -> None:
        self.steps, self.show = steps, show
        self._stack = contextlib.ExitStack()
        self.activity = Activity(TRAINING, steps, done=start, first=start)

    def __enter__(self) -> Self:
        if self.show:
            self._stack.enter_context(speaker.doing(self.activity))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def advance(self, step: int) -> None:
        """`step` is done."""
        self.activity.done = step

    def report(self, row: Row) -> None:
        """row: a line of metrics.jsonl."""
        if not self.show:
            return
        parts = [f"{k.removeprefix('loss/')} {v:.3f}" for k, v in row.items() if k.startswith("loss/")]
        rate = row["samples_per_second"]
        text = f"loss {row['loss']:.3f} ({', '.join(parts)})  {health_text(row)}{rate:.0f} samples/s"
        left = row["seconds_left"] or 0.0
        line = f"step {row['step']}/{self.steps}  {text}  left {int(left // 60)}:{int(left % 60):02d}"
        self.activity.note = text
        speaker.measured(line, {"steps": self.steps, **row})


def health_text(row: Row) -> str:
    """The ranks, the spreads and the probes of a row in a few words: "rank image 12.1, std image 0.41  "."""
    said = []
    for measure, word in (("rankme", "rank"), ("std_mean", "std"), ("knn", "knn"), ("linear", "linear")):
        keys = [k for k in row if k.startswith(("health/", "probe/")) and k.endswith(f"/{measure}")]
        values = [f"{k.split('/')[1]} {'not finite' if row[k] is None else format(row[k], '.3g')}" for k in keys]
        said += [f"{word} {' '.join(values)}"] if values else []
    return f"{', '.join(said)}  " if said else ""
