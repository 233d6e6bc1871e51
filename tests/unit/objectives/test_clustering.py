"""Cluster assignment between views: SwAV's swapped prediction and GEDI's cluster loss against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.clusters import agreement, spherical_means, uniformity
from mmssl.masking import Random
from mmssl.objectives import clustering
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

VIEWS: dict[str, Any] = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}, "c": {"signal": {"gain": 0.9}}}
MASKS = {"half": Random(ratio=0.5), "other": Random(ratio=0.5)}
SMALL: dict[str, Any] = {"towers": ["signal"], "views": ["a", "b"], "head_hidden": 16, "head_width": 8, "prototypes": 5}
ROWS = 11


def build(net: Any = None, **options: Any) -> Pretraining:
    net = net or toy_world.model()
    torch.manual_seed(1)
    return Pretraining(net, {"it": clustering.Clustering(clustering.Config(**SMALL | options), net)}, VIEWS, MASKS)


def batch(seed: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    return toy_world.batch(toy_world.raw(ROWS, seed=seed, absent=0.3))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def balanced(scores: np.ndarray, epsilon: float, rounds: int) -> np.ndarray:
    """Sinkhorn-Knopp as SwAV's authors write it: prototypes by samples, each sum once a round."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    for _ in range(rounds):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q / q.sum(0, keepdims=True)).T


def seen(both: Pretraining, step: Step) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(scores, present) of the sides of the only group, in float64."""
    objective = both.objectives["it"]
    (group,) = objective.sides.groups(step)
    found = [objective._embed(step, side) for side in group]
    unit = [z.detach().double().numpy() for z, _ in found]
    prototypes = objective.prototypes.weight.detach().double().numpy()
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    scores = [(z / np.linalg.norm(z, axis=1, keepdims=True)) @ prototypes.T for z in unit]
    return scores, [there.numpy() for _, there in found]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"views": ["a", "b", "c"], "global_views": ["a", "c"], "sharpness": 0.2, "iterations": 5},
        {"towers": ["table", "signal", "graph"], "views": ["clean"]},
        {"views": ["clean"], "masks": ["half", "other"], "mode": "replace", "temperature": 0.3},
    ],
)
def test_swav_is_its_formula(options: dict[str, Any]) -> None:
    both = build(**options)
    c = both.objectives["it"].config
    step = Step(batch(), both.model, VIEWS, MASKS, Draws(3, ROWS))
    loss = both.objectives["it"](step)
    scores, there = seen(both, step)
    leads = [i for i in range(len(scores)) if c.global_views is None or c.views[i] in c.global_views]
    losses = []
    for i in leads:
        target = np.zeros_like(scores[i])
        target[there[i]] = balanced(scores[i][there[i]], c.sharpness, c.iterations)
        for j in range(len(scores)):
            log = np.log(softmax(scores[j] / c.temperature))
            losses += [-(target[n] * log[n]).sum() for n in range(ROWS) if i != j and there[i][n] and there[j][n]]
    assert 0 < len(losses) < len(leads) * (len(scores) - 1) * ROWS
    assert loss.total.item() == pytest.approx(np.mean(losses), abs=1e-6, rel=1e-6)
    assert 1 <= loss.parts["prototypes_used"] <= 5


def test_the_queue_is_balanced_along_once_it_is_full_and_asked_for() -> None:
    both = build(queue=24, queue_from=0.4)
    objective = both.objectives["it"]
    rows: list[np.ndarray] = []
    for number in range(4):
        inputs, draws = batch(number), Draws(number, ROWS)
        step = Step(inputs, both.model, VIEWS, MASKS, draws)
        loss = both(inputs, draws).total
        scores, there = seen(both, step)
        before = objective.queue.rows.double().numpy()
        # 16 rows or so come in a step: two steps fill it, and a third is over 0.4 of the run
        uses = number == 3 or (number == 2 and int(objective.queue.put) >= 24)
        losses = []
        for i in range(2):
            prototypes = objective.prototypes.weight.detach().double().numpy()
            prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
            every = np.concatenate([scores[i][there[i]], before @ prototypes.T]) if uses else scores[i][there[i]]
            target = balanced(every, 0.05, 3)[: there[i].sum()]
            log = np.log(softmax(scores[1 - i] / 0.1))[there[i]]
            losses += list(-(target * log).sum(1))
        assert loss.item() == pytest.approx(np.mean(losses), abs=1e-6, rel=1e-6)
        assert int(objective.queue.put) == sum(map(len, rows))  # nothing moves before the step is done
        (group,) = objective.sides.groups(step)
        for side in group:
            z, present = objective._embed(step, side)
            rows.append(torch.nn.functional.normalize(z.detach(), dim=-1)[present].numpy())
        if number == 1:
            both.discard()
            both.after_step(0.0)
            rows = rows[:2]
            continue
        both.after_step((number + 1) / 5)
    last = np.concatenate(rows)[-24:]
    order = int(objective.queue.put) % 24
    np.testing.assert_allclose(np.roll(objective.queue.rows.numpy(), -order, 0), last, atol=1e-6)
    state = both.state_dict()
    assert {"objectives.it.queue.rows", "objectives.it.queue.put", "objectives.it.progress.share"} <= state.keys()
    again = build(queue=24, queue_from=0.4)
    assert again.objectives["it"].progress.now() == 0
    again.load_state_dict(state)
    assert again.objectives["it"].progress.now() == pytest.approx(0.8)


def test_spherical_means_are_lloyds_rounds() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    start = torch.cat([rows[:4], -torch.ones(1, 3, dtype=torch.float64)])  # the last one is nobody's, and stays
    rows, start = (torch.nn.functional.normalize(x, dim=1) for x in (rows, start))
    found = start.numpy().copy()
    for _ in range(3):
        nearest = (rows.numpy() @ found.T).argmax(1)
        for k in set(nearest.tolist()):
            mean = rows.numpy()[nearest == k].sum(0)
            found[k] = mean / np.linalg.norm(mean)
    ours = spherical_means(rows, start, 3)
    np.testing.assert_allclose(ours.numpy(), found, atol=1e-12)
    assert torch.equal(ours[4], start[4])


def test_deepcluster_predicts_the_nearest_mean_once_there_are_some() -> None:
    both = build(assign="kmeans", queue=20, every=2)
    objective = both.objectives["it"]
    assert not objective.prototypes.weight.requires_grad
    means = []
    for number in range(5):
        inputs, draws = batch(number), Draws(number, ROWS)
        step = Step(inputs, both.model, VIEWS, MASKS, draws)
        loss = both(inputs, draws).total
        scores, there = seen(both, step)
        losses = []
        for i in range(2):
            log = np.log(softmax(scores[1 - i] / 0.1))[there[i]]
            losses += list(-log[np.arange(len(log)), scores[i][there[i]].argmax(1)])
        assert loss.item() == pytest.approx(np.mean(losses) if number >= 2 else 0.0, abs=1e-6, rel=1e-6)
        loss.backward()
        both.after_step((number + 1) / 5)
        means.append(objective.prototypes.weight.clone())
    moved = [not torch.equal(a, b) for a, b in zip(means, means[1:], strict=False)]
    assert moved == [True, False, True, False]  # as the queue is full after the second step, and after every second one
    start = means[2]
    torch.testing.assert_close(means[3].norm(dim=1), torch.ones(5))
    assert start.isfinite().all()
    state = both.state_dict()
    again = build(assign="kmeans", queue=20, every=2)
    again.load_state_dict(state)
    assert again.objectives["it"].clustered and torch.equal(again.objectives["it"].prototypes.weight, means[-1])


def test_prototypes_are_frozen_for_a_share_of_the_run() -> None:
    both = build(freeze_prototypes=0.5)
    for progress, moves in ((0.4, False), (0.6, False), (1.0, True)):  # the second step begins at 0.4
        both.zero_grad()
        both(batch(), Draws(1, ROWS)).total.backward()
        assert (both.objectives["it"].prototypes.weight.grad is not None) == moves
        both.after_step(progress)


def test_gedis_terms_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(7, 4, generator=generator, dtype=torch.float64).log_softmax(1) for _ in range(2))
    valid = torch.tensor([1, 1, 0, 1, 0, 1, 1]).bool()
    expected = [-sum(float(p[i, k].exp()) * float(q[i, k]) for k in range(4)) for i in range(7)]
    torch.testing.assert_close(agreement(p, q), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    mean = p[valid].exp().mean(0).numpy()
    spoiled = p.masked_fill(~valid[:, None], torch.nan)
    assert uniformity(spoiled, valid).item() == pytest.approx(-np.log(mean).mean(), abs=1e-12)
    even = torch.full((8, 4), 0.25, dtype=torch.float64).log()
    assert uniformity(even, torch.ones(8, dtype=torch.bool)).item() == pytest.approx(np.log(4), abs=1e-12)
    collapsed = torch.full((8, 4), 1e-3, dtype=torch.float64)
    collapsed[:, 0] = 1 - 3e-3
    assert uniformity(collapsed.log(), torch.ones(8, dtype=torch.bool)) > 3 * np.log(4)


def test_gedi_is_its_formula_and_trains_both_views() -> None:
    both = build(assign="posterior", prior_weight=0.7, temperature=0.4, views=["a", "b", "c"], global_views=["a"])
    step = Step(batch(), both.model, VIEWS, MASKS, Draws(3, ROWS))
    loss = both.objectives["it"](step)
    scores, there = seen(both, step)
    p = [softmax(s / 0.4) for s in scores]
    ways = [(0, 1), (0, 2)]
    invariance = np.mean([-(p[i][n] * np.log(p[j][n])).sum() for i, j in ways for n in range(ROWS) if there[i][n]])
    prior = np.mean([-np.log(x[t].mean(0)).mean() for x, t in zip(p, there, strict=True)])
    assert loss.total.item() == pytest.approx(invariance + 0.7 * prior, abs=1e-6, rel=1e-6)
    assert loss.parts["invariance"].item() == pytest.approx(invariance, abs=1e-6, rel=1e-6)


@pytest.mark.parametrize("assign", ["sinkhorn", "posterior"])
def test_nothing_at_all_is_no_loss_and_half_precision_is_near(assign: str) -> None:
    both = build(assign=assign)
    nothing = toy_world.batch({name: [None] * 9 for name in toy_world.PREPROCESSORS})
    total = both(nothing, Draws(1, 9)).total
    total.backward()
    assert total == 0 and all(p.grad.isfinite().all() for p in both.parameters() if p.grad is not None)
    exact = both(batch(), Draws(1, ROWS)).total
    with torch.autocast("cpu", torch.bfloat16):
        half = both(batch(), Draws(1, ROWS)).total
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"views": ["a"]}, "two views"),
        ({"global_views": ["d"]}, "global_views: found 'd'"),
        ({"global_views": []}, "global_views: found none"),
        ({"towers": ["signal", "table"], "pairs": "both"}, "clusters are common to all sides"),
        ({"assign": "posterior", "queue": 8}, "queue: found 8"),
        ({"queue_from": 0.5}, "queue_from: found 0.5"),
        ({"assign": "kmeans", "queue": 4}, "queue: found 4, expected at least the 5 prototypes"),
        ({"every": 4}, "every: found 4"),
        ({"assign": "kmeans", "queue": 9, "freeze_prototypes": 0.5}, "freeze_prototypes: found 0.5"),
        ({"prior_weight": 2.0}, "prior_weight: found 2"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(**options)
