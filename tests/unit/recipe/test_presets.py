"""One recipe in several sizes: presets are merged before the user's changes, and every shipped one is whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mmssl.cli import main, showing
from mmssl.errors import UserError
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe, plain_recipe, recipe_names, say_once
from mmssl.recipe.presets import is_set, presets_of, set_by

GENERAL = [name for name in recipe_names() if presets_of(plain_recipe(name))]


OF_ONE_SIZE = {"quickstart", "continue_lora", "image_text_lit"}
"""The last two start from the user's own encoders, whose size they are."""


def test_all_but_the_quickstart_and_examples_have_three_sizes() -> None:
    assert set(GENERAL) == {name for name in recipe_names() if "/" not in name} - OF_ONE_SIZE
    assert {tuple(presets_of(plain_recipe(name))) for name in GENERAL} == {("demo", "small", "base")}


@pytest.mark.parametrize("name", GENERAL)
def test_every_preset_is_whole_and_larger_than_the_one_before(name: str) -> None:
    sizes = []
    for preset in presets_of(plain_recipe(name)):
        recipe = load_recipe(name, preset=preset)
        assert recipe.data.path == "YOUR_DATA" and not recipe.data.columns, "nothing of a research set is in it"
        assert recipe.evaluation.label is None and recipe.data.split == "train"
        for part in recipe.modalities.values():
            assert not getattr(part.config, "source_rate", None)
        sizes.append(sum(t.width**2 * t.depth for t in recipe.model.towers.values()))
        if preset != "demo":
            assert recipe.train.epochs and recipe.train.save_minutes
    assert sizes == sorted(sizes) and len(set(sizes)) == 3


def test_a_preset_lies_between_the_body_and_the_overrides() -> None:
    small = load_recipe("image_mae", ["model.towers.image.depth=3"], preset="small")
    tower, image = small.model.towers["image"], small.modalities["image"].config
    assert (tower.width, tower.depth, image.size, image.patch) == (384, 3, 224, 16)
    assert small.train.steps is None and small.train.epochs == 400
    assert load_recipe("image_mae", preset="demo") == load_recipe("image_mae")
    chosen = load_recipe("image_mae", ["train.batch_size=7"], choices={"train.batch_size": 3, "train.lr": 0.5})
    assert (chosen.train.batch_size, chosen.train.lr) == (7, 0.5)


def test_the_length_that_somebody_says_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    for words in (["train.steps=7"], {"train": {"steps": 7}}):
        small = load_recipe("image_mae", words, preset="small")
        assert (small.train.steps, small.train.epochs) == (7, None)
    assert caplog.text.count("train.steps=7 is taken in place of the recipe's train.epochs=400") == 1
    demo = load_recipe("image_mae", ["train.epochs=2"])
    assert (demo.train.steps, demo.train.epochs) == (None, 2)
    with pytest.raises(UserError, match="found both train.steps and train.epochs"):
        load_recipe("image_mae", ["train.epochs=2", "train.steps=7"], preset="small")


def changed(**presets: Any) -> dict[str, Any]:
    data = copy.deepcopy(plain_recipe("image_mae"))
    return {**data, "presets": presets}


@pytest.mark.parametrize(
    ("config", "preset", "line"),
    [
        ("image_mae", "smal", "--preset: found 'smal', expected one of demo, small, base; did you mean 'small'?"),
        ("quickstart", "small", "--preset: found 'small', but the recipe has none"),
        (changed(large=[1]), "large", "presets.large: found a list of 1, expected a mapping of changes"),
        (changed(demo={}), "demo", "presets.demo: found"),
        (changed(large={"train": {"stepz": 3}}), "large", "train.stepz"),
        ({**changed(), "presets": "big"}, None, "presets: found 'big'"),
    ],
)
def test_wrong_presets_are_one_line(config: Any, preset: str | None, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(config, preset=preset)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_overrides_set() -> None:
    assert set_by(["train.lr=1", "modalities.image.size=[3, 4]"]) == {"train.lr", "modalities.image.size"}
    assert set_by({"train": {"lr": 1, "steps": None}, "seed": 3}) == {"train.lr", "train.steps", "seed"}
    given = {"train.lr", "modalities.image"}
    assert is_set("train", given) and is_set("train.lr", given) and is_set("modalities.image.size", given)
    assert not is_set("train.lrx", given) and not is_set("train.steps", given)


def test_a_preset_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "image_mae", "--preset", "base"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# preset base of demo, small, base")
    assert load_recipe(plainyaml.parse(shown, "shown")) == load_recipe("image_mae", preset="base")
    with pytest.raises(UserError, match="no preset"):
        showing.show("train", [], preset="base")


def test_a_recipe_that_waits_for_data_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "audio_mae"]) == 2
    said = capsys.readouterr().err
    assert "data.path: found none" in said and "mmssl pretrain audio_mae data.path=FOLDER" in said
