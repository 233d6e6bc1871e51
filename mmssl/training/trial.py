"""A few steps of a run that is not kept: what they cost in time, arithmetic and memory."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..saying import Advance
from .effort import tokens_of
from .loop import Batches, Loop
from .metrics import Meter


@dataclass
class Trial:
    """What steps cost. Sizes are bytes of this process.

    Attributes:
        seconds: of each step, the first one aside.
        waited: of them, for data.
        flops: of a step; None: the device does not say.
        tokens: that go through encoders in a step.
        weights: of the model, the objectives and their teachers, with buffers.
        gradients: of what is trained.
        optimizer: its state.
        activations: what the forward pass of a micro-batch keeps for the backward pass.
        batch: the inputs of a micro-batch.
        parameters: of the model; trained: those that are, of model and objectives; objectives: of heads and decoders.
        teachers: of copies that follow.
    """

    seconds: list[float] = field(default_factory=list)
    waited: float = 0.0
    flops: int | None = None
    tokens: float = 0.0
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    batch: int = 0
    parameters: int = 0
    trained: int = 0
    objectives: int = 0

    @property
    def peak(self) -> int:
        """Bytes of tensors at the fullest moment of a step: when the backward pass begins all activations are there and
        no gradient, and at its end it is the other way round; gradients of an earlier micro-batch stay."""
        return self.weights + self.optimizer + self.batch + max(self.activations, self.gradients)


def trial(loop: Loop, batches: Batches, steps: int, advance: Advance = lambda done: None) -> Trial:
    """Make so many steps of a loop that has not begun, and throw them away with it. advance: told how many are made.

    Raises:
        UserError: too many broken samples.
        OutOfMemory: a step does not fit.
    """
    out, model = Trial(), loop.pretraining
    out.weights = size_of([*model.parameters(), *model.buffers()])
    trained = [p for p in model.parameters() if p.requires_grad]
    out.gradients, out.trained = size_of(trained), sum(p.numel() for p in trained)
    out.parameters = sum(p.numel() for p in model.model.parameters())
    out.objectives = sum(p.numel() for p in trained) - sum(
        p.numel() for p in model.model.parameters() if p.requires_grad
    )
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    loop.module.train()
    stream = batches(0)
    first = next(stream)
    out.batch = size_of(tensor for inputs in first.batch.values() for tensor in inputs.values())
    stream = itertools.chain([first], stream)
    with loop.effort.watched():
        for step in range(steps):
            meter, began = Meter(), time.perf_counter()
            if step == 0:
                with saved(own) as kept:
                    loop._gradients(stream, step, meter)
                out.activations = sum(kept.values()) // loop.settings.accumulation
                out.tokens, out.flops = tokens_of(meter), None if loop.effort.step is None else loop.effort.step[0]
            else:
                loop._gradients(stream, step, meter)
            loop._update(step)
            if step:
                out.seconds.append(time.perf_counter() - began)
                out.waited += meter.waited
            advance(step + 1)
    out.optimizer = size_of(tensors_in(loop.optimizer.state.values()))
    return out


@contextmanager
def saved(but: set[int]) -> Iterator[dict[int, int]]:
    """Address -> bytes of what a forward pass within keeps for the backward pass; `but`: those that do not count."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in but:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def tensors_in(states: Iterable[Any]) -> list[Tensor]:
    """The tensors in an optimiser's state."""
    return [value for state in states for value in state.values() if isinstance(value, Tensor)]


def size_of(tensors: Iterable[Tensor | nn.Parameter]) -> int:
    """Bytes of tensors, each storage once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
