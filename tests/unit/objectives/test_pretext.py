"""Pretexts: the label is what the view drew; its loss against a float64 computation; what nothing can be told of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.objectives import pretext
from mmssl.objectives.pretraining import Pretraining

ROWS = 24


@pytest.fixture(scope="module")
def step() -> tuple[Any, Pretraining]:
    made = toy_world.pretexts()
    return made.step(toy_world.batch(toy_world.raw(ROWS, seed=3)), Draws(1, ROWS)), made


@pytest.mark.parametrize("name", ["order", "between", "spoiled"])
def test_the_loss_is_the_cross_entropy_of_what_was_drawn(step, name):
    objective: Any = step[1].objectives[name]
    c = objective.config
    x = torch.cat([step[0].pooled("signal", view, c.mask)[0] for view in c.views], 1).detach().double()
    state = {k: v.detach().double() for k, v in objective.state_dict().items()}
    for layer in range(len(objective.head.dense)):
        x = x @ state[f"head.dense.{layer}.weight"].T + state[f"head.dense.{layer}.bias"]
        if layer + 1 < len(objective.head.dense):
            x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            x = (x * state[f"head.norms.{layer}.weight"] + state[f"head.norms.{layer}.bias"]).clamp(min=0)
    back = step[0].drawn("signal", "back")
    label = {"order": step[0].drawn("signal", "shuffled"), "spoiled": back}.get(
        name, (step[0].drawn("signal", "forth") - back) % 2
    )
    rows = step[0].patches("signal").present
    each = x.exp().sum(1).log() - x[torch.arange(ROWS), label]
    found = objective(step[0])
    assert float(found.total.detach()) == pytest.approx(float(each[rows].mean()), abs=1e-6)
    right = (x.argmax(1) == label)[rows].double().mean()
    assert float(found.parts["accuracy"]) == pytest.approx(float(right), abs=1e-6)
    assert 0 < int(rows.sum()) < ROWS and len(label.unique()) == objective.count


def test_the_label_is_what_was_done_to_the_sample(step):
    """And in a corrupted view what was done to the view that it is made of."""
    clean, back = step[0].inputs("signal")["signal"], step[0].inputs("signal", "back")["signal"]
    number = step[0].drawn("signal", "back")
    assert torch.equal(number, step[0].drawn("signal", "spoiled"))
    for row in range(ROWS):
        there = ~clean[row].isnan().all(0)
        wanted = clean[row][:, there].flip(-1) if number[row] else clean[row][:, there]
        assert torch.equal(back[row][:, there].nan_to_num(9.0), wanted.nan_to_num(9.0))


@pytest.mark.parametrize(
    ("options", "views", "facts"),
    [
        ({"views": ["a"]}, {}, ("'a'", "does not transform 'signal'")),
        ({"views": []}, {}, ("expected one, or two different ones",)),
        ({"views": ["shuffled", "back"]}, {}, ("permutation and reversal",)),
        ({"views": ["fixed"]}, {"fixed": {"kind": "reversal", "number": 1}}, ("'fixed'", "nothing to tell")),
        ({"views": ["back"], "modality": "table"}, {}, ("table", "expected one of signal")),
    ],
)
def test_views_of_which_nothing_can_be_told_are_refused(options, views, facts):
    net = toy_world.model()
    known = toy_world.TOLD | {name: {"signal": {"transform": spec}} for name, spec in views.items()}
    with refused(*facts):
        Pretraining(net, {"p": pretext.Pretext(pretext.Config(tower="signal", **options), net)}, known)
