"""Distilling regions (EsViT, CMD) against the formulas, one patch at a time, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.distillation import centred_softmax
from mmssl.objectives.distillation import Config, Distillation, HeadConfig
from mmssl.objectives.pretraining import Pretraining
from mmssl.objectives.step import Step

HEAD = HeadConfig(prototypes=6, hidden=16, bottleneck=8, layers=2)
VIEWS: dict[str, Any] = {
    "a": {"signal": {"gain": 0.2}},
    "b": {"signal": {"gain": 0.5, "shift": 2}},
    "c": {"signal": {"gain": 0.9}},
}
ROWS = 6


def build(**options: Any) -> Pretraining:
    torch.manual_seed(1)
    net = toy_world.model()
    base: dict[str, Any] = {"tower": "signal", "global_views": ["a", "b"], "local_views": ["c"], "head": HEAD}
    config = Config(**base | {"patch_head": HEAD, "targets": "centring", "region_weight": 1.0} | options)
    return Pretraining(net, {"dino": Distillation(config, net)}, VIEWS, {})


def stepped(both: Pretraining) -> Step:
    return Step(toy_world.batch(toy_world.raw(ROWS, seed=4)), both.model, VIEWS, {}, Draws(3, ROWS))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("shared", [False, True])
def test_region_and_instance_losses_are_their_formulas(shared: bool) -> None:
    both = build(instance_weight=0.5, **({"patch_head": None} if shared else {}))
    objective = both.objectives["dino"]
    with torch.no_grad():  # a teacher, and a centre, that differ
        for p in [*objective.teacher.net.parameters(), *objective.teacher_heads.net.parameters()]:
            p.mul_(0.9)
        objective.region_centre.normal_(std=0.3)
    step = stepped(both)
    loss = objective(step)
    head = "class" if shared else "patch"
    students: dict[str, Any] = {}
    teachers: dict[str, Any] = {}
    for view in "abc":
        e = step.encode("signal", view)
        tokens, valid = e.tokens["signal"], e.patches["signal"].valid
        logits = objective.heads[head](tokens) / 0.1
        students[view] = [x.detach().double().numpy() for x in (tokens, logits, objective.heads["class"](e.pooled()))]
        students[view].append(valid.numpy())
    for view in "ab":
        with torch.no_grad():
            e = step.encode("signal", view, net=objective.teacher.net)
            logits = objective.teacher_heads.net[head](e.tokens["signal"])
            target = centred_softmax(logits, objective.region_centre, 0.04)
        teachers[view] = [e.tokens["signal"].double().numpy(), target.double().numpy()]
    region, between, within = [], [], []
    for view, (tokens, logits, whole, valid) in students.items():
        for i in (i for i in range(ROWS) if valid[i].any()):
            bag = softmax(logits[i][valid[i]]).mean(0)
            image = softmax(whole[i] / 0.1)
            between.append((image * np.log(image / bag)).sum())
            for other, (theirs, target) in teachers.items():
                there = np.flatnonzero(students[other][3][i])
                if other == view or not len(there):
                    continue
                losses = []
                for p in np.flatnonzero(valid[i]):
                    best = there[np.argmax([unit(tokens[i, p]) @ unit(theirs[i, q]) for q in there])]
                    losses.append(-(target[i, best] * np.log(softmax(logits[i, p]))).sum())
                region.append(np.mean(losses))
                within.append(-(target[i, there].mean(0) * np.log(bag)).sum())
    assert loss.parts["region"].item() == pytest.approx(np.mean(region), abs=1e-6, rel=1e-6)
    assert loss.parts["instance"].item() == pytest.approx(np.mean(between) + np.mean(within), abs=1e-6, rel=1e-6)
    total = sum(loss.parts[n].item() * w for n, w in (("class", 1), ("region", 1), ("instance", 0.5)))
    assert loss.total.item() == pytest.approx(total, rel=1e-6)


def test_the_centre_of_regions_moves_after_the_step_and_is_kept() -> None:
    both = build()
    both(stepped(both).batch, Draws(3, ROWS)).total.backward()
    objective = both.objectives["dino"]
    assert not objective.region_centre.any() and all(p.grad is not None for p in objective.heads["patch"].parameters())
    both.after_step(0.5)
    assert objective.region_centre.any() and "objectives.dino.region_centre" in both.state_dict()
    plain = build(region_weight=0.0, patch_head=None)
    assert not hasattr(plain.objectives["dino"], "region_centre")


def test_regions_alone_and_absent_samples() -> None:
    both = build(class_weight=0.0, targets="sinkhorn", patch_head=None)
    assert set(both.objectives["dino"](stepped(both)).parts) == {"region"}
    nothing = toy_world.batch({name: [None] * 4 for name in toy_world.PREPROCESSORS})
    total = both(nothing, Draws(1, 4)).total
    total.backward()
    assert total == 0 and all(p.grad.isfinite().all() for p in both.parameters() if p.grad is not None)
    with torch.autocast("cpu", torch.bfloat16):
        assert both.objectives["dino"](stepped(both)).total.isfinite()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"global_views": ["a"], "local_views": []}, "views are compared"),
        ({"instance_weight": 1.0, "class_weight": 0.0}, "instance_weight: found a weight, and class_weight 0"),
        (
            {"instance_weight": 1.0, "patch_head": HeadConfig(prototypes=7, hidden=16, bottleneck=8, layers=2)},
            "patch_head.prototypes: found 7, expected 6",
        ),
        ({"region_weight": 0.0}, "patch_head"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        build(**options)
