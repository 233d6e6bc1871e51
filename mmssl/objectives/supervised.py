"""Supervised: a column of the data as a signal, beside self-supervision or alone.

A head on the pooled output of one tower, or of several towers and views side by side, says the class of a row
(cross-entropy), which of several labels hold (binary cross-entropy), numbers (squared error of standardised ones), or a
grade. Grades are learned as CORAL does (Cao et al. 2020, arXiv 1901.07884): one direction of the embedding, and a
threshold for every step between two grades, so that a row above a high threshold is above all lower ones. A row without
label, or without the modalities, counts nothing, so that few labels serve beside what all rows are used for.

What the classes are, and the statistics of numbers, is fitted on all training rows (of a stream on the first ones)
before the model exists, and kept in `labels.json` of the run. The head is thrown away; `mmssl finetune` makes one that
is kept.

With `joint_view` the class and the transformation are one label (SLA, Lee et al. 2020, arXiv 1910.05872; hankook/SLA):
each sample is shown in every transformation of that view, and one head of N M outputs tells both, which asks for no
invariance. What all M views together say of the class (the mean of their own block of logits) is more than one view
says, and `distil` teaches it to a second head of N outputs that sees `views` alone (SLA+SD).

Example::

    objectives:
      mae: {tower: ecg, mask: half}
      labels: {type: supervised, column: diagnosis, towers: [ecg], weight: 0.2}
      age: {type: supervised, column: age, task: regression, towers: [ecg], mask: half}     # of what mae encodes
      both: {type: supervised, column: label, towers: [image], joint_view: turned, distil: true}
      action: {type: supervised, column: [dx, dy], towers: [image], views: [clean, next], complete: true}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.labels import Target
from ..errors import UserError
from ..losses.supervised import row_losses
from ..models.initialization import init_weights
from .base import Loss, Objective
from .options.supervised import Config
from .parts.derived import each_of
from .parts.heads import Head
from .parts.labelled import task_counts, task_loss
from .parts.sides import refuse_mask, refuse_raw

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step, Views

__all__ = ["Config", "Supervised"]


class Thresholds(nn.Module):
    """(n, 1) to (n, K - 1): a row's height less that of each step between K grades. They begin in falling order
    between 1 and 0, as in the authors' later package (Raschka-research-group/coral-pytorch)."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.arange(steps, 0, -1) / steps)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, 1) -> (n, K - 1)."""
        return x + self.steps


class Supervised(Objective):
    """What a column says is learned from what the towers see."""

    asks_named = True
    weights: Tensor | None

    def __init__(self, config: Config, model: MMSSLModel, target: Target) -> None:
        super().__init__(config, model)
        self.target = target
        self._refuse(config, target, model)
        self.sides = [(tower, view) for tower in config.towers for view in config.views]
        width = sum(model.tower(tower).pooled_width for tower, _ in self.sides)
        graded = target.task == "ordinal"
        outputs = 1 if graded else target.outputs
        self.outputs, self.width, self.joint = outputs, width, list[str]()
        self.head: Head | None = None
        self.single: Head | None = None
        self.thresholds = Thresholds(target.outputs) if graded else nn.Identity()
        balanced = config.class_weights == "balanced"
        self.register_buffer("weights", torch.tensor(target.weights) if balanced else None)

    @staticmethod
    def _refuse(config: Config, target: Target, model: MMSSLModel) -> None:
        where = "objective supervised"
        for key, names in (("towers", config.towers), ("views", config.views)):
            if not names or len(set(names)) < len(names):
                raise UserError(f"{where}: {key}: found {names}, expected different ones")
        if config.class_weights == "balanced" and not target.weights:
            raise UserError(f"{where}: class_weights: found balanced, but a {target.task} has no classes to weigh")
        if config.label_smoothing and target.task != "classification":
            raise UserError(f"{where}: label_smoothing: found {config.label_smoothing}, which a {target.task} has not")
        if config.asymmetry is not None and (target.task != "multilabel" or config.class_weights == "balanced"):
            found = "class_weights" if target.task == "multilabel" else f"a {target.task}"
            raise UserError(f"{where}: asymmetry: found {config.asymmetry} with {found}, expected several labels alone")
        if config.joint_view is not None and target.task != "classification":
            raise UserError(
                f"{where}: joint_view: found '{config.joint_view}', which goes with classes, not {target.task}"
            )
        if config.mask is not None:
            for tower in config.towers:
                refuse_mask(where, model, tower, config.mode)
                refuse_raw(where, model, tower)

    def settle(self, views: Views) -> Views:
        """Make the heads; ask for each transformation of the joint view."""
        c, more = self.config, dict[str, Any]()
        if c.joint_view is not None:
            more = each_of(views, c.joint_view, "objective supervised: joint_view")
            self.joint = list(more)
            width, self.width = self.width, self.width // len(c.views)
            self.single = self._head(width, self.outputs) if c.distil else None
        self.head = self._head(self.width, self.outputs * max(len(more), 1))
        return more

    def _head(self, width: int, outputs: int) -> Head:
        hidden = self.config.hidden
        head = Head(width, hidden or 1, outputs, 1 if hidden is None else 2, "layer")
        init_weights(head)
        return head

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The rows with a label that are seen, and their weights in the loss."""
        c = self.config
        value, labelled = step.column(c.label_columns[0])
        there = torch.stack([step.present(tower, view, c.mask, c.mode) for tower, view in self.sides])
        rows = labelled & (there.all(0) if c.complete else there.any(0))
        return task_counts(self.target.task, rows, value, self.weights)

    def _says(self, step: Step, head: Head | None, sides: Sequence[tuple[str, str]]) -> Tensor:
        """(B, C) what a head says of these towers and views side by side; zero stands for what is not there."""
        assert head is not None
        found = [step.pooled(tower, view, self.config.mask, self.config.mode) for tower, view in sides]
        there = torch.stack([present for _, present in found]).any(0)
        return head(torch.cat([pooled for pooled, _ in found], 1), there)

    def forward(self, step: Step) -> Loss:
        """The mean loss over the global batch's rows with a label that are seen; see `task_loss`."""
        c = self.config
        value, _ = step.column(c.label_columns[0])
        if self.joint:
            return self._both(step, value)
        logits = self.thresholds(self._says(step, self.head, self.sides))
        more = (self.weights, c.label_smoothing, c.asymmetry)
        return task_loss(step, self.target.task, logits, value, self.counts(step), *more)

    def transformed(self, step: Step) -> Tensor:
        """(B, M, N, M) logits: of each sample, shown in each transformation, each class with each transformation."""
        said = [self._says(step, self.head, [(t, view) for t in self.config.towers]) for view in self.joint]
        return torch.stack(said, 1).unflatten(2, (self.outputs, len(self.joint)))

    @staticmethod
    def aggregated(logits: Tensor) -> Tensor:
        """(B, N) of `transformed`: the mean over the views of what each says with its own transformation."""
        return logits.diagonal(dim1=1, dim2=3).mean(-1)

    def _both(self, step: Step, value: Tensor) -> Loss:
        """SLA: the mean cross-entropy of class and transformation; with `distil` SLA+SD's two further terms."""
        counts, c, logits = self.counts(step), self.config, self.transformed(step)
        with torch.autocast(logits.device.type, enabled=False):
            logits, views = logits.float(), len(self.joint)
            number = value[:, None] * views + torch.arange(views, device=value.device)
            each = row_losses(
                "classification", logits.flatten(2).flatten(0, 1), number.flatten(), None, c.label_smoothing
            )
            losses, together = each.view(-1, views).mean(1), self.aggregated(logits)
            parts = {"accuracy": (together.argmax(1) == value).float()}
            if c.distil:
                single = self._says(step, self.single, self.sides).float()
                wanted = together.detach().log_softmax(1)
                losses = losses + F.kl_div(single.log_softmax(1), wanted, reduction="none", log_target=True).sum(1)
                losses = losses + row_losses("classification", single, value, None, c.label_smoothing)
                parts["accuracy_alone"] = (single.argmax(1) == value).float()
            total = step.mean("loss", losses, counts["loss"])
            return Loss(
                total, {name: step.mean("rows", right, counts["rows"]).detach() for name, right in parts.items()}
            )

    def looks(self, tower: str) -> list[str] | None:
        """As `Objective.looks`: pooled outputs, of no masked views."""
        if tower not in self.config.towers:
            return []
        return None if self.config.mask is not None else [*self.config.views, *self.joint]
