"""The trials of a study as rows: for `trials.csv` and for the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RunError, one_line
from ..evaluation.table import aligned
from ..files import write_whole

if TYPE_CHECKING:
    from optuna import Study
    from rich.table import Table

    from .tune import Wanted

Row = dict[str, Any]
SCORES = ("rankme", "alpha", "alpha-req", "lidar", "probe")


def rows_of(study: Study, wanted: Wanted) -> list[Row]:
    """A row a trial: its number, what became of it, its values, its scores, seconds, and why it ended early."""
    rows = []
    for trial in study.get_trials(deepcopy=False):
        facts = trial.user_attrs
        values = {key: one.read(trial.params.get(key)) for key, one in wanted.space.items()}
        scores = facts.get("scores", {})
        ends = {"seconds": facts.get("seconds"), "reason": facts.get("reason")}
        rows.append({"trial": trial.number, "state": trial.state.name.lower(), **values, **scores, **ends})
    return rows


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All names of columns, the last two at the end."""
    known = dict.fromkeys(key for row in rows for key in row)
    return [key for key in known if key not in ("seconds", "reason")] + ["seconds", "reason"]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All trials; whole or not at all. RunError where it cannot be written."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _written(value) for key, value in row.items()} for row in rows)
    try:
        write_whole(path, text.getvalue())
    except OSError as error:
        raise RunError(f"{path} could not be written: {one_line(error)}") from error


def table(rows: Sequence[Row], best: int) -> list[list[str]]:
    """Titles, then the trials, the best one first and marked; scores of single modalities are in the file alone."""
    names = [key for key in columns_of(rows) if key.partition("/")[0] not in SCORES or "/" not in key]
    known = [key for key in names if any(row.get(key) is not None for row in rows)]
    order = sorted(rows, key=lambda row: (row["trial"] != best, row["trial"]))
    return [known, *([_cell(row, key, best) for key in known] for row in order)]


def _written(value: object) -> object:
    """Lists and mappings as JSON."""
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else value


def _cell(row: Row, key: str, best: int) -> str:
    value = row.get(key)
    if key == "trial":
        return f"{value} (best)" if value == best else str(value)
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(_written(value))


def plain(rows: Sequence[Row], best: int) -> str:
    """The trials as text."""
    return "\n".join(aligned(table(rows, best), 2))


def rich_table(rows: Sequence[Row], best: int) -> Table:
    """The trials for a terminal."""
    from rich.table import Table
    from rich.text import Text

    titles, *cells = table(rows, best)
    out = Table()
    for title in titles:
        out.add_column(Text(title), justify="left" if title in ("trial", "state", "reason") else "right")
    for row in cells:
        out.add_row(*map(Text, row))
    return out
