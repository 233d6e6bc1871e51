"""A look at the validation rows now and then: early stopping, and the best weights so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..saying import say
from .checkpoints import State
from .engine import on_first
from .observers import Measured, Moment, Observer, Verdict

Look = Callable[[], tuple[float, float]]
"""(loss, score) on the validation rows; a higher score is better. It draws no random numbers of the training."""


class Validation(Observer):
    """Looks every `every` steps and after the last; the start, step 0, is a candidate as well.

    Its numbers stand in a line of their own: a look at the validation rows is no reason to end an average over
    training steps.
    """

    name = "best"
    logged = False

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        rows: Look,
        *,
        every: int,
        patience: int | None,
        monitor: str = "loss",
    ) -> None:
        """What is looked at, and what follows.

        Args:
            accelerator: the first process looks, all get its numbers.
            module: whose trainable parameters are kept where they did best.
            rows: measures on the validation rows.
            every: steps between looks.
            patience: looks without gain after which the run has trained enough; None: it never has.
            monitor: "loss", or else the score.
        """
        self.accelerator, self.module, self.rows = accelerator, module, rows
        self.every, self.patience, self.monitor = every, patience, monitor
        self.best, self.best_step, self.gone = math.inf, 0, 0
        self.kept: dict[str, Tensor] = {}

    def due(self, moment: Moment) -> bool:
        """Every `every` steps, at the start and after the last."""
        return moment.step % self.every == 0 or moment.last

    def look(self, moment: Moment) -> Measured:
        """`validation/loss` and `validation/score`. The first process measures, and the others wait for its numbers."""
        loss, score = on_first(self.accelerator, self.rows)
        return {"validation/loss": loss, "validation/score": score}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Keep a copy of the trained weights where this look is the best so far. Never a verdict."""
        loss, score = found["validation/loss"], found["validation/score"]
        assert loss is not None and score is not None
        value = loss if self.monitor == "loss" else -score
        if value < self.best:
            self.best, self.best_step, self.gone = value, moment.step, 0
            trained = ((name, p) for name, p in self.module.named_parameters() if p.requires_grad)
            self.kept = {name: p.detach().clone() for name, p in trained}
        else:
            self.gone += 1
        if self.accelerator.is_main_process:
            say(f"validation after step {moment.step}: loss {loss:.4f}, score {score:.4f}")
            if self.enough and not moment.last:
                say(f"stopping early after step {moment.step}: the best was step {self.best_step}")
        return None

    @property
    def enough(self) -> bool:
        """Whether `patience` looks in a row were no better than the best."""
        return self.patience is not None and self.gone >= self.patience

    def state_dict(self) -> State:
        """The best value and its step, and how many looks have passed since."""
        return {"value": self.best if self.kept else None, "step": self.best_step, "gone": self.gone}

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights of the best look."""
        return self.kept

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict` and `tensors`."""
        value = state.get("value")
        self.best = math.inf if value is None else float(value)
        self.best_step, self.gone = int(state.get("step", 0)), int(state.get("gone", 0))
        device = self.accelerator.device
        self.kept = {name: tensor.to(device) for name, tensor in tensors.items()}

    @torch.no_grad()
    def restore(self) -> int | None:
        """Put the best weights back.

        Returns:
            The step that they are of; None where none were kept.
        """
        for name, parameter in self.module.named_parameters():
            if name in self.kept:
                parameter.copy_(self.kept[name])
        return self.best_step if self.kept else None
