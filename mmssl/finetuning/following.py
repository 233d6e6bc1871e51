"""Self-training while it trains: an average of the student labels the other rows of every batch.

Mean teacher (Tarvainen and Valpola 2017, arXiv 1703.01780) with sure answers alone (FixMatch, Sohn et al. 2020, arXiv
2001.07685). `ahead`: the teacher is the average of where the student will be, as in FST (Du et al. 2022, "Learning
from Future", arXiv 2209.06993, algorithm 1), whose student takes further virtual steps that are taken back; here each
virtual step is the last real one once more, as its gradient is at hand (no further backward pass).

Shapes: B rows, C classes, K experts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.labels import LABEL, LabelPreprocessor
from ..losses.supervised import row_losses
from ..models.modeling_mmssl import MMSSLModel
from ..objectives.base import Loss, Objective
from ..objectives.parts.teacher import Teacher
from ..objectives.step import CLEAN
from .options import SelfTrainingConfig
from .supervised import Supervised, TaskHead
from .supervised_job import SupervisedJob
from .unlabelled import Learned, Told, joined

if TYPE_CHECKING:
    from datasets import Dataset

    from ..objectives.step import Step


class Following(Objective):
    """`plain` on the rows with a label, and on the others the loss of the classes that the teacher is sure of."""

    def __init__(self, plain: Supervised, said: SelfTrainingConfig, model: MMSSLModel) -> None:
        super().__init__(plain.config, model)
        self.plain, self.said = plain, said
        self.teacher: Teacher[Any] | None = None
        self.before: Teacher[Any] | None = None

    def student(self, model: MMSSLModel) -> nn.ModuleDict:
        """What the teacher is the average of."""
        towers = nn.ModuleDict({name: model.tower(name) for name in self.config.towers})
        return nn.ModuleDict({"towers": towers, "head": self.plain.head})

    def follow(self, model: MMSSLModel) -> None:
        """Make the teacher, once all that is trained is in its place, adapters too."""
        self.teacher = Teacher(self.student(model))
        self.before = Teacher(self.student(model)) if self.said.ahead else None

    separable = True

    def _others(self, step: Step) -> Tensor:
        c = self.config
        seen = torch.stack([step.present(name, c.view) & step.present(name, CLEAN) for name in c.towers]).any(0)
        return ~step.batch[LABEL]["present"] & seen

    def counts(self, step: Step) -> dict[str, Tensor]:
        """Those of the labelled rows, and the other rows."""
        return {**self.plain.counts(step), "others": self._others(step)}

    @torch.no_grad()
    def answers(self, step: Step) -> tuple[Tensor, Tensor]:
        """(B,) the teacher's likeliest class of each row as it came, and how sure it is."""
        assert self.teacher is not None
        net = self.teacher.net
        towers: Any = net["towers"]
        features = self.plain.features(step, CLEAN, {name: towers[name] for name in self.config.towers})
        head: TaskHead = net["head"]
        with torch.autocast(features.device.type, enabled=False):
            sure, said = head(features.float()).softmax(1).max(1)
        return said, sure

    def forward(self, step: Step) -> Loss:
        """The mean over the global batch's labelled rows, and `weight` times that over its other rows."""
        loss, others = self.plain(step), self._others(step)
        labels, sure = self.answers(step)
        taught = (sure > self.said.sure).float()
        with torch.autocast(sure.device.type, enabled=False):
            losses = row_losses("classification", self.plain.said(step).float(), labels, tail=self.plain.tail) * taught
        assert loss.total is not None
        extra = step.mean("others", losses, others)
        parts = {**(loss.parts or {}), "taught": step.mean("others", taught, others).detach()}
        return Loss(total=loss.total + self.said.weight * extra, parts=parts)

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """teacher = m teacher + (1 - m) (s + a (s - b)), s and b the student after this step and after the last."""
        assert self.teacher is not None
        student: nn.Module = self.student(model)
        if self.before is not None:
            self.before.update(student, -float(self.said.ahead))  # -a b + (1 + a) s: where the student will be
            student = self.before.net
        self.teacher.update(student, self.said.momentum)
        if self.before is not None:
            self.before.update(self.student(model), 0.0)


class FollowingJob(SupervisedJob):
    """The supervised job with other rows beside the labelled ones, of which nothing is said."""

    others: Dataset

    def objective(self) -> Objective:
        """The task's loss, and what the teacher says of the other rows."""
        plain = super().objective()
        assert isinstance(plain, Supervised)
        return Following(plain, self.options.self_training, self.encoder)

    def learned(self) -> Learned:
        """Labelled and other rows, which come as often together."""
        train, others = self.rows.train, self.others
        assert train.labels is not None
        told = Told([*train.labels.tolist(), *[None] * len(others)], LabelPreprocessor(self.target))
        source = joined(train.source, others, self.rows.columns)
        weights = np.concatenate([np.ones(len(train)), np.full(len(others), len(train) / len(others))])
        return Learned(source, {LABEL: told}, weights)
