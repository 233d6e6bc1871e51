"""`Pretraining`: the model once and its weighted objectives. What Accelerate wraps: one forward, one backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .draws import Draws
from .errors import UserError, nearest
from .modality import Batch
from .models.modeling_mmssl import MMSSLModel
from .objectives.base import Loss, Objective
from .step import Mask, Step


class Pretraining(nn.Module):
    """model: the product. objectives: name -> Objective, whose `config.weight` is its factor. views, masks: the
    recipe's. Frozen towers get no gradient. adapter: what writes the adapter that is trained, None for a whole model.
    """

    adapter: Any = None

    def __init__(
        self,
        model: MMSSLModel,
        objectives: Mapping[str, Objective],
        views: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
        masks: Mapping[str, Mask] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.views, self.masks = dict(views or {}), dict(masks or {})
        self._check_views()
        for tower in model.towers.values():
            if tower.frozen:
                tower.requires_grad_(False)

    def _check_views(self) -> None:
        for view, spec in self.views.items():
            for name, options in spec.items():
                known = self.model.modality(name).views
                if not known:
                    raise UserError(f"views.{view}.{name}: this modality has no augmented views")
                for key in options:
                    if key not in known:
                        raise UserError(
                            f"views.{view}.{name}.{key}: unknown option, expected one of {', '.join(known)}"
                            f"{nearest(key, known)}"
                        )

    def forward(self, batch: Batch, draws: Draws) -> Loss:
        """The weighted sum of all objectives' losses and its parts, named `<objective>` and `<objective>.<part>`."""
        step = Step(batch, self.model, self.views, self.masks, draws)
        total: torch.Tensor | None = None
        parts: dict[str, torch.Tensor] = {}
        for name, objective in self.objectives.items():
            loss = objective(step)
            weighted = objective.config.weight * loss.total  # type: ignore[union-attr]
            total = weighted if total is None else total + weighted
            parts[name] = loss.total.detach()
            parts |= {f"{name}.{part}": value.detach() for part, value in (loss.parts or {}).items()}
        return Loss(total=total, parts=parts)

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        for objective in self.objectives.values():
            objective.after_step(self.model, progress)  # type: ignore[operator]
