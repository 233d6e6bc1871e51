"""`train.gradient_checkpointing`: the same gradient, bit for bit, in less memory; selective computes none of a block's
maps twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from toys import world as toy_world

from mmssl.draws import Draws
from mmssl.models.dispatch import plain_length
from mmssl.models.trunk import Block
from mmssl.objectives.pretraining import Pretraining
from mmssl.training.recompute import checkpoint_blocks

KINDS = (False, True, "selective")


class Watch(TorchDispatchMode):
    """Which operations were done, and how many bytes of what they made are still there."""

    def __init__(self) -> None:
        super().__init__()
        self.done: Counter[str] = Counter()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.done[func.overloadpacket.__name__] += 1
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self.made[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    @property
    def alive(self) -> int:
        return sum(size for ref, size in self.made.values() if not ref.expired())


def step(kind: bool | str, tokens: int, depth: int = 3) -> tuple[list[torch.Tensor], Watch, int]:
    """(gradients, what was done, bytes kept between forward and backward) of some blocks with dropout."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Block(32, 4, dropout=0.1, drop_path=0.1, layer_scale=0.1) for _ in range(depth)))
    if kind:
        checkpoint_blocks(blocks, selective=kind == "selective")
    x = torch.randn(2, tokens, 32, requires_grad=True)
    with Watch() as watch:
        loss = blocks(x).square().sum()
        alive = watch.alive
        loss.backward()
    return [x.grad, *(p.grad for p in blocks.parameters())], watch, alive


@pytest.mark.parametrize("tokens", [20, plain_length(torch.float32) + 4])
def test_the_same_gradient_in_less_memory(tokens):
    (plain, ran, most), (full, twice, least), (some, once, less) = (step(kind, tokens) for kind in KINDS)
    for a, b, c in zip(plain, full, some, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert least < less < 0.75 * most, (least, less, most)
    products = ("mm", "addmm")
    assert sum(twice.done[name] for name in products) > sum(ran.done[name] for name in products)
    assert [once.done[name] for name in products] == [ran.done[name] for name in products]


def test_scores_of_attention_are_not_kept_where_they_are_larger_than_what_they_are_of():
    few, more, many = (step("selective", tokens)[2] for tokens in (20, 40, 60))
    assert many - more == pytest.approx(more - few, rel=0.05), "memory grows with the tokens, not with their square"


@pytest.mark.parametrize("world", ["joint", "masked"])
def test_objectives_and_their_decoders_too(world):
    """Towers, decoders with skips and fusion, in which a block has several inputs."""

    def gradients(kind: bool | str) -> dict[str, torch.Tensor]:
        pretraining: Pretraining = toy_world.pretraining(True) if world == "joint" else toy_world.masked()
        if kind:
            checkpoint_blocks(pretraining, selective=kind == "selective")
        torch.manual_seed(1)
        pretraining(toy_world.batch(toy_world.raw(4, seed=3)), Draws(9, 4)).total.backward()
        return {n: p.grad for n, p in pretraining.named_parameters() if p.grad is not None}

    plain, some = gradients(False), gradients("selective")
    assert list(plain) == list(some)
    for name, gradient in plain.items():
        assert torch.equal(gradient, some[name]), name
