"""Several crops of one image from one recipe, and every step of a view against torchvision on real pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys.refusals import refused

import mmssl_image
from mmssl.draws import Draws
from mmssl.modality.pixels.augment import resize_weights
from mmssl.objectives.step import Step
from mmssl.options import plainyaml
from mmssl.recipe.loading import load_recipe

RECIPE = """
data: {path: "builtin:digits"}
modalities: {image: {size: 32, patch: 4}}
model: {towers: {image: {width: 16, depth: 1, heads: 2}}}
views:
  global1: {image: &global {crop_scale: [0.32, 1.0], flip: 0.5, blur: 1.0}}
  global2: {image: {<<: *global, blur: 0.1, solarize: 0.2}}
  local1: &local {image: {crop_scale: [0.05, 0.32], crop_size: 12, flip: 0.5}}
  local2: *local
  local3: *local
masks: {half: {ratio: 0.5}}
objectives: {mae: {tower: image, mask: half}}
train: {steps: 1}
"""


@pytest.fixture(scope="module")
def pictures(shared_data: Path) -> tuple[mmssl_image.Preprocessor, torch.Tensor]:
    """(fitted preprocessor, 24 emoji (24, 3, 72, 72) in 0..1)."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(shared_data / "emoji" / "twemoji-train.parquet", columns=["image"])
    raw = table.slice(0, 24)["image"].to_pylist()
    p = mmssl_image.Preprocessor(mmssl_image.Config(size=72, patch=8, mean=[0.0] * 3, std=[1.0] * 3, channels=3))
    return p, p(raw)["pixel_values"]


def test_an_anchor_makes_views_of_their_own() -> None:
    recipe = load_recipe(plainyaml.parse(RECIPE, "recipe"), ["views.local2.image.flip=0.0"])
    assert recipe.views["local2"]["image"]["flip"] == 0.0
    assert recipe.views["local1"]["image"]["flip"] == recipe.views["local3"]["image"]["flip"] == 0.5
    assert recipe.views["global2"]["image"] == recipe.views["global1"]["image"] | {"blur": 0.1, "solarize": 0.2}
    with refused("anchor"):
        plainyaml.parse("a: &a {b: *a}", "recipe")


def test_local_crops_are_smaller_parts_of_the_same_pictures(
    pictures: tuple[mmssl_image.Preprocessor, torch.Tensor],
) -> None:
    views = load_recipe(plainyaml.parse(RECIPE, "recipe")).views
    modality = mmssl_image.Modality(16, [72, 72], [4, 4], 3, [0.0] * 3, [1.0] * 3)

    class Model:
        def modality(self, name: str) -> mmssl_image.Modality:
            return modality

    step = Step({"image": {"pixel_values": pictures[1]}}, Model(), views, {}, Draws(5, 24))  # type: ignore[arg-type]
    crops = {name: step.inputs("image", name)["pixel_values"] for name in views}
    assert {name: tuple(c.shape[2:]) for name, c in crops.items()} == {
        "global1": (72, 72),
        "global2": (72, 72),
        "local1": (12, 12),
        "local2": (12, 12),
        "local3": (12, 12),
    }
    patches = step.patches("image", "local1")
    assert patches.count == 9 and patches.coords[0, -1].tolist() == [2, 2] and patches.full
    assert modality.embed(patches).shape == (24, 9, 16)
    for one, other in (("local1", "local2"), ("local2", "local3"), ("global1", "global2")):
        assert not torch.equal(crops[one], crops[other])  # drawn by name
        differ = (crops[one] - crops[other]).abs().flatten(1).amax(1) > 0.05
        assert differ.float().mean() > 0.8
    again = Step({"image": {"pixel_values": pictures[1]}}, Model(), views, {}, Draws(5, 24))  # type: ignore[arg-type]
    assert torch.equal(again.inputs("image", "local2")["pixel_values"], crops["local2"])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "gray", "solarize"])
def test_colours_of_real_pictures_equal_torchvisions(
    pictures: tuple[mmssl_image.Preprocessor, torch.Tensor], name: str
) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = pictures[1]
    modality = mmssl_image.Modality(16, [72, 72], [8, 8], 3, [0.0] * 3, [1.0] * 3)
    draws = Draws(11, len(x))
    strength = {"hue": 0.1, "gray": 1.0, "solarize": 1.0}.get(name, 0.4)
    out = modality.augment({"pixel_values": x}, draws, **{name: strength})["pixel_values"]
    low, high = (-strength, strength) if name == "hue" else (1 - strength, 1 + strength)
    drawn = draws(name).uniform(low=low, high=high).tolist()
    for got, image, parameter in zip(out, x, drawn, strict=True):
        if name == "gray":
            stock = functional.rgb_to_grayscale(image, num_output_channels=3)
        elif name == "solarize":
            stock = functional.solarize(image, 0.5)
        else:
            stock = getattr(functional, f"adjust_{name}")(image, parameter)
        assert (got - stock).abs().max() < 1e-3 and (got - stock).abs().mean() < 1e-4
    assert (out - x).abs().max() > 0.01


def test_blur_of_real_pictures_equals_torchvisions_inside(
    pictures: tuple[mmssl_image.Preprocessor, torch.Tensor],
) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    modality = mmssl_image.Modality(16, [72, 72], [8, 8], 3, [0.0] * 3, [1.0] * 3)
    x = pictures[1]
    for sigma in (0.3, 1.0, 2.0):
        out = modality.augment({"pixel_values": x}, Draws(1, 24), blur=1.0, blur_sigma=[sigma, sigma])["pixel_values"]
        stock = functional.gaussian_blur(x, [23, 23], [sigma, sigma])
        assert (out - stock)[..., 11:-11, 11:-11].abs().max() < 2e-4  # at the border theirs mirrors, ours renormalises


def test_crops_of_real_pictures_equal_torchvisions(pictures: tuple[mmssl_image.Preprocessor, torch.Tensor]) -> None:
    """Boxes on whole pixels. torchvision cuts first and then resizes, so that it cannot see past the box's edge, where
    ours averages what is there: equal where a kernel fits."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = pictures[1]
    for top, left, height, width, out in ((8, 4, 48, 60, 12), (0, 0, 72, 72, 24), (20, 10, 24, 24, 48)):
        rows = resize_weights(torch.full((24,), float(top)), torch.full((24,), float(height)), 72, out)
        columns = resize_weights(torch.full((24,), float(left)), torch.full((24,), float(width)), 72, out)
        ours = rows[:, None] @ x @ columns[:, None].transpose(2, 3)
        stock = functional.resized_crop(x, top, left, height, width, [out, out], antialias=True)
        edge = max(out // height, 1)
        inside = (slice(None), slice(None), slice(edge, -edge), slice(edge, -edge))
        assert (ours[inside] - stock[inside]).abs().max() < 1e-4
