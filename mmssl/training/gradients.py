"""The forward and backward passes of one optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..draws import Draws
from ..modality import Batch
from ..models.running import to_device
from ..objectives.accumulation import passes
from ..objectives.pretraining import Pretraining
from .parallel import Parallel


def go_through(
    parallel: Parallel,
    pretraining: Pretraining,
    module: nn.Module,
    batches: Sequence[Batch],
    draws: Draws,
    more: Mapping[str, Any],
    forward: Callable[[], AbstractContextManager[object]] = nullcontext,
    waits: Callable[[Tensor], None] | None = None,
) -> Iterator[Any]:
    """Add up the gradients of a step, pass by pass; yields the `Loss` of each, behind its backward pass.

    Args:
        parallel: the processes, the precision.
        pretraining: what is trained.
        module: it, as it is called for a forward pass.
        batches: the micro-batches of this process.
        draws: of all rows of this process.
        more: what the module is called with beside them.
        forward: around each forward pass.
        waits: called with the loss ahead of the last backward pass, in which processes wait for each other.
    """
    accelerator = parallel.accelerator
    move = partial(to_device, device=accelerator.device)
    with accelerator.autocast():  # what is counted must be what is trained on
        todo = passes(pretraining, batches, draws, move)
    for number, one in enumerate(todo, 1):
        # gradients add up locally; processes exchange them once a step, with the last pass
        with parallel.passing(module, number == len(todo)):
            with forward():
                loss = module(one.load(), one.draws, **more, **one.options)
            parallel.check(loss.total)
            if waits is not None and number == len(todo):
                waits(loss.total)
            accelerator.backward(loss.total)
        yield loss
