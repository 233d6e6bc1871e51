"""The ways to learn from the same labelled rows that `mmssl finetune --compare` measures.

Encoders and raw features are embedded once, for all draws. Every arm of a draw gets the same labelled rows, and gives
its answers for the same test rows; what a rate, a strength and the end of a training are chosen on is among the
labelled ones.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from ..data.splits import nested
from ..errors import UserError
from ..evaluation.baselines import hashed
from ..evaluation.boosting import fit_boosting
from ..evaluation.embedding import has_raw
from ..modality import Batch, Modality
from ..models.modeling_mmssl import MMSSLModel
from ..models.processing_mmssl import MMSSLProcessor
from ..training.checkpoints import found
from .choosing import choose
from .fitting import build, train
from .jobs import Job
from .options import WHOLE, FinetuneConfig
from .partition import Examples, Partition, Pool, share_out, taken
from .supervised_job import Features, SupervisedJob

TUNED = {"pretrained": "model", "scratch": "untrained", "start": "start"}
"""Arms that are fine-tuned -> the encoder that they begin with."""
PROBED = {"probe": "model", "start_probe": "start", "untrained_probe": "untrained", "raw_linear": "raw"}
"""Arms that are a linear probe -> of which features."""
TITLES = {
    "pretrained": "pretrained, fine-tuned",
    "scratch": "from scratch, same steps",
    "start": "its start, fine-tuned",
    "probe": "pretrained, linear probe",
    "start_probe": "its start, linear probe",
    "untrained_probe": "untrained, linear probe",
    "raw_linear": "raw features, linear",
    "raw_boosting": "raw features, boosting",
}
RUNNING = "running"


@dataclass
class Draw:
    """The labelled rows of one draw.

    Attributes:
        number: of the draw.
        rows: numbers of `Pool.train`, in rising order.
        partition: these rows, with those to stop by parted from them.
        options: with the seed of the draw.
    """

    number: int
    rows: NDArray[np.int64]
    partition: Partition
    options: FinetuneConfig


@dataclass
class Answers:
    """What an arm says of the test rows that can be read.

    Attributes:
        logits: (n, C), or standardised numbers.
        facts: how they came about.
    """

    logits: Tensor
    facts: dict[str, Any]


@dataclass
class Bench:
    """What the arms share.

    Attributes:
        encoders: "model", "untrained" and, of what went on from something, "start".
        processor: reads the rows.
        options: of the comparison.
        pool: the rows.
        sizes: how many labels the draws have.
        accelerator: trains.
        folder: of the comparison.
        weights: hash of the model's.
    """

    encoders: dict[str, MMSSLModel]
    processor: MMSSLProcessor
    options: FinetuneConfig
    pool: Pool
    sizes: Sequence[int]
    accelerator: Accelerator
    folder: Path
    weights: str

    def embed(self) -> None:
        """Embed the labelled rows of all draws, and the test rows, by every encoder."""
        options, pool = self.options, self.pool
        drawn = [self._rows(size, number) for size in self.sizes for number in range(options.draws)]
        self._embedded = np.unique(np.concatenate(drawn))
        part = taken(pool.train, self._embedded)
        whole = Partition(part, None, pool.test, part, np.arange(len(part)), 0, pool.columns, pool.target, {})
        self._job = SupervisedJob(self.encoders["model"], self.processor, options, whole)
        self.labelled, self.test = (self._job.features(p, self.encoders) for p in (part, pool.test))
        if not bool(self.test.present.any()):
            raise UserError("test: no row could be read")
        self._trees = self._tree_features(part)

    @property
    def arms(self) -> list[str]:
        """All that model and data have."""
        lacking = set() if "start" in self.encoders else {"start", "start_probe"}
        lacking |= set() if "raw" in self.labelled.of else {"raw_linear", "raw_boosting"}
        return [arm for arm in TITLES if arm not in lacking]

    def draw(self, size: int, number: int) -> Draw:
        """The labelled rows of a draw: the same for every arm, stratified, and with those of smaller sizes in it."""
        options = replace(self.options, seed=self.options.seed + number)
        rows = self._rows(size, number)
        readers = self.processor.preprocessors
        partition = share_out(self.pool, taken(self.pool.train, rows), readers, options)
        return Draw(number, rows, partition, options)

    def _rows(self, size: int, number: int) -> NDArray[np.int64]:
        if size >= len(self.pool.train):
            return np.arange(len(self.pool.train))
        return np.sort(nested(self.pool.strata(), size, self.options.seed + number))

    def run(self, arm: str, draw: Draw) -> Answers:
        """Fit one arm on the labelled rows of a draw, and ask it for the test rows."""
        began = time.perf_counter()
        if arm in TUNED:
            answers = self._tuned(arm, draw)
        elif arm in PROBED:
            answers = self._probed(PROBED[arm], draw)
        else:
            answers = self._boosted(draw)
        answers.facts["seconds"] = round(time.perf_counter() - began, 1)
        return answers

    # ------------------------------------------------------------------------------------------------ frozen features

    def _known(self, draw: Draw, name: str) -> Features:
        """Features of the labelled rows of a draw, by one encoder, as `model`."""
        at = torch.from_numpy(np.searchsorted(self._embedded, draw.rows))
        return Features({"model": self.labelled.of[name][at]}, self.labelled.present[at])

    def _probed(self, name: str, draw: Draw) -> Answers:
        job = SupervisedJob(self.encoders["model"], self.processor, draw.options, draw.partition)
        known = self._known(draw, name)
        probe = job.probe(known.of["model"], known.present, np.arange(len(draw.rows)))
        logits = probe(self.test.of[name][self.test.present].numpy())
        return Answers(torch.from_numpy(logits), {"C": probe.strength})

    def _boosted(self, draw: Draw) -> Answers:
        (x, x_test, categories), labelled = self._trees, draw.partition.labelled
        at = np.searchsorted(self._embedded, draw.rows)
        there = np.flatnonzero(self.labelled.present.numpy()[at])
        together = labelled.alike
        assert labelled.labels is not None and self.pool.target is not None
        fitted = fit_boosting(
            x[at[there]],
            labelled.labels.numpy()[there],
            task=self.pool.target.task,
            outputs=self.pool.target.outputs,
            categories=categories,
            groups=None if together is None else [together[row] for row in there],
            balanced=draw.options.class_weights == "balanced",
            seed=draw.options.seed,
        )
        return Answers(torch.from_numpy(fitted(x_test[self.test.present.numpy()])), {"leaf": fitted.leaf})

    def _tree_features(self, part: Examples) -> tuple[NDArray[Any], NDArray[Any], tuple[bool, ...]]:
        """What trees take of the labelled and the test rows, and which of it are categories."""
        names = list(self.pool.columns)
        modalities = {name: self.encoders["model"].modality(name) for name in names}
        if "raw" not in self.labelled.of:
            return np.empty((0, 0)), np.empty((0, 0)), ()
        if not any(_own_trees(modality) for modality in modalities.values()):
            x, x_test = self.labelled.of["raw"].numpy(), self.test.of["raw"].numpy()
            return x, x_test, (False,) * x.shape[1]
        readers, found = Job.inputs(self._job)[0], []
        for rows in (part, self.pool.test):
            pieces = [tree_features(modalities, loaded.batch) for loaded in self._job.batches(rows, readers)]
            found.append(torch.cat([x for x, _ in pieces]).numpy())
        return found[0], found[1], pieces[0][1]

    # ---------------------------------------------------------------------------------------------------- fine-tuning

    def _tuned(self, arm: str, draw: Draw) -> Answers:
        """Rate and steps chosen by folds of few labels; else the rate that did best on the rows to stop by, without
        such rows the first."""
        # an adapter on random weights is nobody's alternative: what starts from them is trained whole
        peft = "none" if arm == "scratch" else draw.options.peft
        place = self.folder / RUNNING / f"{arm}-{len(draw.rows)}-{draw.number}"
        best: Answers | None = None
        if draw.partition.folds:
            best = self._train(arm, draw, peft, None, place)
        else:
            rates = draw.options.rates_of(peft, few=False)
            for number, rate in enumerate(rates if draw.partition.validation is not None else rates[:1]):
                answers = self._train(arm, draw, peft, rate, place / str(number))
                if best is None or answers.facts["validation"] < best.facts["validation"]:
                    best = answers
        assert best is not None
        shutil.rmtree(place, ignore_errors=True)  # the cell is kept by who asked
        return best

    def _train(self, arm: str, draw: Draw, peft: str, rate: float | None, place: Path) -> Answers:
        """Train one arm at a rate; None: as its folds choose."""
        job, origin = self._job_of(arm, draw, peft), {"arm": arm, "rows": [len(draw.rows), draw.number]}
        origin["weights"], choice, options = self.weights, None, job.options
        place.mkdir(parents=True, exist_ok=True)
        if rate is None:
            choice = choose(self.accelerator, job, options, place, origin)
            options = choice.applied(options)
        else:
            options = replace(options, train=replace(options.train, lr=rate))
        job.options = options
        with (place / "said.txt").open("a") as said, contextlib.redirect_stdout(said):
            pretraining, _ = build(job, options)
            resume, stop = bool(found(place / "checkpoints")), None if choice is None else choice.step
            loop, validation, _ = train(self.accelerator, pretraining, job, options, place, origin, resume, stop=stop)
        step, value = loop.steps, None if choice is None else choice.told()["loss"]
        if validation is not None:
            step, value = validation.restore() or 0, validation.best
            job.restored(step)
        logits = job.logits(self.pool.test, job.encoder, job.task.head)[0][self.test.present]
        self.accelerator.free_memory()
        facts = {"lr": options.train.lr, "best_step": step, "steps": loop.steps, "peft": peft, "validation": value}
        return Answers(logits, facts)

    def _job_of(self, arm: str, draw: Draw, peft: str) -> SupervisedJob:
        """A job on a copy of the arm's encoder, with its options."""
        options, name = draw.options, TUNED[arm]
        # lower layers that learned nothing are not to be kept as they are
        decay = 1.0 if arm == "scratch" and options.layer_decay is None else options.layer_decay
        options = replace(options, peft=peft, layer_decay=decay, train=replace(options.train, trackers=[]))
        if peft not in WHOLE:
            options.adapter = replace(options.adapter, type=peft)
        known, encoder = self._known(draw, name), copy.deepcopy(self.encoders[name])
        return SupervisedJob(encoder, self.processor, options, draw.partition, known=known)


def _own_trees(modality: Modality) -> bool:
    return type(modality).tree_features is not Modality.tree_features


def tree_features(modalities: Mapping[str, Modality], batch: Batch) -> tuple[Tensor, tuple[bool, ...]]:
    """(B, F) what trees take of all modalities side by side, and which of it are codes of categories.

    Modalities that say nothing of trees give their raw features, wide ones hashed as for the linear baseline.
    """
    parts: list[Tensor] = []
    categories: tuple[bool, ...] = ()
    for name, modality in modalities.items():
        assert has_raw(modality)
        if _own_trees(modality):
            values, own = modality.tree_features(batch[name])
        else:
            values = hashed(modality.raw_features(batch[name]).float())
            own = (False,) * values.shape[1]
        parts.append(values.float().cpu())
        categories += own
    return torch.cat(parts, 1), categories
