"""Sides of `contrastive` that are the mean of several: towers by weight, and views that count as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.objectives.contrastive import Config, Contrastive
from mmssl.objectives.pretraining import Pretraining

ROWS, TEMPERATURE = 9, 0.2
VIEWS: dict[str, Any] = {
    "a": {"signal": {"gain": 0.2}},
    "b": {"signal": {"gain": 0.9}},
    "later": {"signal": {"column": "later"}},
}
FIXED: dict[str, Any] = {"temperature": TEMPERATURE, "learn_temperature": False}
Rows = tuple[np.ndarray, np.ndarray]


def world(**options: Any) -> Pretraining:
    torch.manual_seed(1)
    net = toy_world.model()
    return Pretraining(net, {"it": Contrastive(Config(**FIXED | options), net)}, VIEWS, {})


def stepped(work: Pretraining) -> Any:
    samples = toy_world.later(toy_world.raw(ROWS, seed=4, absent=0.3))
    return work.step(toy_world.batch(samples), Draws(3, ROWS))


def projected(step: Any, tower: str, view: str) -> Rows:
    """(what the model's projection makes of a view, which samples have it)."""
    pooled, there = step.pooled(tower, view, None, "drop")
    return step.model.project(tower, pooled).detach().double().numpy(), there.numpy()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def info_nce(x: Rows, y: Rows) -> float:
    """Both ways, one sample at a time."""
    both = np.flatnonzero(x[1] & y[1])
    losses = []
    for a, b in ((unit(x[0]), unit(y[0])), (unit(y[0]), unit(x[0]))):
        logits = a[both] @ b[both].T / TEMPERATURE
        losses.append(np.mean([np.log(np.exp(row).sum()) - row[n] for n, row in enumerate(logits)]))
    return float(np.mean(losses))


def test_pooled_towers_are_the_weighted_sum_of_directions() -> None:
    work = world(towers=["table", "signal"], views=["a", "b"], pooled={"table": 0.3, "signal": 0.7})
    step = stepped(work)
    sides = []
    for view in ("a", "b"):
        (t, has_t), (s, has_s) = projected(step, "table", view), projected(step, "signal", view)
        sides.append((0.3 * has_t[:, None] * unit(t) + 0.7 * has_s[:, None] * unit(s), has_t | has_s))
    loss = work.objectives["it"](step)
    assert loss.total.item() == pytest.approx(info_nce(*sides), abs=1e-6)
    loss.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in work.parameters() if p.grad is not None)
    assert {"table", "signal"} <= {n.split(".")[2] for n, p in work.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("across", [True, False])
def test_views_that_count_as_one_are_their_mean_over_those_that_are_there(across: bool) -> None:
    several = ["later", "a"]
    options: dict[str, Any] = {"towers": ["table", "signal"], "views": several}
    if not across:
        options = {"towers": ["signal"], "views": ["clean", *several], "project_within": True}
    work = world(pooled_views=several, **options)
    step = stepped(work)
    found = [projected(step, "signal", view) for view in several]
    count = sum(there.astype(float) for _, there in found)
    mean = sum(there[:, None] * x for x, there in found) / np.maximum(count, 1)[:, None]
    other = projected(step, "table", "clean") if across else projected(step, "signal", "clean")
    assert 0 < (count == 1).sum() < ROWS
    assert work.objectives["it"](step).total.item() == pytest.approx(info_nce(other, (mean, count > 0)), abs=1e-6)


def test_what_contradicts_is_refused() -> None:
    pooled = {"table": 0.5, "signal": 0.5}
    two: dict[str, Any] = {"towers": ["table", "signal"], "views": ["a", "b"]}
    for options, facts in (
        ({"pooled": {"table": 1.0}}, ("pooled", "table")),
        ({"pooled": pooled, "pairs": "both"}, ("pooled", "both")),
        ({"pooled": pooled, "keys": "teacher"}, ("keys", "teacher")),
        ({"pooled": pooled, "views": ["a"]}, ("pooled", "views")),
        ({"pooled_views": ["a"]}, ("pooled_views", "a")),
        ({"pooled_views": ["a", "c"]}, ("pooled_views", "c")),
    ):
        with refused(*facts):
            world(**two | options)
