"""Rotary positions: the formula, what they promise, and towers that use them with dropped and padded patches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import runs, world
from toys.export import image_model, model_of, preprocessor, text_model

import mmssl
from mmssl.errors import UserError
from mmssl.models.options import TowerConfig
from mmssl.models.rotary import Rotary, joined, turn, unturned
from mmssl.models.tower import Tower
from mmssl.models.trunk import Trunk
from mmssl.patches import Patches


def by_hand(x: np.ndarray, coords: np.ndarray, axes: tuple[float, ...], kind: str) -> np.ndarray:
    """One token's head (d,) turned, channel by channel in float64: RoFormer's equation 34, axis after axis."""
    out, pairs, start = x.copy(), len(x) // len(axes) // 2, 0
    for axis, factor in enumerate(axes):
        for i in range(pairs):
            even, odd = start + 2 * i, start + 2 * i + 1
            numbers = (i, i) if kind == "rotary" else ((2 * i) % pairs, (2 * i + 1) % pairs)
            first, second = (coords[axis] * factor * 10000.0 ** (-j / pairs) for j in numbers)
            out[even] = x[even] * math.cos(first) - x[odd] * math.sin(first)
            out[odd] = x[odd] * math.cos(second) + x[even] * math.sin(second)
        start += 2 * pairs
    return out


def at(coords: torch.Tensor, extent: torch.Tensor | None = None) -> Patches:
    """Patches without content at coordinates (B, n, K)."""
    batch, count = coords.shape[:2]
    valid = torch.ones(batch, count, dtype=torch.bool)
    return Patches(torch.zeros(batch, count, 1), coords, valid, full=True, extent=extent)


@pytest.mark.parametrize("kind", ["rotary", "vjepa2"])
@pytest.mark.parametrize(("head", "axes"), [(16, (2.0, 1.0, 1.0)), (12, (0.5, 1.0)), (9, (1.0,)), (8, (1.0,) * 4)])
def test_the_formula(kind, head, axes):
    torch.manual_seed(0)
    x, coords = torch.randn(2, 3, 5, head), torch.rand(2, 5, len(axes) + 1) * 30  # a coordinate more than is used
    found = turn(x, Rotary(head, axes, kind)(at(coords)))
    for b, h, n in np.ndindex(2, 3, 5):
        expected = by_hand(x[b, h, n].double().numpy(), coords[b, n].double().numpy(), axes, kind)
        np.testing.assert_allclose(found[b, h, n].numpy(), expected, atol=1e-6)


def test_attention_depends_on_differences_alone():
    torch.manual_seed(0)
    q, k, coords = torch.randn(1, 2, 6, 16), torch.randn(1, 2, 6, 16), torch.rand(1, 6, 2) * 9
    rotary = Rotary(16, (1.0, 1.0))

    def scores(shift: float) -> torch.Tensor:
        rotation = rotary(at(coords + shift))
        return turn(q, rotation) @ turn(k, rotation).transpose(-1, -2)

    torch.testing.assert_close(scores(0.0), scores(37.0), rtol=0, atol=1e-4)
    assert (scores(0.0) - q @ k.transpose(-1, -2)).abs().max() > 0.5
    torch.testing.assert_close(turn(q, rotary(at(coords))).norm(dim=-1), q.norm(dim=-1))


def test_tokens_without_a_place_are_not_turned():
    rotation = Rotary(8, (1.0,))(at(torch.rand(2, 3, 1) * 9))
    both = joined([unturned(rotation, 2), rotation])
    x = torch.randn(2, 4, 5, 8)
    turned = turn(x, both)
    torch.testing.assert_close(turned[:, :, :2], x[:, :, :2])
    torch.testing.assert_close(turned[:, :, 2:], turn(x[:, :, 2:], rotation))


def test_only_some_tokens_ask():
    torch.manual_seed(0)
    trunk, x = Trunk(16, 2, 2), torch.randn(2, 7, 16)
    rotation = Rotary(8, (1.0,))(at(torch.rand(2, 7, 1) * 9))
    whole, _ = trunk(x, rotation=rotation)
    some, _ = trunk(x, first_query=4, rotation=rotation)
    torch.testing.assert_close(some, whole[:, 4:])
    assert (trunk(x)[0] - whole).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_stay_exact_in_half_precision(dtype):
    """At coordinate 1,000 an angle in bfloat16 would be off by up to 2."""
    torch.manual_seed(0)
    rotation = Rotary(16, (1.0,))(at(torch.full((1, 4, 1), 1000.0) + torch.arange(4.0)[:, None]))
    x = torch.randn(1, 2, 4, 16)
    found = turn(x.to(dtype), rotation)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), turn(x, rotation), rtol=0, atol=0.03)


VIDEO: dict[str, Any] = {"size": 16, "patch": 8, "frames": 8, "tubelet": 2, "channels": 1, "mean": [0.4], "std": [0.3]}


def video_model(positions: str, **tower: Any) -> Any:
    part = preprocessor("video", **VIDEO)
    return model_of({"video": part}, {"video": {"positions": positions, "heads": 2, **tower}})[0]


def clips(batch: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(batch, 8, 1, 16, 16), "times": (torch.arange(8) / 8).expand(batch, -1)}


@pytest.mark.parametrize("positions", ["rotary", "vjepa2"])
def test_dropped_patches_are_as_if_nobody_looked_at_them(positions):
    torch.manual_seed(1)
    model, inputs = video_model(positions), clips(2)
    tower, patches = model.tower("video"), model.modality("video").patchify(inputs)
    index = torch.tensor([[1, 4, 6, 15], [0, 2, 9, -1]])  # a row has fewer
    there = patches.hidden_by(index)
    with torch.no_grad():
        dropped = tower({"video": patches.take(index)})
        blind = tower({"video": patches.replace(valid=there, full=False)})
    for row, chosen in enumerate(index):
        kept = chosen[chosen >= 0]
        torch.testing.assert_close(dropped.tokens["video"][row, : len(kept)], blind.tokens["video"][row, kept])
    assert (dropped.tokens["video"][1, 3] == 0).all()
    torch.testing.assert_close(dropped.prefix, blind.prefix)


def test_order_of_patches_does_not_matter_but_their_places_do():
    torch.manual_seed(1)
    model, inputs = video_model("rotary"), clips(2)
    tower, patches = model.tower("video"), model.modality("video").patchify(inputs)
    order = torch.randperm(patches.count).expand(2, -1)
    with torch.no_grad():
        first, mixed = tower({"video": patches}), tower({"video": patches.take(order, full=True)})
        moved = patches.replace(coords=patches.coords.flip(1))
        other = tower({"video": moved})
        shifted = tower({"video": patches.replace(coords=patches.coords + 1.5)})
    torch.testing.assert_close(mixed.tokens["video"], first.tokens["video"][:, order[0]])
    assert (other.tokens["video"] - first.tokens["video"]).abs().max() > 1e-2
    # nothing but differences: a shift is seen by the prefix alone, which has no place
    assert (shifted.prefix - first.prefix).abs().max() > 1e-4
    model = video_model("rotary", prefix=0)
    with torch.no_grad():
        first, shifted = (
            model.tower("video")({"video": p}) for p in (patches, patches.replace(coords=patches.coords + 1.5))
        )
    torch.testing.assert_close(shifted.tokens["video"], first.tokens["video"], rtol=0, atol=1e-4)


def test_nothing_is_added_to_the_tokens():
    model = video_model("vjepa2")
    patches = model.modality("video").patchify(clips(1))
    embedded = model.modality("video").embed(patches)
    moved = model.modality("video").embed(patches.replace(coords=patches.coords + 3))
    assert torch.equal(embedded, moved)
    added = video_model("additive").modality("video")
    assert not torch.equal(added.embed(patches), added.embed(patches.replace(coords=patches.coords + 3)))


def test_other_modalities_turn_too():
    for model, processor in (image_model(positions="rotary"), text_model({"positions": "rotary"})):
        name = next(iter(processor.preprocessors))
        assert name in model.tower(name).rotary and not hasattr(model.modality(name).position, "table")


def test_where_there_are_no_places():
    modalities = {"table": world.model().modality("table")}
    with pytest.raises(UserError, match=r"found positions: rotary, but modality 'table' has no coordinates that"):
        Tower(TowerConfig(positions="rotary"), modalities)
    with pytest.raises(UserError, match=r"needs heads of at least 6 channels for 3 coordinates, found 4"):
        video_model("vjepa2", heads=8)


@pytest.mark.parametrize("objective", ["mae", "jepa"])
def test_objectives_keep_their_own_positions_and_train(tmp_path, objective):
    content = runs.recipe(train={"steps": 3})
    content["model"]["towers"]["image"]["positions"] = "rotary"
    if objective == "jepa":
        predictor = {"width": 16, "depth": 1, "heads": 2}
        content["masks"] = {"half": {"type": "multi-block"}}
        content["objectives"] = {"jepa": {"tower": "image", "mask": "half", "predictor": predictor}}
    run = mmssl.pretrain(content, output=tmp_path / "run")
    assert len(runs.losses(run.folder)) > 0
    assert run.model.config.towers["image"]["positions"] == "rotary" and run.model.tower("image").rotary
