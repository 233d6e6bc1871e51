"""The EMA teacher: its arithmetic, what it shares with a frozen student, and its place in a checkpoint."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn
from toys import world as toy_world

from mmssl.errors import UserError
from mmssl.models.options import TowerConfig
from mmssl.objectives.jepa import JEPA, Config
from mmssl.objectives.parts.teacher import Momentum, Teacher
from mmssl.objectives.pretraining import Pretraining


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_average_is_the_formula_in_float64():
    student = net()
    teacher = Teacher(student)
    expected = {n: p.detach().double().clone() for n, p in student.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for p in student.parameters():
                p.add_(torch.randn_like(p))
        teacher.update(student, 0.9)
        for n, p in student.named_parameters():
            expected[n] = 0.9 * expected[n] + 0.1 * p.detach().double()
    for n, p in teacher.net.named_parameters():
        torch.testing.assert_close(p.double(), expected[n], rtol=0, atol=1e-6)
        assert not p.requires_grad
    assert all(p.requires_grad for p in student.parameters())


def test_stays_in_eval_mode():
    teacher = Teacher(net())
    nn.ModuleList([teacher]).train()
    assert not any(m.training for m in teacher.modules())


def test_frozen_parameters_are_the_students_own_and_not_stored():
    student = net()
    student[0].requires_grad_(False)
    teacher = Teacher(student)
    assert teacher.net[0].weight is student[0].weight
    assert teacher.net[3].weight is not student[3].weight
    whole = nn.ModuleDict({"student": student, "teacher": teacher})
    state = whole.state_dict()
    assert "teacher.net.0.weight" not in state and "teacher.net.3.weight" in state
    saved = {k: v.clone() for k, v in state.items()}
    with torch.no_grad():
        for p in whole.parameters():
            p.zero_()
    other = copy.deepcopy(whole)
    other.load_state_dict(saved)
    for k, v in other.state_dict().items():
        torch.testing.assert_close(v, saved[k])


def test_momentum_schedule():
    cosine = Momentum(0.996, 1.0, "cosine")
    assert cosine.at(0) == 0.996
    assert cosine.at(1) == pytest.approx(1.0)
    assert Momentum(0.9, 1.0, "cosine").at(0.5) == pytest.approx(0.95)
    assert Momentum(0.0, 1.0, "linear").at(0.25) == 0.25
    assert Momentum(0.0, 1.0, "cosine").at(0.25) == pytest.approx((1 - 2**-0.5) / 2)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_tower_is_not_copied_before_its_gradient_is_off_either(frozen):
    """Objectives make their teachers before `Pretraining` takes the gradient from frozen towers."""
    model = toy_world.model()
    tower = model.tower("signal")
    tower.frozen = frozen
    student = nn.ModuleDict({"tower": tower, "head": nn.Linear(2, 2)})
    assert all(p.requires_grad for p in student.parameters())
    teacher = Teacher(student)
    ours, theirs = dict(student.named_parameters()), dict(teacher.net.named_parameters())
    shared = {name for name, p in theirs.items() if p is ours[name]}
    assert shared == ({name for name in ours if name.startswith("tower.")} if frozen else set())
    assert {name.removeprefix("net.") for name in teacher.state_dict()} & shared == set()
    before = {name: p.detach().clone() for name, p in theirs.items()}
    with torch.no_grad():
        ours["head.weight"].add_(1.0)
    teacher.update(student, 0.5)
    torch.testing.assert_close(theirs["head.weight"], before["head.weight"] + 0.5)
    for name in shared:
        torch.testing.assert_close(theirs[name], before[name], rtol=0, atol=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [200, 1000])
def test_a_short_run_forgets_its_start_in_the_share_that_was_asked_for(steps, schedule):
    momentum = Momentum.of(Config(tower="signal", schedule=schedule, forget=0.2), steps)
    assert momentum.first < 0.996
    left = math.prod(momentum.at((step + 1) / steps) for step in range(steps // 5))
    assert left == pytest.approx(0.05, rel=0.15)
    assert momentum.left(steps) < left


def test_a_long_run_has_the_usual_momentum_and_one_that_is_given_is_kept():
    assert Momentum.of(Config(tower="signal"), 10**6) == Momentum.of(Config(tower="signal"), None)
    assert Momentum.of(Config(tower="signal"), None).first == 0.996
    given = Momentum.of(Config(tower="signal", momentum=[0.9, 0.95]), 100)
    assert (given.first, given.last) == (0.9, 0.95)
    assert given.left(100) == pytest.approx(math.prod(given.at((s + 1) / 100) for s in range(100)))


@pytest.mark.parametrize(("started", "usual"), [(True, True), (False, False)])
def test_a_trained_start_is_not_forgotten(started, usual):
    _, pretraining = taught((None,))
    pretraining.started = started
    pretraining.begin(100)
    assert (pretraining.objectives["a"].momentum.first == 0.996) is usual


@pytest.mark.parametrize(
    ("start", "pretrained"),
    [(None, False), ("timm:resnet18", False), ("timm:a/resnet18", True), ("timm:~/x", True), ("google/vit", True)],
)
def test_an_architecture_by_name_is_no_start(start, pretrained):
    assert TowerConfig(from_=start).pretrained is pretrained


@pytest.mark.parametrize(("exports", "kept"), [((None,), "a"), (("student",), None), ((None, None), None)])
def test_the_model_gets_the_teacher_of_the_only_objective_that_has_one(exports, kept):
    model, pretraining = taught(exports)
    assert pretraining.kept == ({"signal": kept} if kept else {})
    before = {name: p.clone() for name, p in model.tower("signal").named_parameters()}
    for name, objective in pretraining.objectives.items():
        with torch.no_grad():
            for p in objective.teacher.net.parameters():
                p.fill_(3.0 if name == "a" else 4.0)
    pretraining.finish()
    for name, p in model.tower("signal").named_parameters():
        torch.testing.assert_close(p, torch.full_like(p, 3.0) if kept else before[name])


def test_two_teachers_cannot_both_be_kept_and_the_one_that_asks_is():
    assert taught(("teacher", None))[1].kept == {"signal": "a"}
    with pytest.raises(UserError, match=r"objectives.b.export: found teacher, but tower 'signal' gets the weights"):
        taught(("teacher", "teacher"))


@pytest.mark.parametrize(
    ("export", "momentum", "started", "kept"),
    [
        (None, [0.998, 0.9995], False, False),
        (None, [0.99, 1.0], False, True),
        (None, None, False, True),
        ("teacher", [0.998, 0.9995], False, True),
        (None, [0.998, 0.9995], True, True),
    ],
)
def test_a_teacher_that_is_still_its_random_start_is_not_kept_unless_asked_for(export, momentum, started, kept):
    _, pretraining = taught((export,), momentum)
    pretraining.started = started
    pretraining.begin(1000)
    assert pretraining.kept == ({"signal": "a"} if kept else {})
    pretraining.begin(100_000)  # a longer run, as a resumed one may be
    assert pretraining.kept == {"signal": "a"}


def taught(exports: tuple[str | None, ...], momentum: list[float] | None = None) -> tuple[Any, Pretraining]:
    model = toy_world.model()
    same: dict[str, Any] = {"tower": "signal", "mask": "half", "predictor": toy_world.PREDICTOR, "momentum": momentum}
    configs = [Config(**same, export=e) for e in exports]
    objectives = {name: JEPA(c, model) for name, c in zip("ab", configs, strict=False)}
    return model, Pretraining(model, objectives)
