"""Several objectives in one recipe: shared forwards, one mask for teacher and student, and who pulls the encoders."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.masking import Random
from mmssl.objectives import contrastive, mae, redundancy
from mmssl.objectives.parts.teacher import Teacher
from mmssl.objectives.pretraining import Pretraining, Squares, add_squares, gradient_shares

ROWS = 6
WEIGHT = 1e-3


def both(clip_mask: str | None = "half", weight: float = 0.5) -> Pretraining:
    """CLIP of signal and graph, and a masked autoencoder of the signal."""
    net = toy_world.model()
    clip = contrastive.Config(towers=["signal", "graph"], mask=clip_mask)
    config = mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER, weight=weight)
    objectives = {"clip": contrastive.Contrastive(clip, net), "mae": mae.MAE(config, net)}
    return Pretraining(net, objectives, {}, {"half": Random(ratio=0.5)})


def batch() -> dict[str, dict[str, torch.Tensor]]:
    return toy_world.batch(toy_world.raw(ROWS, seed=3))


def calls(pretraining: Pretraining, names: list[str] | None = None) -> Counter[str]:
    """How often each tower is run in one forward."""
    counted: Counter[str] = Counter()

    def count(name: str):
        return lambda *_: counted.update([name])

    hooks = [tower.register_forward_hook(count(name)) for name, tower in pretraining.model.towers.items()]
    pretraining(batch(), Draws(5, ROWS))
    for hook in hooks:
        hook.remove()
    return counted


def test_objectives_that_name_the_same_view_and_mask_share_one_forward():
    assert calls(both("half")) == {"signal": 1, "graph": 1}
    assert calls(both(None)) == {"signal": 2, "graph": 1}


def test_a_view_that_leaves_a_tower_alone_is_its_clean_view():
    pretraining = both()
    pretraining.views = {"loud": {"signal": {"gain": 0.9}}}
    step = pretraining.step(batch(), Draws(5, ROWS))
    for mask in (None, "half"):
        assert step.encode("graph", "loud", mask) is step.encode("graph", mask=mask)
        assert step.encode("signal", "loud", mask) is not step.encode("signal", mask=mask)


def test_sharing_changes_no_loss():
    """The masked loss and the contrastive loss are those that each has alone."""
    together = both("half")
    losses = together(batch(), Draws(5, ROWS)).parts
    for name in ("clip", "mae"):
        alone = both("half")
        alone.objectives = nn.ModuleDict({name: alone.objectives[name]})
        assert alone(batch(), Draws(5, ROWS)).parts[name].item() == pytest.approx(losses[name].item(), abs=1e-6)


def test_teacher_and_student_see_one_mask():
    pretraining = both("half")
    teacher = Teacher(pretraining.model.tower("signal"))
    step = pretraining.step(batch(), Draws(5, ROWS))
    ours = step.encode("signal", mask="half")
    with torch.no_grad():
        theirs = step.encode("signal", mask="half", net=teacher.net)
        again = step.encode("signal", mask="half", net=teacher.net)
    assert again is theirs and theirs is not ours
    torch.testing.assert_close(ours.patches["signal"].coords, theirs.patches["signal"].coords, rtol=0, atol=0)
    torch.testing.assert_close(ours.tokens["signal"], theirs.tokens["signal"], rtol=0, atol=1e-6)
    assert step.encodings().keys() == {"signal"}  # the teacher's are not trained


def norms_alone(name: str, weight: float, clip_mask: str | None) -> dict[str, float]:
    """|d weighted loss / d tower's output| of one objective that is alone in its recipe, by backward and hooks."""
    pretraining = both(clip_mask, weight)
    pretraining.objectives = nn.ModuleDict({name: pretraining.objectives[name]})
    kept: dict[str, list[torch.Tensor]] = {}

    def keep(tower: str):
        def hook(module, args, encoded):
            for tensor in [encoded.prefix, *encoded.tokens.values()]:
                if tensor.requires_grad:
                    tensor.retain_grad()
                    kept.setdefault(tower, []).append(tensor)

        return hook

    for tower, module in pretraining.model.towers.items():
        module.register_forward_hook(keep(tower))
    loss = pretraining(batch(), Draws(5, ROWS))
    loss.total.backward()
    squares = {t: sum(float(x.grad.double().square().sum()) for x in v if x.grad is not None) for t, v in kept.items()}
    return {tower: square**0.5 for tower, square in squares.items()}


@pytest.mark.parametrize("clip_mask", ["half", None])
@pytest.mark.parametrize("weight", [0.5, 20.0])
def test_gradient_shares_are_those_of_each_objective_alone(clip_mask, weight):
    shares = both(clip_mask, weight)(batch(), Draws(5, ROWS), shares=True).shares
    assert shares is not None
    clip, masked = norms_alone("clip", weight, clip_mask), norms_alone("mae", weight, clip_mask)
    whole = {"clip": (clip["signal"] ** 2 + clip["graph"] ** 2) ** 0.5, "mae": masked["signal"]}
    expected = {name: norm / sum(whole.values()) for name, norm in whole.items()}
    total = clip["signal"] + masked["signal"]
    expected |= {"signal/clip": clip["signal"] / total, "signal/mae": masked["signal"] / total}
    assert {name: value.item() for name, value in shares.items()} == pytest.approx(expected, abs=1e-5)
    assert 0.01 < shares["signal/mae"].item() < 0.99


def test_measuring_gives_no_parameter_a_gradient_and_changes_none():
    plain, measured = both(), both()
    touched: list[str] = []
    for name, p in measured.named_parameters():
        p.register_post_accumulate_grad_hook(lambda _, name=name: touched.append(name))
    a, b = plain(batch(), Draws(5, ROWS)), measured(batch(), Draws(5, ROWS), shares=True)
    assert not touched and all(p.grad is None for p in measured.parameters())
    a.total.backward()
    b.total.backward()
    assert touched
    for (name, p), q in zip(plain.named_parameters(), measured.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


def test_layers_count_and_a_single_objective_has_no_share():
    net = toy_world.model()
    first = mae.Config(tower="signal", mask="half", decoder=mae.DecoderConfig(width=16, depth=1, heads=2, layer=1))
    last = mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER)
    pretraining = Pretraining(
        net, {"early": mae.MAE(first, net), "late": mae.MAE(last, net)}, {}, {"half": Random(ratio=0.5)}
    )
    shares = pretraining(batch(), Draws(5, ROWS), shares=True).shares
    assert shares.keys() == {"early", "late", "signal/early", "signal/late"}
    assert all(0.01 < value.item() < 0.99 for value in shares.values())
    step = pretraining.step(batch(), Draws(5, ROWS))
    squares: Squares = {}
    add_squares({"late": pretraining.objectives["late"](step).total}, step, squares)
    assert squares["signal"]["late"] > 0 and gradient_shares(squares, ["late"]) == {}


def test_an_encoding_with_more_layers_does_for_fewer_and_never_the_other_way():
    step = both().step(batch(), Draws(5, ROWS))
    plain = step.encode("signal", mask="half")
    deep = step.encode("signal", mask="half", layers=[1, 2])
    assert deep is not plain and not plain.layers and set(deep.layers) == {1, 2}
    assert step.encode("signal", mask="half", layers=[2]) is deep
    fresh = both().step(batch(), Draws(5, ROWS))
    first = fresh.encode("signal", mask="half", layers=[1])
    assert fresh.encode("signal", mask="half") is first
    assert fresh.encode("signal", mask="half", layers=[2]) is not first
    assert fresh.encode("signal", layers=[1]) is not first


@pytest.mark.parametrize("rows", [None, 2])
def test_the_forward_of_mixed_inputs_has_its_share(rows):
    """Against backward of the objective alone with hooks on what the tower gave: three forwards, the third is mixed."""
    views = {"a": {"signal": {"gain": 0.2}}, "b": {"signal": {"gain": 0.5}}}

    def build(names: tuple[str, ...]) -> Pretraining:
        net = toy_world.model()
        mixed = redundancy.Config(
            towers=["signal"],
            views=["a", "b"],
            loss="mixed_barlow",
            head_width=8,
            head_hidden=16,
            off_diagonal=0.5,
            cache_rows=rows,
            weight=WEIGHT,
        )
        config = mae.Config(tower="signal", mask="half", decoder=toy_world.DECODER)
        objectives = {"mixed": redundancy.Redundancy(mixed, net), "mae": mae.MAE(config, net)}
        return Pretraining(net, {n: objectives[n] for n in names}, views, {"half": Random(ratio=0.5)})

    def alone(name: str) -> tuple[float, int]:
        pretraining = build((name,))
        step = pretraining.step(batch(), Draws(5, ROWS))
        kept: list[torch.Tensor] = []
        if rows is None:  # the tower's outputs themselves
            hook = pretraining.model.tower("signal").register_forward_hook(
                lambda module, args, encoded: kept.extend([encoded.prefix, *encoded.tokens.values()])
            )
            loss = pretraining.objectives[name](step).total
            hook.remove()
        else:  # what was kept of the chunks
            loss = pretraining.objectives[name](step).total
            kept = step.encodings()["signal"]
        found = torch.autograd.grad(loss, kept, allow_unused=True)
        return sum(float(g.double().square().sum()) for g in found if g is not None) ** 0.5, len(kept)

    (mixed, count), (masked, _) = alone("mixed"), alone("mae")
    assert count == (6 if rows is None else 3)
    shares = build(("mixed", "mae"))(batch(), Draws(5, ROWS), shares=True).shares
    assert shares is not None
    assert shares["signal/mixed"].item() == pytest.approx(WEIGHT * mixed / (WEIGHT * mixed + masked), abs=1e-5)
    assert 0.01 < shares["signal/mixed"].item() < 0.99
