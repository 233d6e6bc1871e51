"""Each optimiser's steps against its published rule in float64, who takes part in what, and exact resumption."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from torch import nn
from toys import runs
from toys import world as toy_world
from toys.refusals import refused
from transformers.modeling_layers import GradientCheckpointingLayer

from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.recipe.config import OPTIMIZERS, LoopConfig
from mmssl.recipe.loading import load_recipe
from mmssl.recipe.train import EIGHT_BIT
from mmssl.training.optimizer import (
    Several,
    hidden_matrices,
    optimizer_of,
    optimizer_tensors,
    restore_optimizer,
    settle_optimizer,
)

Weights = dict[str, np.ndarray]
State = dict[str, np.ndarray]
STEPS = 4
DECAY, RATE = 0.1, 0.02


class Block(GradientCheckpointingLayer):
    """A block with matrices of both shapes, a table that ids look up, a kernel and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.tall = nn.Linear(6, 4), nn.Linear(4, 8, bias=False)
        self.table, self.kernel = nn.Embedding(5, 3), nn.Conv1d(3, 2, 3, bias=False)


class Net(nn.Module):
    """`embed` and `head` lie outside of blocks, `still` is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(5, 6), Block(), nn.Linear(8, 3)
        self.still = nn.Linear(2, 2).requires_grad_(False)


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def gradients(module: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Of every step, as far as possible from all alike."""
    draw = torch.Generator().manual_seed(5)
    while True:
        yield {
            name: torch.randn(p.shape, generator=draw) * 10 ** (i % 3 - 1)
            for i, (name, p) in enumerate(module.named_parameters())
            if p.requires_grad
        }


def walk(module: nn.Module, optimizer: torch.optim.Optimizer, gradients: Iterator[dict], steps: int) -> None:
    """As the loop does it: another rate at every step, times the group's factor."""
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE / (1 + number) * group["scale"]
        for (_, p), gradient in zip(trained(module), next(gradients).values(), strict=True):
            p.grad = gradient.clone()
        optimizer.step()
        optimizer.zero_grad()


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


# ------------------------------------------------------------------------------------------- the rules, in float64


def adamw(w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, t: int, betas=(0.9, 0.95)) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2."""
    s["m"] = betas[0] * s.get("m", 0) + (1 - betas[0]) * g
    s["v"] = betas[1] * s.get("v", 0) + (1 - betas[1]) * g**2
    m, v = s["m"] / (1 - betas[0] ** t), s["v"] / (1 - betas[1] ** t)
    return w - lr * (m / (np.sqrt(v) + 1e-8) + decay * w)


def sgd(w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, t: int, nesterov=False) -> np.ndarray:
    """Sutskever et al. 2013, with the rate outside of the momentum, as torch does it."""
    g = g + decay * w
    s["b"] = 0.9 * s["b"] + g if s else g
    return w - lr * (g + 0.9 * s["b"] if nesterov else s["b"])


def lars(w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, t: int, trust=0.001) -> np.ndarray:
    """You et al. 2017, algorithm 1; vectors (`decay` is None) are left to plain momentum."""
    local = 1.0 if decay is None else trust * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w))
    s["b"] = 0.9 * s.get("b", 0) + local * (g + (decay or 0.0) * w)
    return w - lr * s["b"]


def lion(w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, t: int) -> np.ndarray:
    """Chen et al. 2023, algorithm 2."""
    m = s.get("m", 0)
    s["m"] = 0.99 * m + 0.01 * g
    return w - lr * (np.sign(0.9 * m + 0.1 * g) + decay * w)


def muon(w: np.ndarray, g: np.ndarray, s: State, lr: float, decay: float, t: int) -> np.ndarray:
    """Jordan et al. 2024: Nesterov momentum, five Newton-Schulz steps; lengths by Liu et al. 2025, equation 4."""
    s["b"] = 0.95 * s.get("b", 0) + 0.05 * g
    u = 0.05 * g + 0.95 * s["b"]
    x = u / np.linalg.norm(u)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return w - lr * decay * w - lr * 0.2 * math.sqrt(max(w.shape)) * x


RULES = {"adamw": adamw, "sgd": sgd, "lars": lars, "lion": lion, "muon": muon}


def expected(start: Net, name: str, scale: Mapping[str, float], **more: object) -> Weights:
    """The weights after `STEPS` of the rule."""
    weights = {n: p.detach().double().numpy() for n, p in trained(start)}
    states: dict[str, State] = {n: {} for n in weights}
    drawn = gradients(start)
    for number in range(STEPS):
        for n, g in next(drawn).items():
            hidden = n in ("block.wide.weight", "block.tall.weight")
            rule = adamw if name == "muon" and not hidden else RULES[name]
            decays = weights[n].ndim > 1
            decay = DECAY if decays else None if name == "lars" else 0.0
            lr = RATE / (1 + number) * scale.get(n, 1.0)
            weights[n] = rule(weights[n], g.double().numpy(), states[n], lr, decay, number + 1, **more)
    return weights


CASES = [(name, {}, {}) for name in RULES]
CASES += [("sgd", {"nesterov": True}, {"nesterov": True}), ("lars", {"trust": 0.02}, {"trust": 0.02})]
CASES += [("adamw", {"betas": [0.8, 0.99]}, {"betas": (0.8, 0.99)})]


@pytest.mark.parametrize(("name", "options", "more"), CASES)
def test_steps_are_those_of_the_published_rule(name, options, more):
    scale = {"block.wide.weight": 0.5, "embed.bias": 0.25}
    module = net()
    settings = LoopConfig(optimizer=name, weight_decay=DECAY, lr=RATE, **options)
    optimizer = optimizer_of(module, settings, lambda n: scale.get(n, 1.0))
    walk(module, optimizer, gradients(module), STEPS)
    start = net()
    wanted = expected(start, name, scale, **more)
    for n, p in trained(module):
        moved = np.abs(wanted[n] - dict(start.named_parameters())[n].detach().double().numpy()).max()
        rounding = STEPS * torch.finfo(torch.float32).eps * np.abs(wanted[n]).max()
        # torch orthogonalises in bfloat16, which has 8 bits
        off = 0.03 if name == "muon" and n in ("block.wide.weight", "block.tall.weight") else 2e-5
        assert np.abs(p.detach().double().numpy() - wanted[n]).max() <= off * moved + rounding, n
    assert torch.equal(module.still.weight, start.still.weight)


def test_lars_adapts_matrices_also_where_nothing_decays():
    module, plain = net(), net()
    for one, name in ((module, "lars"), (plain, "sgd")):
        settings = LoopConfig(optimizer=name, weight_decay=0.0)
        walk(one, optimizer_of(one, settings), gradients(one), 1)
    start = dict(net().named_parameters())
    for (name, p), (_, q) in zip(trained(module), trained(plain), strict=True):
        if p.ndim == 1:  # as sgd does it
            assert torch.equal(p, q), name
        else:
            step = (p - start[name]).detach().norm() / start[name].detach().norm()
            assert float(step) == pytest.approx(RATE * 0.001, rel=1e-3), name


# ------------------------------------------------------------------------------------------- whom Muon is for


def test_muon_is_for_the_matrices_of_blocks_alone():
    module = net()
    names = {p: name for name, p in module.named_parameters()}
    assert {names[p] for p in hidden_matrices(module)} == {"block.wide.weight", "block.tall.weight"}
    optimizer = optimizer_of(module, LoopConfig(optimizer="muon"))
    assert isinstance(optimizer, Several)
    held = [names[p] for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(name for name, _ in trained(module))
    assert isinstance(optimizer_of(module.block.wide, LoopConfig()), torch.optim.AdamW)
    with pytest.raises(UserError, match=r"^train.optimizer: found muon, but no block .*; expected adamw$"):
        optimizer_of(module.head, LoopConfig(optimizer="muon"))


def test_muon_of_a_real_model_has_the_maps_of_its_blocks():
    module = toy_world.masked()
    names = {p: name for name, p in module.named_parameters()}
    held = {names[p] for p in hidden_matrices(module)}
    assert held == {n for n, p in module.named_parameters() if ".blocks." in n and p.ndim == 2 and p.requires_grad}
    assert held and len(held) < len(names)


# ------------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != EIGHT_BIT])
def test_a_restored_state_goes_on_bit_for_bit(name):
    settings = LoopConfig(optimizer=name, weight_decay=DECAY)
    first, second = net(), net()
    before = optimizer_of(first, settings)
    walk(first, before, drawn := gradients(first), 2)
    after = optimizer_of(second, settings)
    walk(second, after, gradients(second), 1)  # what is there is gone
    second.load_state_dict(first.state_dict())
    restore_optimizer(second, after, dict(optimizer_tensors(first, before)))
    walk(first, before, drawn, 2)
    rest = gradients(second)
    next(rest), next(rest)
    walk(second, after, rest, 2)
    for (n, p), (_, q) in zip(trained(first), trained(second), strict=True):
        assert torch.equal(p, q), n


def test_a_state_that_torch_loads_is_the_parts_too():
    """As Accelerate does it when it takes an optimiser."""
    settings = LoopConfig(optimizer="muon")
    one, other = net(), net()
    first, second = optimizer_of(one, settings), optimizer_of(other, settings)
    second.load_state_dict(first.state_dict())
    walk(one, first, gradients(one), 2)
    walk(other, second, gradients(other), 2)
    assert all(torch.equal(p, q) for (_, p), (_, q) in zip(trained(one), trained(other), strict=True))
    assert len(dict(optimizer_tensors(other, second))) == 2 + 3 * (len(trained(other)) - 2)


@pytest.mark.parametrize("name", ["muon", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sgd", "lars", "lion"))])
def test_a_killed_run_goes_on_exactly(tmp_path, name):
    content = runs.recipe(train={"optimizer": name, "lr": 1e-2 if name != "lars" else 1.0})
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    with runs.killed_at(6):
        runs.cli(tmp_path, content=content)
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")
    assert OPTIMIZERS[name] in (tmp_path / "run" / "model" / "README.md").read_text()


def test_another_optimiser_is_refused_by_the_state_of_one(tmp_path, capsys):
    assert runs.cli(tmp_path, "train.steps=2") == 0
    assert runs.cli(tmp_path, "train.optimizer=sgd", "--resume") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert line == (
        "error: --resume: found train.optimizer sgd, but the run's checkpoints hold the state of adamw; expected adamw"
    )


# ------------------------------------------------------------------------------------------------ options


def test_what_an_optimiser_does_not_read_is_refused():
    for key, *words in (
        ("train.momentum", "train.momentum=0.5"),
        ("train.momentum", "train.optimizer=lion", "train.momentum=0.5"),
        ("train.betas", "train.optimizer=sgd", "train.betas=[0.5, 0.5]"),
        ("train.eps", "train.optimizer=lars", "train.eps=1e-3"),
        ("train.trust", "train.optimizer=sgd", "train.trust=0.1"),
        ("train.nesterov", "train.optimizer=muon", "train.nesterov=true"),
        ("train.nesterov", "train.optimizer=sgd", "train.nesterov=true", "train.momentum=0"),
    ):
        with refused(key, "no effect"):
            load_recipe(runs.recipe(), words)
    with refused("train.optimizer", "adamw8bit"):
        load_recipe(runs.recipe(), ["train.optimizer=adamw8bit"])


def test_null_becomes_what_the_optimiser_takes():
    found = {name: settle_optimizer(LoopConfig(optimizer=name)) for name in OPTIMIZERS if name != EIGHT_BIT}
    assert {name: one.betas for name, one in found.items()} == {
        "adamw": [0.9, 0.95],
        "muon": [0.9, 0.95],
        "lion": [0.9, 0.99],
        "sgd": None,
        "lars": None,
    }
    assert {name: one.momentum for name, one in found.items()} == {
        "adamw": None,
        "lion": None,
        "muon": 0.95,
        "sgd": 0.9,
        "lars": 0.9,
    }
    assert all(settle_optimizer(one) == one for one in found.values())


def test_finetuning_takes_any_of_them():
    assert load_options([]).train.betas == [0.9, 0.999] == load_options(["train.optimizer=muon"]).train.betas
    assert load_options(["train.optimizer=sgd"]).train.betas is None
    assert load_options(["train.optimizer=lion", "train.betas=[0.95, 0.98]"]).train.betas == [0.95, 0.98]
