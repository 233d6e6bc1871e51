"""`train.micro_batch`: how many samples go through the model at once, of which the number of a step's parts follows.

`auto` tries a step before the first one, whole and then in more and more parts, until it fits (the idea of Accelerate's
`find_executable_batch_size`). The batch of a step stays as it is, and so do all numbers. Several processes each try by
themselves, without a word to the others, so that none waits for one that ran out; the finest cut of all is taken.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.sampler import slices
from ..distributed import alone
from ..draws import Draws
from ..errors import UserError
from ..objectives.pretraining import Pretraining
from ..recipe.config import LoopConfig, Recipe
from .gradients import go_through
from .metrics import Meter
from .out_of_memory import OutOfMemory, tried, whole_only

if TYPE_CHECKING:
    from ..data.loading import Loaded
    from .loop import Batches, Loop

NEVER = 2**31
"""Stands for the parts of a step that does not fit however it is cut."""
STATES = {"adamw": 2, "muon": 2, "sgd": 1, "lars": 1, "lion": 1}
"""Numbers that an optimiser keeps of each weight, at most; there is none yet when a step is tried."""


def cuts(batch_size: int, world: int) -> list[int]:
    """The numbers of equal parts that each process's samples of a step can be cut into. UserError where it has none."""
    own, _ = slices(batch_size, 1, world)
    return [parts for parts in range(1, own + 1) if own % parts == 0]


def settle_micro_batch(settings: LoopConfig, pretraining: Pretraining, world: int) -> None:
    """Set `accumulation` where `micro_batch` is a number, in place. UserError for what sees a batch whole."""
    most, size = settings.micro_batch, settings.batch_size
    if not isinstance(most, int):
        return
    parts = next(n for n in cuts(size, world) if size // world // n <= most)
    why = whole_only(pretraining) if parts > 1 else None
    if why is not None:
        raise UserError(
            f"train.micro_batch: found {most}, but {why}; expected all of a process's {size // world} at once, or null"
        )
    settings.accumulation = parts


def settled(recipe: Recipe) -> Recipe:
    """As `config.yaml` has it: with the parts that a step is cut into, in place of what they follow from."""
    return replace(recipe, train=replace(recipe.train, micro_batch=None))


def find_micro_batch(loop: Loop, batches: Batches) -> str | None:
    """Set `accumulation` of the loop's options to the fewest parts that fit, in place, where `micro_batch` is auto; all
    processes call it together.

    Args:
        loop: that has not begun.
        batches: its data.

    Returns:
        What was found, for the user; None where nobody asked.

    Raises:
        OutOfMemory: not even one sample at a time fits.
    """
    settings, world = loop.settings, loop.accelerator.num_processes
    if settings.micro_batch != "auto":
        return None
    found, own = 1, settings.batch_size // world
    why = whole_only(loop.pretraining)
    if why is None and not runs_out(loop.accelerator.device):
        why = "a processor does not say when its memory is full; lower train.micro_batch if it is"
    if why is None:
        found = _agreed(loop, next((n for n in cuts(settings.batch_size, world) if _fits(loop, batches, n)), NEVER))
        if found == NEVER:
            raise OutOfMemory(
                "out of memory with 1 sample at a time; train.gradient_checkpointing=true or a smaller model need less"
            )
    settings.accumulation = found
    each = "in each process " if world > 1 else ""
    said = f"micro_batch auto: {own // found:,} of {own:,} samples {each}at once (train.accumulation={found})"
    return f"{said}: {why}" if why else said


def runs_out(device: torch.device) -> bool:
    """Whether a device raises an error when its memory is full."""
    return device.type != "cpu"


def _agreed(loop: Loop, mine: int) -> int:
    """The most parts that any process needs; all call it together."""
    most = torch.tensor(mine)
    if loop.parallel.hosts is not None:
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=loop.parallel.hosts)
    return int(most)


def _fits(loop: Loop, batches: Batches, parts: int) -> bool:
    """Whether the gradients of a step in so many parts fit this process's memory, beside the optimiser's state."""
    before = loop.settings.accumulation
    loop.settings.accumulation = parts
    devices = [loop.accelerator.device] if loop.accelerator.device.type == "cuda" else []
    try:
        stream = batches((loop.start + loop.course.skipped) * parts)
        loaded = [next(stream) for _ in range(parts)]
        with alone(), torch.random.fork_rng(devices=devices):
            return tried(partial(_try, loop, loaded), Meter()) is None
    finally:
        loop.settings.accumulation = before
        loop.optimizer.zero_grad()
        loop.pretraining.discard()


def _try(loop: Loop, loaded: list[Loaded]) -> None:
    """The gradients of a step of this process alone."""
    rows = sum(micro.size for micro in loaded)
    state = _room(loop.pretraining, loop.optimizer, STATES[loop.settings.optimizer])
    batches, draws = [micro.batch for micro in loaded], Draws(loop.seed, rows, device=loop.accelerator.device)
    for _ in go_through(loop.parallel, loop.pretraining, loop.pretraining, batches, draws, {}):
        pass
    del state


def _room(module: nn.Module, optimizer: torch.optim.Optimizer, states: int) -> list[Tensor]:
    """The memory that an optimiser will take with its first step."""
    if optimizer.state:
        return []
    return [torch.empty_like(p) for p in module.parameters() if p.requires_grad for _ in range(states)]
