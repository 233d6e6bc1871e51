"""The checkpoints of one loop: what of it they hold, and when the next one is due."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ..errors import UserError
from ..recipe.config import LoopConfig
from ..saying import doing, say
from . import checkpoints, writing
from .engine import on_first
from .observers import Observers
from .parallel import Parallel

logger = logging.getLogger("mmssl")


class Keeper:
    """Writes and reads the checkpoints in a folder.

    Attributes:
        saved: the step of the last one that was written, or is being written beside the training (`wait`); None before
            the first.
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
        self._beside = writing.Beside() if settings.save_async else None
        self._group: dist.ProcessGroup | None = parallel.hosts
        if self._beside is not None and parallel.cut:  # what a thread says must not come between what the loop says
            self._group = parallel.talk()

    def latest(self, healthy: bool = False) -> Path | None:
        """`checkpoints.latest`. The first process looks: it says if one is damaged."""
        self.wait()
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
        self.wait()
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

    def write(self, step: int, own: checkpoints.State, beside: bool = False) -> None:
        """Write a checkpoint: the first process alone, or where each holds a share all together.

        own: what the loop says of itself. beside: it may be written while the training goes on (`train.save_async`).
        """
        self.wait()
        if self.accelerator.is_main_process or self.parallel.cut:
            scaler = self.accelerator.scaler
            state = {"scaler": scaler.state_dict() if scaler is not None else None, **own}
            state |= {"batch_size": self.settings.batch_size, "optimizer": self.settings.optimizer}
            state |= self.observers.state()
            state |= {"origin": self.origin} if self.origin else {}
            content = writing.Content.of(self.module, self.optimizer, state, self.observers.tensors())
            if beside and self._beside is not None:
                self._beside.begin(content, partial(self._save, step))
            else:
                with doing(f"writing the checkpoint of step {step}"):
                    self._save(step, content)
        self.saved, self._saved_at = step, time.monotonic()

    def _save(self, step: int, content: writing.Content) -> None:
        if self.parallel.cut:
            writing.save_together(self.folder, step, content, self.settings.keep, self._group)
        else:
            writing.save(self.folder, step, content, self.settings.keep)

    def wait(self) -> None:
        """Wait until no checkpoint is being written any more. One that could not be is warned of, as is one that is
        written at once; another error than of writing is raised."""
        if self._beside is None:
            return
        with doing("waiting for the last checkpoint"):
            error = self._beside.wait()
        if error is not None:
            self.saved = None
            logger.warning("%s; the training went on", error)

    def has(self, step: int) -> bool:
        """Whether the last checkpoint that is written whole is of this step; waits until it is."""
        self.wait()
        return self.saved == step

    def long_unsaved(self) -> bool:
        """Whether the last checkpoint is `save_minutes` old; the same in all processes, which call it together."""
        if self.settings.save_minutes is None:
            return False
        seconds = torch.tensor(time.monotonic() - self._saved_at, device=self.accelerator.device)
        return float(self.accelerator.reduce(seconds, "mean")) >= 60 * self.settings.save_minutes
