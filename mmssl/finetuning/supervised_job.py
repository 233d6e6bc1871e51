"""The job that learns from labels: a head on the pooled outputs, its probes, and its report."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.labels import LABEL, LabelPreprocessor, Target
from ..data.splits import Fold
from ..errors import UserError
from ..evaluation.baselines import hashed
from ..evaluation.embedding import has_raw
from ..evaluation.linear import Probe, fit_probe
from ..evaluation.separability import separability
from ..evaluation.tasks import Metrics
from ..losses.supervised import Experts, Tail, class_weights, row_losses
from ..modality import Batch, Preprocessor
from ..models.modeling_mmssl import MMSSLModel
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import device_of, evaluating, to_device, untrained_twin
from ..objectives.base import Objective
from .jobs import VIEW, Job, towers_of
from .options import FinetuneConfig
from .partition import Examples, Partition
from .scores import measure, score_functions
from .supervised import Kept, Supervised, make_objective, pooled, tail_of
from .task import load_task, write_task
from .unlabelled import Learned, Pseudo, Told, joined


@dataclass
class Features:
    """Pooled outputs of n rows: encoder -> (n, D), "raw" the modalities' raw features; present (n,) bool."""

    of: dict[str, Tensor]
    present: Tensor


@dataclass
class SupervisedJob(Job):
    """Classification, multi-label or regression: a head on the pooled outputs.

    Attributes:
        kept: the first layer of an objective's projection head, which the linear layer stands behind.
        known: features of the labelled rows by the encoder as it came, as `model`; None: `prepare` finds them.
        strength: the C of the probe that the head starts from; None: it is chosen.
        pseudo: rows that are learned from beside the labelled ones; None: none are.
    """

    encoder: MMSSLModel
    processor: MMSSLProcessor
    options: FinetuneConfig
    rows: Partition
    kept: Kept | None = None
    known: Features | None = None
    strength: float | None = None
    pseudo: Pseudo | None = None
    towers: list[str] = field(default_factory=list)
    title: str = ""
    _task: Supervised | None = None
    _probes: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.towers = towers_of(self.encoder, list(self.rows.columns))
        self.title = f"{self.target.task} of {', '.join(self.target.columns)}"

    @property
    def target(self) -> Target:
        """What the label is; a supervised job always has one."""
        assert self.rows.target is not None
        return self.rows.target

    def inputs(self) -> tuple[dict[str, Preprocessor], dict[str, str | list[str]]]:
        """(preprocessors, columns) of a training batch: the modalities', and the labels as one more part of it."""
        preprocessors, columns = super().inputs()
        return {**preprocessors, LABEL: LabelPreprocessor(self.target)}, {**columns, LABEL: self.target.column}

    def objective(self) -> Objective:
        """The task's loss with its head. Fits the baselines' probes, too, while the encoder is still as it came.

        Raises:
            UserError: class weights are wanted for a regression, or the training rows have one class.
        """
        target, options = self.target, self.options
        view = VIEW if options.augment else "clean"
        weights, tail, sizes = self.class_weights(), self.tail(), (self.towers, target.outputs, view)
        self._task = make_objective(self.encoder, target.task, *sizes, kept=self.kept, weights=weights, tail=tail)
        self.prepare()
        if options.head_start == "probe":
            self._task.start(self.start_probe())
        return self._task

    def class_weights(self) -> Tensor | None:
        """(C,) what a row counts by its class, or a label where it holds; None: all alike."""
        if self.options.class_weights != "balanced":
            return None
        assert self.rows.train.labels is not None
        weights = class_weights(self.target.task, self.rows.train.labels, self.target.outputs)
        if weights is None:
            raise UserError("class_weights: found balanced, but a regression has no classes")
        return weights

    def tail(self) -> Tail | Experts | None:
        """What the loss does for classes that are rare among the labelled training rows."""
        assert self.rows.train.labels is not None
        return tail_of(self.options, self.target, self.rows.train.labels)

    @property
    def task(self) -> Supervised:
        """What is trained; `objective` builds it."""
        assert self._task is not None
        return self._task

    def prepare(self) -> None:
        """Features of the labelled rows by the encoder as it came, and the report's probes, where they are not known.

        These probes, of the encoder, its untrained twin and the raw features, are those of `mmssl evaluate`: fitted on
        all labelled rows that the run was given, the ones to stop by among them.
        """
        if self.known is not None:
            return
        rows = self.rows
        encoders = {"model": self.encoder, "untrained": untrained_twin(self.encoder)}
        labelled, test = self.features(rows.labelled, encoders), self.features(rows.test, encoders)
        everything = np.arange(len(rows.labelled))
        for name, x in labelled.of.items():
            probe = self.probe(x, labelled.present, everything)
            self._probes[name] = torch.from_numpy(probe(test.of[name][test.present].numpy()))
        self.known = Features({"model": labelled.of["model"]}, labelled.present)
        if self.kept is not None:
            self.kept.settle(labelled.of["model"][labelled.present])

    def start_probe(self) -> Probe:
        """What the head starts from: fitted on the rows that are trained on alone, or a look at the others would say
        that nothing is left to learn."""
        assert self.known is not None
        x = self.known.of["model"]
        present, rows, more = self.known.present, self.rows.trained, self.pseudo
        if more is not None:
            x = torch.cat([x, more.features])
        with torch.no_grad():
            seen = x if self.kept is None else self.kept(x)
        return self.probe(seen, present, rows, self.strength, more)

    def student(self, pseudo: Pseudo | None) -> SupervisedJob:
        """The same beginning anew, from a copy of the encoder as it is now, on these rows, too."""
        encoder, kept = copy.deepcopy(self.encoder), copy.deepcopy(self.kept)
        strength, options = self.strength, copy.deepcopy(self.options)
        made = SupervisedJob(encoder, self.processor, options, self.rows, kept, self.known, strength, pseudo)
        made._probes = self._probes
        return made

    def learned(self) -> Learned:
        """The labelled rows that are trained on, and those that something labelled."""
        train, more = self.rows.train, self.pseudo
        if more is None:
            return Learned(train.source)
        assert train.labels is not None
        labels = [*train.labels.tolist(), *more.labels.tolist()]
        told = Told(labels, LabelPreprocessor(self.target))
        source = joined(train.source, more.source, self.rows.columns)
        return Learned(source, {LABEL: told}, np.concatenate([np.ones(len(train)), more.weights]))

    def of_fold(self, fold: Fold, strength: float | None) -> SupervisedJob:
        """The same on the rows of a fold, from a copy of the encoder as it is now."""
        encoder, kept, rows = copy.deepcopy(self.encoder), copy.deepcopy(self.kept), self.rows.of(fold)
        return SupervisedJob(encoder, self.processor, self.options, rows, kept, self.known, strength)

    def can_learn(self, fold: Fold) -> bool:
        """Whether rows of this fold that can be read are there on both sides, and tell two classes apart."""
        assert self.known is not None and self.rows.labelled.labels is not None
        trained, held = (torch.from_numpy(rows)[self.known.present[rows]] for rows in fold)
        classes = len(self.rows.labelled.labels[trained].unique()) if self.target.task == "classification" else 2
        return len(trained) > 1 and len(held) > 0 and classes > 1

    def probe(
        self,
        x: Tensor,
        present: Tensor,
        rows: NDArray[np.int64],
        strength: float | None = None,
        more: Pseudo | None = None,
    ) -> Probe:
        """The probe of features x (n, D) of `rows.labelled`, fitted on those of its `rows` that are present (n,).

        more: rows of which x has the features behind those.
        """
        part, target, options = self.rows.labelled, self.target, self.options
        assert part.labels is not None
        chosen = rows[present.numpy()[rows]]
        y = part.labels.numpy()[chosen]
        weights, balanced = None, options.class_weights == "balanced"
        if more is not None:
            weights = np.concatenate([np.ones(len(y)), more.weights])
            chosen = np.concatenate([chosen, len(part) + np.arange(len(more.labels))])
            y = np.concatenate([y, more.labels])
            if balanced:  # by the labelled rows, as the loss is
                by_class, balanced = self.class_weights(), False
                assert by_class is not None
                weights = weights * by_class.numpy()[y]
        if target.task == "classification" and len(np.unique(y)) < 2:
            raise UserError(f"--label: found one class in the {len(y)} training rows that can be read, expected two")
        together = part.alike
        return fit_probe(
            x.numpy()[chosen],
            y,
            task=target.task,
            outputs=target.outputs,
            groups=None if together is None or more is not None else [together[row] for row in chosen],
            balanced=balanced,
            seed=options.seed,
            strength=strength,
            weights=weights,
        )

    def features(self, part: Examples, encoders: Mapping[str, MMSSLModel]) -> Features:
        """Pooled outputs of some rows by every encoder, and their raw features, where all modalities have them."""
        preprocessors = Job.inputs(self)[0]
        modalities = {name: self.encoder.modality(name) for name in preprocessors}
        parts: dict[str, list[Tensor]] = {}
        present: list[Tensor] = []
        with evaluating(list(encoders.values())):
            for loaded in self.batches(part, preprocessors):
                for name, model in encoders.items():
                    x, there = self._pooled(model, loaded.batch)
                    parts.setdefault(name, []).append(x.cpu())
                    if name == "model":
                        present.append(there.cpu())
                if all(map(has_raw, modalities.values())):
                    raw = [hashed(m.raw_features(loaded.batch[n]).float().cpu()) for n, m in modalities.items()]
                    parts.setdefault("raw", []).append(torch.cat(raw, 1))
        return Features({name: torch.cat(p) for name, p in parts.items()}, torch.cat(present))

    def _pooled(self, model: MMSSLModel, batch: Batch) -> tuple[Tensor, Tensor]:
        return pooled(model, self.towers, to_device(batch, device_of(model)), self.kept is not None)

    def logits(self, part: Examples, model: MMSSLModel, head: nn.Module) -> tuple[Tensor, Tensor]:
        """(n, C) answers of encoder and head for the rows of `part`, and (n,) which of them have any modality."""
        out, present = [], []
        with evaluating([model, head]):
            for loaded in self.batches(part, Job.inputs(self)[0]):
                x, there = self._pooled(model, loaded.batch)
                out.append(head(x).float().cpu())
                present.append(there.cpu())
        return torch.cat(out), torch.cat(present)

    def look(self) -> tuple[float, float]:
        """(mean loss, the task's first score or the separability) on the validation rows that are present."""
        part = self.rows.validation
        assert part is not None and part.labels is not None
        logits, present = self.held_logits()
        # what could not be read has no features to judge
        loss, score = self.judged(logits[present], part.labels[present])
        return loss, self._separability(part) if self.options.monitor == "separability" else score

    def restored(self, step: int) -> None:
        """The probe, where no training was better, is the one of all labelled rows: none is needed to stop by."""
        if step == 0 and self._task is not None and self.options.head_start == "probe":
            self.rows = replace(self.rows, trained=np.arange(len(self.rows.labelled)))
            self._task.start(self.start_probe())

    def held_logits(self) -> tuple[Tensor, Tensor]:
        """(n, C) answers for the validation rows, (n,) which of them can be read."""
        assert self.rows.validation is not None
        return self.logits(self.rows.validation, self.encoder, self.task.head)

    def judged(self, logits: Tensor, labels: Tensor) -> tuple[float, float]:
        """(mean loss, the task's first score) of answers (n, C)."""
        losses, counted = self.losses(logits, labels)
        name, function = next(iter(score_functions(self.target).items()))
        return float((losses * counted).sum() / counted.sum()), function(logits.numpy(), labels.numpy())

    def losses(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) losses of answers (n, C), (n,) what each counts in their mean."""
        weights, task, tail = self.class_weights(), self.target.task, self.tail()
        tail = tail.mean if isinstance(tail, Experts) else tail  # of experts these are their mean
        losses = row_losses(task, logits, labels, weights, tail=tail)
        by_class = weights is not None and task == "classification"
        return losses, weights[labels] if by_class and weights is not None else torch.ones(len(losses))

    def _separability(self, part: Examples) -> float:
        """How well the features of some rows fall into clusters (Gourgoulias et al. 2023, who stop where that grows no
        more)."""
        found: list[Tensor] = []
        with evaluating([self.encoder]):
            for loaded in self.batches(part, Job.inputs(self)[0]):
                x, there = self._pooled(self.encoder, loaded.batch)
                found.append(x[there].float().cpu())
        return separability(torch.cat(found), seed=self.options.seed, draws=0)[0]

    def write(self, folder: Path) -> None:
        """The head and what the label is, beside the encoder, so that `load_task` opens the folder."""
        assert self._task is not None
        write_task(self._task.head, self.target, self.towers, list(self.rows.columns), folder)

    def report(self, folder: Path) -> dict[str, Metrics]:
        """The saved model's scores on the test rows, beside probes of the frozen encoder, untrained twin and raw data.

        The folder is loaded anew: what is measured is what was written, adapters merged or not.
        """
        # from the disk: the report is about what was written
        task, test = load_task(folder), self.rows.test
        device = device_of(self.encoder)
        encoder: nn.Module = task.model
        encoder.to(device)
        logits, present = self.logits(test, task.model, task.head.to(device))
        if not bool(present.any()):
            raise UserError("test: no row could be read")
        labels, train = test.labels, self.rows.train.labels
        assert labels is not None and train is not None
        groups = None if test.groups is None else [g for g, p in zip(test.groups, present.tolist(), strict=True) if p]
        prefix = "+".join(self.rows.columns) + "/"
        truth, more = labels[present], (groups, prefix, self.options.seed, self.options.shots)
        answers = {"finetuned": logits[present]}
        if task.head.shares is not None and self.options.weigh_experts:
            task.head.shares.fill_(1 / task.head.count)
            answers["averaged"] = self.logits(test, task.model, task.head)[0][present]
        tuned = measure(self.target, answers, truth, train, *more)
        probes = measure(self.target, self._probes, truth, train, *more)
        return {"fine-tuned": tuned, "linear probe": probes}
