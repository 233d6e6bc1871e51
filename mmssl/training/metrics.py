"""What a run says while it trains: `metrics.jsonl`, the trackers, and the progress display."""

from __future__ import annotations

import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("mmssl")


class MetricsFile:
    """Appends a JSON line a logged step. A disk that is full costs lines, never the run."""

    def __init__(self, path: Path, resumed_at: int = 0) -> None:
        self.path, self.failed = path, False
        try:
            self._cut(resumed_at)
        except OSError as error:
            self._complain(error)

    def _cut(self, resumed_at: int) -> None:
        """Take out the lines after the checkpoint, which would stand twice; all or none of them."""
        if not self.path.is_file():
            return
        lines = self.path.read_text(errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= resumed_at]
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            partial.write_text("".join(f"{line}\n" for line in kept))
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)

    def write(self, row: dict[str, Any]) -> bool:
        """Append one line; False when that was not possible."""
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, size)  # the next line must not be glued to half of this one
            self._complain(error)
            return False
        return True

    def _complain(self, error: OSError) -> None:
        if not self.failed:
            logger.warning("metrics could not be written to %s (%s); training goes on", self.path, error)
        self.failed = True


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
    row: dict[str, Any] = next((json.loads(line) for line in reversed(lines) if _step_of(line) < math.inf), {})
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


class Display:
    """A live progress bar on a terminal, plain lines elsewhere; silent on all processes but the first."""

    def __init__(self, steps: int, start: int, show: bool) -> None:
        self.steps, self.show = steps, show
        self.console = Console(stderr=True)
        self.live = show and self.console.is_terminal
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.progress.add_task("train", total=steps, completed=start, text="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def report(self, row: dict[str, Any]) -> None:
        """row: a line of metrics.jsonl."""
        parts = [f"{k.removeprefix('loss/')} {v:.3f}" for k, v in row.items() if k.startswith("loss/")]
        rate = row["samples_per_second"]
        text = f"loss {row['loss']:.3f} ({', '.join(parts)})  {health_text(row)}{rate:.0f} samples/s"
        if self.live:
            self.progress.update(self.task, text=text)
        elif self.show:
            left = row["seconds_left"]
            print(f"step {row['step']}/{self.steps}  {text}  left {int(left // 60)}:{int(left % 60):02d}", flush=True)


def health_text(row: dict[str, Any]) -> str:
    """The ranks, the spreads and the probes of a row in a few words: "rank image 12.1, std image 0.41  "."""
    said = []
    for measure, word in (("rankme", "rank"), ("std_mean", "std"), ("knn", "knn"), ("linear", "linear")):
        keys = [k for k in row if k.startswith(("health/", "probe/")) and k.endswith(f"/{measure}")]
        values = [f"{k.split('/')[1]} {'not finite' if row[k] is None else format(row[k], '.3g')}" for k in keys]
        said += [f"{word} {' '.join(values)}"] if values else []
    return f"{', '.join(said)}  " if said else ""
