"""`mmssl plan RECIPE`: what a run will cost, from a few steps of it that are thrown away. Nothing is written."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import UserError
from ..models.stock.targets import said_of_targets
from ..saying import doing
from ..training.choosing import Asked
from ..training.effort import HALF, PEAKS, gpu_peak, resident
from ..training.feeding import Feed
from ..training.pace import duration
from ..training.ready import ready
from ..training.storing import store_outputs
from ..training.trial import Trial, trial

STEPS = 6
"""Of the trial; the first is not timed."""
USED = 0.3
"""Share of what its maker says that a GPU is taken to do: encoders of these sizes reach a fifth to two fifths."""
DEVICES = {"T4": 16, "L4": 24, "RTX 4090": 24, "A100": 80, "H100": 80, "H200": 141, "B200": 180}
"""GPU -> GB of its memory, by its maker's data sheet; how fast it is stands in `mmssl.training.effort.PEAKS`."""
COUNTS = (1, 2, 4, 8)
"""How many GPUs of a kind it is told for."""
LINKS = {"T4": 16, "L4": 32, "RTX 4090": 32, "A100": 300, "H100": 450, "H200": 450, "B200": 900}
"""GPU -> GB a second from one to another of a machine, one way, by its maker's data sheet: PCIe, or NVLink."""
MOVED = 0.5
"""Share of that which the sum of gradients over all of them is taken to reach."""
QUICKEST = 0.02
"""Seconds that a step of a small model takes there all the same: kernels are launched, batches copied."""
TIGHT = 0.9
"""Share of a GPU's memory that a run may fill."""


@dataclass
class Plan:
    """What a run will cost.

    Attributes:
        name: of the recipe.
        rows: that it trains on; None: a stream.
        steps, epochs: of the run.
        batch_size, accumulation: samples of a step; in so many parts.
        device: of the trial, and its precision.
        trial: what its steps cost, see `mmssl.training.trial.Trial`.
        process: bytes that this process held before the first step: libraries, data, weights.
        exports: what the model exports to, in a line.
        checkpoint, model: bytes of one checkpoint, and of the model's folder; keep: checkpoints that stay.
        others: GPU -> of so many of them, which share the batch: "count", "seconds" of the run, "memory" of each in
            bytes, "fits".
    """

    name: str
    rows: int | None
    steps: int
    epochs: float | None
    batch_size: int
    accumulation: int
    device: str
    trial: Trial
    process: int
    exports: str
    checkpoint: int
    model: int
    keep: int
    others: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def step_seconds(self) -> float:
        """Of a usual step."""
        return statistics.median(self.trial.seconds)

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return self.steps * self.step_seconds

    @property
    def peak(self) -> int:
        """Bytes of the process at its fullest: on a processor."""
        return self.process + self.trial.peak - self.trial.weights

    def plain(self) -> dict[str, Any]:
        """It as JSON values."""
        more = {"peak": self.trial.peak, "process_peak": self.peak, "step_seconds": self.step_seconds}
        return {**asdict(self), **more, "seconds": self.seconds}

    def lines(self) -> list[str]:
        """It for people."""
        t, size = self.trial, f"{self.rows:,} rows" if self.rows is not None else "a stream"
        epochs = "" if self.epochs is None else f", {self.epochs:.3g} epochs"
        parts = f" in {self.accumulation} parts" if self.accumulation > 1 else ""
        lines = [
            f"{self.name}: {size}; {self.steps:,} steps of {self.batch_size}{parts}{epochs}",
            f"parameters: {t.parameters:,} of the model, {t.objectives:,} trained beside it by objectives",
            f"tokens: {t.tokens / self.batch_size:,.0f} a sample, {t.tokens:,.0f} a step",
        ]
        if t.flops is not None:
            each, all_of_them = _si(t.flops / self.batch_size), _si(t.flops * self.steps)
            lines.append(f"arithmetic: {each}FLOP a sample, {_si(t.flops)}FLOP a step, {all_of_them}FLOP in all")
        waited = t.waited / max(sum(t.seconds), 1e-9)
        lines += [
            f"memory: {_bytes(t.weights)} weights, {_bytes(t.gradients)} gradients, {_bytes(t.optimizer)} optimiser, "
            f"{_bytes(t.activations)} activations, {_bytes(t.batch)} inputs: {_bytes(t.peak)} at the fullest moment, "
            f"beside {_bytes(self.process - t.weights)} of libraries and data",
            f"time: {self.step_seconds:.3g} s a step on {self.device}, {waited:.0%} of it waiting for data: "
            f"about {duration(self.seconds)} for all, evaluation aside",
            f"disk: {_bytes(self.keep * self.checkpoint)} of {self.keep} checkpoints, {_bytes(self.model)} of a model",
            self.exports,
        ]
        return lines + self._elsewhere()

    def _elsewhere(self) -> list[str]:
        if not self.others:
            return []
        counts = counted([of["count"] for of in next(iter(self.others.values()))])
        share = f"{USED:.0%} of what the maker says in 16 bits"
        lines = [f"elsewhere, on {counts} of them, at {share}, if data come fast enough:"]
        for name, of in self.others.items():
            full = [one for one in of if not one["fits"]]
            many = " each" if len(of) > 1 else ""
            fits = f"; {_bytes(full[0]['memory'])}{many} do not fit: a smaller train.micro_batch" if full else ""
            on = f" on {counted([one['count'] for one in full])}" if full and len(full) < len(of) else ""
            times = " ".join(f"{duration(one['seconds']):>8}" for one in of)
            lines.append(f"  {name:10} {times}{fits}{on}")
        return lines


def counted(numbers: Sequence[int]) -> str:
    """ "1, 2 and 4"."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def plan(asked: Asked, steps: int = STEPS) -> Plan:
    """Make a few steps of a recipe in a folder that goes, and tell what they say of the whole.

    Args:
        asked: the recipe.
        steps: of the trial, at least two.

    Raises:
        UserError: as of a run.
    """
    if steps < 2:
        raise UserError(f"--steps: found {steps}, expected at least 2: the first is not timed")
    with doing("planning"):
        return _planned(asked, steps)


def _planned(asked: Asked, steps: int) -> Plan:
    with ready(asked.given({"train.micro_batch": None})) as run:
        begun, processor, loop, per_epoch = run.begun, run.processor, run.loop, run.per_epoch
        source, columns, accelerator = begun.opened.source, begun.opened.columns, begun.parallel.accelerator
        seen = source, columns, accelerator, begun.folder
        stored = store_outputs(begun.recipe, loop.pretraining, processor, *seen)
        more = stored, run.lengths, begun.mixture, begun.labels
        batches = Feed(begun.recipe, source, columns, processor, accelerator, *more)
        before = int((resident() or 0.0) * 1e9)
        with doing("trying some steps", steps) as advance:
            found = trial(loop, batches, steps, advance)
        rows = len(begun.rows) if hasattr(begun.rows, "__len__") else None
        train, model = begun.recipe.train, loop.pretraining.model
        device = f"{loop.accelerator.device}, {train.mixed_precision if train.mixed_precision != 'no' else 'float32'}"
        out = Plan(
            name=begun.recipe.name,
            rows=rows,
            steps=loop.steps,
            epochs=None if rows is None else loop.steps / per_epoch if per_epoch == per_epoch and per_epoch else None,
            batch_size=train.batch_size,
            accumulation=train.accumulation,
            device=device,
            trial=found,
            process=before,
            exports=said_of_targets(model, processor),
            checkpoint=found.weights + found.optimizer,
            model=sum(p.numel() * p.element_size() for p in model.parameters()),
            keep=train.keep,
        )
    out.others = _elsewhere(out)
    return out


def _elsewhere(found: Plan) -> dict[str, list[dict[str, Any]]]:
    """Time and memory on GPUs, in 16 bits: activations are half as large. Several share the batch, each has all weights
    and a second place for its gradients, and at the end of a step these are summed in a ring."""
    t = found.trial
    if t.flops is None:
        return {}
    out: dict[str, list[dict[str, Any]]] = {}
    for name, size in DEVICES.items():
        speed = gpu_peak(name, HALF)
        assert speed is not None and name in PEAKS
        for count in [n for n in COUNTS if found.batch_size % (n * found.accumulation) == 0]:
            step = max(t.flops / (count * USED * speed), QUICKEST)
            summed = 2 * (count - 1) / count * t.gradients / (MOVED * LINKS[name] * 1e9)
            sent = t.gradients if count > 1 else 0
            memory = t.weights + t.optimizer + sent + t.batch // count + max(t.activations // (2 * count), t.gradients)
            told = {"count": count, "seconds": found.steps * (step + summed), "memory": memory}
            out.setdefault(name, []).append({**told, "fits": memory <= TIGHT * size * 1e9})
    return out


def _bytes(number: float) -> str:
    """ "12 MB", "1.3 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.3g} kB"


def _si(number: float) -> str:
    """ "1.3 G"."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "
