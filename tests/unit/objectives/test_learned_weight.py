"""Weights of objectives that are learned as variances: the total, the gradient, their place in a checkpoint."""

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
LOG_VARIANCE = 0.7


def build(*, clip: bool = True, **options: Any) -> Pretraining:
    """CLIP of signal and graph, and a masked autoencoder of the signal whose weight is learned."""
    net = toy_world.model()
    config = mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER, learn_weight=True, **options)
    objectives: dict[str, Any] = {"mae": mae.MAE(config, net)}
    if clip:
        asked = contrastive.Config(towers=["signal", "graph"], mask="half")
        objectives = {"clip": contrastive.Contrastive(asked, net)} | objectives
    return Pretraining(net, objectives, {}, {"half": Random(ratio=0.5)})


def batch() -> dict[str, dict[str, torch.Tensor]]:
    return toy_world.batch(toy_world.raw(ROWS, seed=3))


@pytest.mark.parametrize("ramped", [False, True])
def test_the_total_is_kendalls_and_so_is_the_gradient(ramped: bool) -> None:
    pretraining = build(weight=0.5, ramp=RampConfig(end=0.5) if ramped else None)
    factor = 0.5
    if ramped:
        pretraining.after_step(0.25)
        factor *= 0.5
    variance = pretraining.log_variances["mae"]
    variance.data.fill_(LOG_VARIANCE)
    loss = pretraining(batch(), Draws(5, ROWS))
    loss.total.backward()
    clip, own = (loss.parts[name].double().item() for name in ("clip", "mae"))
    learned = factor * math.exp(-LOG_VARIANCE)
    assert loss.total.item() == pytest.approx(clip + learned * own + LOG_VARIANCE / 2, abs=1e-6)
    assert loss.parts["mae.weight"].item() == pytest.approx(learned, abs=1e-6)
    assert variance.grad.item() == pytest.approx(0.5 - learned * own, abs=1e-6)


def test_it_starts_at_the_weight_that_is_set_and_a_checkpoint_has_it() -> None:
    pretraining, other = build(weight=2.0), build(weight=2.0)
    loss = pretraining(batch(), Draws(5, ROWS))
    assert loss.parts["mae.weight"].item() == 2.0
    pretraining.log_variances["mae"].data.fill_(LOG_VARIANCE)
    other.load_state_dict(pretraining.state_dict())
    assert other.log_variances["mae"].item() == pytest.approx(LOG_VARIANCE)


def test_it_is_refused_where_it_says_nothing() -> None:
    with pytest.raises(UserError, match=r"objectives.mae.learn_weight: found true, but there is no other objective"):
        build(clip=False)
    words = ["objectives.clip.learn_weight=true", "objectives.clip.weight=0"]
    with pytest.raises(UserError, match="which has no effect with weight: 0.0; it needs"):
        load_recipe("examples/image_text_clip", words)
