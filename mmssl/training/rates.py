"""What of an optimiser goes by the schedule: the learning rate and the weight decay of its groups, step by step."""

from __future__ import annotations

import torch

from ..recipe.config import LoopConfig
from ..schedules import Rate
from .checkpoints import HELD


class Rates:
    """Sets the rate and the decay of every step; both follow from the step alone, so that a resumed run has the same.

    Attributes:
        before: steps of the run whose schedule this one goes on with.
    """

    def __init__(self, settings: LoopConfig, steps: int, before: int = 0) -> None:
        """UserError where the run is too short for its annealing."""
        self.settings, self.steps, self.before = settings, steps, before
        self.rate = Rate(settings, steps, before)

    @property
    def held(self) -> int | None:
        """The number of steps behind which the annealing begins, where a checkpoint stays; None without one."""
        return self.rate.held

    def state(self, step: int) -> dict[str, int | None]:
        """What a checkpoint of this step says: the step annealing began behind, if it has; steps before the run."""
        begun = self.held is not None and step >= self.held
        return {HELD: self.held if begun else None, "before": self.before}

    def set(self, optimizer: torch.optim.Optimizer, step: int, scale: float) -> None:
        """Give the groups what an optimiser step, counted from 0, is done with.

        scale: of the learning rate, of a run that went back.
        """
        lr, ramp = self.rate.at(step) * scale, self.settings.decay_ramp
        decay = None if ramp is None else self.settings.weight_decay * ramp.factor(step / self.steps, self.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
            if decay is not None:
                group["weight_decay"] = decay * group["decays"]
