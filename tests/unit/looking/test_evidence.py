"""What `mmssl init` writes for data like those that were measured, and that it is what was run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import crossmodal
from mmssl.looking import composing, evidence
from mmssl.looking.evidence import Seen
from mmssl.looking.init import init
from mmssl.looking.options import InitConfig
from mmssl.recipe.loading import load_recipe, plain_recipe

NOTHING = Seen()
CELLS = Path(__file__).parents[3] / "benchmarks" / "matrix" / "cells.yaml"


def written(one: str, rows: int, seen: Seen = NOTHING, goal: str | None = None) -> composing.Composed:
    """As `init` does, without data."""
    found = composing.compose([one], goal, False, evidence.method_of(one, seen, goal))
    found.data.pop("presets", None)
    composing.convolve(found, [one])
    evidence.follow(found, [one], rows, seen)
    return found


CASES = [
    ("fashion_mnist", "contrastive", "image", 10_000, Seen(28, 1)),
    ("cifar10_mini", "mae", "image", 10_000, Seen(32, 3)),
    ("mutag", "contrastive", "graph", 188, Seen(nodes=28)),
    ("proteins", "contrastive", "graph", 1001, Seen(nodes=500)),
    ("eegmmi_s001", "mae", "eeg", 180, Seen(None, 24)),
    ("weizmann4", "contrastive", "video", 60, Seen()),
    ("ag_news_mini", "contrastive", "text", 6_000, Seen()),
]


@pytest.mark.parametrize(("data", "method", "one", "rows", "seen"), CASES)
def test_data_like_those_that_were_measured_get_what_was_run(
    data: str, method: str, one: str, rows: int, seen: Seen
) -> None:
    found = written(one, rows, seen)
    assert found.name == f"{one}_{method}"
    cell = yaml.safe_load(CELLS.read_text())[data]
    example = plain_recipe(f"examples/{cell['recipe']}_{method}")
    asked = [cell.get("set", {}), cell.get("for", {}).get(method, {})]
    trained: dict[str, Any] = {**example["train"]}
    for part in asked:
        trained |= part.get("train", {})
    assert {k: found.data["train"][k] for k in ("steps", "batch_size")} == {
        k: trained[k] for k in ("steps", "batch_size")
    }
    tower = found.data["model"]["towers"][one]
    for part in (part["model"]["towers"][one] for part in asked if "model" in part):
        assert {key: tower[key] for key in part} == part
    if one == "video":
        assert found.data["modalities"]["video"]["size"] == cell["set"]["modalities"]["video"]["size"]
    assert any(data.partition("_")[0] in why for why in found.why.values()), "the reason says of which data"


def test_views_are_mild_of_small_grey_pictures_and_of_graphs_leave_features() -> None:
    grey = written("image", 10_000, Seen(28, 1))
    assert grey.data["views"] == plain_recipe("examples/image_contrastive")["views"]
    assert all(
        "blur" not in view["image"] and view["image"]["crop_scale"][0] >= 0.4 for view in grey.data["views"].values()
    )
    graphs = written("graph", 188)
    assert all(view["graph"]["mask_features"] == 0 for view in graphs.data["views"].values())
    assert "mutag" in graphs.why["objectives.simclr"]


@pytest.mark.parametrize(
    ("one", "seen", "goal", "method"),
    [
        ("image", Seen(32, 3), "retrieval", "contrastive"),
        ("image", Seen(64, 3), None, "contrastive"),
        ("image", Seen(32, 4), None, "contrastive"),
        ("eeg", Seen(None, 1), None, "contrastive"),
        ("eeg", Seen(None, 3), "retrieval", "contrastive"),
        ("series", Seen(None, 1), None, "contrastive"),
    ],
)
def test_elsewhere_it_is_the_modality_that_decides(one: str, seen: Seen, goal: str | None, method: str) -> None:
    assert written(one, 500, seen, goal).name == f"{one}_{method}"


def test_larger_pictures_keep_the_recipes_views_and_small_photos_lose_the_blur() -> None:
    plain = plain_recipe("image_contrastive")["views"]
    assert written("image", 500, Seen(64, 1)).data["views"] == plain
    photos = written("image", 500, Seen(32, 3), "retrieval").data["views"]
    assert all("blur" not in view["image"] and view["image"]["saturation"] for view in photos.values())


def test_many_films_keep_the_recipes_pictures_and_network() -> None:
    few, many, plain = written("video", 500), written("video", 501), plain_recipe("video_contrastive")
    assert few.data["views"] == plain_recipe("examples/video_contrastive")["views"]
    assert few.data["modalities"]["video"]["size"] % few.data["modalities"]["video"]["patch"] == 0
    for part in ("modalities", "views"):
        assert many.data[part] == plain[part]
    assert many.data["model"]["towers"]["video"]["width"] == plain["model"]["towers"]["video"]["width"]


@pytest.mark.parametrize(("rows", "batch"), [(500, 64), (128, 64), (127, 32), (12, 4), (3, 2)])
def test_a_batch_of_graphs_is_as_large_as_the_rows_allow(rows: int, batch: int) -> None:
    assert written("graph", rows).data["train"]["batch_size"] == batch


def test_nodes_are_seen_many_times_in_a_pass() -> None:
    found = composing.compose(["graph"], None, True)
    composing.length(found, 2708)
    assert found.data["train"]["epochs"] == 3 and "at least" not in found.why["train.epochs"]


@pytest.mark.parametrize(("shape", "name"), [((20, 20), "image_contrastive"), ((20, 20, 3), "image_mae")])
def test_pictures_are_looked_at(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    done = init(InitConfig(path=str(tmp_path)), tmp_path / "recipe.yaml")
    assert done.base == name
    assert load_recipe(done.path).model.towers["image"].width == 64


def test_few_ecgs_and_reports_start_from_a_linear_map_and_other_few_pairs_say_that_they_can() -> None:
    names = ["ecg", "text", "tabular"]
    found = composing.compose(names, None, False)
    evidence.follow(found, names, 353, NOTHING)
    recipe, asked = crossmodal.SETS["ptbxl_500"]
    example = plain_recipe(recipe)
    assert found.data["model"]["projection_standard"] is asked["model"]["projection_standard"] is True
    for name in names:
        tower, theirs = found.data["model"]["towers"][name], example["model"]["towers"][name]
        assert tower == theirs | asked["model"]["towers"][name]
    assert found.data["objectives"]["clip"]["start"] == asked["objectives"]["clip"]["start"] == "cca"
    assert "hub_tower" not in found.data["objectives"]["clip"] and asked["objectives"]["clip"]["hub_tower"] is None
    train = found.data["train"]
    assert [train[key] for key in ("steps", "lr")] == [asked["train"][key] for key in ("steps", "lr")]
    assert train["batch_size"] == example["train"]["batch_size"]

    for names, rows in ((["image", "text"], 800), (["ecg", "text"], 50_000)):
        found = composing.compose(names, None, False)
        before = found.data["objectives"] | {}
        evidence.follow(found, names, rows, NOTHING)
        assert found.data["objectives"] == before and "projection_standard" not in found.data["model"]
        assert ("few-pairs.md" in found.why.get("train", "")) == (rows == 800)
