"""An objective that collapses for certain: plain L2 between two views, nothing against all embeddings becoming one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmssl.distributed import global_mean
from mmssl.objectives.base import Loss, Objective, ObjectiveConfig
from mmssl.objectives.parts.teacher import Teacher
from mmssl.options import option, strict


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    tower: str = option(help="the tower that collapses")
    views: list[str] = option(factory=lambda: ["a", "b"])


class Collapse(Objective):
    """|pooled(a) - pooled(b)|^2, with a teacher that looks on."""

    def __init__(self, config, model) -> None:
        super().__init__(config, model)
        self.teacher = Teacher(model.tower(config.tower))

    def forward(self, step) -> Loss:
        a, b = (step.encode(self.config.tower, view) for view in self.config.views)
        distance = (a.pooled() - b.pooled()).square().sum(1)
        return Loss(total=global_mean(distance, a.present() & b.present()), parts={})

    @torch.no_grad()
    def after_step(self, model, progress: float) -> None:
        self.teacher.update(model.tower(self.config.tower), 0.9)
