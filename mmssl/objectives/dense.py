"""Learning place by place: patches of two views that see the same place of a sample, or are most alike, are to agree.

Crops, flips and shifts are known (`Step.places`), so patches of two views have coordinates in the sample as it came.
`match: place` takes the nearest within reach; `feature` the most alike, by the distance of embeddings with VICReg, else
by the cosine of the tower's tokens (DenseCL). Patches without a match, holes and absent samples count nothing; views
that do not overlap have none. With `region` above 1 means over blocks of patches take the place of patches.

VICRegL (Bardes et al. 2022): VICReg of the matches, both kinds added. DenseCL (Wang et al. 2021): each patch finds its
match among the mean patches of other samples, of a queue or of the batch, here in both directions. Local
contrast (Chaitanya et al. 2020): among the sample's other places in both views. PixPro (Xie et al. 2021): the cosine of
all pairs within reach, between what a predictor makes of one view and an averaged teacher of the other. All are meant
beside an objective of whole samples: VICRegL is 0.75 of a `redundancy` and 0.25 of this, DenseCL half and half.

Example::

    objectives:
      vicregl: {type: dense, tower: image, views: [a, b], match: both, within: null, matches: 20, weight: 0.25}
      densecl: {type: dense, tower: image, views: [a, b], loss: infonce, match: feature, target: teacher,
                negatives: queue, queue: 4096}
      pixpro: {type: dense, tower: image, views: [a, b], loss: cosine, target: teacher}
      local: {type: dense, tower: ecg, views: [a, b], loss: infonce, negatives: patches, region: 3}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import all_sum, gather_rows, global_mean, global_sum, rank, world_size
from ..errors import UserError
from ..losses.dense import nce_of, pixel_consistency, propagated, vicreg_matches
from ..models.initialization import init_weights
from ..models.pooling import masked_mean
from ..patches import gather
from .base import Loss, Objective
from .options.dense import Config
from .parts.heads import Head
from .parts.queue import Queue
from .parts.regions import Regions, apart, nearest, regions, unlike
from .parts.teacher import Momentum, Teacher, take_over

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step


@dataclass(frozen=True)
class Map:
    """A view's patches (or regions): what the tower made of them, and their embeddings (B, N, E) float32."""

    regions: Regions
    z: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, N) bool."""
        return self.regions.valid


class Propagation(nn.Module):
    """PixPro's predictor: each patch becomes the sum of the patches it is like."""

    def __init__(self, width: int, sharpness: float) -> None:
        super().__init__()
        self.values, self.sharpness = nn.Linear(width, width), sharpness

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, N, E), valid (B, N) -> (B, N, E)."""
        values = F.normalize(self.values(x).float(), dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            return propagated(F.normalize(x.float(), dim=-1), values, valid, self.sharpness)


class Each(nn.Module):
    """A head on every patch by itself; its batch norm counts the valid ones of all processes."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, N, D), valid (B, N) -> (B, N, E) float32."""
        return self.head(x.flatten(0, 1), valid.flatten()).unflatten(0, valid.shape).float()


def pooled(one: Map) -> tuple[Tensor, Tensor]:
    """(the mean patch of each sample (B, E), brought to length 1, whether it has any (B,))."""
    return F.normalize(masked_mean(one.z, one.valid), dim=-1), one.valid.any(1)


def same_count(*several: Tensor) -> tuple[Tensor, ...]:
    """(B, M, ...) with as many matches on all processes, which add up what is of one rank."""
    if world_size() == 1:
        return several
    counts = gather_rows(torch.tensor([several[0].shape[1]], device=several[0].device))
    missing = int(counts.max()) - several[0].shape[1]
    return tuple(torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], 1) for x in several)


class Dense(Objective):
    """Matched patches of two views agree."""

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self._refuse(config, model)
        tower = model.tower(config.tower)
        self.head = Each(Head.of(tower.width, config))
        width = self.head.head.width
        self.predictor: nn.Module | None = None
        if config.loss == "cosine":
            mlp = Head(width, config.predictor_hidden, width, 2, config.head_norm)
            self.predictor = Each(mlp) if config.predictor == "mlp" else Propagation(width, config.sharpness)
            init_weights(self.predictor)
        init_weights(self.head)
        self.teacher: Teacher[Any] | None = Teacher(self._student(model)) if config.target == "teacher" else None
        self.queue = Queue(config.queue, width) if config.queue else None
        self.momentum = Momentum.of(config, None)
        self.teaches = (config.tower,) if self.teacher is not None and config.export != "student" else ()

    def _refuse(self, c: Config, model: MMSSLModel) -> None:
        for name in model.tower(c.tower).modalities:
            modality = model.modality(name)
            if c.match != "feature" and not modality.knows_places():
                raise UserError(
                    f"objective dense: match: found {c.match}, but modality '{name}' does not say where the patches of "
                    "its views lie in the sample; expected feature"
                )
            if c.region > 1 and not modality.tile():
                raise UserError(
                    f"objective dense: region: found {c.region}, but patches of modality '{name}' lie on no grid; "
                    "expected 1"
                )

    def _student(self, model: MMSSLModel) -> nn.ModuleDict:
        return nn.ModuleDict({"tower": model.tower(self.config.tower), "head": self.head})

    # ---------------------------------------------------------------------------------------------------------- loss

    def forward(self, step: Step) -> Loss:
        """The mean over pairs of views and over modalities; logs what share of the patches found a match."""
        c = self.config
        pairs = self._pairs(step)
        views = dict.fromkeys(view for pair in pairs for view in pair)
        own = {view: self._maps(step, view, None) for view in views}
        theirs = own
        if self.teacher is not None:
            with torch.no_grad():
                theirs = {view: self._maps(step, view, self.teacher.net) for view in views}
        losses: list[Tensor] = []
        logged: dict[str, list[Tensor]] = {}
        for name in step.model.tower(c.tower).modalities:
            for a, b in pairs:
                for way in self._ways():
                    there = self._match(own[a][name], theirs[b][name], way)
                    back = self._match(own[b][name], theirs[a][name], way)
                    for key, value in (there | {f"{k}'": v for k, v in back.items()}).items():
                        logged.setdefault(key.rstrip("'"), []).append(value.detach())
                    losses += [there["loss"], back["loss"]]
        self._note(theirs.values())
        kinds = len(self._ways())
        parts = {name: torch.stack(found).mean() for name, found in logged.items() if name != "loss"}
        return Loss(total=kinds * torch.stack(losses).mean(), parts=parts)

    def _note(self, maps: Iterable[dict[str, Map]]) -> None:
        """The mean patches that the queue takes once the step is done."""
        if self.queue is None or not (self.training and torch.is_grad_enabled()):
            return
        rows = [tuple(gather_rows(x.detach()) for x in pooled(one)) for found in maps for one in found.values()]
        self.queue.note(torch.cat([keys for keys, _ in rows]), torch.cat([there for _, there in rows]))

    def _ways(self) -> tuple[str, ...]:
        return ("place", "feature") if self.config.match == "both" else (self.config.match,)

    def _pairs(self, step: Step) -> list[tuple[str, str]]:
        c = self.config
        looks: dict[tuple[object, ...], str] = {}
        for view in [*c.views, *c.local_views]:
            other = looks.setdefault(step.look(c.tower, view), view)
            if other != view:
                raise UserError(
                    f"objective dense: views {other}, {view} are the same for tower '{c.tower}' "
                    f"({', '.join(step.model.tower(c.tower).modalities)})"
                )
        return [*combinations(c.views, 2), *((a, b) for a in c.views for b in c.local_views)]

    def _maps(self, step: Step, view: str, net: Any) -> dict[str, Map]:
        """Modality -> the view's patches; net: a teacher."""
        c = self.config
        encoded = step.encode(c.tower, view, net=None if net is None else net["tower"])
        head = self.head if net is None else net["head"]
        found = {}
        for name, tokens in encoded.tokens.items():
            places = None if c.match == "feature" else step.places(name, view)
            each = regions(tokens, encoded.patches[name], places, c.region)
            found[name] = Map(each, head(each.tokens, each.valid))
        return found

    def _match(self, a: Map, b: Map, way: str) -> dict[str, Tensor]:
        """The loss of the patches of `a` with their matches in `b`, and what the log should show."""
        c = self.config
        with torch.autocast(a.z.device.type, enabled=False):
            distance = self._distance(a, b, way)
            within = c.within if way == "place" else None
            if c.loss == "cosine":
                return self._consistent(a, b, distance, within)
            chosen, match, found = nearest(distance, a.valid, b.valid, within, c.matches)
            share = global_sum(found.sum().float()) / global_sum(a.valid.sum().float()).clamp(min=1)
            if c.loss == "vicreg":
                x, y, found = same_count(gather(a.z, chosen), gather(b.z, match), found)
                loss, terms = vicreg_matches(x, y, found, (c.invariance, c.variance, c.covariance), all_sum)
                return {"loss": loss, "matched": share, **terms}
            return {"loss": self._contrast(a, b, (chosen, match, found)), "matched": share}

    @torch.no_grad()
    def _distance(self, a: Map, b: Map, way: str) -> Tensor:
        if way == "place":
            assert a.regions.places is not None and b.regions.places is not None
            return apart(a.regions.places, b.regions.places)
        if self.config.loss == "vicreg":
            return torch.cdist(a.z, b.z)
        return unlike(a.regions.tokens, b.regions.tokens)

    def _contrast(self, a: Map, b: Map, matches: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        c, (chosen, match, found) = self.config, matches
        x, y = F.normalize(a.z, dim=-1), F.normalize(b.z, dim=-1)
        query = gather(x, chosen)
        positive = (query * gather(y, match)).sum(-1) / c.temperature
        if c.negatives != "patches":
            keys, others = self._others(b)
            negatives, counted = query @ keys.T / c.temperature, others[:, None].expand(-1, query.shape[1], -1)
        else:
            negatives = torch.cat([query @ y.transpose(1, 2), query @ x.transpose(1, 2)], 2) / c.temperature
            counted = torch.cat([self._elsewhere(a, m, chosen) for m in (b, a)], 2)
        return global_mean(nce_of(positive, negatives, counted), found)

    def _others(self, b: Map) -> tuple[Tensor, Tensor]:
        """(mean patches (m, E) of length 1, which of them are negatives of each sample (B, m))."""
        size, device = len(b.z), b.z.device
        keys, others = b.z.new_zeros(0, b.z.shape[-1]), torch.ones(size, 0, dtype=torch.bool, device=device)
        if self.config.negatives == "samples":
            keys, there = (gather_rows(x) for x in pooled(b))
            mine = torch.arange(size, device=device) + rank() * size
            others = there[None] & (torch.arange(len(keys), device=device) != mine[:, None])
        if self.queue is not None:
            keys = torch.cat([keys, self.queue.rows])
            others = torch.cat([others, self.queue.valid.expand(size, -1)], 1)
        return keys, others

    def _elsewhere(self, a: Map, other: Map, chosen: Tensor) -> Tensor:
        """(B, M, m) bool: the patches of a view that lie at another place than the chosen ones."""
        far = self._distance(a, other, "place") >= self.config.within
        return gather(far, chosen) & other.valid[:, None]

    def _consistent(self, a: Map, b: Map, distance: Tensor, within: float | None) -> dict[str, Tensor]:
        """PixPro's loss of all pairs within reach, or of each patch and the one that is most like it."""
        assert self.predictor is not None
        guess = F.normalize(self.predictor(a.z, a.valid), dim=-1)
        target = F.normalize(b.z.detach(), dim=-1)
        if within is None:
            chosen, match, found = nearest(distance, a.valid, b.valid, None, self.config.matches)
            pairs = torch.zeros_like(distance, dtype=torch.bool)
            pairs[torch.arange(len(pairs), device=match.device)[:, None], chosen, match] = found
        else:
            pairs = (distance < within) & a.valid[:, :, None] & b.valid[:, None]
        some = pairs.flatten(1).any(1)
        share = global_mean(pairs.any(2).float(), a.valid)
        return {"loss": global_mean(pixel_consistency(guess, target, pairs), some), "matched": share}

    # --------------------------------------------------------------------------------------------------------- state

    def begin(self, steps: int | None) -> None:
        """Set the teacher's momentum by the length of the run."""
        self.momentum = Momentum.of(self.config, steps)

    def hand_over(self, model: MMSSLModel, tower: str) -> None:
        """The tower's weights become the teacher's."""
        assert self.teacher is not None
        take_over(model.tower(tower), self.teacher.net["tower"])

    def discard(self) -> None:
        """Forget the mean patches that the queue would take."""
        if self.queue is not None:
            self.queue.forget()

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the teacher towards the student, and the queue on."""
        if self.queue is not None:
            self.queue.update()
        if self.teacher is not None:
            self.teacher.update(self._student(model), self.momentum.at(progress))
