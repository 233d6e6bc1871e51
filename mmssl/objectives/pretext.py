"""Pretext: the label is known because the view was made by it, or because it can be computed.

Which way was the picture turned, were the parts in order? How many neighbours has this node, how fast does the heart
beat?

**Drawn.** A view says how it transforms each sample by a number that it draws (`views: {turned: {image: {transform:
{kind: rotation}}}}`, see `mmssl.masking.transforms`), and a head on the tower's pooled output tells the number: RotNet
(Gidaris et al. 2018, arXiv 1803.07728; gidariss/FeatureLearningRotNet), jigsaws (Noroozi & Favaro 2016), the order of
two clips (`parts: 2`), the direction of time, the order of the colours, or which of several such things was done to a
sample, if any (`kind: which`). Of two views of a turn or a reversal the head on both outputs tells by how much they
differ (ScatSimCLR, Kinakh et al. 2021). The view may be made of an augmented one, and a corrupted one be made of it
(SiT's rotations, Atito et al. 2021).

**Where.** Of two views that are cut out of one sample the head on both outputs tells how far the middle of the second
lies from that of the first, along each axis, in lengths of a view (`tells: offset`). Doersch et al. (2015, arXiv
1505.05192; cdoersch/deepcontext) tell which of the eight neighbours a second square of a grid is, of squares that do
not touch; here places are continuous, learned by the squared error, and any modality has them that knows where its
patches lie: the earlier of two sounds, the upper of two pictures.

**Known.** A modality says what it can compute of a sample, of its patches or of pairs of them (`mmssl.modality.known`):
SelfTask-GNN's pretexts (Jin et al. 2020, arXiv 2006.10141; ChandlerBang/SelfTask-GNN). Of pairs equally many of each
class are drawn, and a linear head sees the absolute difference of both tokens, as there. With a view that drops edges
and `tells: edge` the encoder tells which of two unconnected nodes were connected (EdgeMask).

Classes are learned by cross-entropy, numbers by the squared error, over all samples, patches or pairs of the global
batch of which it is known.

Example::

    views:
      crop: {image: {crop_scale: [0.5, 1.0], flip: 0.5}}
      turned: {image: {transform: {kind: rotation, view: crop}}}
      fewer: {graph: {drop_edges: 0.1}}
    objectives:
      turn: {type: pretext, tower: image, views: [turned]}
      edges: {type: pretext, tower: graph, tells: edge, views: [fewer]}
      hops: {type: pretext, tower: graph, tells: distance}
      where: {type: pretext, tower: image, tells: offset, views: [crop, other_crop]}
      heart: {type: pretext, tower: ecg, tells: heart_rate, mask: half}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..modality.known import Property
from ..models.initialization import init_weights
from .base import Loss, Objective
from .options.pretext import DRAWN, OFFSET, Config
from .parts.derived import transform_of
from .parts.heads import Head
from .parts.labelled import task_loss
from .parts.sides import refuse_mask, refuse_raw
from .parts.told import Asked, asked

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step, Views

__all__ = ["Config", "Pretext"]
WHERE = "objective pretext"


class Pretext(Objective):
    """What a view was made by, what two views differ by, or what a modality knows of its samples."""

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.name = self._modality(config, model)
        self.known = self._known(config, model)
        self.axes = self._axes(config, model)
        least, most = (2, 2) if self.axes else (1, 1 if self.known else 2)
        if len(set(config.views)) < len(config.views) or not least <= len(config.views) <= most:
            expected = "two different ones" if self.axes else "one" if self.known else "one, or two different ones"
            raise UserError(f"{WHERE}: views: found {config.views}, expected {expected}")
        if config.mask is not None:
            refuse_mask(WHERE, model, config.tower, config.mode)
            refuse_raw(WHERE, model, config.tower)
        tower = model.tower(config.tower)
        of_tokens = self.known is not None and self.known.level != "sample"
        self.width = tower.width if of_tokens else len(config.views) * tower.pooled_width
        if of_tokens and config.mask is not None:
            raise UserError(f"{WHERE}: mask: found '{config.mask}', but '{config.tells}' is asked of all patches")
        self.head: Head | None = None

    @staticmethod
    def _modality(config: Config, model: MMSSLModel) -> str:
        names = list(model.tower(config.tower).modalities)
        if config.modality in names or (config.modality is None and len(names) == 1):
            return config.modality or names[0]
        raise UserError(f"{WHERE}: modality: found {config.modality or 'null'}, expected one of {', '.join(names)}")

    def _known(self, config: Config, model: MMSSLModel) -> Property | None:
        """The declaration of what is told; None where it is what a view drew."""
        try:
            return (
                None if config.tells in (DRAWN, OFFSET) else model.modality(self.name).property(config.tells, self.name)
            )
        except UserError as error:
            raise UserError(f"{WHERE}: tells: {error}") from None

    def _axes(self, config: Config, model: MMSSLModel) -> int:
        """Along how many axes an offset is told; 0: none is."""
        if config.tells != OFFSET:
            return 0
        modality = model.modality(self.name)
        if not modality.axes() or not modality.knows_places():
            raise UserError(
                f"{WHERE}: tells: found {OFFSET}, but patches of '{self.name}' lie along no axis; expected a modality "
                "whose views are cut out of its samples"
            )
        return len(modality.axes())

    def settle(self, views: Views) -> Views:
        """Make the head, of transformations for those of these views. UserError: there are none, or they do not
        compare."""
        c, hidden = self.config, self.config.hidden
        for view in (c.known_view, *c.views):
            if view != "clean" and view not in views:
                raise UserError(f"{WHERE}: found unknown view '{view}', expected one of clean, {', '.join(views)}")
        if self.known is not None:
            self.outputs = self.known.classes or self.known.width
        else:
            self.outputs = self.axes or self._transformations(views)
        self.head = Head(self.width, hidden or 1, self.outputs, 1 if hidden is None else 2, "layer")
        init_weights(self.head)
        return {}

    def _transformations(self, views: Views) -> int:
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
        if all(options.number is not None for options in found):
            raise UserError(
                f"{WHERE}: views: found '{self.config.views[0]}', which is always transformed alike: nothing to tell"
            )
        return found[0].labels

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The samples that have the modality in every view, or all of what is known."""
        rows = self._made(step)[1] if self.known is None else self._asked(step, self.known).known.flatten()
        return {"rows": rows, "loss": rows}

    def _made(self, step: Step) -> tuple[Tensor, Tensor]:
        """(what the views were made by; (B,) bool: the sample has the modality in all of them)."""
        c = self.config
        there = [
            step.patches(self.name, view).present & step.present(c.tower, view, c.mask, c.mode) for view in c.views
        ]
        rows = torch.stack(there).all(0)
        return (self._offset(step), rows) if self.axes else self._drawn(step, rows)

    @torch.no_grad()
    def _offset(self, step: Step) -> Tensor:
        """(B, A) from the middle of the first view to that of the second, in lengths of a view: of both the mean."""
        middles, lengths = [], []
        for view in self.config.views:
            there = step.patches(self.name, view).valid[..., None]
            places = step.places(self.name, view)
            begin = (places.centre - places.size / 2).float().masked_fill(~there, torch.inf).amin(1)
            end = (places.centre + places.size / 2).float().masked_fill(~there, -torch.inf).amax(1)
            begin, end = (torch.where(there.any(1), side, 0.0) for side in (begin, end))
            middles.append((begin + end) / 2)
            lengths.append(end - begin)
        return (middles[1] - middles[0]) / ((lengths[0] + lengths[1]) / 2).clamp(min=1e-6)

    def _drawn(self, step: Step, rows: Tensor) -> tuple[Tensor, Tensor]:
        """((B,) int64 the number, or the difference of two; rows)."""
        c = self.config
        numbers = [step.drawn(self.name, view).to(rows.device) for view in c.views]
        return numbers[0] if len(numbers) == 1 else (numbers[1] - numbers[0]) % self.outputs, rows

    def _asked(self, step: Step, known: Property) -> Asked:
        c = self.config
        return asked(step, self.name, c.tells, known, c.known_view, c.views[0], c.pairs)

    def forward(self, step: Step) -> Loss:
        """The loss of what is told; of classes how often the head is right."""
        assert self.head is not None
        c, known = self.config, self.known
        if known is None:
            value, rows = self._made(step)
            features = torch.cat([step.pooled(c.tower, view, c.mask, c.mode)[0] for view in c.views], 1)
            task = "regression" if self.axes else "classification"
            return task_loss(step, task, self.head(features, rows), value, {"rows": rows, "loss": rows})
        found = self._asked(step, known)
        if known.level == "sample":
            features = found.features(step.pooled(c.tower, c.views[0], c.mask, c.mode)[0], None)
        else:
            features = found.features(None, step.encode(c.tower, c.views[0]).tokens[self.name])
        rows = found.known.flatten()
        told = self.head(features.flatten(0, 1), rows)
        value = found.value.flatten(0, 1)
        if known.classes:
            return task_loss(step, "classification", told, value[:, 0].long(), {"rows": rows, "loss": rows})
        return task_loss(step, "regression", told, value, {"rows": rows, "loss": rows})

    def looks(self, tower: str) -> list[str] | None:
        """As `Objective.looks`: pooled outputs, of no masked views."""
        if tower != self.config.tower:
            return []
        of_tokens = self.known is not None and self.known.level != "sample"
        return None if self.config.mask is not None or of_tokens else list(self.config.views)
