"""The lines that a pretraining run starts with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..data.workers import read_by
from ..objectives.parts.teacher import LEFT
from ..recipe.config import Recipe
from ..saying import say
from .loop import Loop
from .mixture import Mixed

if TYPE_CHECKING:
    from ..data.loading import Source

FEW = 2.0
"""Passes over the data below which a run says that it is short."""


def describe(recipe: Recipe, loop: Loop, source: Source | Mixed, resumed: bool) -> None:
    """The line a run starts with; the first process says it."""
    size = f"{len(source):,} samples" if hasattr(source, "__len__") else "streamed samples"
    millions = sum(p.numel() for p in loop.pretraining.model.parameters()) / 1e6
    precision = recipe.train.mixed_precision if recipe.train.mixed_precision != "no" else "float32"
    say(
        f"mmssl pretrain {recipe.name}: {', '.join(recipe.modalities)}; {size}; {millions:.2f} M parameters; "
        f"{loop.steps} steps of {recipe.train.batch_size}; "
        f"{loop.accelerator.num_processes} x {loop.accelerator.device}{', fsdp2' * loop.parallel.cut}, {precision}"
        f"{', compiled' * (recipe.train.compile is True)}; {read_by(recipe.data.workers)}"
    )
    seen = loop.steps * recipe.train.batch_size / len(source) if hasattr(source, "__len__") else FEW
    if seen < FEW:
        say(
            f"{loop.steps} steps see each sample {seen:.1f} times; encoders are rarely worth having below 10: "
            "train.epochs=10 (train.steps=null)"
        )
    for name, objective in loop.pretraining.objectives.items():
        left = loop.pretraining.left(name, loop.steps)
        if left > LEFT:
            momentum: Any = objective.momentum
            whose = "teacher" if name in loop.pretraining.kept.values() else "student"
            say(
                f"objectives.{name}: {left:.0%} of its teacher will still be its random start after {loop.steps} "
                f"steps: momentum {momentum.first:g} to {momentum.last:g} is for longer runs; the model gets the "
                f"{whose}'s weights"
            )
    if resumed:
        say(loop.where)
