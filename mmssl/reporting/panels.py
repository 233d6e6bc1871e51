"""The numbers of `metrics.jsonl` as panels, each with axes of its own, for one run or several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_POINTS = 400
"""Of a line; of longer ones neighbours are averaged."""
MOST_LINES = 8
"""In a panel."""

ABOUT = {
    "lr": ("learning rate", ""),
    "grad_norm": ("norm of the gradient", "before it is clipped"),
    "samples_per_second": ("samples a second", "of all processes"),
    "tokens_per_second": ("tokens a second", "of all processes"),
    "data_wait": ("waiting for data", "share of the time"),
    "memory": ("memory", "GB"),
    "mfu": ("model FLOPs utilisation", "share of what the device can do"),
    "rank_seconds": (
        "seconds of a step",
        "own ones: largest and median of the processes, and what the slowest one does",
    ),
}
"""Key (or what stands before its `/`) -> title and unit, of what tells of pace."""
HEALTH = {
    "rankme": "effective rank (RankMe): low is collapse",
    "std_mean": "spread of embeddings: 0 is collapse",
    "std_min": "least spread of any dimension",
    "norm": "norm of the pooled states",
    "gap": "gap between modalities",
}
KINDS = {"health": "Health", "probe": "Probes", "validation": "Validation", "gradient_share": "Who pulls the encoders"}
PACE = "Pace"
TOGETHER = "all objectives together"
LEFT_OUT = ("step", "epoch", "wall_time", "seconds_left", "slowest_rank")


@dataclass
class Line:
    """label: its run, and its part; colour: a number, the same for a run in all panels where it is compared."""

    label: str
    colour: int
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Panel:
    """group: the heading that it stands under."""

    group: str
    title: str
    unit: str
    lines: list[Line] = field(default_factory=list)
    left_out: int = 0


def panels(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    """What was logged more than once, in the order in which it is read: losses, health, probes, pace.

    runs: name -> lines of its metrics.jsonl.
    """
    found: dict[tuple[str, str, str], dict[str, Line]] = {}
    several = len(runs) > 1
    for number, (run, rows) in enumerate(runs.items()):
        for row in rows:
            for key, value in row.items():
                place = None if key in LEFT_OUT else _place(key)
                if place is None or isinstance(value, bool) or not isinstance(value, int | float):
                    continue
                group, title, unit, part = place
                label = " · ".join(filter(None, [run if several else "", part])) or title
                lines = found.setdefault((group, title, unit), {})
                line = lines.setdefault(label, Line(label, number if several else len(lines)))
                if math.isfinite(value):
                    line.steps.append(float(row["step"]))
                    line.values.append(float(value))
    order = ["Loss", *KINDS.values(), PACE]
    made = [_panel(*key, list(lines.values())) for key, lines in found.items()]
    kept = [panel for panel in made if panel.lines]
    alike = [p for p in kept if p.group == "Loss" and p.title != TOGETHER and _values(p) == _values(kept[0])]
    if kept and kept[0].title == TOGETHER and alike:
        kept = kept[1:]  # of a single objective
    return sorted(kept, key=lambda panel: order.index(panel.group))


def _panel(group: str, title: str, unit: str, lines: list[Line]) -> Panel:
    there = [line for line in lines if line.steps]
    for line in there:
        line.steps, line.values = thinned(line.steps), thinned(line.values)
    return Panel(group, title, unit, there[:MOST_LINES], max(len(there) - MOST_LINES, 0))


def _values(panel: Panel) -> list[list[float]]:
    return [line.values for line in panel.lines]


def _place(key: str) -> tuple[str, str, str, str] | None:
    """(group, title, unit, part of the panel) of a key; None for what is no number of a run."""
    head, slash, rest = key.partition("/")
    if head == "loss":
        return "Loss", rest or TOGETHER, "", ""
    if head in KINDS and slash:
        part, _, measure = rest.rpartition("/")
        return KINDS[head], HEALTH.get(measure, measure if part else rest), "", part
    if head in ABOUT:
        title, unit = ABOUT[head]
        return PACE, title, unit, rest
    return PACE, head, "", rest


def thinned(values: Sequence[float]) -> list[float]:
    """At most `MOST_POINTS` numbers: means of as many neighbours each, but the last one as it is."""
    if len(values) <= MOST_POINTS:
        return list(values)
    size = -(-len(values) // (MOST_POINTS - 1))
    means = [sum(part) / len(part) for i in range(0, len(values), size) if (part := values[i : i + size])]
    return [*means[: MOST_POINTS - 1], values[-1]]
