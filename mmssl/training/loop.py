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
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from ..data.loading import Loaded
from ..data.quarantine import Bad, Quarantine
from ..draws import Draws, key_of
from ..errors import RunError, UserError
from ..objectives.pretraining import Pretraining
from ..recipe.config import TrainConfig
from . import checkpoints
from .engine import on_first
from .guard import Guard
from .health import Watch, to_device
from .metrics import Display, MetricsFile
from .optimizer import learning_rate, make_optimizer

logger = logging.getLogger("mmssl")


@dataclass
class Meter:
    """Sums over the steps since the last report: loss parts on the device, counts and times on the host.

    shares: `gradient_shares` of the last step that measured them. read, bad: samples that this process read and those
    of them that were broken, not yet in the quarantine.
    """

    parts: dict[str, Tensor] = field(default_factory=dict)
    shares: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    samples: int = 0
    waited: float = 0.0
    read: int = 0
    bad: list[Bad] = field(default_factory=list)
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
        return dict(zip(names, values.tolist(), strict=True))


class Loop:
    """Trains a `Pretraining` from `start` to `steps` optimiser steps.

    batches(first_micro_batch) yields this process's micro-batches from there on. Loss parts are averaged over steps and
    processes in the log, the first after a resume over the steps since then. Interrupted (Ctrl-C, SIGTERM), it writes a
    checkpoint before it stops. `seconds` is the time spent in training, that before a resume included. health: measures
    health, if anybody does; `guard` judges it.
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
        health: Watch | None = None,
    ) -> None:
        self.accelerator, self.settings, self.steps, self.folder, self.seed = accelerator, settings, steps, folder, seed
        self.quarantine, self.health, self.guard = quarantine, health, Guard(settings.guard)
        self.rows = settings.batch_size // settings.accumulation // accelerator.num_processes
        self.pretraining = pretraining.to(accelerator.device)
        self.module: nn.Module
        self.module, self.optimizer = accelerator.prepare(pretraining, self.new_optimizer())
        self.start, self.seconds = 0, 0.0
        self._tracking = True

    def new_optimizer(self) -> torch.optim.Optimizer:
        s = self.settings
        return make_optimizer(self.pretraining, s.lr, s.weight_decay, (s.betas[0], s.betas[1]), s.eps)

    @property
    def checkpoint_folder(self) -> Path:
        return self.folder / "checkpoints"

    def resume(self) -> int:
        """Load the newest whole checkpoint, if there is one; returns the step it was written after."""
        path = checkpoints.latest(self.checkpoint_folder)
        if path is not None:
            state = self._load(path)
            self.guard.load_state_dict(state.get("guard", {}))
            self.start, self.seconds = int(state["step"]), float(state.get("seconds", 0.0))
            if self.start > self.steps:
                raise UserError(f"--resume: the run has done {self.start} steps, more than the {self.steps} asked for")
        return self.start

    def _load(self, path: Path) -> dict[str, Any]:
        state = checkpoints.load(path, self.pretraining, self.optimizer.optimizer)
        if self.accelerator.scaler is not None and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return state

    def save(self, step: int, healthy: bool | None = None) -> None:
        """Write a checkpoint (first process only). healthy: null where that was not measured at this step."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            state = scaler.state_dict() if scaler is not None else None
            extra = {"scaler": state, "seed": self.seed, "seconds": self.seconds}
            extra |= {"healthy": healthy, "guard": self.guard.state_dict()}
            more, best = self.more_state()
            checkpoints.save(
                self.checkpoint_folder,
                step,
                self.pretraining,
                self.optimizer.optimizer,
                extra | more,
                self.settings.keep,
                best,
            )

    def more_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What else a checkpoint holds: entries of its `state.json`, and the best weights so far, where kept."""
        return {}, {}

    def run(self, batches: Callable[[int], Iterator[Loaded]], per_epoch: float) -> RunError | None:
        """Train. per_epoch: optimiser steps of an epoch, for the log (nan: unknown).

        Returns why the last checkpoint could not be written, or None: the trained model is still worth keeping.
        """
        main = self.accelerator.is_main_process
        stream, metrics = self._stream(batches, self.start)
        meter, step = Meter(), self.start
        measured: dict[str, float | None] = {}
        self.module.train()
        if self.guard.action == "rollback" and not checkpoints.found(self.checkpoint_folder):
            self.save(step, healthy=True)  # the start is always there to go back to
        with Display(self.steps, self.start, main) as display, _Interrupts() as interrupts:
            try:
                while step < self.steps:
                    began = time.perf_counter()
                    self._gradients(stream, step, meter)
                    with interrupts.held():
                        norm = self._update(step, meter)
                        step += 1
                        self.seconds += time.perf_counter() - began
                    display.advance(step)
                    saves = self.settings.save_every and step % self.settings.save_every == 0 and step < self.steps
                    measured = self._measure(step, bool(saves) and self.guard.marks or step == self.steps)
                    logs = step % self.settings.log_every == 0 or step == self.steps or bool(measured)
                    if not (logs or saves):
                        continue
                    averages = meter.averages(self.accelerator)
                    if logs and math.isfinite(averages[""]):
                        self._report(self._row(step, per_epoch, norm, meter, averages, measured), metrics, display)
                        meter = Meter()
                    fault = self._judge(step, averages[""], measured)  # a broken model pushes out no good checkpoint
                    if fault is not None:
                        with interrupts.held():
                            step = self._go_back(step, fault)
                        (stream, metrics), meter = self._stream(batches, step), Meter()
                    elif saves:
                        self._try_to_save(step, "training goes on", self._mark(measured))
            except KeyboardInterrupt:
                logger.warning("stopped by hand after step %d; writing a checkpoint, go on with --resume", step)
                self.save(step)
                raise
            except UserError:  # too many broken samples, in all processes at once
                if step > self.start and self._try_to_save(step, "stopping") is None:
                    logger.warning("stopped with a checkpoint of step %d; go on with --resume once it is mended", step)
                raise
            return self._try_to_save(step, "trying to write the model alone", self._mark(measured))

    def _stream(
        self, batches: Callable[[int], Iterator[Loaded]], step: int
    ) -> tuple[Iterator[Loaded], MetricsFile | None]:
        """The micro-batches after `step`, and the file for what is said of them."""
        metrics = MetricsFile(self.folder / "metrics.jsonl", step) if self.accelerator.is_main_process else None
        return batches(step * self.settings.accumulation + self.guard.skipped), metrics

    def _measure(self, step: int, now: bool) -> dict[str, float | None]:
        return self.health.measure(step, now) if self.health is not None else {}

    def _judge(self, step: int, loss: float, measured: dict[str, float | None]) -> str | None:
        """Why the run must go back to a healthy checkpoint, or None. RunError, on all processes, when it must stop."""
        guard = self.guard
        fault = guard.check(step, loss, {k: v for k, v in measured.items() if k.startswith("health/")})
        if guard.settings is not None and self.accelerator.num_processes > 1:
            agreed = [fault]
            broadcast_object_list(agreed)
            fault = agreed[0]
        if not math.isfinite(loss) and guard.action != "rollback":
            raise RunError(
                f"the loss is {loss} at step {step}; "
                "try a lower train.lr, a longer train.warmup, train.clip=1.0 or train.mixed_precision=no"
            )
        if fault is None or (guard.action == "rollback" and guard.rollbacks < guard.most):
            return fault
        if guard.action == "warn":
            logger.warning("step %d: %s; the training goes on (train.guard.action is warn)", step, fault)
            guard.note(step, fault, "warned")
            return None
        self._stop(step, fault, math.isfinite(loss))

    def _stop(self, step: int, fault: str, finite: bool) -> NoReturn:
        """Write a checkpoint, where there is something to write, and end the run."""
        self.guard.note(step, fault, "stopped")
        tries = f" and {self.guard.rollbacks} rollbacks" if self.guard.rollbacks else ""
        last = on_first(self.accelerator, lambda: checkpoints.latest(self.checkpoint_folder, healthy=True))
        saved = finite and self._try_to_save(step, "stopping", healthy=False) is None
        raise RunError(
            f"stopped by train.guard after step {step}{tries}: {fault}; "
            + (f"checkpoint step-{step:08d} is written, " if saved else "")
            + (f"the last healthy one is {last.name}" if last is not None else "no healthy one is there")
        )

    def _go_back(self, step: int, fault: str) -> int:
        """Weights, optimiser and guard as of the last healthy checkpoint; returns its step."""
        # the first process looks: it wrote them, and says if one is damaged
        path = on_first(self.accelerator, lambda: checkpoints.latest(self.checkpoint_folder, healthy=True))
        if path is None:
            self._stop(step, fault, False)
        state = self._load(path)
        back = int(state["step"])
        self.guard.go_back(state.get("guard", {}), step, back, fault, self.settings.accumulation)
        logger.warning(
            "step %d: %s; back to step %d with the learning rate times %.3g (rollback %d of at most %d)",
            step,
            fault,
            back,
            self.guard.lr_scale,
            self.guard.rollbacks,
            self.guard.most,
        )
        self.optimizer.zero_grad()
        self.accelerator.wait_for_everyone()  # the first process writes anew what all others must have read
        self._try_to_save(back, "training goes on", healthy=True)  # what came after it goes, --resume starts here
        self.accelerator.wait_for_everyone()
        return back

    def _mark(self, measured: dict[str, float | None]) -> bool | None:
        """What a checkpoint of this step says of its health: nothing where that was not measured."""
        return self.guard.healthy if any(key.startswith("health/") for key in measured) else None

    def _try_to_save(self, step: int, instead: str, healthy: bool | None = None) -> RunError | None:
        """A checkpoint that cannot be written is no reason to throw the run away."""
        try:
            self.save(step, healthy)
        except RunError as error:
            logger.warning("%s; %s", error, instead)
            return error
        return None

    def _gradients(self, stream: Iterator[Loaded], step: int, meter: Meter) -> None:
        """Forward and backward over `accumulation` micro-batches."""
        s, accelerator = self.settings, self.accelerator
        torch.manual_seed(key_of(self.seed, step, accelerator.process_index, *self.guard.salt))  # dropout
        shares = s.gradient_share_every is not None and (step + 1) % s.gradient_share_every == 0
        for micro in range(s.accumulation):
            waiting = time.perf_counter()
            loaded = next(stream)
            meter.waited += time.perf_counter() - waiting
            rows = loaded.size
            meter.read, meter.bad = meter.read + rows, meter.bad + loaded.bad
            if accelerator.num_processes == 1:
                self._quarantine(meter)
            batch = to_device(loaded.batch, accelerator.device)
            draws = Draws(
                key_of(self.seed, step, micro, *self.guard.salt),
                rows,
                accelerator.process_index * rows,
                rows * accelerator.num_processes,
                accelerator.device,
            )
            last = micro + 1 == s.accumulation
            with contextlib.nullcontext() if last else accelerator.no_sync(self.module):
                loss = self.module(batch, draws, **({"shares": True} if shares and last else {}))
                accelerator.backward(loss.total / s.accumulation)
            meter.shares = loss.shares or meter.shares
            meter.add({"": loss.total} | loss.parts, 1 / s.accumulation)
            meter.samples += rows * accelerator.num_processes
        meter.steps += 1

    def _update(self, step: int, meter: Meter) -> Tensor | None:
        """The optimiser's step; returns the gradient's norm before clipping."""
        s = self.settings
        lr = learning_rate(step, self.steps, s.lr, s.warmup, s.min_lr) * self.guard.lr_scale
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("scale", 1.0)
        clip = s.clip if s.clip is not None else math.inf
        norm = self.accelerator.clip_grad_norm_(self.pretraining.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.pretraining.after_step((step + 1) / self.steps)
        return norm

    def _quarantine(self, meter: Meter) -> None:
        """Record the broken samples of all processes in each, so that all stop together; all call it together."""
        counted = [(meter.bad, meter.read)]
        if self.accelerator.num_processes > 1:
            counted = gather_object(counted)
        meter.bad, meter.read = [], 0
        try:
            self.quarantine.record([fault for bad, _ in counted for fault in bad], sum(read for _, read in counted))
        except RunError as error:
            logger.warning("%s; training goes on", error)

    def _row(
        self,
        step: int,
        per_epoch: float,
        norm: Tensor | None,
        meter: Meter,
        averages: dict[str, float],
        measured: dict[str, float | None],
    ) -> dict[str, Any]:
        if self.accelerator.num_processes > 1:
            self._quarantine(meter)
        seconds = time.perf_counter() - meter.since
        return {
            "step": step,
            "epoch": step / per_epoch if per_epoch == per_epoch else None,
            "loss": averages[""],
            **{f"loss/{name}": value for name, value in averages.items() if name},
            **{f"gradient_share/{name}": float(value) for name, value in meter.shares.items()},
            **measured,
            **({"guard/rollbacks": self.guard.rollbacks} if self.guard.rollbacks else {}),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(norm) if norm is not None else None,
            "samples_per_second": meter.samples / seconds,
            "data_wait": meter.waited / seconds,
            "seconds_left": (self.steps - step) * seconds / max(meter.steps, 1),
        }

    def _report(self, row: dict[str, Any], metrics: MetricsFile | None, display: Display) -> None:
        written = metrics is None or metrics.write({k: v for k, v in row.items() if k != "seconds_left"})
        display.report(row)
        if self._tracking and written:  # where the disk is full, TensorBoard's thread would die of it
            try:
                self.accelerator.log({k: v for k, v in row.items() if v is not None and k != "step"}, step=row["step"])
            except OSError as error:
                logger.warning("the trackers failed (%s); training goes on without them", error)
                self._tracking = False


class _Interrupts:
    """Ctrl-C and SIGTERM (a scheduler's) raise KeyboardInterrupt, but not while the weights change.

    So a preempted run writes its checkpoint, and one that is interrupted goes on exactly where it was.
    """

    def __init__(self) -> None:
        self.hold = self.pending = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored: a job in the background
                    self.before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: Any) -> None:
        if not self.hold:
            raise KeyboardInterrupt
        self.pending = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self.hold = True
        try:
            yield
        finally:
            self.hold = False
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt
