"""What is being done, at the foot of a terminal, by rich."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..models.privacy import hidden
from .activity import Activity, clock

MOST = 3
"""Lines."""
WIDTH = 24
"""Of a bar, in characters."""


class Screen:
    """A line for each activity whose size is known, and for the innermost one; goes when something is said.

    What is printed meanwhile appears above it, on whichever of stdout and stderr is the terminal.
    """

    def __init__(self) -> None:
        self.live: Live | None = None
        self._before = sys.stdout, sys.stderr

    def show(self, activities: Sequence[Activity], now: float) -> None:
        """Draw it, or draw it again. now: `time.monotonic`."""
        lines = drawn(activities, now)
        if self.live is None:
            self._before = sys.stdout, sys.stderr
            console, over = Console(stderr=True), sys.stdout.isatty()
            self.live = Live(lines, console=console, transient=True, auto_refresh=False, redirect_stdout=over)
            self.live.start()
        self.live.update(lines, refresh=True)

    def hide(self) -> None:
        """Take it away."""
        live, self.live = self.live, None
        if live is not None:
            live.stop()

    def forget(self) -> None:
        """In a process that was forked meanwhile: it is not its own, and its locks may be held for ever."""
        if self.live is not None:
            sys.stdout, sys.stderr = self._before
            self.live = None


def drawn(activities: Sequence[Activity], now: float) -> Table:
    """The lines."""
    chosen = [one for one in activities[:-1] if one.done is not None and one.total][1 - MOST :] + [activities[-1]]
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=None)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for one in chosen:
        known = one.done is not None and one.total
        bar = ProgressBar(total=one.total, completed=one.done or 0, width=WIDTH) if known else ""
        seconds, left = clock(now - one.began), one.left(now)
        times = seconds if left is None else f"{seconds}, {clock(left)} left"
        table.add_row(Text(hidden(one.what)), bar, one.count, times, Text(hidden(one.note)))
    return table
