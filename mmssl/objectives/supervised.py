"""Supervised: a column of the data as a signal, beside self-supervision or alone.

A head on the pooled output of one tower, or of several towers and views side by side, says the class of a row
(cross-entropy), which of several labels hold (binary cross-entropy), numbers (squared error of standardised ones), or a
grade. Grades are learned as CORAL does (Cao et al. 2020, arXiv 1901.07884): one direction of the embedding, and a
threshold for every step between two grades, so that a row above a high threshold is above all lower ones. A row without
label, or without the modalities, counts nothing, so that few labels serve beside what all rows are used for.

What the classes are, and the statistics of numbers, is fitted on all training rows (of a stream on the first ones)
before the model exists, and kept in `labels.json` of the run. The head is thrown away; `mmssl finetune` makes one that
is kept.

Example::

    objectives:
      mae: {tower: ecg, mask: half}
      labels: {type: supervised, column: diagnosis, towers: [ecg], weight: 0.2}
      age: {type: supervised, column: age, task: regression, towers: [ecg], mask: half}     # of what mae encodes
      action: {type: supervised, column: [dx, dy], towers: [image], views: [clean, next], complete: true}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data.labels import Target
from ..errors import UserError
from ..models.initialization import init_weights
from .base import Loss, Objective
from .options.supervised import Config
from .parts.heads import Head
from .parts.labelled import task_counts, task_loss
from .parts.sides import refuse_mask

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

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

    weights: Tensor | None

    def __init__(self, config: Config, model: MMSSLModel, target: Target) -> None:
        super().__init__(config, model)
        self.target = target
        self._refuse(config, target, model)
        self.sides = [(tower, view) for tower in config.towers for view in config.views]
        width = sum(model.tower(tower).pooled_width for tower, _ in self.sides)
        graded = target.task == "ordinal"
        outputs = 1 if graded else target.outputs
        self.head = Head(width, config.hidden or 1, outputs, 1 if config.hidden is None else 2, "layer")
        init_weights(self.head)
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
        if config.mask is not None:
            for tower in config.towers:
                refuse_mask(where, model, tower, config.mode)

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The rows with a label that are seen, and their weights in the loss."""
        c = self.config
        value, labelled = step.column(c.label_columns[0])
        there = torch.stack([step.present(tower, view, c.mask, c.mode) for tower, view in self.sides])
        rows = labelled & (there.all(0) if c.complete else there.any(0))
        return task_counts(self.target.task, rows, value, self.weights)

    def forward(self, step: Step) -> Loss:
        """The mean loss over the global batch's rows with a label that are seen; see `task_loss`."""
        c = self.config
        found = [step.pooled(tower, view, c.mask, c.mode) for tower, view in self.sides]
        features = torch.cat([pooled for pooled, _ in found], 1)  # zero where it is not there
        logits = self.thresholds(self.head(features, torch.stack([present for _, present in found]).any(0)))
        value, _ = step.column(c.label_columns[0])
        return task_loss(step, self.target.task, logits, value, self.counts(step), self.weights, c.label_smoothing)

    def looks(self, tower: str) -> list[str] | None:
        """As `Objective.looks`: pooled outputs, of no masked views."""
        if tower not in self.config.towers:
            return []
        return None if self.config.mask is not None else list(self.config.views)
