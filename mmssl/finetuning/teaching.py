"""Label-free distillation: a smaller encoder learns to answer as a fine-tuned one, on unlabelled rows.

Chen et al. 2020, "Big Self-Supervised Models are Strong Semi-Supervised Learners" (SimCLRv2), section 2: cross-entropy
between the teacher's softmax(t / tau) and the student's softmax(s / tau). Several labels a row: the same of every
label's yes and no. Or, as in SSLD, the Jensen-Shannon divergence of both (`soft_loss`). Regression, which has no
distribution: the squared error of the two answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.labels import Target, encode_all, stack
from ..errors import UserError
from ..evaluation.tasks import Metrics
from ..modality import Batch, Preprocessor
from ..models.modeling_mmssl import MMSSLModel
from ..models.running import device_of
from ..objectives.base import Loss, Objective, ObjectiveConfig
from ..options import option, strict
from .jobs import VIEW, Job
from .partition import Examples
from .scores import measure
from .supervised import TaskHead, pooled_width
from .supervised_job import SupervisedJob
from .task import TaskModel, load_task

if TYPE_CHECKING:
    from ..objectives.step import Step

TEACHER = "teacher of "
"""Prefix of the teacher's modalities in a batch: its preprocessing may differ from the student's."""


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of `Distilled`."""

    towers: list[str] = option(help="the student's towers")
    view: str = option("clean", help="what the student sees; the teacher sees the row as it is")
    temperature: float = option(1.0, above=0, max=1_000)
    soft_loss: str = option("cross_entropy", choices=("cross_entropy", "js"))


def soft_losses(task: str, student: Tensor, teacher: Tensor, tau: float, how: str = "cross_entropy") -> Tensor:
    """(B,) from logits (B, C) of both; only the student's have a gradient. how: cross_entropy, or js, the
    Jensen-Shannon divergence of SSLD (Cui et al. 2021, arXiv 2103.05959), of each label by itself where several may
    hold."""
    s, t = student / tau, teacher.detach() / tau
    if how == "js" and task == "classification":
        return jensen_shannon(s.log_softmax(1), t.log_softmax(1))
    if how == "js" and task == "multilabel":
        both = (torch.stack([F.logsigmoid(x), F.logsigmoid(-x)], -1) for x in (s, t))
        return jensen_shannon(*both).mean(1)
    if task == "classification":
        return -(t.softmax(1) * s.log_softmax(1)).sum(1)
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(s, t.sigmoid(), reduction="none").mean(1)
    return (student - teacher.detach()).square().mean(1)


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """(...,) (KL(a | m) + KL(b | m)) / 2 of distributions given as logarithms (..., C), m their mean: 0 to log 2."""
    mean = torch.logaddexp(a, b) - math.log(2)
    return ((a.exp() * (a - mean)).sum(-1) + (b.exp() * (b - mean)).sum(-1)) / 2


class Distilled(Objective):
    """The student's head learns the teacher's answers. The teacher is no part of what is trained or stored."""

    def __init__(self, config: Config, model: MMSSLModel, teacher: TaskModel) -> None:
        super().__init__(config, model)
        self.teacher = [teacher]  # a list: not a submodule
        self.head = TaskHead(pooled_width(model, config.towers), teacher.target.outputs)

    separable = True

    def _theirs(self, step: Step) -> Batch:
        return {name: step.batch[TEACHER + name] for name in self.teacher[0].modalities}

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The rows that both student and teacher see."""
        ours = torch.stack([step.present(name, self.config.view) for name in self.config.towers]).any(0)
        return {"rows": self.teacher[0].present(self._theirs(step)).to(ours.device) & ours}

    def forward(self, step: Step) -> Loss:
        """The mean of `soft_losses` over the rows of the global batch that both student and teacher see."""
        c, teacher = self.config, self.teacher[0]
        logits = self.head(torch.cat([step.encode(name, c.view).summary().float() for name in c.towers], 1))
        if device_of(teacher.head) != logits.device:
            teacher.head.to(logits.device)
            module: torch.nn.Module = teacher.model
            module.to(logits.device)
        # without gradient, in evaluation mode, on the row without augmentation
        wanted, _ = teacher.logits(self._theirs(step))
        with torch.autocast(logits.device.type, enabled=False):
            losses = soft_losses(teacher.target.task, logits.float(), wanted.float(), c.temperature, c.soft_loss)
            return Loss(total=step.mean("rows", losses, self.counts(step)["rows"]), parts={})


@dataclass
class TeachingJob(SupervisedJob):
    """The student's job; labels, if any, are for the test rows alone."""

    teacher_path: str = ""
    label: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.teacher: TaskModel = load_task(self.teacher_path)
        self.rows.target = self.teacher.target
        super().__post_init__()
        known = self.rows.test.source.column_names
        columns = {**{n: self.options.columns.get(n, n) for n in self.teacher.modalities}}
        for name, column in columns.items():
            for c in [column] if isinstance(column, str) else column:
                if c not in known:
                    raise UserError(f"--teacher: it reads '{name}', but the data has no column '{c}'")
        self.teacher_columns = {TEACHER + name: column for name, column in columns.items()}
        self.title = f"distillation of {self.target.task} of {', '.join(self.target.columns)}"
        self._soft: Distilled | None = None
        if self.options.soft_loss == "js" and self.target.task == "regression":
            raise UserError("soft_loss: found js, but the teacher answers with numbers, which have no distribution")
        if self.label and list(self.label) != self.target.columns:
            known_labels = ",".join(self.target.columns)
            raise UserError(f"--label: found {','.join(self.label)}, but the teacher knows {known_labels}")

    def inputs(self) -> tuple[dict[str, Preprocessor], dict[str, str | list[str]]]:
        """(preprocessors, columns) of a training batch: the student's modalities, the teacher's as it reads them."""
        preprocessors, columns = Job.inputs(self)
        theirs = {TEACHER + n: self.teacher.processor.preprocessors[n] for n in self.teacher.modalities}
        return {**preprocessors, **theirs}, {**columns, **self.teacher_columns}

    def objective(self) -> Distilled:
        """`Distilled` with this job's teacher."""
        view = VIEW if self.options.augment else "clean"
        config = Config(
            towers=self.towers, view=view, temperature=self.options.temperature, soft_loss=self.options.soft_loss
        )
        self._soft = Distilled(config, self.encoder, self.teacher)
        return self._soft

    def both(self, part: Examples, model: MMSSLModel, head: TaskHead) -> tuple[Tensor, Tensor, Tensor]:
        """(student's (n, C), teacher's (n, C), (n,) both saw the row)."""
        student, seen = self.logits(part, model, head)
        out, present = [], []
        preprocessors = {n: self.teacher.processor.preprocessors[n] for n in self.teacher.modalities}
        from ..data.loading import evaluation_batches

        columns = {n: self.teacher_columns[TEACHER + n] for n in preprocessors}
        o = self.options
        batches = evaluation_batches(part.source, preprocessors, columns, batch_size=o.eval_batch_size, broken=o.broken)
        for loaded in batches:
            logits, there = self.teacher.logits(loaded.batch)
            out.append(logits.float().cpu())
            present.append(there.cpu())
        return student, torch.cat(out), seen & torch.cat(present)

    def look(self) -> tuple[float, float]:
        """(mean soft loss, share of rows where both give the same class) on the validation rows that both see."""
        assert self.rows.validation is not None and self._soft is not None
        student, teacher, seen = self.both(self.rows.validation, self.encoder, self._soft.head)
        o = self.options
        losses = soft_losses(self.target.task, student[seen], teacher[seen], o.temperature, o.soft_loss)
        return float(losses.mean()), float((student[seen].argmax(1) == teacher[seen].argmax(1)).float().mean())

    def write(self, folder: Path) -> None:
        """The student's head and the teacher's target, beside the encoder, so that `load_task` opens the folder."""
        from .task import write_task

        assert self._soft is not None
        write_task(self._soft.head, self.target, self.towers, list(self.rows.columns), folder)

    def report(self, folder: Path) -> dict[str, Metrics]:
        """Student and teacher on the labels of the test rows; without labels, how often they agree."""
        task = load_task(folder)
        test, prefix = self.rows.test, "+".join(self.rows.columns) + "/"
        if self.label:
            encoded = encode_all(test.source, self.target)
            known = [i for i, value in enumerate(encoded) if value is not None]
            if not known:
                raise UserError("--label: no test row has a label that the teacher knows")
            test = Examples(test.source.select(known), stack([encoded[i] for i in known], self.target))
        student, teacher, seen = self.both(test, task.model, task.head)
        truth = test.labels[seen] if test.labels is not None else _answers(self.target, teacher[seen])
        logits = {"finetuned": student[seen]} | ({"teacher": teacher[seen]} if self.label else {})
        title = "fine-tuned" if self.label else "agreement with the teacher"
        return {title: measure(self.target, logits, truth, truth, None, prefix)}


def _answers(target: Target, logits: Tensor) -> Tensor:
    if target.task == "classification":
        return logits.argmax(1)
    return (logits > 0).float() if target.task == "multilabel" else logits
