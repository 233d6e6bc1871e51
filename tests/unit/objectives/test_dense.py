"""The objective `dense`: which patches are matched, and each loss against its formula, one patch at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality.places import Places
from mmssl.objectives import dense
from mmssl.objectives.parts.regions import apart, nearest, regions
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.patches import Patches, places_of

VIEWS: dict[str, Any] = {
    "a": {"signal": {"gain": 0.2}},
    "b": {"signal": {"gain": 0.4, "shift": 2}},
    "c": {"signal": {"gain": 0.4, "shift": 3}},
    "nodes": {"graph": {"drop_edges": 0.3}},
}
SMALL: dict[str, Any] = {"tower": "signal", "views": ["a", "b"], "head_hidden": 16, "head_width": 8}
ROWS = 7


def build(net: Any = None, **options: Any) -> Pretraining:
    net = net or toy_world.model()
    torch.manual_seed(1)
    return Pretraining(net, {"it": dense.Dense(dense.Config(**SMALL | options), net)}, VIEWS, {})


def batch(absent: float = 0.3, rows: int = ROWS) -> dict[str, dict[str, torch.Tensor]]:
    return toy_world.batch(toy_world.raw(rows, seed=4, absent=absent))


# ------------------------------------------------------------------------------------------------- who belongs to whom


def test_the_nearest_within_reach_and_the_closest_of_them() -> None:
    distance = torch.tensor([[[0.5, 0.2, 9.0], [0.6, 0.3, 0.1], [2.0, 3.0, 4.0], [0.4, 0.9, 0.8]]])
    there, other = torch.tensor([[True] * 4]), torch.tensor([[True, True, False]])
    chosen, match, found = nearest(distance, there, other, 1.0, None)
    assert chosen.tolist() == [[0, 1, 3, 2]] and match.tolist()[0][:3] == [1, 1, 0]  # the last one is too far
    assert found.tolist() == [[True, True, True, False]]
    chosen, match, found = nearest(distance, there, other, None, 2)
    assert chosen.tolist() == [[0, 1]] and match.tolist() == [[1, 1]] and found.all()
    there[0, 0] = False
    chosen, _, found = nearest(distance, there, other, 1.0, 3)
    assert chosen.tolist()[0][:2] == [1, 3] and found.tolist() == [[True, True, False]]


def test_distances_are_over_the_larger_patchs_diagonal() -> None:
    a = Places(torch.tensor([[[0.5, 0.5], [3.0, 0.5]]]), torch.tensor([[[3.0, 4.0]]]).expand(1, 2, -1))
    b = Places(torch.tensor([[[0.5, 1.5]]]), torch.tensor([[[0.5, 0.5]]]))
    expected = torch.tensor([[[1.0], [(2.5**2 + 1) ** 0.5]]]) / 5
    torch.testing.assert_close(apart(a, b), expected)


def test_regions_are_means_over_blocks_of_valid_patches() -> None:
    grid = (3, 4)
    place = places_of(*grid, device=torch.device("cpu")).expand(2, -1, -1)
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[1, :2] = valid[1, 4:6] = valid[0, 5] = False
    patches = Patches(torch.zeros(2, 12, 1), place.float(), valid, grid=grid, place=place)
    where = Places(place + 0.5, torch.ones(2, 12, 2))
    tokens = torch.randn(2, 12, 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    found = regions(tokens, patches, where, 2)
    assert found.valid.tolist() == [[True] * 4, [False] + [True] * 3]
    torch.testing.assert_close(found.tokens[0, 0], tokens[0, [0, 1, 4]].mean(0))
    torch.testing.assert_close(found.tokens[1, 3], tokens[1, [10, 11]].mean(0))
    assert found.places is not None
    torch.testing.assert_close(found.places.centre[1, 1], torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(found.places.size[1, 1], torch.tensor([2.0, 2.0]))
    again = regions(tokens.gather(1, order[..., None].expand(-1, -1, 3)), patches.take(order), where.take(order), 2)
    torch.testing.assert_close(again.tokens, found.tokens)


# --------------------------------------------------------------------------------------------------------------- losses


def maps(both: Pretraining, step: Step, view: str) -> dict[str, np.ndarray]:
    """What the objective compares, in float64."""
    found = both.objectives["it"]._maps(step, view, None)["signal"]
    where = step.places("signal", view)
    tensors = {"z": found.z, "t": found.regions.tokens, "valid": found.valid, "at": where.centre}
    return {k: v.detach().numpy().astype(bool if k == "valid" else float) for k, v in tensors.items()}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def matched(a: Any, b: Any, kind: str, i: int, within: float | None, count: int | None) -> list[tuple[int, int]]:
    """Pairs of sample i, by a loop over its patches."""
    found = []
    for p in np.flatnonzero(a["valid"][i]):
        options = []
        for q in np.flatnonzero(b["valid"][i]):
            if kind == "place":
                far = np.linalg.norm(a["at"][i, p] - b["at"][i, q]) / 2**0.5
            elif kind == "embedding":
                far = np.linalg.norm(a["z"][i, p] - b["z"][i, q])
            else:
                far = 1 - unit(a["t"][i, p]) @ unit(b["t"][i, q])
            options.append((far, q))
        if options and (within is None or min(options)[0] < within):
            found.append((min(options)[0], p, min(options)[1]))
    kept = sorted(sorted(found)[:count], key=lambda one: one[1])
    return [(p, q) for _, p, q in kept]


def vicreg_by_hand(a: Any, b: Any, pairs: list[list[tuple[int, int]]], weights: tuple[float, float, float]) -> float:
    rows = [(i, rank, p, q) for i, mine in enumerate(pairs) for rank, (p, q) in enumerate(mine)]
    distance = np.mean([((a["z"][i, p] - b["z"][i, q]) ** 2).mean() for i, _, p, q in rows])
    spread, covariance = [], []
    for rank in range(max(r for _, r, _, _ in rows) + 1):
        sides = ([a["z"][i, p] for i, r, p, _ in rows if r == rank], [b["z"][i, q] for i, r, _, q in rows if r == rank])
        if len(sides[0]) < 2:
            continue
        for side in sides:
            matrix = np.cov(np.stack(side).T)
            spread.append(np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean())
            covariance.append((matrix[~np.eye(len(matrix), dtype=bool)] ** 2).sum() / len(matrix))
    return float(weights[0] * distance + weights[1] * np.mean(spread) + weights[2] * np.mean(covariance))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"within": None, "matches": 4},
        {"match": "both", "matches": 5, "covariance": 0.5},
        {"match": "feature", "local_views": ["c"], "views": ["a"]},
    ],
)
def test_vicregl_is_its_formula(options: dict[str, Any]) -> None:
    both = build(**options)
    c = both.objectives["it"].config
    step = Step(batch(), both.model, VIEWS, {}, Draws(3, ROWS))
    total = both.objectives["it"](step)
    a, b = (maps(both, step, view) for view in (*c.views, *c.local_views))
    expected = 0.0
    for kind in {"both": ["place", "embedding"], "feature": ["embedding"], "place": ["place"]}[c.match]:
        for x, y in ((a, b), (b, a)):
            within = c.within if kind == "place" else None
            pairs = [matched(x, y, kind, i, within, c.matches) for i in range(ROWS)]
            expected += vicreg_by_hand(x, y, pairs, (c.invariance, c.variance, c.covariance)) / 2
    assert total.total.item() == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert 0 < total.parts["matched"] <= 1 and {"invariance", "variance", "covariance"} <= total.parts.keys()


@pytest.mark.parametrize("negatives", ["samples", "patches"])
@pytest.mark.parametrize("match", ["place", "feature"])
def test_densecl_and_local_contrast_are_their_formulas(negatives: str, match: str) -> None:
    if (negatives, match) == ("patches", "feature"):
        with refused("negatives", "patches", "samples"):
            build(loss="infonce", match=match, negatives=negatives)
        return
    both = build(loss="infonce", match=match, negatives=negatives, temperature=0.3, head_norm="layer")
    step = Step(batch(), both.model, VIEWS, {}, Draws(3, ROWS))
    total = both.objectives["it"](step).total
    a, b = (maps(both, step, view) for view in ("a", "b"))
    ways = []
    for x, y in ((a, b), (b, a)):
        pooled = {i: unit(y["z"][i][y["valid"][i]].mean(0)) for i in range(ROWS) if y["valid"][i].any()}
        losses = []
        for i in range(ROWS):
            for p, q in matched(x, y, match, i, 0.7 if match == "place" else None, None):
                query = unit(x["z"][i, p])
                logits = [query @ unit(y["z"][i, q])]
                if negatives == "samples":
                    logits += [query @ key for j, key in pooled.items() if j != i]
                else:
                    for other in (y, x):
                        for r in np.flatnonzero(other["valid"][i]):
                            if np.linalg.norm(other["at"][i, r] - x["at"][i, p]) / 2**0.5 >= 0.7:
                                logits.append(query @ unit(other["z"][i, r]))
                logits = np.array(logits) / 0.3
                losses.append(np.log(np.exp(logits).sum()) - logits[0])
        ways.append(np.mean(losses))
    assert total.item() == pytest.approx(np.mean(ways), abs=1e-6)


def test_densecls_queue_holds_the_mean_patches_of_earlier_steps() -> None:
    """Queue alone: nothing in the first step, then those of both views of the steps before, oldest out first."""
    options: dict[str, Any] = {"loss": "infonce", "match": "feature", "target": "teacher", "momentum": [0.5, 0.5]}
    both = build(**options, negatives="queue", queue=15, head_norm="layer")
    objective = both.objectives["it"]
    kept: list[np.ndarray] = []
    for number in range(3):
        step = Step(toy_world.batch(toy_world.raw(ROWS, seed=number)), both.model, VIEWS, {}, Draws(number, ROWS))
        total = objective(step).total
        own = [maps(both, step, view) for view in ("a", "b")]
        theirs = [objective._maps(step, view, objective.teacher.net)["signal"] for view in ("a", "b")]
        taught = [{"z": m.z.double().numpy(), "t": m.regions.tokens.double().numpy()} for m in theirs]
        taught = [t | {"valid": m["valid"]} for t, m in zip(taught, own, strict=True)]
        queue, ways = np.array(kept[-15:]), []
        for x, y in ((own[0], taught[1]), (own[1], taught[0])):
            losses = []
            for i in range(ROWS):
                for p, q in matched(x, y, "feature", i, None, None):
                    query = unit(x["z"][i, p])
                    logits = np.array([query @ unit(y["z"][i, q]), *(queue @ query if kept else [])]) / 0.2
                    losses.append(np.log(np.exp(logits).sum()) - logits[0])
            ways.append(np.mean(losses))
        assert total.item() == pytest.approx(np.mean(ways), abs=1e-6, rel=1e-6) and (number == 0) == (total == 0)
        for y in taught:
            kept += [unit(y["z"][i][y["valid"][i]].mean(0)) for i in range(ROWS) if y["valid"][i].any()]
        if number == 1:  # given up and done once more: it counts once
            both.discard()
            objective(step)
        both.after_step(0.5)
    rows = np.roll(objective.queue.rows.numpy(), -(int(objective.queue.put) % 15), 0)
    np.testing.assert_allclose(rows, np.array(kept[-15:]), atol=1e-6)


def test_pixpro_is_its_formula_and_follows_its_teacher() -> None:
    both = build(loss="cosine", target="teacher", within=0.9, momentum=[0.5, 0.5])
    objective = both.objectives["it"]
    assert objective.teaches == ()
    assert build(loss="cosine", target="teacher", export="teacher").objectives["it"].teaches == ("signal",)
    with torch.no_grad():  # a teacher that differs
        for p in objective.teacher.net.parameters():
            p.mul_(0.9)
    step = Step(batch(), both.model, VIEWS, {}, Draws(3, ROWS))
    total = objective(step).total
    own = [maps(both, step, view) for view in ("a", "b")]
    theirs = [objective._maps(step, view, objective.teacher.net)["signal"].z.detach().double().numpy() for view in "ab"]
    value = objective.predictor.values
    weight, bias = (t.detach().double().numpy() for t in (value.weight, value.bias))
    ways = []
    for x, y, target in ((own[0], own[1], theirs[1]), (own[1], own[0], theirs[0])):
        losses = []
        for i in range(ROWS):
            z, valid = unit(x["z"][i]), x["valid"][i]
            alike = np.maximum(z @ z.T, 0) ** 2 * valid[None]
            guess = alike @ unit(x["z"][i] @ weight.T + bias)
            cosines = [
                unit(guess[p]) @ unit(target[i, q])
                for p, q in itertools.product(np.flatnonzero(valid), np.flatnonzero(y["valid"][i]))
                if np.linalg.norm(x["at"][i, p] - y["at"][i, q]) / 2**0.5 < 0.9
            ]
            losses += [-2 * np.mean(cosines)] if cosines else []
        ways.append(np.mean(losses))
    assert total.item() == pytest.approx(np.mean(ways), abs=1e-6)
    total.backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    before = {n: p.clone() for n, p in objective.teacher.net.named_parameters()}
    both.after_step(0.5)
    student = dict(objective._student(both.model).named_parameters())
    for name, p in objective.teacher.net.named_parameters():
        torch.testing.assert_close(p, (before[name] + student[name]) / 2)
    assert any(name.startswith("objectives.it.teacher") for name in both.state_dict())


def test_views_of_different_places_and_absent_samples_say_nothing() -> None:
    for options in ({}, {"loss": "infonce"}, {"loss": "infonce", "negatives": "patches"}, {"loss": "cosine"}):
        both = build(**options)
        both.objectives["it"].config.within = 1e-6
        net = both.model
        step = Step(batch(absent=0.0), net, {**VIEWS, "b": {"signal": {"gain": 0.3, "shift": 1}}}, {}, Draws(3, ROWS))
        places = step.places("signal", "b")
        step._memo["places", "signal", "b"] = Places(places.centre + 100, places.size)
        loss = both.objectives["it"](step)
        assert loss.total == 0 and loss.parts["matched"] == 0
        loss.total.backward()
        assert all(p.grad.isfinite().all() for p in both.parameters() if p.grad is not None)
        nothing = toy_world.batch({name: [None] * 4 for name in toy_world.PREPROCESSORS})
        assert both(nothing, Draws(1, 4)).total == 0


def test_towers_of_several_modalities_and_regions_and_half_precision() -> None:
    net = toy_world.model(joint=True)
    torch.manual_seed(1)
    options = {"tower": "all", "match": "feature", "loss": "infonce", "views": ["a", "b"]}
    objective = dense.Dense(dense.Config(**SMALL | options), net)
    both = Pretraining(net, {"it": objective}, VIEWS, {})
    exact = both(batch(), Draws(1, ROWS)).total
    assert exact > 0
    with torch.autocast("cpu", torch.bfloat16):
        half = both(batch(), Draws(1, ROWS)).total
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.05)
    three = build(views=["a", "b", "c"], loss="infonce")
    step = Step(batch(), three.model, VIEWS, {}, Draws(3, ROWS))
    assert three.objectives["it"]._pairs(step) == [("a", "b"), ("a", "c"), ("b", "c")]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"views": ["a"]}, "expected two different ones"),
        ({"views": ["a", "a"]}, "expected two different ones"),
        ({"target": "teacher"}, "target: found teacher, expected online"),
        ({"loss": "cosine", "within": None}, "within: found null"),
        ({"loss": "infonce", "negatives": "patches", "within": None}, "within: found null"),
        ({"tower": "graph"}, "modality 'graph' does not say where"),
        ({"region": 2}, "patches of modality 'signal' lie on no grid"),
        ({"temperature": 0.1}, "temperature: found 0.1"),
        ({"loss": "infonce", "negatives": "queue"}, "queue: found 0"),
        ({"loss": "infonce", "negatives": "patches", "queue": 4}, "queue: found 4"),
        ({"match": "feature", "within": 0.5}, "within: found 0.5"),
        ({"loss": "cosine", "predictor_hidden": 8}, "predictor_hidden: found 8"),
        ({"momentum": [0.9, 1.0]}, "momentum: found"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(**options)


def test_views_that_leave_the_tower_alone_are_refused() -> None:
    both = build(views=["clean", "nodes"])
    with pytest.raises(UserError, match="views clean, nodes are the same for tower 'signal'"):
        both(batch(), Draws(1, ROWS))
