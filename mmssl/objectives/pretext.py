"""Pretext: the label is known because the view was made by it. Which way was the picture turned, were the parts in
order, did time run backwards?

A view says how it transforms each sample by a number that it draws (`views: {turned: {image: {transform: {kind:
rotation}}}}`, see `mmssl.masking.transforms`), and a head on the tower's pooled output tells the number: RotNet
(Gidaris et al. 2018, arXiv 1803.07728; gidariss/FeatureLearningRotNet), jigsaws (Noroozi & Favaro 2016), the order of
two clips (`parts: 2`), the direction of time, the order of the colours. Of two views of a turn or a reversal the head
on both outputs tells by how much they differ (ScatSimCLR, Kinakh et al. 2021). The view may be made of an augmented
one, and a corrupted one be made of it (SiT's rotations, Atito et al. 2021). The loss is cross-entropy, over the samples
that have the modality.

Example::

    views:
      crop: {image: {crop_scale: [0.5, 1.0], flip: 0.5}}
      turned: {image: {transform: {kind: rotation, view: crop}}}
      shuffled: {ecg: {transform: {kind: permutation, parts: 4}}}
    objectives:
      turn: {type: pretext, tower: image, views: [turned]}
      order: {type: pretext, tower: ecg, views: [shuffled], hidden: 128}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..models.initialization import init_weights
from .base import Loss, Objective
from .options.pretext import Config
from .parts.derived import transform_of
from .parts.heads import Head
from .parts.labelled import task_loss
from .parts.sides import refuse_mask

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step, Views

__all__ = ["Config", "Pretext"]
WHERE = "objective pretext"


class Pretext(Objective):
    """Which transformation a view was made by, or two views differ by."""

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.name = self._modality(config, model)
        if len(config.views) not in (1, 2) or len(set(config.views)) < len(config.views):
            raise UserError(f"{WHERE}: views: found {config.views}, expected one, or two different ones")
        if config.mask is not None:
            refuse_mask(WHERE, model, config.tower, config.mode)
        self.head: Head | None = None
        self.width = len(config.views) * model.tower(config.tower).pooled_width

    def settle(self, views: Views) -> None:
        """Make the head for the transformations of these views. UserError: there are none, or they do not compare."""
        found = []
        for view in self.config.views:
            try:
                found.append(transform_of(views, view, self.name)[1])
            except KeyError:
                raise UserError(
                    f"{WHERE}: views: found '{view}', which does not transform '{self.name}', expected one with "
                    "'transform'"
                ) from None
        if len(found) == 2 and (not found[0].cyclic or found[0].kind != found[1].kind):
            kinds = " and ".join(options.kind for options in found)
            raise UserError(f"{WHERE}: views: found {kinds}, expected two rotations or two reversals to compare")
        fixed = [view for view, options in zip(self.config.views, found, strict=True) if options.number is not None]
        if len(fixed) == len(found):
            raise UserError(f"{WHERE}: views: found '{fixed[0]}', which is always transformed alike: nothing to tell")
        self.count, hidden = found[0].count, self.config.hidden
        self.head = Head(self.width, hidden or 1, self.count, 1 if hidden is None else 2, "layer")
        init_weights(self.head)

    @staticmethod
    def _modality(config: Config, model: MMSSLModel) -> str:
        names = list(model.tower(config.tower).modalities)
        if config.modality in names or (config.modality is None and len(names) == 1):
            return config.modality or names[0]
        raise UserError(f"{WHERE}: modality: found {config.modality or 'null'}, expected one of {', '.join(names)}")

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The samples that have the modality in every view."""
        c = self.config
        there = [
            step.patches(self.name, view).present & step.present(c.tower, view, c.mask, c.mode) for view in c.views
        ]
        rows = torch.stack(there).all(0)
        return {"rows": rows, "loss": rows}

    def forward(self, step: Step) -> Loss:
        """Cross-entropy of the number of the transformation, and how often the head is right."""
        assert self.head is not None
        c, counts = self.config, self.counts(step)
        features = torch.cat([step.pooled(c.tower, view, c.mask, c.mode)[0] for view in c.views], 1)
        numbers = [step.drawn(self.name, view).to(features.device) for view in c.views]
        label = numbers[0] if len(numbers) == 1 else (numbers[1] - numbers[0]) % self.count
        return task_loss(step, "classification", self.head(features, counts["rows"]), label, counts)

    def looks(self, tower: str) -> list[str] | None:
        """As `Objective.looks`: pooled outputs, of no masked views."""
        if tower != self.config.tower:
            return []
        return None if self.config.mask is not None else list(self.config.views)
