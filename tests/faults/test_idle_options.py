"""Options that have no effect where they stand: each is refused in one line that names what makes it idle."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mmssl.errors import UserError
from mmssl.objectives.contrastive import Config as ContrastiveConfig
from mmssl.objectives.contrastive import Contrastive
from mmssl.objectives.options import objective_config, objective_names
from mmssl.options import SET, changed, idle_options, needs, option, strict
from mmssl.recipe.loading import load_recipe
from tests.toys import world

PAIR = {"towers": ["image", "text"]}
ONE = {"towers": ["image"], "masks": ["a", "b"]}
MAE = {"tower": "image", "mask": "a"}
DINO = {"tower": "image", "global_views": ["u", "v"]}


def read(objective: dict[str, Any], **train: Any) -> None:
    small = {"width": 8, "depth": 2, "heads": 2}
    load_recipe(
        {
            "data": {"path": "builtin:digits"},
            "modalities": {"image": {"size": 8, "patch": 2}, "text": {"max_length": 16}},
            "model": {"towers": {"image": small, "text": small}, "projection": 8},
            "views": {"u": {"image": {"flip": 0.5}}, "v": {"image": {"flip": 0.5}}},
            "masks": {"a": {"type": "random", "ratio": 0.5}, "b": {"type": "random", "ratio": 0.5}},
            "objectives": {"x": objective},
            "train": {"steps": 1, **train},
        }
    )


@pytest.mark.parametrize(
    ("kind", "options", "idle", "blame"),
    [
        ("contrastive", PAIR | {"head_width": 64}, "head_width", "pairs: null"),
        ("contrastive", PAIR | {"pairs": "across", "head_layers": 1}, "head_layers", "pairs: across"),
        ("contrastive", PAIR | {"sigma": 0.3}, "sigma", "loss: infonce"),
        ("contrastive", PAIR | {"within_weight": 0.3}, "within_weight", "pairs: null"),
        ("contrastive", ONE | {"within_weight": 0.3}, "within_weight", "pairs: null"),
        ("contrastive", ONE | {"max_scale": 30.0}, "max_scale", "learn_temperature: null"),
        ("contrastive", PAIR | {"mode": "replace"}, "mode", "mask: null"),
        ("contrastive", ONE | {"head_layers": 0, "head_width": 3}, "head_width", "head_layers: 0"),
        ("contrastive", ONE | {"head_layers": 1, "head_norm": "batch"}, "head_norm", "head_layers: 1"),
        ("bootstrap", ONE | {"target": "online", "momentum": [0.9, 1]}, "momentum", "target: online"),
        ("bootstrap", ONE | {"target": "online", "forget": 0.9}, "forget", "target: online"),
        ("bootstrap", ONE | {"direct_eps": 0.3}, "direct_eps", "predictor: mlp"),
        (
            "bootstrap",
            ONE | {"predictor": "direct", "head_layers": 1, "head_norm": "layer"},
            "head_norm",
            "head_layers: 1",
        ),
        ("bootstrap", ONE | {"predictor": "direct", "predictor_hidden": 3}, "predictor_hidden", "predictor: direct"),
        ("redundancy", ONE | {"invariance": 1.0}, "invariance", "loss: barlow"),
        ("redundancy", ONE | {"mixing_weight": 1.0}, "mixing_weight", "loss: barlow"),
        ("redundancy", ONE | {"loss": "vicreg", "off_diagonal": 1.0}, "off_diagonal", "loss: vicreg"),
        ("jepa", MAE | {"teacher": "none", "stop_gradient": True, "momentum": [0.9, 1]}, "momentum", "teacher: none"),
        ("jepa", MAE | {"teacher": "none", "stop_gradient": True, "schedule": "cosine"}, "schedule", "teacher: none"),
        ("jepa", MAE | {"stop_gradient": True}, "stop_gradient", "teacher: ema"),
        ("jepa", MAE | {"loss": "l1", "beta": 2.0}, "beta", "loss: l1"),
        ("jepa", MAE | {"regulariser": {"weight": 0.1}}, "regulariser.weight", "kind: none"),
        ("jepa", MAE | {"regulariser": {"kind": "vicreg", "slices": 9}}, "regulariser.slices", "kind: vicreg"),
        ("jepa", MAE | {"regulariser": {"kind": "sigreg", "covariance": 1}}, "regulariser.covariance", "kind: sigreg"),
        ("mae", MAE | {"decoder": {"depth": 0, "width": 64}, "mode": "replace"}, "decoder.width", "depth: 0"),
        ("mae", {"tower": "image", "mode": "replace", "decoder": {"depth": 0}}, "mode", "mask: null"),
        ("distillation", DINO | {"patch_weight": 0.5}, "patch_weight", "masks: []"),
        ("distillation", DINO | {"patch_head": {}}, "patch_head", "masks: []"),
        ("distillation", DINO | {"centre_momentum": 0.5}, "centre_momentum", "targets: sinkhorn"),
        (
            "distillation",
            DINO | {"masks": ["a"], "class_weight": 0, "patch_head": {}, "head": {"layers": 1}},
            "head",
            "class_weight: 0.0",
        ),
        (
            "distillation",
            DINO | {"teacher_temperature": [0.1, 0.1], "temperature_warmup": 0.5},
            "temperature_warmup",
            "teacher_temperature: [0.1, 0.1]",
        ),
    ],
)
def test_an_idle_option_is_refused_in_one_line(kind: str, options: dict[str, Any], idle: str, blame: str) -> None:
    with pytest.raises(UserError) as caught:
        read({"type": kind, **options})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"objectives.x.{idle}: found ")
    assert f"which has no effect with {blame}; it needs " in line and "or to be left " in line


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"gradient_share_every": 5}, "train.gradient_share_every: found 5, which has no effect with a single"),
        ({"guard": {"rollbacks": 5}}, "train.guard.rollbacks: found 5, which has no effect with action: warn"),
        ({"probe_samples": 5}, "train.probe_samples: found 5, which has no effect with probe_every: null"),
        ({"health_every": None, "health_samples": 5}, "train.health_samples: found 5, which has no effect with health"),
    ],
)
def test_idle_options_of_the_loop(train: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        read({"type": "mae", **MAE}, **train)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("contrastive", PAIR | {"pairs": "both", "masks": ["a", "b"], "head_width": 64, "within_weight": 0.2}),
        ("contrastive", ONE | {"loss": "dclw", "sigma": 0.3, "temperature": 0.2, "head_hidden": 8}),
        ("contrastive", PAIR | {"loss": "sigmoid", "max_scale": 30.0}),
        ("bootstrap", ONE | {"predictor": "direct", "direct_eps": 0.3, "momentum": [0.9, 1]}),
        ("bootstrap", ONE | {"head_layers": 1, "head_norm": "layer"}),  # the predictor's
        ("redundancy", ONE | {"loss": "vicreg", "invariance": 1.0}),
        ("jepa", MAE | {"teacher": "none", "regulariser": {"kind": "sigreg", "slices": 9, "weight": 0.1}}),
        ("jepa", MAE | {"regulariser": {"kind": "vicreg", "covariance": 1}, "momentum": [0.9, 1]}),
        ("distillation", DINO | {"masks": ["a"], "patch_head": {"layers": 1}, "patch_weight": 0.5}),
    ],
)
def test_the_same_options_pass_where_they_have_an_effect(kind: str, options: dict[str, Any]) -> None:
    read({"type": kind, **options})


def test_declarations_name_options_that_exist() -> None:
    for name in objective_names():
        cls = objective_config(name)
        known = {f.name for f in dataclasses.fields(cls)}
        for base in cls.__mro__:
            for need in vars(base).get("NEEDS", ()):
                assert {*need.options, need.on} <= known, (name, need)


def test_objectives_built_in_python_refuse_them_too() -> None:
    with pytest.raises(UserError, match="objective contrastive: sigma: found 0.2, which has no effect with loss"):
        Contrastive(ContrastiveConfig(towers=["table", "signal"], sigma=0.2), world.model())


@strict
@dataclasses.dataclass(kw_only=True)
class Base:
    kind: str | None = option(None)
    size: int = option(1)

    NEEDS = (needs("size", kind=SET),)


@strict
@dataclasses.dataclass(kw_only=True)
class More(Base):
    names: list[str] = option(factory=lambda: ["a"])

    NEEDS = (needs("names", kind=("u", "v")),)


def test_conditions_of_bases_hold_too_and_defaults_pass() -> None:
    assert not idle_options(More()) and not changed(More(names=["a"]), "names")
    assert [name for name, _ in idle_options(More(size=2, names=["b"]))] == ["names", "size"]
    assert idle_options(More(kind="w", size=2, names=["b"])) == [
        ("names", "found ['b'], which has no effect with kind: w; it needs kind: u or v, or to be left at ['a']")
    ]
