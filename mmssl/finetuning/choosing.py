"""With few labels: the learning rate, and after how many steps to stop, by cross-validation inside them.

Rows to stop by cost labels. So each fold of the labelled rows is kept aside once, while the others are learned from,
beginning with their own linear probe, at every rate; now and then the model answers for those kept aside. What all
folds say together of a rate and a step is compared with the probe, step 0. Then one model learns from all labelled
rows at that rate, for so many steps of the same schedule: none, where no training was better than the probe.
A probe first, then everything: Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022, 2202.10054.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..boundary import read_json_object, reading_of
from ..data.splits import Fold
from ..errors import RunError, one_line
from ..evaluation.scoring import mean_of_known
from ..files import whole_file, write_whole
from ..saying import doing
from ..training.checkpoints import State, found
from ..training.engine import on_first
from ..training.observers import Measured, Moment, Observer, Verdict
from .fitting import build, train
from .folder import fixed_options
from .options import FEW_STEPS, FinetuneConfig, steps_of
from .scores import LOWER, score_functions
from .supervised_job import SupervisedJob

CHOSEN, FOLDS = "chosen.json", "choosing"
MARGIN = 1.0
"""Standard errors by which the loss of the rows kept aside has to fall for the probe to be left."""


class Curve(Observer):
    """The answers for the rows kept aside, at the start, every `every` steps and after the last.

    Attributes:
        steps: after which it looked.
        logits: (n, C) of each look.
        present: (n,) which of the rows can be read.
    """

    name = "curve"
    logged = False

    def __init__(self, accelerator: Accelerator, rows: Callable[[], tuple[Tensor, Tensor]], every: int) -> None:
        """rows: gives logits and present."""
        self.accelerator, self.rows, self.every = accelerator, rows, every
        self.steps: list[int] = []
        self.logits: list[Tensor] = []
        self.present = torch.empty(0, dtype=torch.bool)
        self._seen: tuple[Tensor, Tensor] | None = None

    def due(self, moment: Moment) -> bool:
        """As the class says."""
        return moment.step % self.every == 0 or moment.last

    def look(self, moment: Moment) -> Measured:
        """Asks the first process; what it says is no number of the log, and waits here for `note`."""
        self._seen = on_first(self.accelerator, self.rows)
        return {}

    def note(self, moment: Moment, found: Measured) -> Verdict | None:
        """Keep them."""
        assert self._seen is not None
        logits, self.present = self._seen
        self.steps.append(moment.step)
        self.logits.append(logits)
        return None

    def state_dict(self) -> State:
        """After which steps."""
        return {"steps": list(self.steps)}

    def tensors(self) -> dict[str, Tensor]:
        """What was answered, (looks, n, C)."""
        return {"logits": torch.stack(self.logits), "present": self.present} if self.logits else {}

    def load_state_dict(self, state: State, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict` and `tensors`."""
        self.steps = list(state.get("steps", []))
        if "logits" in tensors:
            self.logits, self.present = list(tensors["logits"].cpu()), tensors["present"].cpu()


@dataclass
class Choice:
    """How all labelled rows are learned from.

    Attributes:
        rate: peak learning rate.
        step: after how many steps to stop; 0: the linear probe as it is.
        steps: of the schedule.
        folds: how many parts chose it.
        start: mean loss of the rows kept aside under the probe; nan where none could be.
        loss: the same where it was chosen.
    """

    rate: float
    step: int
    steps: int
    folds: int = 0
    start: float = float("nan")
    loss: float = float("nan")

    def applied(self, options: FinetuneConfig) -> FinetuneConfig:
        """The options that all labelled rows are learned with; `step` is where to stop."""
        return replace(options, train=replace(options.train, lr=self.rate, steps=self.steps, epochs=None))

    def told(self) -> dict[str, float | None]:
        """As JSON has it."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        if not self.folds:
            return "the labelled rows are too few to choose by"
        if not self.step:
            return f"by {self.folds} folds no training is better than the linear probe, which stays"
        return (
            f"by {self.folds} folds: {self.step} of {self.steps} steps with a peak rate of {self.rate:g} "
            f"(loss {self.loss:.4f}, that of the linear probe {self.start:.4f})"
        )


@dataclass
class Answers:
    """What the folds answered with one rate.

    Attributes:
        steps: after which.
        losses: (looks, n) of the labelled rows, nan where a row was not asked for.
        scores: (folds, looks, scores of the task), larger is better, nan where undefined.
    """

    steps: list[int]
    losses: NDArray[np.float64]
    scores: NDArray[np.float64]

    def score(self, look: int) -> NDArray[np.float64]:
        """(scores,) of a look, each the mean over the folds where it is defined."""
        return np.array([mean_of_known(list(of_folds)) for of_folds in self.scores[:, look].T])


def choose(
    accelerator: Accelerator, job: SupervisedJob, options: FinetuneConfig, folder: Path, origin: dict[str, Any]
) -> Choice:
    """The choice for the rows of `job`, by its folds.

    What is there in `folder` of the same run is not done again: a fold that was interrupted goes on.

    Args:
        accelerator: trains.
        job: its encoder is left as it is.
        options: of the run.
        folder: of the run; keeps the choice and, under `FOLDS`, each fold's answers.
        origin: what the run started from, by name.
    """
    job.prepare()
    of = [fixed_options(options), sorted(origin.items())]
    chosen = on_first(accelerator, lambda: _read_choice(folder / CHOSEN, _digest(of)))
    if chosen is not None:
        return chosen
    rates, steps = options.rates_of(options.peft, few=True), _steps(options, len(job.rows.labelled))
    probed = options.head_start == "probe"
    folds = [fold for fold in job.rows.folds if job.can_learn(fold)]
    if len(folds) < 2:
        return Choice(rates[0], 0 if probed else steps, steps)
    strength = job.start_probe().strength if probed else None
    counts, answers = np.zeros(len(job.rows.labelled)), []
    for number, rate in enumerate(rates):
        plain = Choice(rate, steps, steps).applied(options)
        parts = []
        for at, fold in enumerate(folds):
            with doing(f"choosing: fold {at + 1} of {len(folds)}, peak rate {rate:g}"):
                place = folder / FOLDS / f"{number}-{at}"
                parts.append(_answered(accelerator, job.of_fold(fold, strength), plain, place, origin, of))
        answers.append(_together(job, folds, parts, counts))
    alike = job.rows.labelled.alike
    units = np.arange(len(counts)) if alike is None else np.unique([str(a) for a in alike], return_inverse=True)[1]
    choice = replace(best_of(rates, answers, counts, units, options.monitor, steps), folds=len(folds))
    on_first(accelerator, lambda: _write_choice(folder / CHOSEN, choice, _digest(of)))
    return choice


def forget_folds(folder: Path) -> None:
    """What the folds left, once the run is done; the choice stays."""
    shutil.rmtree(folder / FOLDS, ignore_errors=True)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_choice(place: Path, choice: Choice, of: str) -> None:
    try:
        write_whole(place, json.dumps(choice.told() | {"of": of}, indent=2) + "\n")
    except OSError as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error


def _read_choice(place: Path, of: str) -> Choice | None:
    """None where there is none, or of other options."""
    if not place.is_file():
        return None
    with reading_of(f"{place}: what was chosen cannot be read; delete it, and it is chosen again"):
        told: dict[str, Any] = read_json_object(place, str(place))
        if told.pop("of", None) != of:
            return None
        unknown = {name: float("nan") for name, value in told.items() if value is None}
        return Choice(**{**told, **unknown})


def _steps(options: FinetuneConfig, rows: int) -> int:
    train = options.train
    return FEW_STEPS if train.steps is None and train.epochs is None else steps_of(train, rows)


def _answered(
    accelerator: Accelerator,
    job: SupervisedJob,
    options: FinetuneConfig,
    place: Path,
    origin: dict[str, Any],
    of: list[Any],
) -> tuple[list[int], Tensor, Tensor]:
    """(steps, logits (looks, n, C), present (n,)) of the rows that a fold keeps aside, which `place` holds, or will."""
    kept, digest = place.with_suffix(".safetensors"), _digest([*of, options.train.lr, job.rows.trained.tolist()])
    read = on_first(accelerator, lambda: _read(kept, digest))
    if read is not None:
        return read
    place.mkdir(parents=True, exist_ok=True)
    job.options = options
    with (place / "said.txt").open("a") as said, contextlib.redirect_stdout(said):
        pretraining, _ = build(job, options)
        resume = on_first(accelerator, lambda: bool(found(place / "checkpoints")))
        curves: list[Curve] = []

        def watch(every: int) -> Observer:
            curves.append(Curve(accelerator, job.held_logits, every))
            return curves[0]

        train(accelerator, pretraining, job, options, place, origin | {"fold": digest}, resume, watch=watch)
    accelerator.free_memory()
    curve = curves[0]
    on_first(accelerator, lambda: _keep(kept, digest, curve))
    return curve.steps, torch.stack(curve.logits), curve.present


def _keep(place: Path, of: str, curve: Curve) -> None:
    facts = {"of": of, "steps": json.dumps(curve.steps)}
    try:
        with whole_file(place) as partial:
            save_file({name: tensor.contiguous() for name, tensor in curve.tensors().items()}, partial, facts)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error


def _read(place: Path, of: str) -> tuple[list[int], Tensor, Tensor] | None:
    """None where there is nothing, or of another run."""
    if not place.is_file():
        return None
    try:
        with safe_open(place, "pt") as file:
            facts = file.metadata() or {}
            if facts.get("of") != of:
                return None
            return json.loads(facts["steps"]), file.get_tensor("logits"), file.get_tensor("present")
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{place} is damaged ({one_line(error)}); delete it, and it is made again") from None


def _together(
    job: SupervisedJob,
    folds: Sequence[Fold],
    parts: Sequence[tuple[list[int], Tensor, Tensor]],
    counts: NDArray[np.float64],
) -> Answers:
    """The folds' answers row by row; fills in `counts` (n,), what each labelled row counts."""
    labels = job.rows.labelled.labels
    assert labels is not None
    steps = parts[0][0]
    losses = np.full((len(steps), len(labels)), np.nan)
    functions = score_functions(job.target)
    scores = np.full((len(folds), len(steps), len(functions)), np.nan)
    for at, ((trained, held), (_, logits, present)) in enumerate(zip(folds, parts, strict=True)):
        asked = present.clone()
        if job.target.task == "classification":  # a class that was not there cannot have been learned
            asked &= torch.isin(labels[held], labels[trained].unique())
        rows, truth = held[asked.numpy()], labels[held][asked]
        for look, of_look in enumerate(logits):
            of_rows, counted = job.losses(of_look[asked], truth)
            losses[look, rows], counts[rows] = of_rows.double().numpy(), counted.numpy()
            for number, (name, function) in enumerate(functions.items()):
                if len(rows):
                    found = function(of_look[asked].numpy(), truth.numpy())
                    scores[at, look, number] = -found if name in LOWER else found
    return Answers(steps, losses, scores)


def best_of(
    rates: Sequence[float],
    answers: Sequence[Answers],
    counts: NDArray[np.float64],
    units: NDArray[np.int64],
    monitor: str,
    steps: int,
) -> Choice:
    """The rate and the step at which the rows kept aside do best, if that is better than at step 0.

    By the loss it has to be better by `MARGIN` standard errors of the mean difference, and no score of the task may be
    worse: a loss also falls where answers become less certain, which puts no row before another. By the score, which
    says less of few rows, that has to be better. Of equal ones the first.

    Args:
        rates: that were tried.
        answers: of each of them.
        counts: (n,) what each row counts.
        units: (n,) numbers of those whose rows are not independent (a patient, a recording).
        monitor: "loss" or "score".
        steps: of the schedule.
    """
    asked = np.isfinite(answers[0].losses).all(0)
    if not asked.any():
        return Choice(rates[0], 0, steps)
    start, weight, unit = answers[0].losses[0, asked], counts[asked], units[asked]
    first = float((start * weight).sum() / weight.sum())
    best = Choice(rates[0], 0, steps, start=first, loss=first)
    at_first = answers[0].score(0)
    best_score = at_first[0]
    for rate, of_rate in zip(rates, answers, strict=True):
        for look, step in enumerate(of_rate.steps):
            gain = (start - of_rate.losses[look, asked]) * weight
            loss = first - float(gain.sum() / weight.sum())
            score = of_rate.score(look)
            if monitor == "score":
                better = score[0] > best_score
            else:
                clear = loss < best.loss and first - loss > MARGIN * _error(gain, weight, unit)
                better = clear and not (score < at_first - 1e-9).any()
            if step and better:
                best, best_score = replace(best, rate=rate, step=step, loss=loss), score[0]
    return best


def _error(gain: NDArray[np.float64], weight: NDArray[np.float64], unit: NDArray[np.int64]) -> float:
    """The standard error of sum(gain) / sum(weight), by units."""
    _, number = np.unique(unit, return_inverse=True)
    mean, count = gain.sum() / weight.sum(), number.max() + 1
    rest = np.bincount(number, gain - mean * weight)
    return float(np.sqrt(np.square(rest).sum() * count / max(count - 1, 1)) / weight.sum())
