"""AdamW with a state of 8 bits, where bitsandbytes is installed; refused in one line where it is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toys import runs
from toys.refusals import refused

from mmssl.recipe.config import LoopConfig, TrainConfig
from mmssl.recipe.train import EIGHT_BIT
from mmssl.training.engine import way_of
from mmssl.training.optimizer import check_optimizer, optimizer_of, optimizer_tensors, restore_optimizer


def walked(optimizer: str, steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A layer of 8,192 weights and a bias of 128, after so many steps by the same gradients."""
    torch.manual_seed(0)
    layer, draw = nn.Linear(64, 128), torch.Generator().manual_seed(1)
    made = optimizer_of(layer, LoopConfig(optimizer=optimizer, lr=1e-3))
    for _ in range(steps):
        step(layer, made, draw)
    return layer, made


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, draw: torch.Generator) -> None:
    for p in layer.parameters():
        p.grad = torch.randn(p.shape, generator=draw) + 0.3
    optimizer.step()


def test_it_is_refused_in_one_line_before_anything_is_computed(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    assert runs.cli(tmp_path, f"train.optimizer={EIGHT_BIT}") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert line == (
        "error: train.optimizer: found adamw_8bit, which needs bitsandbytes: pip install 'mmssl[bitsandbytes]'; "
        "expected adamw"
    )
    assert not (tmp_path / "run").exists()


def test_it_is_refused_with_shares_of_tensors():
    with refused("train.parallel", "knows no shares of tensors"):
        way_of(TrainConfig(steps=1, optimizer=EIGHT_BIT, parallel="fsdp2"))


def test_it_is_refused_where_the_device_does_not_carry_it(monkeypatch):
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def fails(self: object) -> None:
        raise NotImplementedError("no kernel for this backend")

    monkeypatch.setattr(bitsandbytes.optim.AdamW8bit, "step", fails)
    with refused("train.optimizer", "on cpu (no kernel for this backend)"):
        check_optimizer(EIGHT_BIT, torch.device("cpu"))


def test_the_first_step_is_adamws_and_later_ones_are_near_it():
    pytest.importorskip("bitsandbytes")
    start = walked("adamw", 0)[0].weight
    for steps, most in ((1, 1e-6), (5, 0.02), (50, 0.02)):
        found, expected = (walked(name, steps)[0].weight for name in (EIGHT_BIT, "adamw"))
        assert (found - expected).abs().mean() <= most * (expected - start).abs().mean()
    state = walked(EIGHT_BIT, 1)[1].state
    sizes = {p.numel(): of["state1"].element_size() for p, of in state.items()}
    assert sizes == {8192: 1, 128: 4}


def test_a_restored_state_goes_on_bit_for_bit():
    pytest.importorskip("bitsandbytes")
    first, before = walked(EIGHT_BIT, 3)
    second, after = walked(EIGHT_BIT, 1)
    second.load_state_dict(first.state_dict())
    restore_optimizer(second, after, dict(optimizer_tensors(first, before)))
    for layer, optimizer in ((first, before), (second, after)):
        step(layer, optimizer, torch.Generator().manual_seed(5))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(tmp_path: Path):
    pytest.importorskip("bitsandbytes")
    content = runs.recipe(train={"optimizer": EIGHT_BIT})
    content["model"]["towers"]["image"] |= {"width": 64, "heads": 4}  # matrices that are large enough
    assert runs.cli(tmp_path, content=content, output="straight") == 0
    with runs.killed_at(6):
        runs.cli(tmp_path, content=content)
    assert runs.cli(tmp_path, "--resume", content=content) == 0
    runs.assert_same_weights(tmp_path / "run", tmp_path / "straight")
    assert any(value.dtype == torch.uint8 for value in runs.weights(tmp_path / "run").values())
