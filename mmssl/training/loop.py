"""The one training loop. Every method runs through it; what differs between methods is in their objectives."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from ..data.loading import Loaded
from ..data.quarantine import Quarantine
from ..draws import Draws, key_of
from ..errors import RunError, TimeUp, UserError
from ..objectives.pretraining import Pretraining
from ..recipe.config import LoopConfig
from . import checkpoints
from .course import Course
from .effort import Effort
from .engine import check_batch_norms
from .gradients import go_through
from .interrupts import Interrupts
from .keeping import Keeper
from .metrics import Display, Meter, MetricsFile, Row, loss_parts
from .observers import Found, Moment, Observer, Observers, Verdict
from .optimizer import default_optimizer
from .out_of_memory import OutOfMemory, cut_finer, tried
from .parallel import Parallel
from .ranks import Clock, Stragglers, Told, costs
from .rates import Rates
from .trackers import track

logger = logging.getLogger("mmssl")

Batches = Callable[[int], Iterator[Loaded]]
"""Number of the first micro-batch -> this process's micro-batches from there on."""
Optimizer = Callable[[nn.Module, LoopConfig], torch.optim.Optimizer]


class Loop:
    """Trains a `Pretraining` from `start` to `steps` optimiser steps.

    Loss parts are averaged over steps and processes in the log, the first after a resume over the steps since then.
    Interrupted (Ctrl-C, SIGTERM), it writes a checkpoint before it stops. What looks at the run are its `observers`;
    what went wrong on the way is in `course`. `seconds` is the time spent in steps, that before a resume included.
    """

    def __init__(
        self,
        parallel: Parallel,
        pretraining: Pretraining,
        settings: LoopConfig,
        steps: int,
        folder: Path,
        seed: int,
        quarantine: Quarantine,
        *,
        observers: Sequence[Observer] = (),
        optimizer: Optimizer = default_optimizer,
        origin: dict[str, object] | None = None,
    ) -> None:
        """A loop at its first step.

        Args:
            parallel: the processes, what each of them holds, the precision and the trackers.
            pretraining: what is trained.
            settings: the options of the loop.
            steps: optimiser steps in all.
            folder: of the run.
            seed: of all draws.
            quarantine: where broken samples are told of.
            observers: what looks at the run; they look and note in this order.
            optimizer: makes the optimiser, once the parameters are on their device.
            origin: what the run started from, by name; a checkpoint of a run with another one is refused.
        """
        self.parallel, self.accelerator = parallel, parallel.accelerator
        self.settings, self.steps, self.folder, self.seed = settings, steps, folder, seed
        self.checkpoint_folder = folder / "checkpoints"
        self.quarantine, self.observers = quarantine, Observers(observers)
        check_batch_norms(pretraining.model, settings.accumulation, self.accelerator.num_processes)
        self.pretraining = pretraining
        parallel.place(pretraining)
        made = optimizer(pretraining, settings)
        self.module = parallel.prepare(pretraining)
        self.optimizer = self.accelerator.prepare(made)
        self.keeper = Keeper(
            self.checkpoint_folder, parallel, pretraining, made, self.observers, settings, origin or {}
        )
        self.pretraining.begin(steps)
        self.effort = Effort(pretraining.model, self.accelerator, getattr(settings, "compile", False) is True)
        self.clock, self.stragglers = Clock(parallel, parallel.blocks(pretraining)), Stragglers()
        self.course, self.rates = Course(), Rates(settings, steps)
        self.start, self.seconds = 0, 0.0
        self.began = time.monotonic()  # `train.time_limit` counts from here
        self.looked = -1  # the last step that the observers were asked after
        self.shares_every: int | None = None  # steps between measurements of who pulls the encoders
        self._tracking = True
        self._metrics: MetricsFile | None = None
        self._healthy: bool | None = None

    def resume(self) -> int:
        """Load the newest whole checkpoint, if there is one; returns the step it was written after."""
        path = self.keeper.latest()
        if path is not None:
            path = self.keeper.unannealed(path, self.rates.held)
            state = self._load(path)
            self.course = Course.of(state["course"])
            self.rates = Rates(self.settings, self.steps, int(state.get("before", 0)))
            self.start, self.seconds = int(state["step"]), float(state["seconds"])
            if self.start > self.steps:
                raise UserError(f"--resume: the run has done {self.start} steps, more than the {self.steps} asked for")
        return self.start

    def go_on_from(self, run: Path) -> None:
        """Take over what another run has learned, and where it was in a schedule that knows no end."""
        self.rates = Rates(self.settings, self.steps, self.keeper.take_from(run))
        self.pretraining.restart()

    @property
    def where(self) -> str:
        """What a resumed run says of itself."""
        return (
            f"going on after step {self.start} of {self.steps}" if self.start else "no checkpoint yet: from the start"
        )

    def _load(self, path: Path) -> checkpoints.State:
        """Weights, optimiser and observers as of a checkpoint."""
        state = self.keeper.load(path)
        self.looked = int(state["looked"])
        return state

    def save(self, step: int, healthy: bool | None = None, beside: bool = False) -> None:
        """Write a checkpoint; healthy: null where that was not measured at this step, beside: as `Keeper.write`."""
        own = {"seed": self.seed, "seconds": self.seconds, "healthy": healthy, "looked": self.looked}
        self.keeper.write(step, own | {"course": self.course.state_dict()} | self.rates.state(step), beside)

    def run(self, batches: Batches, per_epoch: float) -> RunError | None:
        """Train.

        Args:
            batches: the data.
            per_epoch: optimiser steps of an epoch, for the log; nan: unknown.

        Returns:
            Why the last checkpoint could not be written, or None: the trained model is still worth keeping.

        Raises:
            RunError: the loss is not finite, or a verdict ended the run; TimeUp: its time is over.
            UserError: too many broken samples.
            KeyboardInterrupt: stopped by hand, after a checkpoint.
        """
        step, main = self.start, self.accelerator.is_main_process
        with Display(self.steps, step, main) as display, Interrupts() as interrupts, contextlib.ExitStack() as stack:
            if main:
                self._metrics = MetricsFile(self.folder / "metrics.jsonl", self.looked)
                stack.callback(self._metrics.close)
            # of processes that hold shares none can stop alone
            answered = stack.enter_context(interrupts.together(self.parallel.agreed if self.parallel.cut else None))
            stack.enter_context(self.effort.watched())
            stack.callback(self.keeper.wait)
            try:
                self._first_look(interrupts)
                self.module.train()
                stream, meter = self._stream(batches, step), Meter()
                while step < self.steps:
                    began = time.perf_counter()
                    said = tried(partial(self._gradients, stream, step, meter), meter)
                    if said is not None:  # the same step again, in more parts
                        self.optimizer.zero_grad()
                        self.pretraining.discard()
                        cut_finer(self.pretraining, self.settings, self.accelerator.num_processes, step, said)
                        stream = self._stream(batches, step)
                        continue
                    with interrupts.held():  # weights, optimiser and step change together
                        norm = self._update(step)
                        self.module = self.parallel.settled(self.module, self.pretraining)
                        step += 1
                        self.seconds += time.perf_counter() - began
                    display.advance(step)
                    # a look is not held, it may take minutes: nothing changes before it is noted
                    moment = self._moment(step)
                    found = self.parallel.look(self.pretraining, partial(self.observers.look, moment))
                    with interrupts.held():  # what was seen, the log and the checkpoint too
                        meter, verdict = self._account(moment, found, meter, norm, per_epoch, display)
                        step = self._settle(moment, verdict)
                    went_back = step != moment.step
                    if went_back or self.observers.renewed:
                        stream, meter = self._stream(batches, step), Meter() if went_back else meter
                    answered()
                    self._watch_the_clock(step)
            except KeyboardInterrupt:
                with interrupts.saving():
                    logger.warning("stopped by hand after step %d; writing a checkpoint, go on with --resume", step)
                    if not self.keeper.has(step):
                        self.save(step)
                raise
            except (UserError, OutOfMemory) as error:  # too many broken samples, in all processes at once
                alone = self.parallel.cut and isinstance(error, OutOfMemory)  # the others wait in the middle of a step
                if step > self.start and not alone and self._try_to_save(step, "stopping") is None:
                    logger.warning("stopped with a checkpoint of step %d; go on with --resume once it is mended", step)
                raise
            return self._try_to_save(step, "trying to write the model alone", self._healthy)

    # ------------------------------------------------------------------------------------------------ around the step

    def _stream(self, batches: Batches, step: int) -> Iterator[Loaded]:
        """The micro-batches after `step`."""
        return batches((step + self.course.skipped) * self.settings.accumulation)

    def _moment(self, step: int) -> Moment:
        every, logs = self.settings.save_every, step % self.settings.log_every == 0 or step == self.steps
        saves = every is not None and step % every == 0 or logs and self.keeper.long_unsaved()
        saves = saves or step == self.rates.held
        return Moment(step, self.steps, saves and step < self.steps, logs, self.course.skipped)

    def _watch_the_clock(self, step: int) -> None:
        """TimeUp, with a checkpoint, where the run has had its time; RunError where that cannot be written."""
        limit = self.settings.time_limit
        if limit is None or step >= self.steps or not self.parallel.agreed(time.monotonic() - self.began >= 60 * limit):
            return
        if not self.keeper.has(step):
            self.save(step, self._healthy)
        raise TimeUp(
            f"train.time_limit: {limit:g} minutes are over after step {step} of {self.steps}; a checkpoint is written, "
            "go on with --resume"
        )

    def _first_look(self, interrupts: Interrupts) -> None:
        """Look at the start, or make up for a look that was interrupted."""
        if self.looked < self.start:
            moment = Moment(self.start, self.steps, skipped=self.course.skipped)
            found = self.parallel.look(self.pretraining, partial(self.observers.look, moment))
            with interrupts.held():
                self.observers.note(moment, found, self._metrics)
                if self._metrics is not None and moment.measured:
                    self._metrics.write({"step": moment.step, **moment.measured})
                self.looked = self.start
        if self.start and self.observers.enough:
            self.steps = self.start  # it had finished early
        if self.observers.goes_back and not checkpoints.found(self.checkpoint_folder):
            self.save(self.start, healthy=True)  # the start is always there to go back to

    def _account(
        self, moment: Moment, found: Found, meter: Meter, norm: Tensor | None, per_epoch: float, display: Display
    ) -> tuple[Meter, Verdict | None]:
        """Note what was seen, and write the line of the log where one is due, behind which a new meter starts."""
        averages: dict[str, float] = {}
        if found or moment.logs or moment.saves:  # else the device is not waited for
            averages = meter.averages(self.accelerator)
            moment.loss, moment.parts = averages[""], loss_parts(averages)
        verdict = self.observers.note(moment, found, self._metrics)
        if self.observers.enough and not moment.last:
            self.steps = moment.steps = moment.step
            moment.logs, moment.saves = True, False  # the last line; the checkpoint is the last one, too
        if moment.logs and math.isfinite(averages[""]):
            told, seconds = self._tell(meter), meter.seconds
            epoch = moment.step / per_epoch if per_epoch == per_epoch else None
            row = meter.row({"step": moment.step, "epoch": epoch}, averages)
            guard = {"guard/rollbacks": self.course.rollbacks} if self.course.rollbacks else {}
            rates = {"lr": self.optimizer.param_groups[0]["lr"], "grad_norm": float(norm) if norm is not None else None}
            slow = self.stragglers.row(told, seconds / max(meter.steps, 1))
            row |= moment.measured | guard | rates | costs(told, seconds) | slow
            row |= meter.pace(self.steps - moment.step, seconds)
            self._report(row, display)
            meter = Meter()
        self.looked, self._healthy = moment.step, moment.healthy
        return meter, verdict

    def _settle(self, moment: Moment, verdict: Verdict | None) -> int:
        """Do what the verdict asks for, or write the checkpoint that is due; returns the step to go on from."""
        if moment.loss is None or not (moment.logs or moment.saves):
            return moment.step
        finite, goes_back = math.isfinite(moment.loss), verdict is not None and verdict.action == "rollback"
        if not (finite or goes_back):
            tries = "try a lower train.lr, a longer train.warmup, train.clip=1.0 or train.mixed_precision=no"
            raise RunError(f"the loss is {moment.loss} at step {moment.step}; {tries}")
        if verdict is not None and verdict.action == "warn":
            said = "step %d: %s; the training goes on (%s.action is warn)"
            logger.warning(said, moment.step, verdict.reason, verdict.by)
            self.course.note(moment.step, verdict.reason, "warned")
        elif verdict is not None and goes_back and self.course.rollbacks < verdict.rollbacks:
            return self._go_back(moment.step, verdict)
        elif verdict is not None:
            self._stop(moment.step, verdict, finite)
        if moment.saves:
            self._try_to_save(moment.step, "training goes on", moment.healthy, beside=True)
        return moment.step

    def _stop(self, step: int, verdict: Verdict, finite: bool) -> NoReturn:
        """Write a checkpoint, where there is something to write, and end the run."""
        self.course.note(step, verdict.reason, "stopped")
        tries = f" and {self.course.rollbacks} rollbacks" if self.course.rollbacks else ""
        last = self.keeper.latest(healthy=True)
        saved = finite and self._try_to_save(step, "stopping", healthy=False) is None
        raise RunError(
            f"stopped by {verdict.by} after step {step}{tries}: {verdict.reason}; "
            + (f"checkpoint step-{step:08d} is written, " if saved else "")
            + (f"the last healthy one is {last.name}" if last is not None else "no healthy one is there")
        )

    def _go_back(self, step: int, verdict: Verdict) -> int:
        """Weights, optimiser and observers as of the last healthy checkpoint; returns its step."""
        path = self.keeper.latest(healthy=True)
        if path is None:
            self._stop(step, verdict, False)
        back, course = int(self._load(path)["step"]), self.course
        course.go_back(step, back, verdict.reason, lr_factor=verdict.lr_factor)
        said = "step %d: %s; back to step %d with the learning rate times %.3g (rollback %d of at most %d)"
        logger.warning(said, step, verdict.reason, back, course.lr_scale, course.rollbacks, verdict.rollbacks)
        self.optimizer.zero_grad()
        self.accelerator.wait_for_everyone()  # the first process writes anew what all others must have read
        self.keeper.saved = None
        self._try_to_save(back, "training goes on", healthy=True)  # what came after it goes, --resume starts here
        self.accelerator.wait_for_everyone()
        if self._metrics is not None:
            self._metrics.cut(back)
        return back

    def _try_to_save(self, step: int, then: str, healthy: bool | None = None, beside: bool = False) -> RunError | None:
        """A checkpoint that cannot be written is no reason to throw the run away."""
        try:
            self.save(step, healthy, beside)
        except RunError as error:
            logger.warning("%s; %s", error, then)
            return error
        return None

    # ------------------------------------------------------------------------------------------------------- the step

    def _gradients(self, stream: Iterator[Loaded], step: int, meter: Meter) -> None:
        """Forward and backward over all rows of a step, which come in `accumulation` micro-batches."""
        accelerator = self.accelerator
        self.clock.begin()
        self.pretraining.progress = step / self.steps  # what ramps go by
        torch.manual_seed(key_of(self.seed, step, accelerator.process_index, *self.course.salt))  # dropout
        more = {"shares": True} if self.shares_every and (step + 1) % self.shares_every == 0 else {}
        loaded = [self._next(stream, meter) for _ in range(self.settings.accumulation)]
        rows, world = sum(micro.size for micro in loaded), accelerator.num_processes
        # the draws are those of the global batch, of which this process has `rows` from its first on
        key = key_of(self.seed, step, 0, *self.course.salt)
        draws = Draws(key, rows, accelerator.process_index * rows, rows * world, accelerator.device)
        with self.effort.counted(meter):
            of = (self.parallel, self.pretraining, self.module, [micro.batch for micro in loaded], draws, more)
            for loss in go_through(*of, forward=partial(self.effort.forward, meter), waits=self.clock.end_behind):
                meter.shares = loss.shares or meter.shares
                meter.add({"": loss.total} | loss.parts)
        self.clock.end()
        meter.samples, meter.steps = meter.samples + rows * world, meter.steps + 1

    def _next(self, stream: Iterator[Loaded], meter: Meter) -> Loaded:
        """The next micro-batch; what is broken in it is told of."""
        meter.waited -= time.perf_counter()
        loaded = next(stream)
        meter.waited += time.perf_counter()
        meter.read, meter.bad = meter.read + loaded.size, meter.bad + loaded.bad
        # with several processes it is a gather that all wait for, so only where the log does so anyway (`_account`)
        if self.accelerator.num_processes == 1:
            self._quarantine([Told(meter.bad, meter.read)])
            meter.bad, meter.read = [], 0
        return loaded

    def _update(self, step: int) -> Tensor | None:
        """The optimiser's step; returns the gradient's norm before clipping."""
        s = self.settings
        self.rates.set(self.optimizer, step, self.course.lr_scale)
        # infinity clips nothing, and still gives the norm for the log
        norm = self.parallel.clip(self.pretraining, s.clip if s.clip is not None else math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # behind the optimiser: teachers follow the weights as they are now
        self.pretraining.after_step((step + 1) / self.steps)
        return norm

    def _quarantine(self, told: Sequence[Told]) -> None:
        """Record the broken samples of all processes in each, so that all stop together; all call it together."""
        try:
            self.quarantine.record([fault for of in told for fault in of.bad], sum(of.read for of in told))
        except RunError as error:
            logger.warning("%s; training goes on", error)

    def _tell(self, meter: Meter) -> list[Told]:
        """What each process says of the steps since the last line, by one exchange; all call it together."""
        own = Told.of(meter, self.clock, self.effort)
        told: list[Told] = gather_object([own]) if self.accelerator.num_processes > 1 else [own]
        if len(told) > 1:
            self._quarantine(told)
        return told

    def _report(self, row: Row, display: Display) -> None:
        written = self._metrics is None or self._metrics.write({k: v for k, v in row.items() if k != "seconds_left"})
        display.report(row)
        if self._tracking and written:  # where the disk is full, TensorBoard's thread would die of it
            self._tracking = track(self.accelerator, row)
