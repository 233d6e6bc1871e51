"""Weights that grow or shrink over a run: the factor, the total, the shares, and their place in a checkpoint."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.masking import Random
from mmssl.objectives import contrastive, mae
from mmssl.objectives.base import RampConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.recipe.loading import load_recipe

ROWS = 6


def steady(weight: float = 2.0, ramp: RampConfig | None = None) -> Pretraining:
    """CLIP of signal and graph, and a masked autoencoder of the signal."""
    net = toy_world.model()
    clip = contrastive.Config(towers=["signal", "graph"], mask="half")
    config = mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER, weight=weight, ramp=ramp)
    objectives = {"clip": contrastive.Contrastive(clip, net), "mae": mae.MAE(config, net)}
    return Pretraining(net, objectives, {}, {"half": Random(ratio=0.5)})


def batch() -> dict[str, dict[str, torch.Tensor]]:
    return toy_world.batch(toy_world.raw(ROWS, seed=3))


def ramped(**ramp: Any) -> Pretraining:
    return steady(ramp=RampConfig(**ramp))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {0.0: 0.0, 0.05: 0.5, 0.1: 1.0, 0.6: 1.0}),
        ({"first": 1, "last": 0.2, "begin": 0.5, "end": 1.0}, {0.0: 1.0, 0.5: 1.0, 0.75: 0.6, 1.0: 0.2}),
        ({"end": 1.0, "shape": "cosine"}, {x: (1 - math.cos(math.pi * x)) / 2 for x in (0.0, 0.2, 0.5, 0.9, 1.0)}),
    ],
)
def test_factors(options, expected):
    ramp = RampConfig(**options)
    assert {x: ramp.factor(x) for x in expected} == pytest.approx(expected)


def test_the_total_follows_the_ramp_and_parts_do_not():
    pretraining = ramped(end=0.5)
    for progress, factor in ((None, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        if progress is not None:
            pretraining.after_step(progress)
        loss = pretraining(batch(), Draws(5, ROWS))
        wanted = loss.parts["clip"] + 2.0 * factor * loss.parts["mae"]
        assert loss.total.item() == pytest.approx(wanted.item(), abs=1e-6)
        assert loss.parts["mae.weight"].item() == pytest.approx(2.0 * factor)
    assert loss.total.item() == pytest.approx(steady()(batch(), Draws(5, ROWS)).total.item(), abs=1e-6)


def test_shares_are_those_of_the_ramped_weight():
    pretraining = ramped(end=1.0)
    first = pretraining(batch(), Draws(5, ROWS), shares=True).shares
    assert first["mae"].item() == 0.0 and first["clip"].item() == 1.0
    pretraining.after_step(0.25)
    half = pretraining(batch(), Draws(5, ROWS), shares=True).shares
    same = steady(weight=0.5)(batch(), Draws(5, ROWS), shares=True).shares
    assert half["mae"].item() == pytest.approx(same["mae"].item(), abs=1e-6)


def test_a_checkpoint_has_the_factor_and_one_without_ramps_has_nothing_new():
    pretraining = ramped(end=0.5)
    pretraining.after_step(0.3)
    other = ramped(end=0.5)
    other.load_state_dict(pretraining.state_dict())
    assert other.factors.tolist() == pytest.approx([0.6])
    assert "factors" not in steady().state_dict()


def test_recipes_and_refusals():
    ramp = "objectives.clip.ramp"
    recipe = load_recipe("examples/image_text_clip", [f"{ramp}={{end: 0.3, shape: cosine}}"])
    assert recipe.objectives["clip"].config.ramp == RampConfig(end=0.3, shape="cosine")
    for override, line in (
        (["objectives.clip.ramp={begin: 0.5, end: 0.3}"], "ramp: begin: found 0.5, expected less than end = 0.3"),
        (["objectives.clip.ramp={}", "objectives.clip.weight=0"], "which has no effect with weight: 0.0; it needs"),
        (["objectives.clip.ramp={first: 1}"], "ramp: first: found 1, expected another factor than last"),
        (["objectives.clip.ramp={shape: step}"], "ramp.shape: found 'step'"),
    ):
        with pytest.raises(UserError, match=line):
            load_recipe("examples/image_text_clip", override)
    assert torch.is_tensor(ramped().factors)
