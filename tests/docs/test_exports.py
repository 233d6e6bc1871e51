"""The table of exports in docs/how-to/export.md is what is measured now. It takes minutes: every format is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.export_table import MARKS, markdown, measured

pytestmark = pytest.mark.docs


def rows(table: str) -> dict[str, list[str]]:
    """Format -> its further cells."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_page_shows_what_was_measured(tmp_path: Path) -> None:
    """Differences vary with the processor, by less than 10x. Format `stock` compares a class with itself: none, or
    rounding."""
    shown, found = rows(pages.between(pages.EXPORTS.read_text(), MARKS)), rows(markdown(measured(tmp_path)))
    assert set(shown) == set(found)
    for name, cells in found.items():
        assert shown[name][0] == cells[0] and shown[name][3:] == cells[3:], name
        for old, new, small in zip(shown[name][1:3], cells[1:3], (1e-5, 0.1), strict=True):
            if "-" in (old, new):
                assert old == new
                continue
            assert float(new) < 10 * float(old) or (name == "`stock`" and float(new) < small), name
