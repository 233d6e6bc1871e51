"""Contrastive, redundancy and bootstrap objectives as configured: pairs, heads, gradient cache, DirectPred's state."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import world as toy_world
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.regularisers import directions
from mmssl.masking import Random
from mmssl.objectives import bootstrap, contrastive, redundancy
from mmssl.objectives.parts.heads import BatchNorm
from mmssl.objectives.parts.sides import SideOptions, Sides
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.patches import Patches
from mmssl.schedules import RampConfig

VIEWS = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}}
MASKS = {"half": Random(ratio=0.5), "other": Random(ratio=0.5)}
SMALL = {"head_hidden": 16, "head_width": 8}


def work(objective, net=None):
    return Pretraining(net or toy_world.model(), {"it": objective}, VIEWS, MASKS)


def result(objective, net, rows=7, absent=0.3):
    """(loss, gradient by name) on a batch."""
    both = work(objective, net)
    both.zero_grad()
    loss = both(toy_world.batch(toy_world.raw(rows, seed=2, absent=absent)), Draws(1, rows)).total
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in both.named_parameters() if p.grad is not None}


def same(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        near = 1e-5 * max(float(gradient.abs().max()), 1)
        torch.testing.assert_close(other[1][name], gradient, rtol=0, atol=near, msg=name)


# -------------------------------------------------------------------------------- large batches in little memory

CACHED = {
    "clip": (contrastive, {"towers": ["table", "signal", "graph"]}),
    "masked": (contrastive, {"towers": ["table", "signal"], "mask": "half", "mode": "replace"}),
    "dclw": (contrastive, {"towers": ["signal"], "masks": ["half", "other"], "loss": "dclw", **SMALL}),
    "sigmoid": (contrastive, {"towers": ["table", "graph"], "loss": "sigmoid"}),
    "moco": (contrastive, {"towers": ["table", "signal"], "keys": "teacher", "queue": 9, "negatives": "both"}),
    "barlow": (redundancy, {"towers": ["signal"], "views": ["a", "b"], "weight": 0.1, **SMALL}),
    "byol": (bootstrap, {"towers": ["signal"], "views": ["a", "b"], "predictor_hidden": 8, **SMALL}),
}


def build(module, options, net):
    kind = next(c for n, c in vars(module).items() if n in ("Contrastive", "Redundancy", "Bootstrap"))
    torch.manual_seed(1)
    return kind(module.Config(**options), net)


@pytest.mark.parametrize("case", list(CACHED))
def test_gradient_cache_and_chunks_equal_the_plain_batch(case):
    """Also with absent modalities, which `raw` leaves out of three samples in ten."""
    module, options = CACHED[case]
    more = {"cache_rows": 3} | ({"chunk": 2} if module is contrastive else {})
    net = toy_world.model()
    plain, cached = build(module, options, net), build(module, options | more, net)
    same(result(plain, net), result(cached, net))


def test_the_gradient_cache_keeps_no_activations():
    """What the forward pass holds for the backward pass, but for inputs and weights, which are there anyway."""
    net = toy_world.model()
    batch, kept = toy_world.batch(toy_world.raw(32, absent=0.0)), {}
    for rows in (None, 4):
        held = 0
        mine = {p.data_ptr() for p in net.parameters()}

        def pack(x, mine=mine):
            nonlocal held
            held += 0 if x.data_ptr() in mine else x.numel()
            return x

        step = Step({"signal": batch["signal"]}, net, {}, {}, Draws(1, 32))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            pooled, present = step.pooled("signal", rows=rows)
        assert pooled.shape == (32, 24) and present.all()
        kept[rows] = held
    assert kept[4] < kept[None] / 50


def test_the_cache_encodes_one_chunk_at_a_time():
    net = toy_world.model()
    sizes = []
    net.towers["signal"].register_forward_hook(lambda _, args, out: sizes.append(len(out.tokens["signal"])))
    step = Step(toy_world.batch(toy_world.raw(8, absent=0.0)), net, {}, {}, Draws(1, 8))
    pooled, _ = step.pooled("signal", rows=3)
    assert sizes == [3, 3, 2]
    pooled.sum().backward()
    assert sizes == [3, 3, 2, 2, 3, 3]  # again, the last one first


# ---------------------------------------------------------------------------------------------------------- pairs


def labels(**options):
    net = toy_world.model()
    sides = Sides(SideOptions(**options), net, "contrastive")
    step = Step(toy_world.batch(toy_world.raw(4)), net, VIEWS, MASKS, Draws(1, 4))
    return tuple([f"{a.label}-{b.label}" for a, b in pairs] for pairs in sides.plan(step))


def test_pairs():
    three = ["table", "signal", "graph"]
    assert labels(towers=three) == (["table-signal", "table-graph", "signal-graph"], [])
    assert labels(towers=three, hub_tower="graph") == (["table-graph", "signal-graph"], [])
    assert labels(towers=["signal"], views=["a", "b"]) == ([], ["signal.1-signal.2"])
    # the views change the signal only, so the table has one side
    both = labels(towers=["table", "signal"], views=["a", "b"], pairs="both", within_towers=["signal"])
    assert both == (["table-signal.1", "table-signal.2"], ["signal.1-signal.2"])
    masked = labels(towers=["table", "signal"], masks=["half", "other"], pairs="within")
    assert masked == ([], ["table.1-table.2", "signal.1-signal.2"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"towers": ["signal"]}, "two views"),
        ({"towers": ["signal"], "pairs": "across"}, "at least two towers"),
        ({"towers": ["signal", "signal"]}, "different towers"),
        ({"towers": ["signal"], "views": ["a", "b"], "masks": ["half"] * 3}, "2 views and 3 masks"),
        ({"towers": ["signal"], "mask": "half", "masks": ["half", "other"]}, "both mask and masks"),
        ({"towers": ["table", "graph"], "hub_tower": "signal"}, "hub_tower: found 'signal'"),
        ({"towers": ["table", "graph"], "within_towers": ["table"]}, "needs pairs: within or both"),
        ({"towers": ["table", "graph"], "views": ["a", "b"], "pairs": "within"}, "leave its modalities alone"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        labels(**options)


def test_objectives_refuse_what_they_cannot_do():
    net = toy_world.model()
    with pytest.raises(UserError, match="no lower bound"):
        build(contrastive, {"towers": ["table", "graph"], "loss": "dcl", "learn_temperature": True}, net)
    for outside in (2.0, 0.001):  # the first step would move it without a word
        with pytest.raises(UserError, match="kept between 1 and max_scale = 100"):
            build(contrastive, {"towers": ["table", "graph"], "temperature": outside}, net)
        fixed = {"temperature": outside, "learn_temperature": False}
        build(contrastive, {"towers": ["table", "graph"], **fixed}, net)
    with pytest.raises(UserError, match="has links"):
        build(redundancy, {"towers": ["graph"], "views": ["a", "b"], "loss": "mixed_barlow"}, net)
    with pytest.raises(UserError, match="mixes the whole inputs"):
        build(redundancy, {"towers": ["signal"], "masks": ["half", "other"], "loss": "mixed_barlow"}, net)


# ------------------------------------------------------------------------------------------------------------ LeJEPA

LOOKS = {**VIEWS, "c": {"signal": {"gain": 0.9}}}


def lejepa(net=None, **options):
    torch.manual_seed(1)
    net = net or toy_world.model()
    options = {"towers": ["signal"], "views": ["a", "b", "c"], "loss": "lejepa", **SMALL, **options}
    return Pretraining(net, {"it": redundancy.Redundancy(redundancy.Config(**options), net)}, LOOKS, MASKS)


def lejepa_by_hand(found, leading, slices, share, knots=17, bound=5.0):
    """The paper's formula of projections [(z (n, D), there (n,))], one sample at a time, in float64."""
    distances, spreads = [], []
    for i in range(len(found[0][0])):
        mine = [z[i] for z, there in found if there[i]]
        led = [z[i] for (z, there), lead in zip(found, leading, strict=True) if there[i] and lead]
        if len(mine) > 1 and led:
            middle = np.mean(led, 0)
            distances += [np.mean((z - middle) ** 2) for z in mine]
    at = np.linspace(-bound, bound, knots)
    normal = np.exp(-(at**2) / 2)
    for z, there in found:
        for direction in slices.T:
            projected = z[there] @ direction
            wave = np.exp(1j * at[:, None] * projected[None]).mean(1)
            spreads.append(there.sum() * np.trapezoid(np.abs(wave - normal) ** 2 * normal, at))
    return (1 - share) * np.mean(distances) + share * np.mean(spreads)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_views": ["a", "b"], "sigreg_weight": 0.3},
        {"global_views": ["b"], "knots": 9, "bound": 3.0},
        {"towers": ["table", "signal", "graph"], "views": ["c", "a"], "global_views": ["a"]},  # others: once, as `c`
        {"towers": ["table", "graph"], "views": ["clean"], "slices": 5},
        {"views": ["clean"], "masks": ["half", "other"], "mode": "replace"},
    ],
)
def test_lejepa_is_its_formula_with_absent_inputs(options):
    both = lejepa(**options)
    objective, c = both.objectives["it"], both.objectives["it"].config
    batch = toy_world.batch(toy_world.raw(11, seed=4, absent=0.3))
    step = Step(batch, both.model, LOOKS, MASKS, Draws(3, 11))
    total = objective(step).total
    (group,) = objective.sides.groups(step)
    pairs = [objective._embed(step, side) for side in group]
    found = [(z.detach().double().numpy(), there.numpy()) for z, there in pairs]
    assert 0 < sum(there.sum() for _, there in found) < 11 * len(found)
    chosen = c.global_views or c.views
    leading = [side.tower != "signal" or side.view in chosen for side in group]
    slices = directions(step.draws("sigreg"), 8, c.slices).double().numpy()
    assert np.abs(np.linalg.norm(slices, axis=0) - 1).max() < 1e-6
    expected = lejepa_by_hand(found, leading, slices, c.sigreg_weight, c.knots, c.bound)
    assert total.item() == pytest.approx(expected, abs=1e-6)


def test_lejepa_of_each_tower_is_the_mean_of_theirs_and_nothing_at_all_is_no_loss():
    net = toy_world.model()
    masks = {"masks": ["half", "other"], "views": ["clean"]}
    each = [lejepa(net, towers=[name], **masks) for name in ("signal", "graph")]
    both = lejepa(net, towers=["signal", "graph"], pairs="within", **masks)
    for one, name in zip(each, ("signal", "graph"), strict=True):
        both.objectives["it"].heads[name].load_state_dict(one.objectives["it"].heads[name].state_dict())
    batch = toy_world.batch(toy_world.raw(9, seed=5, absent=0.0))
    totals = [work(Draws(1, 9)).total for work in (lambda d, w=w: w(batch, d) for w in (*each, both))]
    torch.testing.assert_close(totals[2], (totals[0] + totals[1]) / 2, rtol=0, atol=1e-6)
    nothing = toy_world.batch({name: [None] * 9 for name in toy_world.PREPROCESSORS})
    total = both(nothing, Draws(1, 9)).total
    total.backward()
    assert total == 0 and all(p.grad.isfinite().all() for p in both.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"global_views": ["a", "d"]}, "found 'd', expected some of views"),
        ({"global_views": []}, "global_views: found none"),
        ({"towers": ["signal", "table"], "pairs": "both"}, "pulls all sides of a sample to one mean"),
        ({"towers": ["signal", "table"], "hub_tower": "table"}, "pulls all sides of a sample to one mean"),
        ({"loss": "vicreg", "global_views": ["a"]}, "global_views: found"),
        ({"sigreg_weight": 0.1, "loss": "barlow"}, "sigreg_weight: found 0.1"),
    ],
)
def test_lejepa_refuses_what_it_cannot_do(options, reason):
    with pytest.raises(UserError, match=reason):
        lejepa(**options)


def test_both_is_the_sum_of_across_and_within():
    net = toy_world.model()
    options = {"towers": ["table", "signal"], "views": ["a", "b"]}
    across, within, both = (
        build(contrastive, options | {"pairs": pairs} | change, net)
        for pairs, change in (
            ("across", {}),
            ("within", {"within_towers": ["signal"], "temperature": 0.07, **SMALL}),
            ("both", {"within_towers": ["signal"], "within_weight": 0.5, **SMALL}),
        )
    )
    both.heads.load_state_dict(within.heads.state_dict())
    parts = [result(o, net)[0] for o in (across, within, both)]
    torch.testing.assert_close(parts[0] + 0.5 * parts[1], parts[2])


# ------------------------------------------------------------------------------------------------- heads, mixing, state


def test_batch_norm_is_torchs_on_the_present_rows():
    torch.manual_seed(0)
    x, valid = torch.randn(9, 5), torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 0]).bool()
    ours, theirs = BatchNorm(5), nn.BatchNorm1d(5)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.arange(1.0, 6.0))
    torch.testing.assert_close(ours(x, valid)[valid], theirs(x[valid]), rtol=1e-5, atol=1e-6)
    assert torch.isfinite(ours(x, torch.zeros(9, dtype=torch.bool))).all()


def test_mixing_meets_at_the_same_coordinates():
    """Whatever the order and the padding of the other sample's patches."""
    values, coords = torch.randn(2, 4, 3), torch.randn(2, 4, 2)
    a = Patches(values, coords, torch.ones(2, 4, dtype=torch.bool))
    order = torch.tensor([3, 0, 2, 1])
    theirs = Patches(
        torch.cat([values[:, order] * 2, torch.zeros(2, 1, 3)], 1),
        torch.cat([coords[:, order].flip(0).flip(0), torch.zeros(2, 1, 2)], 1),
        torch.tensor([[True] * 4 + [False], [True] * 3 + [False] * 2]),
    )
    mixed = redundancy.mix(a, theirs, torch.tensor([0, 1]), torch.tensor(0.25))
    torch.testing.assert_close(mixed.values[0], values[0] * (0.25 + 0.75 * 2))
    torch.testing.assert_close(mixed.values[1, [0, 2, 3]], values[1, [0, 2, 3]] * (0.25 + 0.75 * 2))
    torch.testing.assert_close(mixed.values[1, 1], values[1, 1] * 0.25)  # its place was hidden there


def test_a_temperature_goes_by_its_ramp():
    net = toy_world.model()
    options = {"towers": ["signal"], "views": ["a", "b"], "temperature": 0.2, **SMALL}
    moving = build(contrastive, options | {"temperature_ramp": RampConfig(first=3.0, end=1.0, shape="cosine")}, net)
    batch = toy_world.batch(toy_world.raw(7))
    for progress, temperature in ((0.0, 0.6), (0.25, 0.2 * (2 + math.sqrt(0.5))), (1.0, 0.2)):
        steady = build(contrastive, options | {"temperature": temperature}, net)
        steady.load_state_dict(moving.state_dict())
        found, wanted = work(moving, net), work(steady, net)
        found.progress = progress
        torch.testing.assert_close(found(batch, Draws(1, 7)).total, wanted(batch, Draws(1, 7)).total)
    with refused("temperature_ramp", "0"):
        build(contrastive, options | {"temperature_ramp": RampConfig()}, net)


def test_partners_are_a_permutation_of_the_present():
    valid = torch.tensor([1, 1, 0, 1, 0, 1]).bool()
    found = redundancy.partners(Draws(3, 6), valid)
    assert found[~valid].tolist() == [2, 4] and sorted(found[valid].tolist()) == [0, 1, 3, 5]
    half = redundancy.partners(Draws(3, 3, 3, 6), valid)  # the second of two processes
    assert torch.equal(found, half)


def test_direct_predictor_moves_after_the_step_only_and_stays_symmetric():
    net = toy_world.model()
    objective = build(bootstrap, {"towers": ["signal"], "views": ["a", "b"], "predictor": "direct", **SMALL}, net)
    predictor = objective.predictors["signal"]
    both = work(objective, net)
    batch = toy_world.batch(toy_world.raw(8, absent=0.2))
    before = copy.deepcopy(objective.state_dict())
    inputs = []
    hook = predictor.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()[args[1]].double()))
    both(batch, Draws(1, 8)).total.backward()
    hook.remove()
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name
    both.after_step(0.5)
    rows = torch.cat(inputs)
    assert 0 < len(rows) < 16  # of both views, without the absent ones
    torch.testing.assert_close(predictor.correlation.double(), rows.T @ rows / len(rows), rtol=0, atol=1e-6)
    assert torch.equal(predictor.weight, predictor.weight.T) and not torch.equal(predictor.weight, torch.eye(8))
    first = predictor.correlation.clone()
    both(batch, Draws(2, 8))
    now = torch.stack(predictor.seen).sum(0)
    both.after_step(0.6)
    torch.testing.assert_close(predictor.correlation, 0.3 * first + 0.7 * now[:8] / now[-1, 0])
    assert not any(p.requires_grad for p in predictor.parameters())
    kept = predictor.correlation.clone()
    batch["signal"]["signal"] = batch["signal"]["signal"] * torch.inf
    assert not torch.isfinite(both(batch, Draws(3, 8)).total)
    both.after_step(0.7)  # the loss tells of it; the average does not keep it
    assert torch.equal(predictor.correlation, kept) and not predictor.seen


def test_the_teacher_follows_and_targets_get_no_gradient():
    net = toy_world.model()
    objective = build(bootstrap, {"towers": ["signal"], "views": ["a", "b"], "momentum": [0.9, 1.0], **SMALL}, net)
    _, gradient = result(objective, net)
    assert not any("teacher" in name for name in gradient)
    before = {n: p.clone() for n, p in objective.teacher.net.named_parameters()}
    with torch.no_grad():
        for p in net.towers["signal"].parameters():
            p.add_(1.0)
    work(objective, net).after_step(0.0)
    moved = {n: p - before[n] for n, p in objective.teacher.net.named_parameters() if n.startswith("towers")}
    assert moved
    for name, by in moved.items():
        torch.testing.assert_close(by, torch.full_like(by, 0.1), rtol=0, atol=1e-5, msg=name)
