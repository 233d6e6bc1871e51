"""The Markdown pages that hold measured tables, each between two marks that say which command writes it."""

from __future__ import annotations

from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
README = REPO / "README.md"
RESULTS = REPO / "RESULTS.md"
EXPORTS = REPO / "docs" / "how-to" / "export.md"
BENCHMARKS = REPO / "docs" / "benchmarks" / "index.md"
FINE_TUNING = REPO / "docs" / "benchmarks" / "fine-tuning.md"
SPEED = REPO / "docs" / "benchmarks" / "speed.md"
TUNING = REPO / "docs" / "benchmarks" / "tuning.md"
SUITE = REPO / "docs" / "benchmarks" / "suite.md"
SCALING = REPO / "docs" / "benchmarks" / "scaling.md"

Marks = tuple[str, str]


def between(text: str, marks: Marks) -> str:
    """What stands between the two marks of a page. ValueError when it lacks one."""
    return _cut(text, marks)[1].strip("\n")


def into(text: str, table: str, marks: Marks) -> str:
    """The page's text with what stands between its two marks replaced. ValueError when it lacks one."""
    before, _, after = _cut(text, marks)
    return f"{before}{marks[0]}\n{table}\n{marks[1]}{after}"


def write(page: Path, table: str, marks: Marks) -> None:
    """Put a table between the marks of a page."""
    page.write_text(into(page.read_text(encoding="utf-8"), table, marks), encoding="utf-8")


def _cut(text: str, marks: Marks) -> tuple[str, str, str]:
    before, begins, rest = text.partition(marks[0])
    inside, ends, after = rest.partition(marks[1])
    if not (begins and ends):
        raise ValueError(f"the page lacks {marks[0]} or {marks[1]}")
    return before, inside, after
