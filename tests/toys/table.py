"""A toy table: one token a cell; numeric columns by regression, categorical by cross-entropy over that column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.modality import Inputs, MaskToken
from mmssl.modality import Modality as Base
from mmssl.modality import Preprocessor as BasePreprocessor
from mmssl.modality.places import Places, by_number
from mmssl.models.positions import LearnedGrid
from mmssl.options import option, strict
from mmssl.patches import Patches


@strict
@dataclass(kw_only=True)
class Config:
    columns: dict[str, int] = option(factory=dict, help="column -> number of categories, 0 = numeric")


class Preprocessor(BasePreprocessor):
    config: Config

    def read(self, raw: Any, choice: int = 0) -> list[float]:
        return [math.nan if raw[c] is None else float(raw[c]) for c in self.config.columns]

    def collate(self, samples: Sequence[Any]) -> Inputs:
        absent = [math.nan] * len(self.config.columns)
        return {
            "cells": torch.tensor([absent if s is None else s for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }

    def sizes(self) -> dict[str, Any]:
        return {"categories": list(self.config.columns.values())}


class Modality(Base):
    targets = ("cell",)
    views = ("swap",)
    coordinates = ("column",)

    def __init__(self, width: int, categories: list[int]) -> None:
        super().__init__()
        self.categories = categories
        most = max([1, *categories])
        self.number = nn.Linear(1, width)
        self.category = nn.Embedding(most * len(categories), width)
        self.missing = MaskToken(width)
        self.mask = MaskToken(width)
        self.position = LearnedGrid(width, (len(categories),))
        self.most = most

    def patchify(self, inputs: Inputs) -> Patches:
        cells = inputs["cells"]
        b, n = cells.shape
        coords = torch.arange(n, device=cells.device, dtype=torch.float32).expand(b, n)[..., None]
        valid = inputs["present"][:, None].expand(b, n)
        return Patches(cells[..., None], coords, valid)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        return {"cells": values[..., 0], "present": like["present"]}

    def positions(self, width: int) -> nn.Module:
        return LearnedGrid(width, (len(self.categories),))

    def _is_category(self, patches: Patches) -> Tensor:
        table = torch.tensor([c > 0 for c in self.categories], device=patches.coords.device)
        return table[patches.coords[..., 0].long()]

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        column = patches.coords[..., 0].long()
        value = patches.values.nan_to_num(0.0)
        category = self.category(column * self.most + value[..., 0].long().clamp(0, self.most - 1))
        x = torch.where(self._is_category(patches)[..., None], category, self.number(value))
        x = self.missing(x, patches.values[..., 0].isnan())
        if hidden is not None:
            x = self.mask(x, hidden)
        return x + self.position(patches.coords)

    def pred_width(self, kind: str | None = None) -> int:
        return self.most + 1

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        return patches.values[..., 0]

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        known = ~target.isnan()
        value = target.nan_to_num(0.0)
        number = (pred[..., 0] - value).square()
        logits = pred[..., 1:]
        column = patches.coords[..., 0].long()
        sizes = torch.tensor(self.categories, device=pred.device)[column].clamp(min=1)
        logits = logits.masked_fill(torch.arange(self.most, device=pred.device) >= sizes[..., None], -1e9)
        entropy = nn.functional.cross_entropy(
            logits.flatten(0, 1), value.long().clamp(0, self.most - 1).flatten(), reduction="none"
        ).view(value.shape)
        return torch.where(self._is_category(patches), entropy, number) * known

    def augment(self, inputs: Inputs, draws: Draws, swap: float = 0.3) -> Inputs:
        """Marginal resampling within the global batch is drawn on one process's rows here: a toy."""
        cells = inputs["cells"]
        noise = draws.normal(cells.shape[1]).to(cells)
        return inputs | {"cells": torch.where(draws.chance(swap, cells.shape[1]), cells + 0.0 * noise, cells)}

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        return by_number(patches)

    def raw_features(self, inputs: Inputs) -> Tensor:
        return inputs["cells"].nan_to_num(0.0)
