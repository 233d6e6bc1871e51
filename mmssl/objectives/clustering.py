"""Cluster assignment between views: SwAV, DeepCluster, the cluster loss of GEDI. No pairs of samples are compared.

Embeddings of length 1 have a cosine with each of K learned prototypes. SwAV (Caron et al. 2020): every view predicts
the assignment that another one of the sample's global views is given, where the assignments of a batch are balanced by
Sinkhorn-Knopp over all processes, without gradient; where a batch has fewer samples than there are prototypes, a queue
of earlier embeddings is balanced with it (the authors' keeps each view's by itself, this one all together). GEDI
(Sansone & Manhaeve 2022): the target is the other view's own posterior, with gradient, and a uniform prior is compared
with the mean posterior, which keeps every cluster in use; its energy model is not built. DeepCluster (`kmeans`):
prototypes are the means of a spherical k-means over the queue, renewed every so many steps, and a view predicts the one
that is nearest to another view. The authors' is over the data set after each epoch, whose samples keep their cluster
until the next; here it is as recent as the queue, and nothing is learned until that is full. A queue of as many as an
epoch has embeddings (rows times `global_views`), with `every` the steps of one, holds all of them.

Views may be the modalities of a sample: clusters are then common to the towers. Views, and samples, that are absent
count nothing.

Example::

    objectives:
      swav: {type: clustering, towers: [image], views: [g1, g2, l1, l2], global_views: [g1, g2], prototypes: 300}
      deep: {type: clustering, towers: [image], views: [a, b], assign: kmeans, prototypes: 300, queue: 8192}
      gedi: {type: clustering, towers: [image], views: [a, b], assign: posterior, prototypes: 10}
      across: {type: clustering, towers: [image, audio], prototypes: 64}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..distributed import all_sum, gather_rows, global_mean, global_sum, rank, world_size
from ..losses.clusters import agreement, spherical_means, uniformity
from ..losses.distillation import sinkhorn, soft_cross_entropy
from ..models.initialization import init_weights
from .base import Loss, Objective
from .options.clustering import Config
from .parts.heads import Head
from .parts.progress import Progress
from .parts.prototypes import Prototypes
from .parts.queue import Queue
from .parts.sides import Side, Sides

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step


class Clustering(Objective):
    """The views of a sample belong to the same clusters."""

    asks_named = True
    steps: Tensor
    clustered: Tensor

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.sides = Sides(config, model, "clustering")
        self.heads = nn.ModuleDict({name: Head.of(model.tower(name).pooled_width, config) for name in config.towers})
        self.sides.check_groups(config.global_views, self.heads, "clusters are common to all sides of a sample")
        width = next(iter(self.heads.values())).width
        means = config.assign == "kmeans"
        self.prototypes = Prototypes(width, config.prototypes, given=means)  # type: ignore[arg-type]
        init_weights(self.heads)
        init_weights(self.prototypes)
        self.progress = Progress()
        self.queue = Queue(config.queue, width) if config.queue else None  # type: ignore[arg-type]
        if means:
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            self.register_buffer("clustered", torch.zeros((), dtype=torch.bool))

    def forward(self, step: Step) -> Loss:
        """The mean over groups of sides; logs how many prototypes are in use, and the terms of `posterior`."""
        c = self.config
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        groups = self.sides.groups(step)
        leaders: list[tuple[Tensor, Tensor]] = []
        for group in groups:
            found = [self._embed(step, side) for side in group]
            leads = [self.sides.leads(step, side, c.global_views) for side in group]
            with torch.autocast(found[0][0].device.type, enabled=False):
                scores = [self.prototypes(z, self.progress.now() < c.freeze_prototypes) for z, _ in found]
                there = [present for _, present in found]
                loss, logged = (self._posterior if c.assign == "posterior" else self._swapped)(scores, there, leads)
            totals.append(loss)
            label = f"{group[0].tower}." if len(groups) > 1 else ""
            parts |= {f"{label}{name}": value.detach() for name, value in logged.items()}
            leaders += [one for one, lead in zip(found, leads, strict=True) if lead]
        if self.queue is not None and self.training and torch.is_grad_enabled():
            rows = [(gather_rows(F.normalize(z.detach(), dim=-1)), gather_rows(present)) for z, present in leaders]
            self.queue.note(torch.cat([r for r, _ in rows]), torch.cat([v for _, v in rows]))
        return Loss(total=torch.stack(totals).mean(), parts=parts)

    def _embed(self, step: Step, side: Side) -> tuple[Tensor, Tensor]:
        """(projections (B, E) float32, present (B,)) of a side."""
        pooled, present = self.sides.pooled(step, side)
        return self.heads[side.tower](pooled, present).float(), present

    def _swapped(
        self, scores: list[Tensor], there: list[Tensor], leads: list[bool]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """SwAV's loss of the sides' scores (B, K): the mean over all pairs of a leading side and another one."""
        targets = {
            i: self._assigned(own, present)
            for i, (own, present, lead) in enumerate(zip(scores, there, leads, strict=True))
            if lead
        }
        rows, counts = [], []
        for i, target in targets.items():
            for j, own in enumerate(scores):
                if i != j:
                    rows.append(soft_cross_entropy(own, target, self.config.temperature))
                    counts.append(there[i] & there[j])
        every, valid = torch.cat(list(targets.values())), torch.cat([there[i] for i in targets])
        loss = global_mean(torch.cat(rows), torch.cat(counts))
        if self.config.assign == "kmeans":
            loss = loss * self.clustered
        return loss, {"prototypes_used": used(every, valid)}

    @torch.no_grad()
    def _assigned(self, scores: Tensor, present: Tensor) -> Tensor:
        """(B, K) balanced assignments of a side, along with the queue's rows; of k-means the nearest prototypes."""
        if self.config.assign == "kmeans":
            return F.one_hot(scores.argmax(1), scores.shape[1]).to(scores.dtype)
        c, more, valid = self.config, scores.new_zeros(0, scores.shape[1]), present.new_zeros(0)
        if self.queue is not None and self.progress.now() >= c.queue_from:
            # every process has the whole queue, and balances its share of it
            rows, full = self.queue.rows[rank() :: world_size()], self.queue.put >= len(self.queue.rows)
            more, valid = self.prototypes(rows), full.expand(len(rows))
        both, every = torch.cat([scores, more]), torch.cat([present, valid])
        return sinkhorn(both, c.sharpness, every, c.iterations, total=global_sum)[: len(scores)]

    def _posterior(
        self, scores: list[Tensor], there: list[Tensor], leads: list[bool]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """GEDI's cluster loss of the sides' scores (B, K): agreement of all such pairs, and the prior of every side."""
        c = self.config
        logs = [F.log_softmax(own / c.temperature, dim=-1) for own in scores]
        rows, counts = [], []
        for i, target in enumerate(logs):
            for j, own in enumerate(logs):
                if leads[i] and i != j:
                    rows.append(agreement(target, own))
                    counts.append(there[i] & there[j])
        invariance = global_mean(torch.cat(rows), torch.cat(counts))
        prior = torch.stack(
            [uniformity(own, present, all_sum) for own, present in zip(logs, there, strict=True)]
        ).mean()
        posteriors = used(torch.cat(logs).detach().exp(), torch.cat(there))
        terms = {"invariance": invariance, "prior": prior, "prototypes_used": posteriors}
        return invariance + c.prior_weight * prior, terms

    def discard(self) -> None:
        """Forget the embeddings that the queue would take."""
        if self.queue is not None:
            self.queue.forget()

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the queue on, and the means of k-means when they are due."""
        self.progress.move(progress)
        if self.queue is not None:
            self.queue.update()
        if self.config.assign == "kmeans":
            self.steps += 1
            self._cluster()

    def _cluster(self) -> None:
        """k-means over the queue, from the means as they were; at first from rows that lie evenly in it. Every process
        has the same queue. Waits for the device."""
        assert self.queue is not None
        rows, first = self.queue.rows, not bool(self.clustered)
        if int(self.queue.put) < len(rows) or not (first or int(self.steps) % self.config.every == 0):
            return
        at = torch.arange(self.config.prototypes, device=rows.device) * len(rows) // self.config.prototypes
        start = rows[at] if first else F.normalize(self.prototypes.weight.float(), dim=-1)
        self.prototypes.weight.copy_(spherical_means(rows, start))
        self.clustered.fill_(True)


@torch.no_grad()
def used(assigned: Tensor, valid: Tensor) -> Tensor:
    """The perplexity of the mean assignment (n, K) of all processes' valid (n,) rows: K where all prototypes are used
    alike, 1 where one has won."""
    share = global_sum((assigned * valid[:, None]).sum(0)) / global_sum(valid.sum().float()).clamp(min=1)
    return (-torch.special.xlogy(share, share).sum()).exp()
