"""The one training loop. Every method runs through it; what differs between methods is in their objectives."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..data.loading import Loaded
from ..data.quarantine import Quarantine
from ..draws import Draws, key_of
from ..errors import RunError
from ..modality import Batch
from ..pretraining import Pretraining
from . import checkpoints
from .metrics import Display, MetricsFile
from .optimizer import learning_rate, make_optimizer
from ..config import TrainConfig

logger = logging.getLogger("mmssl")


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {n: {k: v.to(device, non_blocking=True) for k, v in inputs.items()} for n, inputs in batch.items()}


@dataclass
class Meter:
    """Sums over the steps since the last report: loss parts on the device, counts and times on the host."""

    parts: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, parts: dict[str, Tensor], share: float) -> None:
        for name, value in parts.items():
            value = value.detach().float() * share
            self.parts[name] = self.parts[name] + value if name in self.parts else value

    def averages(self, accelerator: Accelerator) -> dict[str, float]:
        """Averages over steps and processes; all processes must call it together."""
        names = list(self.parts)
        values = torch.stack([self.parts[n] for n in names]) / max(self.steps, 1)
        values = accelerator.reduce(values, "mean")
        return dict(zip(names, values.tolist(), strict=True))  # type: ignore[union-attr]


class Loop:
    """Trains a `Pretraining` from `start` to `steps` optimiser steps.

    batches(first_micro_batch) yields this process's micro-batches from there on. Loss parts are averaged over steps and
    processes in the log. Interrupted (Ctrl-C, SIGTERM), it writes a checkpoint before it stops.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        pretraining: Pretraining,
        settings: TrainConfig,
        steps: int,
        folder: Path,
        seed: int,
        quarantine: Quarantine,
    ) -> None:
        self.accelerator, self.settings, self.steps, self.folder, self.seed = accelerator, settings, steps, folder, seed
        self.quarantine = quarantine
        self.rows = settings.batch_size // settings.accumulation // accelerator.num_processes
        self.pretraining = pretraining.to(accelerator.device)
        s = settings
        optimizer = make_optimizer(pretraining, s.lr, s.weight_decay, (s.betas[0], s.betas[1]), s.eps)
        self.module: nn.Module
        self.module, self.optimizer = accelerator.prepare(pretraining, optimizer)
        self.start = 0

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

    def resume(self) -> int:
        """Load the newest whole checkpoint, if there is one; returns the step it was written after."""
        path = checkpoints.latest(self.checkpoint_folder)
        if path is not None:
            state = checkpoints.load(path, self.pretraining, self.optimizer.optimizer)
            self.start = int(state["step"])
            if self.accelerator.scaler is not None and state.get("scaler"):
                self.accelerator.scaler.load_state_dict(state["scaler"])
        return self.start

    def save(self, step: int) -> None:
        """Write a checkpoint (first process only)."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            extra = {"scaler": scaler.state_dict() if scaler is not None else None, "seed": self.seed}
            checkpoints.save(
                self.checkpoint_folder, step, self.pretraining, self.optimizer.optimizer, extra, self.settings.keep
            )

    def run(self, batches: Callable[[int], Iterator[Loaded]], per_epoch: float) -> None:
        """Train. per_epoch: optimiser steps of an epoch, for the log (nan: unknown)."""
        main = self.accelerator.is_main_process
        metrics = MetricsFile(self.folder / "metrics.jsonl", self.start) if main else None
        stream = batches(self.start * self.settings.accumulation)
        meter, step = Meter(), self.start
        self.module.train()
        with Display(self.steps, self.start, main) as display, _sigterm_as_interrupt():
            try:
                while step < self.steps:
                    norm = self._step(stream, step, meter)
                    step += 1
                    display.advance(step)
                    if step % self.settings.log_every == 0 or step == self.steps:
                        row = self._row(step, per_epoch, norm, meter)
                        self._report(row, metrics, display)
                        meter = Meter()
                    if self.settings.save_every and step % self.settings.save_every == 0 and step < self.steps:
                        self._save_and_go_on(step)
            except KeyboardInterrupt:
                logger.warning("stopped by hand after step %d; writing a checkpoint, go on with --resume", step)
                self.save(step)
                raise
        self.save(step)

    def _save_and_go_on(self, step: int) -> None:
        """A checkpoint that cannot be written in the middle is no reason to throw the run away."""
        try:
            self.save(step)
        except RunError as error:
            logger.warning("%s; training goes on", error)

    def _step(self, stream: Iterator[Loaded], step: int, meter: Meter) -> Tensor | None:
        """One optimiser step over `accumulation` micro-batches; returns the gradient's norm."""
        s, accelerator = self.settings, self.accelerator
        torch.manual_seed(key_of(self.seed, step, accelerator.process_index))  # dropout
        lr = learning_rate(step, self.steps, s.lr, s.warmup, s.min_lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        for micro in range(s.accumulation):
            waiting = time.perf_counter()
            loaded = next(stream)
            meter.waited += time.perf_counter() - waiting
            self.quarantine.record(loaded.bad, len(loaded.rows))
            batch = to_device(loaded.batch, accelerator.device)
            rows = len(loaded.rows)
            draws = Draws(
                key_of(self.seed, step, micro),
                rows,
                accelerator.process_index * rows,
                rows * accelerator.num_processes,
                accelerator.device,
            )
            last = micro + 1 == s.accumulation
            with contextlib.nullcontext() if last else accelerator.no_sync(self.module):
                loss = self.module(batch, draws)
                accelerator.backward(loss.total / s.accumulation)
            meter.add({"": loss.total} | loss.parts, 1 / s.accumulation)
            meter.samples += rows * accelerator.num_processes
        norm = accelerator.clip_grad_norm_(self.pretraining.parameters(), s.clip if s.clip is not None else math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pretraining.after_step((step + 1) / self.steps)
        meter.steps += 1
        return norm

    def _row(self, step: int, per_epoch: float, norm: Tensor | None, meter: Meter) -> dict[str, Any]:
        averages = meter.averages(self.accelerator)
        total = averages.pop("")
        if not math.isfinite(total):
            raise RunError(
                f"the loss is {total} at step {step}; "
                "try a lower train.lr, a longer train.warmup, train.clip=1.0 or train.mixed_precision=no"
            )
        seconds = time.perf_counter() - meter.since
        return {
            "step": step,
            "epoch": step / per_epoch if per_epoch == per_epoch else None,
            "loss": total,
            **{f"loss/{name}": value for name, value in averages.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(norm) if norm is not None else None,
            "samples_per_second": meter.samples / seconds,
            "data_wait": meter.waited / seconds,
            "seconds_left": (self.steps - step) * seconds / max(meter.steps, 1),
        }

    def _report(self, row: dict[str, Any], metrics: MetricsFile | None, display: Display) -> None:
        if metrics is not None:
            metrics.write({k: v for k, v in row.items() if k != "seconds_left"})
        display.report(row)
        self.accelerator.log({k: v for k, v in row.items() if v is not None and k != "step"}, step=row["step"])


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A scheduler's SIGTERM is Ctrl-C, so that a preempted run writes its checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
