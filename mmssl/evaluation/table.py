"""An evaluation report as a table: for the terminal, as plain text, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = (("model", "pretrained"), ("untrained", "untrained"), ("raw", "raw features"), ("chance", "chance"))
HEADER = ("task", "metric", *(title for _, title in COLUMNS), "n")


def cell(metric: Mapping[str, Any], encoder: str) -> str:
    """One value: shares with three decimals and (for the model) their 95 % interval, others with one; "-" = none."""
    value = metric.get(encoder)
    if value is None:
        return "-"
    if "interval" not in metric:
        of = f" of {metric['of']}" if encoder == "model" and "of" in metric else ""
        of = of or (f" of {metric['candidates']}" if encoder == "chance" and "candidates" in metric else "")
        return f"{value:.1f}{of}"
    text = f"{value:.3f}"
    if encoder == "model" and encoder in metric["interval"]:
        low, high = metric["interval"][encoder]
        text += f" ({low:.3f}-{high:.3f})"
    return text


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The rows under `HEADER`, as text."""
    return [
        (task, name, *(cell(metric, encoder) for encoder, _ in COLUMNS), str(metric.get("n", "-")))
        for task, metrics in report.get("tasks", {}).items()
        for name, metric in metrics.items()
    ]


def remarks(report: Mapping[str, Any]) -> list[str]:
    """What was left out and why, and what else a reader must know; one line each."""
    lines = [f"{task}: left out, {reason}" for task, reason in report.get("skipped", {}).items()]
    return lines + list(report.get("notes", []))


def rich_table(report: Mapping[str, Any]) -> Table:
    """The report as a rich table."""
    from rich.table import Table
    from rich.text import Text

    # Text, not str: rich would read the square brackets of a remark as markup
    table = Table(title="evaluation", caption=Text("\n".join(remarks(report))) if remarks(report) else None)
    for title in HEADER:
        table.add_column(title, justify="left" if title in ("task", "metric") else "right", no_wrap=title == "metric")
    for row in table_rows(report):
        table.add_row(*map(Text, row))
    return table


def plain_table(report: Mapping[str, Any]) -> str:
    """The report as plain text with aligned columns, then its remarks; for logs and pipes."""
    rows = [HEADER, *table_rows(report)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [
        "  ".join(row[i].ljust(width) if i < 2 else row[i].rjust(width) for i, width in enumerate(widths))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(line.rstrip() for line in [*lines, *remarks(report)])


def markdown_table(report: Mapping[str, Any]) -> str:
    """The report as a Markdown table, then its remarks as a list."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"

    rule = "|" + "|".join("---" if i < 2 else "---:" for i in range(len(HEADER))) + "|"
    lines = [line(HEADER), rule, *map(line, table_rows(report))]
    left_out = remarks(report)
    return "\n".join([*lines, *([""] if left_out else []), *(f"- {text}" for text in left_out)])
