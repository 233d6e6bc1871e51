"""The card's picture: how loss and health went during the run, from `metrics.jsonl`; and whether a run gets a page."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..modality import installed

logger = logging.getLogger("mmssl")

PICTURE = "training.png"
MAP, SAMPLES = "embeddings.png", "samples-{}.png"
"""Pictures that `mmssl.reporting.card` draws beside it; `SAMPLES` show the data."""
PANEL = (4.6, 3.2)
"""Inches of one panel, its labels included."""
ACROSS, MOST_PARTS = 4, 4
"""Panels side by side; parts of objectives that have one."""
MOST = 8
"""Lines in one panel; more could not be told apart."""


def read_rows(path: Path) -> list[dict[str, object]]:
    """The lines of a metrics.jsonl, without one that was cut off; empty where there is no such file."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last line of a run that was killed
            continue
    return rows


def panels(rows: list[dict[str, Any]]) -> dict[str, dict[str, tuple[list[int], list[float]]]]:
    """Title -> line -> (steps, values): the loss and what it is the sum of, each part of an objective by itself (a
    temperature would flatten the losses), RankMe, other health, probes; only what was logged."""
    found: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for row in rows:
        for key, value in row.items():
            title = _title(key)
            if title is None or not isinstance(value, (int, float)):
                continue
            steps, values = found.setdefault(title, {}).setdefault(key.partition("/")[2] or key, ([], []))
            steps.append(int(row["step"]))
            values.append(float(value))
    order = ("effective rank (RankMe)", "health", "probe")
    parts = [title for title in found if title not in ("loss", *order)][:MOST_PARTS]
    return {title: found[title] for title in ("loss", *parts, *order) if title in found}


def _title(key: str) -> str | None:
    head, _, rest = key.partition("/")
    if head == "loss" and "." in rest:
        return rest
    if head == "health":
        return "effective rank (RankMe)" if "rankme" in key else "health"
    return head if head in ("loss", "probe") else None


def draw_training(metrics: Path, picture: Path) -> bool:
    """Draw `picture` from `metrics`; False when fewer than two steps were logged, or, with a warning, where matplotlib
    is not installed. OSError when it cannot be written."""
    shown = panels(read_rows(metrics))
    if not any(len(steps) > 1 for lines in shown.values() for steps, _ in lines.values()):
        return False
    if not installed("matplotlib"):
        logger.warning("the card gets no picture of the run: that needs matplotlib (pip install 'mmssl[plots]')")
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(shown), ACROSS)
    down = -(-len(shown) // across)
    width, height = PANEL[0] * across, PANEL[1] * down
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)  # not pyplot: no window system, no global state
    # fixed margins in inches: a layout engine draws everything once more to measure it, half of all the time
    left, right, bottom, top = 0.65, 0.1, 0.48, 0.28
    room = {"left": left / width, "right": 1 - right / width, "bottom": bottom / height, "top": 1 - top / height}
    room["wspace"] = (left + right) / (PANEL[0] - left - right)
    room["hspace"] = (bottom + top) / (PANEL[1] - bottom - top)
    panes = figure.subplots(down, across, squeeze=False, gridspec_kw=room).flatten()
    for axes in panes[len(shown) :]:
        axes.set_visible(False)
    for axes, (title, lines) in zip(panes, shown.items(), strict=False):
        for name, (steps, values) in list(lines.items())[:MOST]:
            axes.plot(steps, values, label=name, linewidth=1.4, marker="." if len(steps) < 12 else None)
        left_out = f" ({len(lines) - MOST} lines left out)" if len(lines) > MOST else ""
        axes.set_title(title + left_out, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(picture, dpi=110)
    return True


def lacking() -> list[str]:
    """What is not installed of what a page about a run (`mmssl.reporting`) is drawn by."""
    return [name for name in ("matplotlib", "jinja2") if not installed(name)]


def page_wanted(asked: bool | str) -> bool:
    """Whether a run writes its page: with `auto` where what draws it is installed, else with a warning."""
    absent = lacking()
    if asked is not False and absent:
        logger.warning("the run gets no report.html: that needs %s (pip install 'mmssl[plots]')", " and ".join(absent))
    return asked is not False and not absent
