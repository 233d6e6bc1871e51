"""MSBReg: sides against the mean of an averaged teacher's, and its regularisers, of which LeJEPA may have one, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.regularisers import directions, sigreg
from mmssl.objectives import redundancy
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

VIEWS: dict[str, Any] = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}, "c": {"signal": {"gain": 0.9}}}
SMALL: dict[str, Any] = {"towers": ["signal"], "views": ["a", "b", "c"], "head_hidden": 16, "head_width": 8}
ROWS = 11


def build(**options: Any) -> Pretraining:
    torch.manual_seed(1)
    net = toy_world.model()
    config = redundancy.Config(**SMALL | {"loss": "msbreg"} | options)
    return Pretraining(net, {"it": redundancy.Redundancy(config, net)}, VIEWS, {})


def stepped(both: Pretraining) -> Step:
    batch = toy_world.batch(toy_world.raw(ROWS, seed=4, absent=0.3))
    return Step(batch, both.model, VIEWS, {}, Draws(3, ROWS))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def white(z: np.ndarray) -> float:
    return float(((np.cov(z.T) - np.eye(z.shape[1])) ** 2).sum() / z.shape[1])


@pytest.mark.parametrize(
    "options",
    [
        {"global_views": ["a", "c"], "brownian_weight": 0.3, "regulariser_weight": 0.7},
        {"towers": ["table", "signal", "graph"], "views": ["clean"]},
        {"regulariser": "sigreg", "knots": 9},
    ],
)
def test_msbreg_is_its_formula(options: dict[str, Any]) -> None:
    both = build(**options)
    objective, c = both.objectives["it"], both.objectives["it"].config
    with torch.no_grad():  # a teacher that differs
        for p in objective.teacher.net.parameters():
            p.mul_(0.8).add_(0.01)
    step = stepped(both)
    total = objective(step)
    (group,) = objective.sides.groups(step)
    found = [objective._embed(step, side) for side in group]
    z = [x.detach().double().numpy() for x, _ in found]
    there = [v.numpy() for _, v in found]
    taught = [objective._teach(step, side).double().numpy() for side in group]
    motion = unit(step.draws("brownian").normal(8).double().numpy())
    led = [i for i, side in enumerate(group) if c.global_views is None or side.view in c.global_views]
    distances, away = [], []
    for n in range(ROWS):
        mine = [v for v in range(len(group)) if there[v][n]]
        leaders = [unit(taught[v][n]) for v in led if there[v][n]]
        away += [((unit(z[v][n]) - motion[n]) ** 2).sum() for v in mine]
        if len(mine) > 1 and leaders:
            centre = unit(np.mean(leaders, 0))
            distances += [((unit(z[v][n]) - centre) ** 2).sum() for v in mine]
    if c.regulariser == "sigreg":
        slices = directions(step.draws("sigreg"), 8, c.slices).double()
        spread = [sigreg(torch.from_numpy(x[t]), slices, knots=9).item() for x, t in zip(z, there, strict=True)]
    else:
        spread = [white(8**0.5 * unit(x[t])) for x, t in zip(z, there, strict=True)]
    expected = np.mean(distances) + c.regulariser_weight * np.mean(spread) + c.brownian_weight * np.mean(away)
    assert total.total.item() == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert total.parts["centroid"].item() == pytest.approx(np.mean(distances), abs=1e-6)
    assert total.parts["brownian"].item() == pytest.approx(np.mean(away), abs=1e-6)


def test_the_teacher_follows_and_gets_no_gradient() -> None:
    both = build(momentum=[0.5, 0.5], export="teacher")
    objective = both.objectives["it"]
    assert objective.teaches == ("signal",) and build().objectives["it"].teaches == ()
    assert build(loss="vicreg").objectives["it"].teacher is None
    with torch.no_grad():
        for p in objective.teacher.net.parameters():
            p.mul_(0.9)
    objective(stepped(both)).total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    before = {n: p.clone() for n, p in objective.teacher.net.named_parameters()}
    both.after_step(0.5)
    student = dict(objective._student(both.model).named_parameters())
    for name, p in objective.teacher.net.named_parameters():
        torch.testing.assert_close(p, (before[name] + student[name]) / 2)
    both.kept = {"signal": "it"}
    both.finish()
    own = dict(both.model.tower("signal").named_parameters())
    for name, p in objective.teacher.net["towers"]["signal"].named_parameters():
        assert torch.equal(p, own[name])


def test_random_directions_are_the_samples_own_and_new_each_step() -> None:
    both = build()
    z = torch.zeros(3, ROWS, 8)
    one, other = (both.objectives["it"]._motion(s, z) for s in (stepped(both), stepped(both)))
    assert torch.equal(one, other) and len(one.unique(dim=0)) == ROWS
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(ROWS))
    later = Step(stepped(both).batch, both.model, VIEWS, {}, Draws(4, ROWS))
    assert not torch.allclose(both.objectives["it"]._motion(later, z), one)


def test_lejepa_may_be_whitened() -> None:
    both = build(loss="lejepa", regulariser="whitening", sigreg_weight=0.25)
    step = stepped(both)
    loss = both.objectives["it"](step)
    (group,) = both.objectives["it"].sides.groups(step)
    found = [both.objectives["it"]._embed(step, side) for side in group]
    spread = np.mean([white(z.detach().double().numpy()[v.numpy()]) for z, v in found])
    expected = 0.75 * loss.parts["invariance"].item() + 0.25 * spread
    assert loss.total.item() == pytest.approx(expected, rel=1e-6)


def test_nothing_at_all_is_no_loss_but_half_precision_is_near() -> None:
    both = build()
    nothing = toy_world.batch({name: [None] * 9 for name in toy_world.PREPROCESSORS})
    total = both(nothing, Draws(1, 9)).total
    total.backward()
    assert total == 0 and all(p.grad.isfinite().all() for p in both.parameters() if p.grad is not None)
    exact = both.objectives["it"](stepped(both)).total
    with torch.autocast("cpu", torch.bfloat16):
        half = both.objectives["it"](stepped(both)).total
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"towers": ["signal", "table"], "pairs": "both"}, "msbreg pulls all sides of a sample to one mean"),
        ({"global_views": ["d"]}, "global_views: found 'd'"),
        ({"slices": 8}, "slices: found 8"),
        ({"sigreg_weight": 0.5}, "sigreg_weight: found 0.5"),
        ({"loss": "lejepa", "brownian_weight": 0.5}, "brownian_weight: found 0.5"),
        ({"loss": "lejepa", "regulariser": "whitening", "slices": 8}, "slices: found 8"),
        ({"loss": "vicreg", "regulariser": "whitening"}, "regulariser: found"),
        ({"loss": "vicreg", "momentum": [0.9, 1.0]}, "momentum: found"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(**options)
