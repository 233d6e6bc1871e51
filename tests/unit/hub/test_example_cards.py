"""Example cards in hub_cards/: what the template gives today for the run they tell of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from benchmarks.cards import CARDS, render
from mmssl.options import plainyaml
from mmssl.options.schema import to_dict
from mmssl.recipe.loading import load_recipe

RECIPE = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
NAMES = sorted(path.stem for path in CARDS.glob("*.json"))


def test_there_is_one_of_the_quickstart() -> None:
    assert "quickstart" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_the_template_gives_now(name: str) -> None:
    shown, now = (CARDS / f"{name}.md").read_text(encoding="utf-8"), render(name)
    # the recipe is compared by what it means: an option that mmssl gains, at its default, changes nothing of the run
    assert RECIPE.sub("", shown) == RECIPE.sub("", now), "run python -m benchmarks.cards"
    recipes = [RECIPE.search(text) for text in (shown, now)]
    assert all(recipes)
    parsed = [to_dict(load_recipe(plainyaml.parse(r[1], "card"))) for r in recipes if r is not None]
    assert parsed[0] == parsed[1]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_card_that_the_hub_reads(name: str) -> None:
    card = ModelCard((CARDS / f"{name}.md").read_text(encoding="utf-8"))
    assert card.data.library_name == "mmssl" and card.data.eval_results
    picture = re.search(r"!\[[^]]*\]\(([^)]+)\)", card.text)
    assert picture is not None and (CARDS / picture[1]).is_file()
    assert str(Path.home()) + "/" not in card.content
