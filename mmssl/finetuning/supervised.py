"""A supervised task as an objective, so that the one training loop runs it: cross-entropy or squared error on the
pooled output of one tower or several.

Cross-entropy for classes, binary cross-entropy for each of several labels, squared error of standardised numbers. A
row without label, or without any of the modalities, counts nothing; means are over the global batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.labels import LABEL, Target
from ..errors import UserError
from ..evaluation.linear import Probe
from ..losses.supervised import Experts, Tail, ldam, logit_adjusted, sade
from ..modality import Batch
from ..models.modeling_mmssl import MMSSLModel
from ..models.tower import Tower
from ..objectives.base import Loss, Objective, ObjectiveConfig
from ..objectives.parts.labelled import task_counts, task_loss
from ..options import option, strict
from .options import FinetuneConfig

if TYPE_CHECKING:
    from ..objectives.step import Step


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of `Supervised`."""

    task: str = option("classification", choices=("classification", "multilabel", "regression"))
    towers: list[str] = option(help="towers whose pooled outputs are put side by side")
    view: str = option("clean", help="what they see in training")
    outputs: int = option(min=1, max=1_000_000)


class Settled(nn.Module):
    """A batch norm with fixed statistics, those of the rows that it was settled on."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., H) -> (..., H)."""
        return (x - self.mean) * torch.rsqrt(self.variance + self.eps) * self.weight + self.bias


NORMS = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": Settled}
"""Of a head: what follows a hidden layer."""


class Kept(nn.Module):
    """The first hidden layers of an objective's projection head: dense, norm, ReLU (Chen et al. 2020, "Big
    Self-Supervised Models are Strong Semi-Supervised Learners", section 2: fine-tune from a layer of the head)."""

    def __init__(self, width: int, hidden: int, norm: str, layers: int = 1) -> None:
        super().__init__()
        self.kind = norm
        self.fc1 = nn.Linear(width, hidden, bias=norm != "batch")  # a bias before a batch norm is taken off again
        self.norm = NORMS[norm](hidden)
        self.more = nn.ModuleList(Kept(hidden, hidden, norm) for _ in range(layers - 1))

    @torch.no_grad()
    def settle(self, x: Tensor) -> Tensor:
        """Batch norms get the statistics of x (n, D), layer after layer; returns (n, H)."""
        if isinstance(self.norm, Settled):
            seen = self.fc1(x)
            self.norm.mean.copy_(seen.mean(0))
            self.norm.variance.copy_(seen.var(0, unbiased=False))
        x = F.relu(self.norm(self.fc1(x)))
        for layer in self.more:
            x = layer.settle(x)  # type: ignore[operator]
        return x

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., H)."""
        x = F.relu(self.norm(self.fc1(x)))
        for layer in self.more:
            x = layer(x)
        return x


class TaskHead(nn.Module):
    """(B, D) pooled -> (B, C) logits or standardised numbers: linear, after what is kept of an objective's head.

    With experts K > 1 the linear layer has K times C outputs, and the logits are the sum of theirs by `shares` (K,).
    """

    shares: Tensor | None

    def __init__(self, width: int, outputs: int, kept: Kept | None = None, experts: int = 1) -> None:
        super().__init__()
        self.kept, self.count = kept, experts
        self.linear = nn.Linear(width if kept is None else kept.fc1.out_features, experts * outputs)
        self.register_buffer("shares", torch.full((experts,), 1 / experts) if experts > 1 else None)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def hidden(self, pooled: Tensor) -> Tensor:
        """(B, H) what the linear layer sees."""
        return pooled if self.kept is None else self.kept(pooled)

    def experts(self, pooled: Tensor) -> Tensor:
        """(B, K, C) what each says."""
        said: Tensor = self.linear(self.hidden(pooled))
        return said.unflatten(-1, (self.count, -1))

    def forward(self, pooled: Tensor) -> Tensor:
        """pooled (B, D) -> (B, C)."""
        if self.shares is None:
            return self.linear(self.hidden(pooled))
        return (self.shares[:, None] * self.experts(pooled)).sum(-2)


def pooled_width(model: MMSSLModel, towers: Sequence[str], learned: bool = False) -> int:
    """D of `pooled`: the widths of these towers' summaries together."""
    found = [model.tower(name) for name in towers]
    return sum(tower.pooled_width if learned else tower.summary_width for tower in found)


def pooled(model: MMSSLModel, towers: Sequence[str], batch: Batch, learned: bool = False) -> tuple[Tensor, Tensor]:
    """(B, D) float32 summaries side by side, zero where absent, and (B,) bool: anything is there.

    learned: by the towers' `pooling` in place of their `readout`: what the kept part of an objective's head learned on.
    """
    parts, present = [], []
    for name in towers:
        tower = model.tower(name)
        patches = {n: model.modality(n).patchify(batch[n]) for n in tower.modalities if n in batch}
        encoded = tower(patches)
        parts.append((encoded.pooled() if learned else encoded.summary()).float())
        present.append(encoded.present())
    return torch.cat(parts, 1), torch.stack(present).any(0)


class Supervised(Objective):
    """The task's loss. `head` starts at zero or at a fitted probe, see `start`."""

    weights: Tensor | None
    penalty: Tensor | None

    def __init__(
        self,
        config: Config,
        model: MMSSLModel,
        kept: Kept | None = None,
        weights: Tensor | None = None,
        tail: Tail | Experts | None = None,
    ) -> None:
        """weights: (C,) of `class_weights`. tail: what the loss does for rare classes."""
        super().__init__(config, model)
        self.tail = tail
        experts = len(tail.tails) if isinstance(tail, Experts) else 1
        self.head = TaskHead(pooled_width(model, config.towers, kept is not None), config.outputs, kept, experts)
        self.register_buffer("weights", weights)
        self.register_buffer("penalty", None)

    @torch.no_grad()
    def start(self, probe: Probe) -> None:
        """The head begins as a probe of what its linear layer sees, and keeps the probe's penalty.

        Without that the start is no minimum: with few labels the first thing to be learned would be larger weights,
        which says the labelled rows with more certainty and others with less reason.
        """
        linear, tail = self.head.linear, self.tail
        linear.weight.copy_(torch.from_numpy(probe.weight).repeat(self.head.count, 1))
        linear.bias.copy_(torch.from_numpy(probe.bias).repeat(self.head.count))
        if tail is not None:  # what is added to the logits the bias need not say: so the start is a minimum, too
            tails = tail.tails if isinstance(tail, Experts) else (tail,)
            linear.bias.sub_(torch.cat([own.offsets for own in tails]).to(linear.bias))
        self.penalty = torch.from_numpy(probe.penalty).to(linear.weight)

    separable = True

    def counts(self, step: Step) -> dict[str, Tensor]:
        """The rows with a label and any modality, and their weights in the loss."""
        label, c = step.batch[LABEL], self.config
        rows = label["present"] & torch.stack([step.present(name, c.view) for name in c.towers]).any(0)
        return task_counts(c.task, rows, label["value"], self.weights)

    def features(self, step: Step, view: str, nets: Mapping[str, Tower] | None = None) -> Tensor:
        """(B, D) what the head is given in a view; nets: tower -> what stands in for it."""
        names, learned = self.config.towers, self.head.kept is not None
        encoded = [step.encode(name, view, net=None if nets is None else nets[name]) for name in names]
        return torch.cat([(e.pooled() if learned else e.summary()).float() for e in encoded], 1)

    def said(self, step: Step) -> Tensor:
        """(B, C) what the head says of the training view; of experts (B, K, C)."""
        features = self.features(step, self.config.view)
        return self.head(features) if self.head.count == 1 else self.head.experts(features)

    def forward(self, step: Step) -> Loss:
        """The mean loss over the global batch's rows with a label and any modality, with the penalty of the probe that
        the head started from; of classes the accuracy, too."""
        c, counts, said = self.config, self.counts(step), self.said(step)
        value = step.batch[LABEL]["value"]
        loss = task_loss(step, c.task, said, value, counts, self.weights, tail=self.tail)
        if self.penalty is not None:
            penalty = (self.head.linear.weight.square() * self.penalty).sum() / self.head.count
            # over the rows, as the loss is: parts of a batch have their parts of it
            assert loss.total is not None
            total = loss.total + step.mean("rows", penalty.expand(len(said)), counts["rows"])
            return Loss(total=total, parts=loss.parts)
        return loss


def tail_of(options: FinetuneConfig, target: Target, labels: Tensor) -> Tail | Experts | None:
    """What the loss of the options does for classes that are rare among labels (n,). UserError without classes."""
    if options.loss == "cross_entropy":
        return None
    if target.task != "classification":
        raise UserError(f"loss: found {options.loss}, but a {target.task} has no classes that are rare")
    counts = torch.bincount(labels, minlength=target.outputs)
    if options.loss == "experts":
        return sade(counts, options.lean)
    return logit_adjusted(counts, options.tau) if options.loss == "logit_adjusted" else ldam(counts, options.margin)


def make_objective(
    model: MMSSLModel,
    task: str,
    towers: Sequence[str],
    outputs: int,
    view: str,
    *,
    kept: Kept | None = None,
    weights: Tensor | None = None,
    tail: Tail | Experts | None = None,
) -> Supervised:
    """`Supervised` with its `Config`."""
    return Supervised(Config(task=task, towers=list(towers), outputs=outputs, view=view), model, kept, weights, tail)
