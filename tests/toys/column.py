"""An objective that learns from a column of the data: each row's mean activation is drawn to what the column says."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmssl.objectives.base import Loss, Objective, ObjectiveConfig
from mmssl.objectives.options.labels import LabelColumn
from mmssl.options import option, strict


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    tower: str = option(help="the tower that is drawn")
    by: str = option("label", help="the column")
    kind: str = option("id", choices=("id", "number"))

    @property
    def label_columns(self) -> tuple[LabelColumn, ...]:
        return (LabelColumn(self.by, self.kind, "by"),)


class Column(Objective):
    """(mean of pooled - column)^2; of ids their last digit."""

    separable = True

    def counts(self, step) -> dict[str, torch.Tensor]:
        _, present = step.column(self.config.label_columns[0])
        return {"rows": present & step.present(self.config.tower)}

    def forward(self, step) -> Loss:
        value, _ = step.column(self.config.label_columns[0])
        wanted = (value % 10).float() if self.config.kind == "id" else value
        pooled, _ = step.pooled(self.config.tower)
        return Loss(total=step.mean("rows", (pooled.mean(1) - wanted).square(), self.counts(step)["rows"]), parts={})
