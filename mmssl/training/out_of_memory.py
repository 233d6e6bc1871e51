"""What is done when a step does not fit the device: the same step in more parts, which changes no number."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ..errors import RunError, one_line
from ..modality import crossing_views
from ..modality.faults import crossing_places

if TYPE_CHECKING:
    from ..objectives.pretraining import Pretraining
    from ..recipe.config import LoopConfig
    from .metrics import Meter


logger = logging.getLogger("mmssl")


class OutOfMemory(RunError):  # noqa: N818  (what the user reads says that it is one)
    """A step does not fit the device's memory in any way that changes no number; those before it are worth keeping."""


def tried(gradients: Callable[[], None], meter: Meter) -> str | None:
    """Compute the gradients of a step; where the device's memory does not do, what it said, and `meter` as before."""
    before = dataclasses.replace(meter, parts=dict(meter.parts))
    try:
        gradients()
        return None
    except torch.OutOfMemoryError as error:
        said = one_line(error)
    # behind the handler: while that runs, the error holds what the step had computed
    for part in dataclasses.fields(meter):
        setattr(meter, part.name, getattr(before, part.name))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return said


def cut_finer(pretraining: Pretraining, settings: LoopConfig, world: int, step: int, said: str) -> None:
    """Raise `train.accumulation` to the next number that cuts the batch evenly.

    Args:
        pretraining: what is trained.
        settings: the options of the loop.
        world: processes; only one alone can change what it does, others would wait for it.
        step: that did not fit, from 0.
        said: what the device's memory said.

    Raises:
        OutOfMemory: there is none, with what saves memory otherwise.
    """
    settings.accumulation = _more_parts(pretraining, settings, world)
    logger.warning(
        "step %d does not fit the memory (%s): on with train.accumulation=%d, which changes no number",
        step + 1,
        said,
        settings.accumulation,
    )


def whole_only(pretraining: Pretraining) -> str | None:
    """What of it sees a batch whole, so that one cannot be cut into parts; None: nothing does."""
    model = pretraining.model
    mixing = next((name for name in model.towers if model.tower(name).mixes_rows), None)
    if mixing is not None:
        return f"tower '{mixing}' has batch norms, which see all"
    for view, spec in pretraining.views.items():
        for name, options in spec.items():
            if isinstance(options, Mapping):
                crossing = crossing_views((model.config.modalities or {})[name]["type"])
                for place in crossing_places(crossing, options, f"views.{view}.{name}"):
                    return f"{place}: takes from other rows of the batch"
    return None


def _more_parts(pretraining: Pretraining, settings: LoopConfig, world: int) -> int:
    now, size = settings.accumulation, settings.batch_size
    each = f"{size // (now * world):,} samples at a time"
    other = "train.gradient_checkpointing=true, train.mixed_precision=bf16 or a smaller train.batch_size need less"
    finer = next((n for n in range(2 * now, size + 1) if size % (n * world) == 0), None)
    why = whole_only(pretraining)
    if finer is None:
        raise OutOfMemory(f"out of memory with {each}; {other}")
    if why is not None:
        raise OutOfMemory(f"out of memory with {each}, and {why}; {other}")
    if world > 1:
        raise OutOfMemory(
            f"out of memory with {each} in each process; train.accumulation={finer} changes no number, and "
            "train.micro_batch=auto finds what fits before the first step"
        )
    return finer
