"""Predicting one view's embedding from another's: BYOL, SimSiam, DirectPred. No negatives, nothing to decorrelate.

BYOL (Grill et al. 2020): an online network with a predictor regresses the embedding that an averaged teacher gives of
the other view, both ways; the loss is the sum of both directions. SimSiam (Chen and He 2021), `target: online`: the
target is the network itself without gradient; the loss is the mean of both directions. DirectPred (Tian et al. 2021),
`predictor: direct`: the predictor is linear and not trained but set from the eigenvalues of the correlation of its
inputs over all processes, after each (`direct_every`-th) optimiser step. Its correlation is a moving average that
keeps `direct_momentum`; by default eigenvalues are relative to the largest, as in the authors' code, and inputs are
not centred. Only samples that have both sides count.

Without a predictor or without the stopped gradient it would collapse; watch the teacher's spread in the log.

Example::

    objectives:
      byol: {type: bootstrap, towers: [image], views: [a, b]}
      simsiam: {type: bootstrap, towers: [image], views: [a, b], target: online, head_layers: 3}
      direct: {type: bootstrap, towers: [eeg], masks: [some, others], predictor: direct}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..distributed import global_mean, global_sum
from ..losses.redundancy import byol, direct_predictor, simsiam
from ..models.initialization import init_weights
from .base import Loss, Objective
from .options.bootstrap import Config
from .parts.heads import Head
from .parts.sides import Side, Sides
from .parts.teacher import Momentum, Taught, Teacher

if TYPE_CHECKING:
    from ..models.modeling_mmssl import MMSSLModel
    from .step import Step

Embedding = tuple[Tensor, Tensor]


class DirectPredictor(nn.Module):
    """A linear map that follows the correlation of its inputs. Inputs are noted in forward, the map moves in `update`.

    Attributes:
        correlation: (D, D) moving average.
        weight: (D, D) symmetric, at first the identity.
        steps: updates so far.
    """

    correlation: Tensor
    weight: Tensor
    steps: Tensor

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("correlation", torch.zeros(width, width))
        self.register_buffer("weight", torch.eye(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (n, D), valid (n,) -> (n, D)."""
        # what is looked at without gradient (health, evaluation) is not trained on
        if torch.is_grad_enabled():
            rows = torch.where(valid[:, None], x.detach().float(), 0.0)
            sums = torch.cat([rows.T @ rows, rows.sum(0)[None]])
            count = valid.to(rows.dtype).sum().expand(1, sums.shape[1])
            # products, sums and count in one tensor: one sum over processes instead of three
            self.seen.append(global_sum(torch.cat([sums, count])))
        return x @ self.weight.to(x.dtype)

    @torch.no_grad()
    def update(self) -> None:
        """Take in what was seen since the last update. Nothing changes where no row was valid, or one was not finite:
        the loss shows that, and one broken batch must not stay in the average."""
        if not self.seen:
            return
        sums, self.seen = torch.stack(self.seen).sum(0), []
        width, count = sums.shape[1], sums[-1, 0]
        # waits for the device, once an optimiser step
        if not bool((count > 0) & sums.isfinite().all()):
            return
        now = sums[:width] / count
        if self.config.direct_centre:
            mean = sums[width] / count
            now = now - mean[:, None] * mean
        # the first correlation is taken as it is: there is nothing yet to average it with
        keep = self.config.direct_momentum if int(self.steps) else 0.0
        self.correlation.mul_(keep).add_(now, alpha=1 - keep)
        if int(self.steps) % self.config.direct_every == 0:
            self.weight.copy_(direct_predictor(self.correlation, self.config.direct_eps, self.config.direct_relative))
        self.steps += 1


class Bootstrap(Taught, Objective):
    """A predictor on one side's embedding meets the target embedding of the other side."""

    asks_named = True

    def __init__(self, config: Config, model: MMSSLModel) -> None:
        super().__init__(config, model)
        self.sides = Sides(config, model, "bootstrap")
        self.heads = nn.ModuleDict({name: Head.of(model.tower(name).pooled_width, config) for name in config.towers})
        self.predictors = nn.ModuleDict({name: self._predictor(head.width) for name, head in self.heads.items()})
        init_weights(self.heads)
        init_weights(self.predictors)
        self.teacher: Teacher[Any] | None = None
        if config.target == "teacher":
            self.teacher = Teacher(self.student(model))
        self.momentum = Momentum.of(config, None)
        self.teaches = tuple(config.towers) if self.teacher is not None and config.export != "student" else ()

    def _predictor(self, width: Any) -> nn.Module:
        c = self.config
        if c.predictor == "direct":
            return DirectPredictor(width, c)
        return Head(width, c.predictor_hidden, width, 2, c.head_norm)

    def student(self, model: MMSSLModel) -> nn.ModuleDict:
        """Towers and heads, which the teacher averages."""
        towers = nn.ModuleDict({name: model.tower(name) for name in self.config.towers})
        return nn.ModuleDict({"towers": towers, "heads": self.heads})

    def forward(self, step: Step) -> Loss:
        """The mean over the pairs of sides; each is logged where there are several."""
        across, within = self.sides.plan(step)
        online: dict[Side, Embedding] = {}
        guesses: dict[Side, Tensor] = {}
        targets: dict[Side, Tensor] = {}
        for side in dict.fromkeys(side for pair in across + within for side in pair):
            online[side] = self._embed(step, side)
            guesses[side] = self.predictors[side.tower](*online[side])
            # without teacher the target is the network itself; the losses stop its gradient
            targets[side] = online[side][0] if self.teacher is None else self._teach(step, side)
        parts = {}
        for a, b in across + within:
            both = online[a][1] & online[b][1]
            pair = self._one_way(guesses[a], targets[b], both) + self._one_way(guesses[b], targets[a], both)
            # BYOL sums the two directions, SimSiam averages them
            parts[f"{a.label}-{b.label}"] = pair if self.teacher is not None else pair / 2
        total = torch.stack(list(parts.values())).mean()
        return Loss(total=total, parts={n: p.detach() for n, p in parts.items()} if len(parts) > 1 else {})

    def _embed(self, step: Step, side: Side) -> Embedding:
        pooled, present = self.sides.pooled(step, side)
        return self.heads[side.tower](pooled, present), present

    def _teach(self, step: Step, side: Side) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            pooled, present = self.sides.pooled(step, side, self.teacher.net["towers"][side.tower])
            target: Tensor = self.teacher.net["heads"][side.tower](pooled, present)
        return target

    def _one_way(self, guess: Tensor, target: Tensor, both: Tensor) -> Tensor:
        loss = byol if self.teacher is not None else simsiam
        with torch.autocast(guess.device.type, enabled=False):
            return global_mean(loss(guess.float(), target.float()), both)

    def discard(self) -> None:
        """Forget what DirectPred's predictors noted of their inputs."""
        for predictor in self.predictors.values():
            if isinstance(predictor, DirectPredictor):
                predictor.seen = []

    @torch.no_grad()
    def after_step(self, model: MMSSLModel, progress: float) -> None:
        """Move the teacher towards the student, and DirectPred's predictors to what their inputs were."""
        self.follow(model, progress)
        for predictor in self.predictors.values():
            if isinstance(predictor, DirectPredictor):
                predictor.update()
