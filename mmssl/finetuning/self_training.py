"""Self-training: what was learned from the labelled rows labels others, and is learned anew with them, in rounds.

Every round begins from the encoder as it came (HAST, Yang et al. 2023: no round goes on from the weights of another, so
that what one believed wrongly is not carried in them), learns from the labelled rows and those that are kept, and
labels all unlabelled rows again. With `gold_last` a last training on the labelled rows alone goes on from what was
learned from the others (Li et al. 2023, "Pretraining Language Models with Predictions").

What each round said is stored beside the run, so that one that was killed does no round twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from ..data.fingerprint import glance
from ..errors import RunError, UserError, one_line
from ..files import whole_file
from ..objectives.pretraining import Pretraining
from ..saying import doing, say
from ..training.building import flat
from ..training.checkpoints import found
from ..training.engine import on_first
from .choosing import Choice
from .fitting import build, train
from .folder import fixed_options
from .following import FollowingJob
from .options import FinetuneConfig, SelfTrainingConfig
from .partition import Examples
from .pseudo import Guess, Known, guess, kept, near_rows
from .reweighing import worth
from .supervised_job import SupervisedJob
from .unlabelled import Pseudo

ROUNDS = "rounds"


@dataclass
class Taught:
    """What the rounds left.

    Attributes:
        job: learns from the labelled rows and those kept in the last round; with `gold_last` from the former.
        ready: to be called with what is trained once it is built: with `gold_last` it goes on from other weights.
        stop: after how many steps its training ends.
        origin: what says which labels they are.
        facts: for the report.
    """

    job: SupervisedJob
    ready: Callable[[Pretraining], None]
    stop: int | None
    origin: dict[str, str]
    facts: dict[str, Any]


@dataclass
class Rounds:
    """What the rounds share.

    Attributes:
        accelerator: trains.
        job: the supervised one, whose encoder is left as it is.
        options: of the run, with the rate that was chosen.
        stop: after how many steps a training ends; None: after all, or by the validation rows.
        folder: of the run.
        origin: what the run started from, by name.
    """

    accelerator: Accelerator
    job: SupervisedJob
    options: FinetuneConfig
    stop: int | None
    folder: Path
    origin: dict[str, Any]

    def __post_init__(self) -> None:
        job, self.said = self.job, self.options.self_training
        assert job.rows.unlabelled is not None
        self.rows = Examples(job.rows.unlabelled)
        job.prepare()
        if self.options.head_start == "probe" and job.strength is None:
            job.strength = job.start_probe().strength  # of labels that are right, for every round
        found = job.features(self.rows, {"model": job.encoder})
        self.x, self.present = found.of["model"], found.present.numpy()
        if self.said.near is not None:
            assert job.known is not None
            self.present &= near_rows(self.known(job.known.of["model"]).x, self.x.numpy(), self.present, self.said.near)
        self.facts: list[dict[str, int]] = []

    def run(self) -> Taught:
        """All of them; those that are stored already are not done again."""
        columns = flat(self.job.rows.columns.values())
        seen = glance(self.rows.source, columns)
        digest = _digest([fixed_options(self.options), sorted(self.origin.items()), seen])
        pseudo: Pseudo | None = None
        for number in range(self.options.rounds):
            said = self.round(number, pseudo, digest)
            pseudo = self.chosen(said, number)
            worths = [] if said.worth is None else [said.worth.tolist()]
            digest = _digest([digest, said.labels.tolist(), said.sure.tolist(), *worths])
        return self.last(pseudo, digest)

    def round(self, number: int, pseudo: Pseudo | None, digest: str) -> Guess:
        """What is said of the unlabelled rows by what learned from the labelled ones and `pseudo`."""
        place = self.folder / ROUNDS / str(number)
        stored = place.with_suffix(".safetensors")
        known = on_first(self.accelerator, lambda: _read(stored, digest))
        if known is not None:
            return known
        with doing(f"self-training: round {number + 1} of {self.options.rounds}"):
            teacher, stop = self.job.student(pseudo), self.stop if pseudo is None else self.steps
            self.taught(teacher, place, digest, stop)
            frozen = stop == 0 or self.options.peft == "linear"

            def ask() -> Guess:
                said = self.answers(teacher, frozen)
                _keep(stored, digest, said)
                return said

            return on_first(self.accelerator, ask)

    @property
    def steps(self) -> int | None:
        """Of a training on rows so labelled."""
        return self.stop if self.said.steps is None else self.said.steps

    def options_of(self, pseudo: bool) -> FinetuneConfig:
        """Of one training, to be changed by it."""
        options = replace(self.options, train=replace(self.options.train))
        if pseudo and self.said.steps is not None:
            options.train = replace(options.train, steps=self.said.steps, epochs=None)
        return options

    def taught(self, job: SupervisedJob, place: Path, digest: str, stop: int | None) -> Pretraining:
        """Train one job, in a folder of its own."""
        place.mkdir(parents=True, exist_ok=True)
        job.options = options = self.options_of(job.pseudo is not None)
        options.train.trackers = []
        with (place / "said.txt").open("a") as said, contextlib.redirect_stdout(said):
            pretraining, _ = build(job, options)
            if stop == 0:
                return pretraining  # the head is the probe that it starts from
            resume = on_first(self.accelerator, lambda: bool(found(place / "checkpoints")))
            origin = self.origin | {"round": digest}
            _, validation, _ = train(self.accelerator, pretraining, job, options, place, origin, resume, stop=stop)
            if validation is not None:
                best = validation.restore()
                if best is not None:
                    job.restored(best)
        self.accelerator.free_memory()
        return pretraining

    @torch.no_grad()
    def answers(self, teacher: SupervisedJob, frozen: bool) -> Guess:
        """What a teacher says of the unlabelled rows; 0 sure of those that cannot be read.

        frozen: its encoder is as it came, so that its features are known.
        """
        assert teacher.known is not None
        x, features, head = self.x, teacher.known.of["model"], teacher.task.head
        if frozen:
            logits = head(x.to(head.linear.weight.device)).float().cpu()
        else:
            logits, _ = teacher.logits(self.rows, teacher.encoder, head)
            if self.said.by != "confidence" or self.said.reweigh:
                features = teacher.features(teacher.rows.labelled, {"model": teacher.encoder}).of["model"]
                x = teacher.features(self.rows, {"model": teacher.encoder}).of["model"]
        known, seed = self.known(features), self.options.seed
        found = answered(self.said, known, x.numpy(), logits.numpy(), self.present, seed)
        if self.said.reweigh:
            found.worth = worth(known, x.numpy(), found.labels, seed) * self.present
        return found

    def known(self, features: Tensor) -> Known:
        """The rows that are trained on and can be read; features of all labelled ones."""
        job = self.job
        assert job.known is not None and job.rows.labelled.labels is not None
        rows = job.rows.trained[job.known.present.numpy()[job.rows.trained]]
        return Known(features.numpy()[rows], job.rows.labelled.labels.numpy()[rows], job.target.outputs)

    def chosen(self, said: Guess, number: int) -> Pseudo:
        """The rows that the next round learns from, and what they count. UserError where there are none."""
        assert self.job.known is not None
        known = self.known(self.job.known.of["model"])
        weights = weights_of(self.said, said, known, number, self.options.rounds)
        rows = np.flatnonzero(weights)
        if not len(rows):
            raise UserError(
                f"self_training: round {number + 1} found no row of {len(self.rows):,} to keep by {self.said.by}; "
                "expected some, which another way (self_training.by) may find"
            )
        labels = said.labels[rows]
        self.facts.append({"kept": len(rows), "classes": len(np.unique(labels))})
        say(f"self-training: round {number + 1} keeps {len(rows):,} of {len(self.rows):,} rows by {self.said.by}")
        return Pseudo(self.rows.source.select(rows), labels, weights[rows], self.x[torch.from_numpy(rows)])

    def last(self, pseudo: Pseudo | None, digest: str) -> Taught:
        """What is trained in the folder of the run itself."""
        facts = {"unlabelled": len(self.rows), "by": self.said.by, "rounds": self.facts}
        origin = {"self-training": digest}
        job, student = self.job.student(None if self.said.gold_last else pseudo), None
        job.options = self.options_of(not self.said.gold_last)
        if self.said.gold_last:
            with doing("self-training: learning from the rows that are kept"):
                student = self.taught(self.job.student(pseudo), self.folder / ROUNDS / "last", digest, self.steps)

        def ready(pretraining: Pretraining) -> None:
            if student is None:
                return
            kept_penalty = job.task.penalty
            job.task.penalty = None  # of the labelled rows, where the student's is of its own
            state = {k: v for k, v in student.state_dict().items() if not k.endswith("task.penalty")}
            pretraining.load_state_dict(state)
            job.task.penalty = kept_penalty
            if self.stop == 0 and self.options.head_start == "probe":
                job.known = job.features(job.rows.labelled, {"model": job.encoder})
                job.task.start(job.start_probe())

        return Taught(job, ready, self.stop if self.said.gold_last else self.steps, origin, facts)


def answered(
    said: SelfTrainingConfig, known: Known, x: NDArray[Any], logits: NDArray[Any], present: NDArray[np.bool_], seed: int
) -> Guess:
    """What is said of unlabelled rows (m of them) by the way of the options; 0 sure of those that are not present."""
    rows = np.flatnonzero(present)
    labels, sure = np.zeros(len(present), np.int64), np.zeros(len(present))
    if len(rows):
        found = guess(said.by, known, x[rows], logits[rows], said.neighbours, seed)
        labels[rows], sure[rows] = found.labels, found.sure
    return Guess(labels, sure)


def weights_of(said: SelfTrainingConfig, found: Guess, known: Known, number: int, rounds: int) -> NDArray[np.float64]:
    """(m,) what each unlabelled row counts behind round `number` (from 0) of so many."""
    share = said.keep * (number + 1) / rounds if said.grow else said.keep
    return kept(found, known, share, said.weight, said.balance)


def self_trained(
    accelerator: Accelerator,
    job: SupervisedJob,
    options: FinetuneConfig,
    choice: Choice | None,
    folder: Path,
    origin: dict[str, Any],
) -> Taught:
    """The rounds of a run whose rate and steps are chosen already."""
    stop = None if choice is None else choice.step
    if options.self_training.by == "teacher":
        return _followed(job, options, stop)
    return Rounds(accelerator, job, options, stop, folder, origin).run()


def _followed(job: SupervisedJob, options: FinetuneConfig, stop: int | None) -> Taught:
    """One training, in which a teacher labels the other rows; where folds found no step to be of use, all steps."""
    assert job.rows.unlabelled is not None
    job.prepare()
    made = FollowingJob(job.encoder, job.processor, options, job.rows, job.kept, job.known, job.strength)
    made.others, made._probes = job.rows.unlabelled, job._probes
    if options.self_training.steps is not None:
        steps = options.self_training.steps
        made.options, stop = replace(options, train=replace(options.train, steps=steps, epochs=None)), steps
    columns = flat(job.rows.columns.values())
    facts = {"unlabelled": len(made.others), "by": options.self_training.by}
    origin = {"self-training": _digest([fixed_options(made.options), glance(made.others, columns)])}
    return Taught(made, lambda _: None, stop or None, origin, facts)


def forget_rounds(folder: Path) -> None:
    """What the rounds left, once the run is done."""
    shutil.rmtree(folder / ROUNDS, ignore_errors=True)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _keep(place: Path, of: str, said: Guess) -> None:
    try:
        with whole_file(place) as partial:
            arrays = {"labels": said.labels, "sure": said.sure}
            save_file(arrays | ({} if said.worth is None else {"worth": said.worth}), partial, {"of": of})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error


def _read(place: Path, of: str) -> Guess | None:
    """None where there is nothing, or of another run."""
    if not place.is_file():
        return None
    try:
        with safe_open(place, "np") as file:
            if (file.metadata() or {}).get("of") != of:
                return None
            worths = file.get_tensor("worth") if "worth" in file.keys() else None  # noqa: SIM118 - no dict
            return Guess(file.get_tensor("labels"), file.get_tensor("sure"), worths)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{place} is damaged ({one_line(error)}); delete it, and it is made again") from None
