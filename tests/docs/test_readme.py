"""README: short, its links lead somewhere, and what it counts in words is what the results give."""

from __future__ import annotations

import re

import pytest

from benchmarks import cards, compare, pages
from benchmarks.matrix.cells import read_cells
from benchmarks.matrix.report import better, load_results, of_cell

pytestmark = pytest.mark.docs
TEXT = pages.README.read_text(encoding="utf-8")


def test_it_is_short_and_says_how_to_begin() -> None:
    assert TEXT.count("\n") <= 250
    assert "make quickstart" in TEXT and "make test" in TEXT


def test_every_link_into_the_repository_leads_somewhere() -> None:
    found = re.findall(r"\]\(([^)]+)\)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    links = [link.partition("#")[0] for link in found if not link.startswith("http")]
    assert len(links) > 20 and [link for link in links if not (pages.REPO / link).exists()] == []


def test_it_shows_small_pictures_with_words_for_them() -> None:
    pictures = re.findall(r'<img src="([^"]+)" [^>]*alt="([^"]+)"', TEXT)
    assert pictures and TEXT.count("<img") == len(pictures)
    assert all((pages.REPO / file).stat().st_size < 150_000 for file, _ in pictures)


def test_the_quickstarts_table_is_that_of_its_card() -> None:
    for page in (pages.README, pages.BENCHMARKS):
        assert pages.between(page.read_text(), cards.MARKS) == cards.quickstart(), "run python -m benchmarks.cards"


def test_losses_are_counted_right() -> None:
    results = load_results(read_cells())
    cells = [of for cell in read_cells() if (of := of_cell(results, cell))]
    no_gain = sum(not better(of) for of in cells)
    below_raw = sum(not all(r["scores"]["pretrained"] > r["scores"]["raw"] for r in of) for of in cells)
    assert f"in {no_gain} of {len(cells)} cells nothing was shown to be gained" in TEXT
    words = f"in {below_raw} of {len(cells)} "
    assert words in TEXT and words in (pages.REPO / "docs" / "explanation" / "baselines.md").read_text()


def test_sets_with_few_labels_are_counted_right() -> None:
    less = [report["differences"] for report in compare.stored().values()]
    ahead = {arm: sum(one[arm]["100"]["mean"] > 0 for one in less) for arm in ("scratch", "raw_linear", "raw_boosting")}
    assert ahead["raw_boosting"] == len(less) and "above boosting on all" in TEXT
    assert f"above scratch on {ahead['scratch']} of {len(less)} sets" in TEXT
    assert f"a linear model of the raw features on {ahead['raw_linear']}" in TEXT
