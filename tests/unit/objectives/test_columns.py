"""Views that read another column of their modality: one encoder of two inputs, and samples that lack one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from toys import world as toy_world
from toys import worlds
from toys.refusals import refused

from mmssl.draws import Draws
from mmssl.objectives import contrastive, jepa, mae, matching
from mmssl.objectives.parts.between import found_in, hidden_target
from mmssl.objectives.step import Step

ROWS = 8
VIEWS = {"later": {"signal": {"column": "later"}}, "louder": {"signal": {"column": "later", "gain": 0.5}}}


def raw(seed: int = 3, absent: float = 0.3) -> dict[str, list]:
    return toy_world.later(toy_world.raw(ROWS, seed, absent), absent=absent)


def step_of(samples: dict[str, list], net: Any = None) -> Step:
    masks = {"half": toy_world.Random(ratio=0.5)}
    return Step(toy_world.batch(samples), net or toy_world.model(), VIEWS, masks, Draws(1, ROWS))


def pairs_of(samples: dict[str, list]) -> torch.Tensor:
    """(B,) bool: rows that have both columns."""
    pairs = zip(samples["signal"], samples["later"], strict=True)
    return torch.tensor([a is not None and b is not None for a, b in pairs])


def test_a_view_shows_the_column_as_it_is_or_augmented() -> None:
    step = step_of(raw())
    modality, other = step.model.modality("signal"), step.batch["later"]
    torch.testing.assert_close(
        step.patches("signal", "later").values, modality.patchify(other).values, rtol=0, atol=0, equal_nan=True
    )
    louder = modality.augment(other, Draws(1, ROWS)("view", "louder", "signal"), gain=0.5)
    torch.testing.assert_close(step.inputs("signal", "louder")["signal"], louder["signal"], equal_nan=True)
    assert step.patches("table", "later") is step.patches("table")


def test_pairs_of_columns_through_the_projection_are_info_nce() -> None:
    """In float64 from what the tower makes of either column; rows that lack one are neither asked nor told from."""
    samples, net = raw(), toy_world.model()
    objective = contrastive.Contrastive(
        contrastive.Config(towers=["signal"], views=["clean", "later"], project_within=True, temperature=0.2), net
    )
    assert not list(objective.parameters())
    loss = objective(step_of(samples, net)).total
    step = step_of(samples, net)
    x, y = (net.project("signal", step.pooled("signal", view)[0]).double() for view in ("clean", "later"))
    both = pairs_of(samples)
    x, y = F.normalize(x[both], dim=1), F.normalize(y[both], dim=1)
    right = torch.arange(int(both.sum()))
    expected = (F.cross_entropy(x @ y.T / 0.2, right) + F.cross_entropy(y @ x.T / 0.2, right)) / 2
    assert 2 < len(right) < ROWS
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)


def test_a_sample_that_lacks_a_column_counts_nothing() -> None:
    """Whatever its other column holds."""
    samples = raw(absent=0.0)
    samples["later"][0] = samples["later"][5] = samples["signal"][2] = None
    changed = {name: list(values) for name, values in samples.items()}
    for name, row in (("signal", 0), ("signal", 5), ("later", 2)):
        changed[name][row] = changed[name][row][:, ::-1] * 3
    found = []
    for content in (samples, changed):
        work = worlds.of_two_columns()
        # centres, assignments and batch norms are of all rows of a side; gmml reads the later column alone, and beside
        # reconstructs the main one, whatever it is beside; what is pooled is pooled of what there is
        for name in ("dino", "vicreg", "byol", "gmml", "beside", "pooled", "mean"):
            del work.objectives[name]
        loss = work(toy_world.batch(content), Draws(9, ROWS))
        loss.total.backward()
        found.append((loss.parts, {n: p.grad for n, p in work.named_parameters() if p.grad is not None}))
    for name in work.objectives:
        assert float(found[0][0][name]) > 0
        torch.testing.assert_close(found[1][0][name], found[0][0][name], rtol=1e-6, atol=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-5, atol=1e-5)


def test_the_same_places_are_found_in_a_longer_column() -> None:
    """Patches of a longer signal have other numbers; targets are those at the hidden places."""
    samples = toy_world.raw(ROWS, 3, absent=0.0)
    samples["later"] = [torch.cat([torch.from_numpy(one), torch.randn(12, 40)], 1).numpy() for one in samples["signal"]]
    step = step_of(samples)
    split = step.split("signal", "half")
    queries = step.patches("signal").take(split.hide.flatten(1))
    assert step.patches("signal", "later").count > step.patches("signal").count
    plain, other = (hidden_target(step, "signal", v, "volts", split, queries, "clean") for v in ("clean", "later"))
    whole = queries.valid & ~plain.isnan().any(-1)
    torch.testing.assert_close(other[whole], plain[whole])
    index = found_in(step, "signal", "later", split.hide.flatten(1), "clean")
    assert ((index >= 0) == queries.valid).all()
    # and back: what the shorter one does not have is no target
    splits = step.splits("signal", "half", "later")["signal"].hide.flatten(1)
    there = found_in(step, "signal", "clean", splits, "later") >= 0
    seconds = step.patches("signal", "later").take(splits).coords[..., 0]
    assert not there[seconds >= step.patches("signal").coords[..., 0].max() + 0.05].any()


@pytest.mark.parametrize(("options", "places"), [({}, "all"), ({"target_mask": "half"}, "half")])
def test_all_of_a_column_is_predicted_from_another(options: dict[str, str], places: str) -> None:
    """Without a mask every patch of the other column is a target, and its own tokens are no context."""
    net = toy_world.model()
    config = jepa.Config(tower="signal", target_view="later", predictor=toy_world.PREDICTOR, **options)
    objective = jepa.JEPA(config, net)
    samples = raw()
    step = step_of(samples, net)
    counted = objective.counts(step)["0.signal"].flatten(1)
    here = torch.tensor([one is not None for one in samples["signal"]])
    patches = step.patches("signal", "later")
    targets = patches.valid if places == "all" else patches.take(step.split("signal", "half", "later").hide[:, 0]).valid
    assert (counted.sum(1) == targets.sum(1) * here).all() and counted.any()
    assert objective.relies_on == ()
    step.encode("signal", "later", net=objective.teacher.net)
    loss = objective(step)
    loss.total.backward()
    assert net.tower("signal").trunk.blocks[0].attention.qkv.weight.grad.abs().sum() > 0
    # another context says something else of the same targets
    changed = samples | {"signal": [None if one is None else one * 2 for one in samples["signal"]]}
    assert float(objective(step_of(changed, net)).total.detach()) != pytest.approx(float(loss.total.detach()), abs=1e-6)


def test_matching_tells_torn_answers_from_whole_ones() -> None:
    """The second side is the other column's embedding, of another sample where the pair is torn."""
    net, samples = toy_world.model(), raw(absent=0.0)
    objective = matching.Matching(matching.Config(towers=["signal"], other_view="later", hidden=16), net)
    step = step_of(samples, net)
    loss = float(objective(step).total.detach())
    order = matching.partners(step.draws("matching", "clean", "signal"), torch.ones(ROWS, dtype=torch.bool), 0.5)
    assert (order != torch.arange(ROWS)).sum() == ROWS // 2
    a, b = step.pooled("signal")[0], step.pooled("signal", "later")[0]
    logits = objective.head(a, b[order]).double()
    whole = (order == torch.arange(ROWS)).double()
    assert loss == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, whole).detach()), abs=1e-6)


def test_what_cannot_be_between_columns_is_refused() -> None:
    net, joint = toy_world.model(), toy_world.model(joint=True)
    two = {"views": ["clean", "later"], "project_within": True}
    with refused("project_within", "all", "model.projection"):
        contrastive.Contrastive(contrastive.Config(towers=["all"], **two), joint)
    with refused("head_width", "project_within: false"):
        contrastive.Contrastive(contrastive.Config(towers=["signal"], head_width=8, **two), net)
    with refused("mask", "target_view"):
        jepa.JEPA(jepa.Config(tower="signal", predictor=toy_world.PREDICTOR), net)
    for options in ({"towers": ["signal", "table"]}, {"swap": "signal"}, {"view": "later"}):
        with refused("other_view", "later"):
            matching.Matching(matching.Config(**({"towers": ["signal"], "other_view": "later"} | options)), net)
    # nodes of one graph are none of another's
    step = Step(toy_world.batch(raw()) | {}, net, {"other": {"graph": {"column": "net"}}}, {}, Draws(1, ROWS))
    samples = toy_world.raw(ROWS, seed=11)["graph"]
    samples[0] = {"x": torch.randn(9, 4).numpy(), "edges": [[0], [8]]}
    step.batch["net"] = toy_world.PREPROCESSORS["graph"](samples)
    with refused("graph", "other", "nodes"):
        found_in(step, "graph", "other", torch.zeros(ROWS, 1, dtype=torch.int64), "clean")


def test_the_targets_of_masked_autoencoding_are_those_of_the_other_column() -> None:
    """The error is taken where both columns have the place."""
    net, samples = toy_world.model(), raw()
    config = mae.Config(tower="signal", mask="half", target_view="later", decoder=toy_world.DECODER)
    objective = mae.MAE(config, net)
    step = step_of(samples, net)
    counted = objective.counts(step)["signal"]
    both = pairs_of(samples)
    assert counted.any(1).tolist() == both.tolist()
    split = step.split("signal", "half")
    queries = step.patches("signal").take(split.hide.flatten(1))
    wanted = step.patches("signal", "later")
    for row, place in counted.nonzero().tolist():
        same = (wanted.coords[row] == queries.coords[row, place]).all(-1) & wanted.valid[row]
        assert same.sum() == 1
