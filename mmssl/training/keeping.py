"""The checkpoints of one loop: what of it they hold, and when the next one is due."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..recipe.config import LoopConfig
from ..saying import doing, say
from . import checkpoints
from .engine import on_first
from .observers import Observers
from .parallel import Parallel


class Keeper:
    """Writes and reads the checkpoints in a folder.

    Attributes:
        saved: the step of the last one that was written; None before the first.
    """

    def __init__(
        self,
        folder: Path,
        parallel: Parallel,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        observers: Observers,
        settings: LoopConfig,
        origin: Mapping[str, object],
    ) -> None:
        """What they are of.

        Args:
            folder: of all checkpoints of the run.
            parallel: the processes, and what each of them holds.
            module: whose weights are kept.
            optimizer: whose state is.
            observers: whose state is, too.
            settings: the options of the loop.
            origin: what the run started from, by name.
        """
        self.folder, self.parallel, self.accelerator = folder, parallel, parallel.accelerator
        self.module, self.optimizer, self.observers = module, optimizer, observers
        self.settings, self.origin = settings, origin
        self.saved: int | None = None
        self._saved_at = time.monotonic()

    def latest(self, healthy: bool = False) -> Path | None:
        """`checkpoints.latest`. The first process looks: it says if one is damaged."""
        return on_first(self.accelerator, lambda: checkpoints.latest(self.folder, healthy))

    def unannealed(self, path: Path, held: int | None) -> Path:
        """The checkpoint to go on from where `path` is the newest one: itself, or where it has begun an annealing that
        is not asked for any more (a longer run), the one before that. UserError where that is gone.

        held: the step behind which the annealing of this run begins; None without one.
        """

        def find() -> Path:
            begun = checkpoints.held_step(path)
            if begun is None or begun == held or path.name == checkpoints.name_of(begun):
                return path
            found = checkpoints.of_step(self.folder, begun)
            if found is None:
                raise UserError(
                    f"--resume: the learning rate was annealed from step {begun} on, whose checkpoint is gone from "
                    f"{self.folder}; expected train.steps and train.anneal as they were"
                )
            say(f"going back to {found.name}, before the annealing that is not asked for any more")
            return found

        return on_first(self.accelerator, find)

    def best(self) -> Path | None:
        """The checkpoint that `train.keep_best` kept; None where there is none."""
        step = self.observers.state().get(checkpoints.BEST, {}).get("step")
        return on_first(self.accelerator, lambda: None if step is None else checkpoints.of_step(self.folder, step))

    def take_best(self) -> None:
        """Put the best weights in the place of the last ones, and say so."""
        path = self.best()
        if path is not None:
            checkpoints.load(path, self.module, self.optimizer)
        if self.accelerator.is_main_process:
            said = "nothing was measured that keep_best goes by" if path is None else f"best was {path.name}"
            say(f"{said}: the model gets {'the last' if path is None else 'its'} weights")

    def load(self, path: Path) -> checkpoints.State:
        """Weights, optimiser and observers as of a checkpoint. UserError when it is of a run from something else."""
        checkpoints.check_origin(path, self.origin, self.settings.batch_size, self.settings.optimizer)
        state = checkpoints.load(path, self.module, self.optimizer)
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.observers.load(state, partial(checkpoints.tensors, path))
        return state

    def take_from(self, run: Path) -> int:
        """Weights and optimiser as of the last checkpoint of another run, or the one before its annealing; returns the
        steps that were done by then. UserError when there is none that fits."""
        folder = run / "checkpoints"

        def find() -> Path:
            last = checkpoints.latest(folder)
            if last is None:
                raise UserError(f"train.after: found no checkpoint in {folder}, expected the folder of a run")
            held = checkpoints.held_step(last)
            path = last if held is None else checkpoints.of_step(folder, held)
            if path is None:
                raise UserError(f"train.after: checkpoint {held}, before the annealing, is gone from {folder}")
            rule = checkpoints.optimizer_of(path)
            if rule != self.settings.optimizer:
                raise UserError(
                    f"train.after: found train.optimizer {self.settings.optimizer}, but {path} holds the state of "
                    f"{rule}; expected {rule}"
                )
            say(f"going on from {path}, with its objectives and the optimiser's state")
            return path

        path = on_first(self.accelerator, find)
        state = checkpoints.load(path, self.module, self.optimizer)
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return int(state["step"]) + int(state.get("before", 0))

    def write(self, step: int, own: checkpoints.State) -> None:
        """Write a checkpoint: the first process alone, or where each holds a share all together.

        own: what the loop says of itself.
        """
        if self.accelerator.is_main_process or self.parallel.cut:
            scaler = self.accelerator.scaler
            state = {"scaler": scaler.state_dict() if scaler is not None else None, **own}
            state |= {"batch_size": self.settings.batch_size, "optimizer": self.settings.optimizer}
            state |= self.observers.state()
            state |= {"origin": self.origin} if self.origin else {}
            together = partial(checkpoints.save_together, accelerator=self.accelerator)
            save = together if self.parallel.cut else checkpoints.save
            with doing(f"writing the checkpoint of step {step}"):
                tensors = self.observers.tensors()
                save(self.folder, step, self.module, self.optimizer, state, self.settings.keep, tensors)
        self.saved, self._saved_at = step, time.monotonic()

    def long_unsaved(self) -> bool:
        """Whether the last checkpoint is `save_minutes` old; the same in all processes, which call it together."""
        if self.settings.save_minutes is None:
            return False
        seconds = torch.tensor(time.monotonic() - self._saved_at, device=self.accelerator.device)
        return float(self.accelerator.reduce(seconds, "mean")) >= 60 * self.settings.save_minutes
