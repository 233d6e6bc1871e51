"""The site has a page for everything, and every option is on one. `mkdocs build --strict` looks at links and names."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from benchmarks.pages import REPO
from mmssl.cli import parsers
from mmssl.masking import load_mask, mask_names
from mmssl.modality import load_modality, modality_names
from mmssl.objectives.options import objective_config, objective_names
from mmssl.recipe.loading import recipe_names

pytestmark = pytest.mark.docs


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The pages that the hook makes."""
    sys.path.insert(0, str(REPO / "docs" / "hooks"))
    import reference

    return reference.pages()


def in_navigation(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        if isinstance(item, dict):
            for below in item.values():
                yield from in_navigation(below) if isinstance(below, list) else [below]
        else:
            yield item


def test_every_page_is_in_the_navigation(made: dict[str, str]) -> None:
    found = [path for ending in ("*.md", "*.ipynb") for path in (REPO / "docs").rglob(ending)]
    written = {str(path.relative_to(REPO / "docs")) for path in found}
    nav = set(in_navigation(yaml.safe_load((REPO / "mkdocs.yml").read_text())["nav"]))
    listed = {path for path in made if not path.startswith(("reference/modalities/", "reference/objectives/"))}
    assert nav - {"MODALITIES", "OBJECTIVES"} == written | listed


def test_every_part_has_its_page_and_every_option_its_row(made: dict[str, str]) -> None:
    masks = made["reference/masks.md"]
    parts = [(f"objectives/{name}", objective_config(name)) for name in objective_names()]
    parts += [(f"modalities/{name}", load_modality(name).Config) for name in modality_names()]
    for page, config in parts:
        for field in dataclasses.fields(config):
            assert f"| `{field.name.removesuffix('_')}` |" in made[f"reference/{page}.md"], (page, field.name)
    for name in mask_names():
        section = masks.partition(f"## {name}\n")[2].partition("\n## ")[0]
        options = [field.name for field in dataclasses.fields(load_mask(name)) if field.init]
        assert all(f"| `{option}` |" in section for option in options), name


def test_commands_and_recipes(made: dict[str, str]) -> None:
    for name, command in parsers()[1].items():
        section = made["reference/commands.md"].partition(f"## mmssl {name}\n")[2].partition("\n## ")[0]
        options = [option for action in command._actions for option in action.option_strings if option.startswith("--")]
        assert all(option in section for option in options if option != "--help"), name
    assert all(f"\n## {name}\n" in made["reference/recipes.md"] for name in recipe_names())
    recipe = made["reference/recipe.md"]
    for row in ("data.path", "model.towers.<name>.adapter.r", "train.guard.min_std", "evaluation.tasks"):
        assert f"| `{row}` |" in recipe
    options = made["reference/options.md"]
    for name in ("labels", "adapter.r", "k", "workers"):
        assert f"| `{name}` |" in options
    assert "only with `action: rollback`" in recipe and "; >= 0 and &lt;= 1 |" in recipe
