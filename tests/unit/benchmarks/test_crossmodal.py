"""The cross-modal benchmark: what its tables say, and that its stored results are of the present settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import crossmodal
from benchmarks.matrix.report import changed
from mmssl import load_recipe, pretrain


def result(seed: int, model: float, untrained: float) -> dict[str, Any]:
    metric = {"model": model, "untrained": untrained, "chance": 0.1, "n": 100}
    recipe, changes = crossmodal.SETS["spoken_written_digits"]
    subsets = {f"{way}/R@10": dict(metric) for way in crossmodal.SHOWN["spoken_written_digits"]}
    return {
        "data": "spoken_written_digits",
        "recipe": recipe,
        "changes": changes,
        "seed": seed,
        "steps": 5,
        "batch_size": 4,
        "parameters": 1_000_000,
        "cpu_seconds": 3,
        "loss": [2.0, 1.0],
        "n_test": 100,
        "n_train": 300,
        "label": "digit",
        "subsets": subsets,
    }


def test_bold_only_where_every_seed_beats_its_twin() -> None:
    clear, mixed = [result(0, 0.5, 0.1), result(1, 0.3, 0.2)], [result(0, 0.5, 0.1), result(1, 0.1, 0.2)]
    key = "audio->image/R@10"
    assert crossmodal.row(clear, key) == ["**0.400 ± 0.141**", "0.150 ± 0.071", "-", "0.100"]
    assert crossmodal.marked(mixed, key) == "0.300 ± 0.283"
    assert crossmodal.marked(clear[:1], key) == "0.500", "one seed shows nothing"


def test_a_scorecard_names_what_was_run() -> None:
    changes = {"train": {"steps": 5}, "masks": {"words": None}}
    text = crossmodal.scorecard([{**result(0, 0.5, 0.1), "changes": changes}])
    assert (
        "`examples/audio_image_clip` with `train.steps=5` `masks.words=null`: 5 steps of 4, 1.00 M parameters" in text
    )
    assert "| audio to image | R@10 | 0.500 | 0.100 | - | 0.100 | 100 |" in text


def test_overrides_are_shown_as_they_are_typed() -> None:
    assert changed({}) == ""
    assert changed({"a": {"b": [1, 2], "c": "x"}, "d": True}) == " with `a.b=[1, 2]` `a.c=x` `d=true`"


@pytest.mark.parametrize("name", crossmodal.SETS)
def test_every_set_gives_a_valid_recipe(name: str) -> None:
    recipe, changes = crossmodal.SETS[name]
    load_recipe(recipe, changes)


@pytest.mark.parametrize("name", crossmodal.SETS)
def test_stored_results_are_of_the_present_settings(name: str) -> None:
    results = crossmodal.stored(name)
    seeds = [r["seed"] for r in results]
    assert seeds == list(crossmodal.SEEDS), f"run python -m benchmarks.crossmodal --only {name}"
    assert all(crossmodal.current(r) for r in results), "the recipe or its overrides changed since"
    assert str(crossmodal.HERE.parent) not in json.dumps(results), "no path of the machine it ran on"


def test_the_section_of_results_md_counts_what_is_clear() -> None:
    def runs(model: float) -> list[dict[str, Any]]:
        made = [result(seed, model, 0.2) for seed in (0, 1)]
        for one in made:
            for metric in one["subsets"].values():
                metric["raw"] = 0.4
        return made

    text = crossmodal.section({"spoken_written_digits": runs(0.3)}, {"emoji": ["longer:\n  the same"]})
    assert "In 2 of 2 lines the pretrained model beats its untrained twin" in text and "in 0 of 2 it beats" in text
    assert "audio to image, R@10 of 100 | **0.300 ± 0.000** | 0.200 ± 0.000 | 0.400 ± 0.000 | 0.100 | 2 |" in text
    assert "Tried on **emoji**:\n\n- longer: the same" in text
    assert "in 2 of 2 it beats" in crossmodal.section({"spoken_written_digits": runs(0.5)}, {})
    assert "single seed" not in text
    assert "2 lines are of a single seed" in crossmodal.section({"spoken_written_digits": runs(0.5)[:1]}, {})


def test_notes_belong_to_sets() -> None:
    assert set(crossmodal.read_tried()) <= set(crossmodal.SETS)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        pytest.param(
            "grid_s1_av/hicmae",
            {"hicmae.video", "hicmae.audio", *(f"contrast.video-audio.{n}" for n in (1, 2, 3))},
            marks=pytest.mark.slow,
        ),
        ("emoji/m3ae", {"pixels", "words"}),
    ],
)
def test_hicmae_and_m3ae_train_on_real_data(name: str, parts: set[str], shared_data: Path, tmp_path: Path) -> None:
    recipe_name, changes = crossmodal.SETS[name]
    recipe = load_recipe(recipe_name, changes)
    recipe.data.path = str(shared_data / name.partition("/")[0])
    recipe.data.limit, recipe.train.steps, recipe.train.batch_size, recipe.train.log_every = 12, 3, 6, 1
    recipe.train.trackers, recipe.evaluation.tasks, recipe.evaluation.limit = [], ["subsets"], 12
    run = pretrain(recipe, output=tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line[f"loss/{part}"] > 0 for line in lines for part in parts)
    whole = "+".join(sorted(recipe.data.columns))
    assert {f"{part}/accuracy" for part in (*recipe.data.columns, whole)} <= set(run.report["tasks"]["subsets"])
