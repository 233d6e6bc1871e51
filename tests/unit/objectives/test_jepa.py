"""JEPA as an objective: what is refused, what is never a target, what each option does. Its formula is in tests/parity,
two processes in tests/distributed."""

from __future__ import annotations

import pytest
import torch
from toys import world as toy_world

from benchmarks.teacher_free import ARMS
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.latent import average_layers, latent_loss, normalised_latents
from mmssl.losses.regularisers import covariance, variance
from mmssl.masking import FeatureSubsets, MultiBlock, Random, TimeBlocks
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.objectives import jepa
from mmssl.objectives.base import load_objective
from mmssl.objectives.options.jepa import PredictorConfig, RegulariserConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step
from mmssl.options.schema import build
from mmssl.recipe.loading import load_recipe

MASKS = {"subsets": FeatureSubsets(), "blocks": MultiBlock(), "half": Random(ratio=0.5)}
ROWS = 6


def model(prefix: int = 1, frozen: str = "") -> MMSSLModel:
    torch.manual_seed(0)
    names = list(toy_world.PREPROCESSORS)
    towers = {n: TowerConfig(width=24, depth=3, heads=2, prefix=prefix, frozen=n == frozen) for n in names}
    specs = {n: {"type": f"toys.{n}", **p.sizes()} for n, p in toy_world.PREPROCESSORS.items()}
    return MMSSLModel(MMSSLConfig(modalities=specs, towers={n: tower_spec(t) for n, t in towers.items()}))


def work(net: MMSSLModel, **options: object) -> Pretraining:
    torch.manual_seed(1)
    config = jepa.Config(predictor=toy_world.PREDICTOR, **options)
    return Pretraining(net, {"jepa": jepa.JEPA(config, net)}, {}, MASKS)


@pytest.mark.parametrize("kind", ["sigreg", "vicreg"])
def test_a_regulariser_that_counts_for_nothing_is_none(kind):
    faults: list[str] = []
    build(RegulariserConfig, {"kind": kind, "weight": 0}, "regulariser", faults)
    assert faults == ["regulariser.weight: found 0, expected > 0 and <= 1000000"]


def test_the_benchmark_of_collapse_alone_may_train_without_one():
    net = model()
    options = {"tower": "table", "mask": "subsets", "teacher": "none", "predictor": toy_world.PREDICTOR}
    with pytest.raises(UserError, match="a constant embedding is the best one"):
        jepa.JEPA(jepa.Config(**options), net)
    config, cls = load_objective(ARMS["none"]["type"])
    loss = Pretraining(net, {"jepa": cls(config(**options), net)}, {}, MASKS)(batch(), Draws(3, ROWS))
    assert torch.equal(loss.total.detach(), loss.parts["jepa"]) and not any("reg" in name for name in loss.parts)
    loss.total.backward()
    assert any(p.grad is not None for p in net.tower("table").parameters())


def batch(absent: float = 0.0) -> dict:
    return toy_world.batch(toy_world.raw(ROWS, seed=2, absent=absent))


def step_of(pretraining: Pretraining, data: dict, key: int = 3) -> Step:
    return Step(data, pretraining.model, {}, pretraining.masks, Draws(key, ROWS))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tower": "table"}, "found no mask"),
        ({"tower": "table", "mask": "subsets", "target_mask": "half"}, "target_mask without another target_tower"),
        ({"tower": "table", "mask": "subsets", "teacher": "none"}, "a constant embedding is the best one"),
        ({"tower": "table", "mask": "subsets", "average_layers": 4}, "has 3 blocks"),
        ({"tower": "table", "mask": "subsets", "momentum": [0.9]}, "expected two numbers"),
        ({"tower": "table", "mask": "subsets", "weights": {"graph": 2.0}}, "names modality 'graph'"),
        ({"tower": "table", "mask": "subsets", "stop_gradient": True}, "stop_gradient: found true, which has no"),
    ],
)
def test_impossible_recipes_are_refused_with_the_reason(options, reason):
    with pytest.raises(UserError, match=reason):
        work(model(), **options)


def test_a_tower_that_cannot_drop_is_refused_as_context_and_taken_as_target():
    net = model()
    net.tower("table").drops = False
    with pytest.raises(UserError, match="must see all its patches"):
        work(net, tower="table", mask="subsets")
    work(net, tower="table", target_tower="signal", target_mask="blocks")(batch(), Draws(1, ROWS))
    work(net, tower="signal", mask="blocks", target_tower="table")(batch(), Draws(1, ROWS))


def test_prefix_tokens_are_in_every_sequence_and_never_a_target():
    """T-JEPA's published collator draws [REG] as a target and never the last column (seed 3): here positions are those
    of columns, and each of them is context and target."""
    pretraining = work(model(prefix=2), tower="table", mask="subsets", loss="l2", normalise_targets=False)
    objective = pretraining.objectives["jepa"]
    asked, seen, prefixes = set(), set(), []
    predictor = objective.predictors["table"]

    def note(_, args):
        asked.update(args[3].coords[args[3].valid].flatten().tolist())
        prefixes.append(args[0].shape)

    predictor.register_forward_pre_hook(note)
    for key in range(10):
        pretraining(batch(), Draws(key, ROWS)).total.backward()
        seen.update(
            step_of(pretraining, batch(), key)
            .encode("table", mask="subsets")
            .patches["table"]
            .coords.flatten()
            .tolist()
        )
    assert asked == seen == {0.0, 1.0, 2.0}
    assert set(prefixes) == {(ROWS, 2, 24)}
    grad = pretraining.model.tower("table").prefix.tokens.grad
    assert grad.abs().sum() > 0  # by attention alone
    with torch.no_grad():  # what the teacher makes of its prefix tokens enters no target
        step = step_of(pretraining, batch())
        targets = objective._encode_targets(step)
        before = objective(step).total
        targets.prefix.add_(100.0)
        assert torch.equal(objective(step).total, before)


def test_prefix_tokens_may_stay_out_of_the_predictor():
    """ECG-JEPA's register is the encoder's alone: the predictor gives what it gives of a context without one."""
    options = {"tower": "signal", "mask": "blocks", "loss": "l1"}
    with pytest.raises(UserError, match="predictor.prefix: found false, which has no effect"):
        alone(model(prefix=0), **options)
    kept, left = work(model(prefix=2), **options), alone(model(prefix=2), **options)
    seen = []
    left.objectives["jepa"].predictors["signal"].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    step = step_of(left, batch())
    total = left.objectives["jepa"](step).total
    assert seen == [(ROWS, 0, 24)] and total != kept.objectives["jepa"](step_of(kept, batch())).total
    context = step.encode("signal", mask="blocks")
    context.prefix.data.add_(100.0)
    assert torch.equal(left.objectives["jepa"](step).total, total)
    total.backward()
    assert left.model.tower("signal").prefix.tokens.grad.abs().sum() > 0  # by attention in the encoder


def alone(net: MMSSLModel, **options: object) -> Pretraining:
    """`work` with a predictor that gets no prefix."""
    torch.manual_seed(1)
    predictor = PredictorConfig(width=16, depth=1, heads=2, prefix=False)
    return Pretraining(net, {"jepa": jepa.JEPA(jepa.Config(predictor=predictor, **options), net)}, {}, MASKS)


def test_the_recipe_with_the_papers_name_is_ecg_jepa():
    recipe = load_recipe("ecg_jepa", ["data.path=records"])
    objective, mask = recipe.objectives["jepa"].config, recipe.masks["stretches"].config
    assert (objective.normalise_targets, objective.predictor.prefix, objective.loss) == (False, False, "l1")
    assert (mask.draw, mask.context) == ("lengths", [0.15, 0.25])


def test_context_sees_no_target():
    pretraining = work(model(), tower="signal", mask="blocks")
    data = batch()
    step = step_of(pretraining, data)
    split = step.splits("signal", "blocks")["signal"]
    patches = step.patches("signal")
    values = patches.values.clone()
    hidden = patches.hidden_by(split.hide)
    values[hidden] = values[hidden] + 1.0
    changed = data | {"signal": pretraining.model.modality("signal").unpatchify(values, data["signal"])}
    a = step.encode("signal", mask="blocks").tokens["signal"]
    b = step_of(pretraining, changed).encode("signal", mask="blocks").tokens["signal"]
    assert hidden.any() and torch.equal(a, b)


def by_hand(pretraining: Pretraining, step: Step, name: str, mask: str, kind: str, layers: int, normed: bool) -> float:
    """The loss, one sample and one target set at a time."""
    objective = pretraining.objectives["jepa"]
    split, patches = step.splits(name, mask)[name], step.patches(name)
    net = objective.teacher.net
    total, count = 0.0, 0
    for i in range(ROWS):
        one = patches.take(torch.arange(patches.count).expand(ROWS, -1))
        one = type(one)(*(getattr(one, f)[i : i + 1] for f in ("values", "coords", "valid")))
        keep = split.keep[i : i + 1][:, split.keep[i] >= 0]
        with torch.no_grad():
            depth = net.depth
            whole = net({name: one}, layers=range(1, depth + 1))
            target = whole.tokens[name]
            if layers > 1:
                target = average_layers([whole.layers[j][name] for j in range(depth - layers + 1, depth + 1)])
            if normed:
                target = normalised_latents(target)
            context = pretraining.model.tower(name)({name: one.take(keep)})
            for block in split.hide[i]:
                block = block[block >= 0][None]
                if block.shape[1]:
                    said = objective.predictors[name](
                        context.prefix, context.tokens[name], one.take(keep), one.take(block)
                    )
                    loss = latent_loss(said, target[:, block[0]], kind)
                    valid = one.valid[:, block[0]]
                    total, count = total + float(loss[valid].sum()), count + int(valid.sum())
    return total / count


@pytest.mark.parametrize("kind", ["l1", "cosine"])
@pytest.mark.parametrize(("layers", "normed"), [(1, True), (1, False), (2, True)])
def test_padded_batches_equal_one_sample_at_a_time(kind, layers, normed):
    options = {"loss": kind, "average_layers": layers, "normalise_targets": normed}
    pretraining = work(model(), tower="signal", mask="blocks", **options)
    step = step_of(pretraining, batch())
    loss = pretraining.objectives["jepa"](step).total.item()
    assert loss == pytest.approx(by_hand(pretraining, step, "signal", "blocks", kind, layers, normed), abs=2e-6)


def test_sets_are_predicted_apart_or_as_one():
    apart, together = (work(model(), tower="signal", mask="blocks", predict=p) for p in ("apart", "together"))
    counts = []
    for pretraining in (apart, together):
        predictor = pretraining.objectives["jepa"].predictors["signal"]
        predictor.register_forward_pre_hook(lambda _, args: counts.append((args[3].batch, int(args[3].valid.sum()))))
        pretraining(batch(), Draws(1, ROWS))
    step = step_of(apart, batch(), 1)
    hide = step.splits("signal", "blocks")["signal"].hide
    assert counts[0] == (4 * ROWS, int((hide >= 0).sum()))
    assert counts[1] == (ROWS, int(step.patches("signal").hidden_by(hide).sum()))
    one = TimeBlocks(shortest=2)
    a, b = work(model(), tower="signal", mask="half"), work(model(), tower="signal", mask="half", predict="together")
    a.masks, b.masks = {"half": one}, {"half": one}
    assert torch.equal(a(batch(), Draws(1, ROWS)).total, b(batch(), Draws(1, ROWS)).total)


def test_without_a_teacher_the_gradient_goes_through_the_targets_unless_stopped():
    vicreg = RegulariserConfig(kind="vicreg")
    grads = {}
    for stop in (False, True):
        options = {"teacher": "none", "stop_gradient": stop, "regulariser": vicreg}
        pretraining = work(model(), tower="table", mask="subsets", **options)
        objective = pretraining.objectives["jepa"]
        assert objective.teacher is None
        loss = pretraining(batch(), Draws(1, ROWS))
        loss.total.backward()
        grads[stop] = pretraining.model.modality("table").number.weight.grad.clone()
        step = step_of(pretraining, batch(), 1)
        sides = [step.encode("table", mask="subsets")] + ([] if stop else [step.encode("table")])
        rows = [e.pooled() for e in sides]
        expected = sum(variance(r) + 0.04 * covariance(r) for r in rows) / len(rows)
        torch.testing.assert_close(loss.parts["jepa.vicreg"], expected.detach(), rtol=0, atol=1e-6)
        torch.testing.assert_close(loss.total, loss.parts["jepa.prediction"] + expected, rtol=0, atol=1e-6)
    assert not torch.allclose(grads[False], grads[True])


def test_a_frozen_target_tower_is_its_own_teacher():
    net = model(frozen="signal")
    pretraining = work(net, tower="graph", target_tower="signal", target_mask="blocks")
    assert pretraining.objectives["jepa"].teacher is None
    pretraining(batch(), Draws(1, ROWS)).total.backward()
    assert all(p.grad is None for p in net.tower("signal").parameters())
    assert net.modality("graph").proj.weight.grad.abs().sum() > 0


def test_across_modalities_only_samples_with_both_count():
    pretraining = work(model(), tower="signal", target_tower="table", loss="l2")
    samples = toy_world.raw(ROWS, seed=2, absent=0.0)
    samples["table"][0] = samples["table"][1] = None
    whole = pretraining(toy_world.batch(samples), Draws(1, ROWS)).total
    few = {n: v[2:] for n, v in samples.items()}
    torch.testing.assert_close(pretraining(toy_world.batch(few), Draws(1, 4, 2)).total, whole, rtol=0, atol=1e-6)
    samples["table"] = [None] * ROWS
    nothing = pretraining(toy_world.batch(samples), Draws(1, ROWS)).total
    nothing.backward()
    assert nothing == 0 and all(torch.isfinite(p.grad).all() for p in pretraining.parameters() if p.grad is not None)
    samples = toy_world.raw(ROWS, seed=2, absent=0.0)  # and where the context is what is missing
    samples["signal"][0] = samples["signal"][1] = None
    whole = pretraining(toy_world.batch(samples), Draws(1, ROWS)).total
    torch.testing.assert_close(pretraining(toy_world.batch(few), Draws(1, 4, 2)).total, whole, rtol=0, atol=1e-6)


def test_spread_and_health_are_logged():
    pretraining = work(model(), tower="signal", mask="blocks")
    loss = pretraining(batch(), Draws(1, ROWS))
    assert loss.parts["jepa.target_std"] > 0
    health = pretraining.objectives["jepa"].health(step_of(pretraining, batch()))
    assert health["teacher/agreement"] > 0.999  # the teacher starts as the student


@pytest.mark.parametrize("case", ["nothing trains it", "frozen", "another objective trains it"])
def test_targets_of_a_tower_that_nothing_trains_are_warned_of(case: str, caplog: pytest.LogCaptureFixture) -> None:
    net = model()
    net.tower("signal").frozen = case == "frozen"
    objectives = {"told": jepa.JEPA(jepa.Config(tower="table", target_tower="signal"), net)}
    if case == "another objective trains it":
        objectives["own"] = jepa.JEPA(jepa.Config(tower="signal", mask="blocks"), net)
    with caplog.at_level("WARNING", logger="mmssl"):
        Pretraining(net, objectives, {}, {"blocks": Random(ratio=0.5)})
    warned = [r.getMessage() for r in caplog.records if "which no objective trains" in r.getMessage()]
    assert len(warned) == (case == "nothing trains it") and all("objectives.told" in w for w in warned)
