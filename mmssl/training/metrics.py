"""What a run says while it trains: `metrics.jsonl`, the trackers, and the progress display."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger("mmssl")


class MetricsFile:
    """Appends a JSON line a logged step. A disk that is full costs lines, never the run."""

    def __init__(self, path: Path, resumed_at: int = 0) -> None:
        self.path, self.failed = path, False
        if resumed_at and path.is_file():  # lines after the checkpoint would stand twice
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= resumed_at]
            path.write_text("".join(f"{line}\n" for line in kept))
        elif path.is_file():
            path.unlink()

    def write(self, row: dict[str, Any]) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            if not self.failed:
                logger.warning("metrics could not be written to %s (%s); training goes on", self.path, error)
            self.failed = True


def _step_of(line: str) -> float:
    """The step of a line, or infinity for one that was cut off when a run was killed."""
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return math.inf


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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def advance(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def report(self, row: dict[str, Any]) -> None:
        """row: a line of metrics.jsonl."""
        parts = [f"{k.removeprefix('loss/')} {v:.3f}" for k, v in row.items() if k.startswith("loss/")]
        rate = row["samples_per_second"]
        text = f"loss {row['loss']:.3f} ({', '.join(parts)})  {rate:.0f} samples/s"
        if self.live:
            self.progress.update(self.task, text=text)
        elif self.show:
            left = row["seconds_left"]
            print(f"step {row['step']}/{self.steps}  {text}  left {int(left // 60)}:{int(left % 60):02d}", flush=True)
