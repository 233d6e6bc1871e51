"""A toy graph: a node a token, a message-passing stem, edges as attention bias; masking before any message passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.losses.reconstruction import patch_mse
from mmssl.modality import Inputs, MaskToken
from mmssl.modality import Modality as Base
from mmssl.modality import Preprocessor as BasePreprocessor
from mmssl.modality.known import Property
from mmssl.models.positions import SinCos
from mmssl.options import option, strict
from mmssl.patches import Patches


@strict
@dataclass(kw_only=True)
class Config:
    features: int = option(4, min=1)


class Preprocessor(BasePreprocessor):
    config: Config

    def read(self, raw: Any, choice: int = 0) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(raw["x"], dtype=torch.float32), torch.as_tensor(raw["edges"], dtype=torch.int64)

    def collate(self, samples: Sequence[Any]) -> Inputs:
        most = max([len(s[0]) for s in samples if s is not None] or [1])
        x = torch.zeros(len(samples), most, self.config.features)
        links = torch.zeros(len(samples), most, most)
        valid = torch.zeros(len(samples), most, dtype=torch.bool)
        for i, s in enumerate(samples):
            if s is not None:
                x[i, : len(s[0])] = s[0]
                valid[i, : len(s[0])] = True
                links[i, s[1][0], s[1][1]] = 1.0
                links[i, s[1][1], s[1][0]] = 1.0
        return {"x": x, "links": links, "nodes": valid}

    def sizes(self) -> dict[str, Any]:
        return {"features": self.config.features}


class EdgeBias(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads))

    def forward(self, patches: Patches) -> Tensor:
        assert patches.links is not None
        return self.weight[None, :, None, None] * patches.links[:, None]


class Modality(Base):
    has_links = True
    targets = ("features",)
    views = ("drop_edges",)
    properties = {
        "degree": Property("patch", "neighbours"),
        "edge": Property("pair", "connected, of pairs that are not seen to be", 2),
        "likeness": Property("pair", "product of features"),
        "size": Property("sample", "up to 2, up to 4 or 5 nodes; of 6 unknown", 3),
    }
    coordinates = ("degree",)

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.proj = nn.Linear(features, width)
        self.message = nn.Linear(width, width)
        self.mask = MaskToken(width)
        self.position = self.positions(width)

    def patchify(self, inputs: Inputs) -> Patches:
        degree = inputs["links"].sum(-1, keepdim=True)
        return Patches(inputs["x"], degree, inputs["nodes"], links=inputs["links"])

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        return like | {"x": values}

    def positions(self, width: int) -> nn.Module:
        return SinCos(width, 1)

    def relations(self, heads: int) -> nn.Module | None:
        return EdgeBias(heads)

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        x = self.proj(patches.values)
        if hidden is not None:
            x = self.mask(x, hidden)
        assert patches.links is not None
        x = x * patches.valid[..., None]
        x = x + self.message(patches.links @ x)
        return x + self.position(patches.coords)

    def pred_width(self, kind: str | None = None) -> int:
        return self.features

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        return patches.values

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        return patch_mse(pred, target)

    def known(self, name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
        assert patches.links is not None and seen.links is not None
        if name == "degree":
            return patches.links.sum(-1, keepdim=True)
        if name == "likeness":
            return patches.values @ patches.values.transpose(1, 2)
        if name == "edge":
            return patches.links.masked_fill(seen.links > 0, torch.nan)
        count = patches.valid.sum(1, keepdim=True)
        return ((count > 2).float() + (count > 4).float()).masked_fill(count > 5, torch.nan)

    def augment(self, inputs: Inputs, draws: Draws, drop_edges: float = 0.2) -> Inputs:
        n = inputs["links"].shape[-1]
        keep = ~draws.chance(drop_edges, n, n)
        keep = keep & keep.transpose(1, 2)
        return inputs | {"links": inputs["links"] * keep}

    def raw_features(self, inputs: Inputs) -> Tensor:
        return inputs["x"].sum(1)
