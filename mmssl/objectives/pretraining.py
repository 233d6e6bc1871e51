"""`Pretraining`: the model once and its weighted objectives. What Accelerate wraps: one forward, one backward."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..distributed import global_sum
from ..draws import Draws
from ..errors import UserError
from ..modality import Batch
from ..modality.faults import view_faults
from ..models.modeling_mmssl import MMSSLModel
from .base import Loss, Objective
from .step import Mask, Step, Views

logger = logging.getLogger("mmssl")


class Pretraining(nn.Module):
    """A model with its objectives: what Accelerate wraps and the loop trains. Frozen towers get no gradient.

    Attributes:
        model: the product.
        objectives: name -> Objective, whose `config.weight` is its factor.
        views: the recipe's.
        masks: the recipe's.
        adapter: what writes the adapter that is trained, None for a whole model.
    """

    adapter: Any = None
    factors: torch.Tensor

    def __init__(
        self,
        model: MMSSLModel,
        objectives: Mapping[str, Objective],
        views: Views | None = None,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.views, self.masks = dict(views or {}), dict(masks or {})
        self._check_views()
        self._warn_of_untrained()
        self.ramps = {n: o.config.ramp for n, o in objectives.items() if getattr(o.config, "ramp", None) is not None}
        if self.ramps:  # of the weights, in the order of `ramps`; a buffer, so that a checkpoint has them
            self.register_buffer("factors", self._factors(0.0))
        for tower in model.towers.values():
            if tower.frozen:
                tower.requires_grad_(False)

    def _warn_of_untrained(self) -> None:
        """Say which towers give targets that nothing trains: fine when they are pretrained, noise when they are not."""
        trained: set[str] = set()
        for objective in self.objectives.values():
            config: Any = objective.config
            trained |= {getattr(config, "tower", None), *getattr(config, "towers", ())}  # type: ignore[arg-type]
        for name, objective in self.objectives.items():
            for tower in objective.relies_on:  # type: ignore[union-attr]
                if tower not in trained and not self.model.tower(tower).frozen:
                    logger.warning(
                        "objectives.%s: its targets come from tower '%s', which no objective trains; unless that tower "
                        "is pretrained they are noise: give it an objective, or set frozen: true",
                        name,
                        tower,
                    )

    def _check_views(self) -> None:
        for view, spec in self.views.items():
            faults: list[str] = []
            for name in spec:
                modality = self.model.modality(name)
                faults += view_faults((modality.views, modality.corruptible), self.views, view, name)
            if faults:
                raise UserError("\n".join(faults))

    def step(self, batch: Batch, draws: Draws) -> Step:
        """A batch as the objectives see it."""
        return Step(batch, self.model, self.views, self.masks, draws)

    def forward(self, batch: Batch, draws: Draws, shares: bool = False) -> Loss:
        """The weighted sum of all objectives' losses and its parts, named `<objective>` and `<objective>.<part>`.

        shares: measure `gradient_shares` as well.
        """
        step = self.step(batch, draws)
        total: torch.Tensor | None = None
        parts: dict[str, torch.Tensor] = {}
        each: dict[str, torch.Tensor] = {}
        for name, objective in self.objectives.items():
            loss = objective(step)
            weight: Any = objective.config.weight  # type: ignore[union-attr]
            if name in self.ramps:
                weight = weight * self.factors[list(self.ramps).index(name)]
                parts[f"{name}.weight"] = weight
            weighted = weight * loss.total
            total = weighted if total is None else total + weighted
            each[name] = weighted
            parts[name] = loss.total.detach()
            parts |= {f"{name}.{part}": value.detach() for part, value in (loss.parts or {}).items()}
        # before the loss leaves: what lies between here and the encodings belongs to no process group
        return Loss(total=total, parts=parts, shares=gradient_shares(each, step) if shares else None)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Tell every objective that the optimiser has stepped, and move the ramped weights; progress in (0, 1]."""
        for objective in self.objectives.values():
            objective.after_step(self.model, progress)  # type: ignore[operator]
        if self.ramps:
            self.factors.copy_(self._factors(progress))

    def _factors(self, progress: float) -> torch.Tensor:
        return torch.tensor([ramp.factor(progress) for ramp in self.ramps.values()], dtype=torch.float32)


def gradient_shares(losses: Mapping[str, torch.Tensor], step: Step) -> dict[str, torch.Tensor]:
    """Which objective pulls how hard at the encoders: shares of the gradients' norms, over all processes' rows.

    losses: objective -> its weighted loss. `<tower>/<objective>`: |d loss / d encodings of the tower|, over the sum of
    these norms of all objectives; `<objective>`: the same over the encodings of all towers at once. The encodings are
    what the tower gave in this step (`Step.encodings`), whichever view and mask an objective asked it for; those of one
    view and mask are the same tensors for all that named it. Each sums to 1, or is 0 where no objective has a gradient.
    A tower that a single objective trains is left out, and everything where there is a single objective.

    Only the graph between the losses and the encodings is run through: no parameter gets a gradient, no hook of DDP is
    called. Gathers in it are collective, so that all processes must call it together.
    """
    encodings = step.encodings()
    flat = [tensor for tensors in encodings.values() for tensor in tensors]
    if len(losses) < 2 or not flat:
        return {}
    squares = flat[0].new_zeros(len(losses), len(encodings), dtype=torch.float32)
    for i, loss in enumerate(losses.values()):
        if not loss.requires_grad:
            continue
        found = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
        for j, tensors in enumerate(encodings.values()):
            for gradient in (next(found) for _ in tensors):
                if gradient is not None:
                    squares[i, j] += gradient.detach().float().square().sum()
    # squared norms of the rows of all processes add up to that of the whole batch
    squares = global_sum(squares)
    out: dict[str, torch.Tensor] = {}
    for prefix, column in [("", squares.sum(1)), *((f"{t}/", squares[:, j]) for j, t in enumerate(encodings))]:
        norm = column.sqrt()
        share = norm / norm.sum().clamp(min=torch.finfo(norm.dtype).tiny)
        if not prefix or int((norm > 0).sum()) > 1:
            out |= {f"{prefix}{name}": share[i] for i, name in enumerate(losses)}
    return out
