"""Matching: who is torn, what counts as the same, the loss against float64, and that it learns to compare."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.objectives import contrastive, mae
from mmssl.objectives.matching import Config, Matching, content_hash, partners, rows_of
from mmssl.objectives.pretraining import Pretraining
from mmssl.patches import Patches

ROWS = 12


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("there", [0, 1, 2, 3, 40])
def test_exactly_the_share_is_torn_in_a_cycle_of_those_that_have_both(there, share):
    both = torch.zeros(40, dtype=torch.bool)
    both[torch.randperm(40)[:there]] = True
    partner = partners(Draws(there, 40), both, share)
    torn = partner != torch.arange(40)
    expected = 0 if there < 2 else min(max(int(share * there + 0.5), 2), there)
    assert int(torn.sum()) == expected and not (torn & ~both).any()
    assert sorted(partner.tolist()) == list(range(40))  # nobody's content is shown twice
    at = int(torn.nonzero()[0]) if expected else 0
    seen = set()
    while at not in seen:
        seen.add(at)
        at = int(partner[at])
    assert len(seen) == max(expected, 1)  # one cycle


def test_who_is_torn_differs_from_step_to_step_and_is_even():
    both = torch.ones(10, dtype=torch.bool)
    counts = sum((partners(Draws(k, 10), both, 0.5) != torch.arange(10)).long() for k in range(2000))
    assert (counts.sum(), counts.shape) == (10_000, (10,))
    assert (counts - 1000).abs().max() < 4 * (2000 * 0.25) ** 0.5


def test_hashes_tell_contents_apart_and_no_padding():
    torch.manual_seed(0)
    ids = torch.randint(9, (300, 6))
    valid = torch.arange(6) < torch.randint(1, 7, (300, 1))
    coords = torch.zeros(300, 6, 1)
    found = content_hash(Patches(ids, coords, valid))
    contents = [tuple(row[there].tolist()) for row, there in zip(ids, valid, strict=True)]
    for a in range(300):
        for b in range(a):
            assert (found[a] == found[b]).item() == (contents[a] == contents[b])
    longer = Patches(F.pad(ids, (0, 5), value=3), F.pad(coords, (0, 0, 0, 5)), F.pad(valid, (0, 5)))
    assert torch.equal(content_hash(longer), found)
    numbers = torch.tensor([[[1.0, float("nan")]], [[1.0, float("nan")]], [[float("nan"), 1.0]]])
    a, b, c = content_hash(Patches(numbers, torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool))).tolist()
    assert a == b != c


def test_graphs_with_other_edges_are_other_content():
    values, coords, valid = torch.ones(2, 3, 1), torch.zeros(2, 3, 1), torch.ones(2, 3, dtype=torch.bool)
    links = torch.tensor([[[0, 1, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 0], [1, 0, 0]]])
    a, b = content_hash(Patches(values, coords, valid, links=links)).tolist()
    assert a != b
    swapped = rows_of(Patches(values, coords, valid, links=links), torch.tensor([1, 0]))
    assert torch.equal(swapped.links, links[[1, 0]]) and content_hash(swapped).tolist() == [b, a]


# ------------------------------------------------------------------------------------------------------- the objective


def build(joint: bool, **options) -> Pretraining:
    net = toy_world.model(joint)
    config = Config(**{"towers": ["all"] if joint else ["table", "signal"], "hidden": 16} | options)
    return Pretraining(net, {"match": Matching(config, net)}, {}, {})


def batch(seed: int = 3, same: bool = False):
    raw = toy_world.raw(ROWS, seed=seed)
    raw["graph"][4] = raw["signal"][5] = raw["table"][6] = None
    if same:
        raw["signal"] = [raw["signal"][0]] * ROWS
    return toy_world.batch(raw)


def test_two_towers_equal_the_formula_in_float64():
    pretraining = build(joint=False, share=0.7)
    draws = Draws(5, ROWS)
    step = pretraining.step(batch(), draws)
    loss = pretraining.objectives["match"](step)
    both = step.patches("table").present & step.patches("signal").present
    partner = partners(draws("matching", "clean", "table", "signal"), both, 0.7)
    a, b = (step.pooled(t)[0].double() for t in ("table", "signal"))
    head = pretraining.objectives["match"].head.double()
    u, v = head.sides[0](a), head.sides[1](b[partner])
    z = torch.cat([u, v, u * v], 1)
    z = 0.5 * z * (1 + torch.erf(z / 2**0.5))
    z = (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    logit = (z * head.norm.weight + head.norm.bias) @ head.out.weight[0] + head.out.bias
    whole = partner == torch.arange(ROWS)
    each = torch.where(whole, -torch.log(torch.sigmoid(logit)), -torch.log(1 - torch.sigmoid(logit)))
    assert 0 < int((~whole).sum()) < int(both.sum()) < ROWS
    assert loss.total.item() == pytest.approx(each[both].mean().item(), abs=1e-6)
    expected = ((logit > 0) == whole)[both].double().mean().item()
    assert loss.parts["accuracy"].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("swap", ["signal", "graph"])
def test_one_tower_sees_the_swapped_inputs_as_if_they_were_the_samples_own(swap):
    pretraining = build(joint=True, swap=swap)
    draws = Draws(5, ROWS)
    data = batch()
    step = pretraining.step(data, draws)
    loss = pretraining.objectives["match"](step).total
    there = {name: step.patches(name).present for name in ("table", "signal", "graph")}
    both = there.pop(swap) & torch.stack(list(there.values())).any(0)
    partner = partners(draws("matching", "clean", "all"), both, 0.5)
    torn = data | {swap: {k: v[partner] for k, v in data[swap].items()}}
    pooled = pretraining.step(torn, draws).pooled("all")[0]
    logits = pretraining.objectives["match"].head(pooled)[both]
    whole = (partner == torch.arange(ROWS))[both].float()
    wanted = F.binary_cross_entropy_with_logits(logits, whole)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    assert len(step.encodings()["all"]) > 0  # it enters the gradient shares


def test_equal_content_is_no_torn_pair():
    pretraining = build(joint=False)
    step = pretraining.step(batch(same=True), Draws(5, ROWS))
    head = pretraining.objectives["match"].head
    torch.nn.init.zeros_(head.out.weight)
    torch.nn.init.constant_(head.out.bias, 30.0)  # says of everything that it belongs together
    loss = pretraining.objectives["match"](step)
    assert loss.total.item() == pytest.approx(0.0, abs=1e-6) and loss.parts["accuracy"].item() == 1.0


def test_two_towers_share_the_forward_of_a_clip():
    net = toy_world.model()
    clip = contrastive.Contrastive(contrastive.Config(towers=["table", "signal"]), net)
    both = Pretraining(net, {"clip": clip, "match": Matching(Config(towers=["table", "signal"]), net)}, {}, {})
    counted = []
    for name in ("table", "signal"):
        net.tower(name).register_forward_hook(lambda *_, name=name: counted.append(name))
    both(batch(), Draws(5, ROWS))
    assert counted == ["table", "signal"]


@pytest.mark.parametrize("joint", [True, False])
def test_nothing_that_counts_is_zero_with_a_gradient(joint):
    pretraining = build(joint)
    raw = toy_world.raw(ROWS, seed=1) | {"signal": [None] * ROWS, "graph": [None] * ROWS}
    loss = pretraining(toy_world.batch(raw), Draws(5, ROWS)).total
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None for p in pretraining.objectives["match"].parameters())


@pytest.mark.slow
@pytest.mark.parametrize("joint", [True, False])
def test_it_learns_to_compare(joint):
    """A table whose first cell says the sign of the signal, which neither side tells alone. Half of the torn pairs
    agree by chance, so that the best classifier is right in three of four and its loss is 3/4 H(1/3), where H is the
    entropy of a coin."""
    torch.manual_seed(0)
    pretraining = build(joint, **({"swap": "signal"} if joint else {}))
    optimizer = torch.optim.AdamW(pretraining.parameters(), 3e-3)
    found = []
    for number in range(150):
        raw = toy_world.raw(48, seed=number, absent=0.0)
        kind = torch.randint(2, (48,), generator=torch.Generator().manual_seed(number)).tolist()
        raw["table"] = [row | {next(iter(row)): float(4 * k - 2)} for row, k in zip(raw["table"], kind, strict=True)]
        raw["signal"] = [x * 0 + (k - 0.5) * 3 for x, k in zip(raw["signal"], kind, strict=True)]
        raw["graph"] = [None] * 48
        loss = pretraining(toy_world.batch(raw), Draws(number, 48))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        found.append((loss.total.item(), loss.parts["match.accuracy"].item()))
    total, right = torch.tensor(found[-30:]).mean(0).tolist()
    best = -0.75 * (math.log(1 / 3) / 3 + 2 / 3 * math.log(2 / 3))
    assert best - 0.03 < total < best + 0.04 and 0.71 < right < 0.79
    assert torch.tensor(found[:5])[:, 0].mean() > 0.6


@pytest.mark.parametrize(
    ("joint", "options", "line"),
    [
        (False, {"towers": ["table"]}, "found 'table' alone, which holds one modality"),
        (False, {"towers": ["table", "table"]}, "expected one, or two different ones"),
        (False, {"towers": ["table", "signal", "graph"]}, "expected one, or two different ones"),
        (False, {"swap": "signal"}, "swap: found 'signal' with two towers"),
        (True, {"swap": "grap"}, "found 'grap', expected one of tower 'all': table, signal, graph; did you mean"),
    ],
)
def test_refusals(joint, options, line):
    with pytest.raises(UserError, match=line):
        build(joint, **options)


def test_it_sits_beside_masked_modelling_in_one_tower():
    net = toy_world.model(joint=True)
    masked = mae.MAE(mae.Config(tower="all", mask="half", decoder=toy_world.DECODER), net)
    match = Matching(Config(towers=["all"]), net)
    masks = {"half": toy_world.Random(ratio=0.5)}
    shares = Pretraining(net, {"mae": masked, "match": match}, {}, masks)(batch(), Draws(5, ROWS), shares=True).shares
    assert shares is not None and all(0.001 < shares[f"all/{name}"].item() < 0.999 for name in ("mae", "match"))
