"""An evaluation report as a table: for the terminal, as plain text, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..markup import templates
from .answers import said_by_group

if TYPE_CHECKING:
    from rich.table import Table

    from .evaluate import Report
    from .tasks import Metric, Metrics


class Scores(dict[str, Any]):
    """A report of an evaluation: a dict as `evaluation.json` has it, which shows itself as a table."""

    def __repr__(self) -> str:
        return plain_table(self) if self.get("tasks") else f"Scores({dict(self)})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return in_notebook(self)


def in_notebook(report: Report, folder: Path | None = None) -> str:
    """HTML of a report, below the folder of the run that it is of; of a run without scores the folder alone."""
    shown = folder is None or bool(report)
    html: str = (
        templates(Path(__file__).parent)
        .get_template("scores.html.j2")
        .render(
            folder=None if folder is None else str(folder),
            header=header(report) if shown else (),
            rows=table_rows(report),
            remarks=remarks(report),
        )
    )
    return html


COLUMNS = (
    ("finetuned", "finetuned"),
    ("teacher", "teacher"),
    ("retrained", "retrained"),
    ("model", "pretrained"),
    ("start", "start"),
    ("untrained", "untrained"),
    ("raw", "raw features"),
    ("chance", "chance"),
)
OPTIONAL = ("finetuned", "teacher", "retrained", "start")
"""Columns that are there where something was fine-tuned, taught, trained anew, or went on from something."""
MEASURED = ("model", "finetuned")
"""Columns whose values are shown with their interval."""


def columns(report: Report) -> list[tuple[str, str]]:
    """(key, title) of the columns that the report has: the optional ones where a metric has a value for them, and
    `pretrained` unless `finetuned` is all there is."""
    metrics = [metric for found in report.get("tasks", {}).values() for metric in found.values()]
    there = {key for key, _ in COLUMNS if any(metric.get(key) is not None for metric in metrics)}
    absent = {*OPTIONAL, *(["model"] if "finetuned" in there else [])} - there
    return [(key, title) for key, title in COLUMNS if key not in absent]


def as_finetuned(metrics: Metrics) -> Metrics:
    """The metrics of a fine-tuned model with its scores in the column `finetuned` instead of `model`."""
    out = {}
    for name, metric in metrics.items():
        span = {"finetuned" if encoder == "model" else encoder: v for encoder, v in metric.get("interval", {}).items()}
        out[name] = {**metric, "finetuned": metric["model"], "model": None} | ({"interval": span} if span else {})
    return out


def header(report: Report) -> tuple[str, ...]:
    """The titles above `table_rows`."""
    return ("task", "metric", *(title for _, title in columns(report)), "n")


def cell(metric: Metric, encoder: str) -> str:
    """One value: shares with three decimals and (of a model) their 95 % interval, others with one; "-" = none."""
    value = metric.get(encoder)
    if value is None:
        return "-"
    if "interval" not in metric:
        of = f" of {metric['of']}" if encoder in MEASURED and "of" in metric else ""
        of = of or (f" of {metric['candidates']}" if encoder == "chance" and "candidates" in metric else "")
        return f"{value:.1f}{of}"
    text = f"{value:.3f}"
    if encoder in MEASURED and encoder in metric["interval"]:
        low, high = metric["interval"][encoder]
        text += f" ({low:.3f}-{high:.3f})"
    return text


def table_rows(report: Report) -> list[tuple[str, ...]]:
    """The rows under `header`, as text."""
    shown = columns(report)
    return [
        (task, name, *(cell(metric, encoder) for encoder, _ in shown), str(metric.get("n", "-")))
        for task, metrics in report.get("tasks", {}).items()
        for name, metric in metrics.items()
    ]


def remarks(report: Report) -> list[str]:
    """What was left out and why, and what else a reader must know; one line each."""
    lines = [f"{task}: left out, {reason}" for task, reason in report.get("skipped", {}).items()]
    by = report.get("by", {})
    for task, found in by.get("scores", {}).items():
        lines += [said_by_group(f"{task} {name}", by["column"], of) for name, of in found.items()]
    return lines + list(report.get("notes", []))


def why_nothing(report: Report) -> str | None:
    """Why none of the tasks was possible; None where one was."""
    if report["tasks"]:
        return None
    return "; ".join(f"{task}: {reason.removeprefix(f'{task}: ')}" for task, reason in report["skipped"].items())


def rich_table(report: Report) -> Table:
    """The report as a rich table."""
    from rich.table import Table
    from rich.text import Text

    # Text, not str: rich would read the square brackets of a remark as markup
    table = Table(title="evaluation", caption=Text("\n".join(remarks(report))) if remarks(report) else None)
    for title in header(report):
        table.add_column(title, justify="left" if title in ("task", "metric") else "right", no_wrap=title == "metric")
    for row in table_rows(report):
        table.add_row(*map(Text, row))
    return table


def plain_table(report: Report) -> str:
    """The report as plain text with aligned columns, then its remarks; for logs and pipes."""
    return "\n".join([*aligned([header(report), *table_rows(report)]), *remarks(report)])


def markdown_table(report: Report) -> str:
    """The report as a Markdown table, then its remarks as a list."""
    left_out = remarks(report)
    lines = markdown([header(report), *table_rows(report)])
    return "\n".join([*lines, *([""] if left_out else []), *(f"- {text}" for text in left_out)])


def aligned(rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Lines of plain text; the first row is the titles, the first `left` columns are aligned to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(row[i].ljust(width) if i < left else row[i].rjust(width) for i, width in enumerate(widths))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return [line.rstrip() for line in lines]


def markdown(rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Lines of a Markdown table; the first row is the titles, the first `left` columns are aligned to the left."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    rule = "|" + "|".join("---" if i < left else "---:" for i in range(len(rows[0]))) + "|"
    return [line(rows[0]), rule, *map(line, rows[1:])]
