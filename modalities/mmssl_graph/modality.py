"""Graphs as patches: the `Modality` that knows nodes and edges.

Shapes: B graphs, N nodes (padded), n patches at hand, F features, K coordinates, D width, H heads.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import modality as base
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.reconstruction import patch_mse
from mmssl.modality import Inputs, MaskToken, Preprocessor
from mmssl.modality.places import Places, by_number
from mmssl.modality.shown import Nodes, Shown, flags, rows
from mmssl.patches import Patches

from .augment import augment, centres
from .encodings import distances, encodings
from .known import PROPERTIES, known
from .options import View

EDGE_WIDTH = 32
SELF = -1.0
"""On the diagonal of `Patches.links`: so a decoder knows a query and the encoded token for the same node."""


class Structure(nn.Module):
    """Positions: a small perceptron of the coordinates (centre, Laplacian, random walk)."""

    def __init__(self, width: int, laplacian: int, walk: int) -> None:
        super().__init__()
        self.laplacian = laplacian
        self.inner = nn.Linear(1 + laplacian + walk, width)
        self.outer = nn.Linear(width, width)

    def forward(self, coords: Tensor) -> Tensor:
        """(B, n, 1 + laplacian + walk) coordinates to (B, n, D)."""
        # an eigenvector's entries are about 1 / sqrt(nodes); that brings them to the order of the others
        end = 1 + self.laplacian
        scaled = torch.cat([coords[..., :1], 4 * coords[..., 1:end], coords[..., end:]], -1)
        return self.outer(F.gelu(self.inner(scaled.to(self.inner.weight.dtype))))


class EdgeBias(nn.Module):
    """Attention bias of what lies between two nodes: a learned number a head for their distance (Graphormer, Ying et
    al. 2021), for the edge's direction, and for the logarithm of its weight.

    It starts as -slope * distance with slopes 1, 1/2, 1/4, ... over the heads (as ALiBi, Press et al. 2022): some heads
    look along edges from the first step on, some everywhere.
    """

    def __init__(self, heads: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.distance = nn.Parameter(torch.zeros(most + 2, heads))
        self.leaving = nn.Parameter(torch.zeros(heads))
        self.arriving = nn.Parameter(torch.zeros(heads))
        self.weight = nn.Parameter(torch.zeros(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Minus the distance, times each head's slope; nothing for directions and weights."""
        heads = len(self.weight)
        slopes = torch.tensor([2.0 ** -(4 * h / max(heads - 1, 1)) for h in range(heads)])
        start = -torch.arange(self.most + 2, dtype=torch.float32)[:, None] * slopes
        with torch.no_grad():
            nn.init.zeros_(self.distance)
            nn.init.zeros_(self.leaving), nn.init.zeros_(self.arriving), nn.init.zeros_(self.weight)
            self.distance.add_(start.to(self.distance))

    def forward(self, patches: Patches) -> Tensor:
        """(B, H, n, n); row: the node that looks, column: the node that is looked at."""
        assert patches.links is not None
        links = patches.links.clamp(min=0)
        leaving, arriving = links > 0, (links > 0).transpose(1, 2)
        bias = self.distance[distances(patches.links, self.most)]
        strength = torch.maximum(links, links.transpose(1, 2))
        logarithm = torch.where(leaving | arriving, strength.clamp(min=1e-6).log(), 0.0)
        bias = bias + (leaving & ~arriving)[..., None] * self.leaving + (arriving & ~leaving)[..., None] * self.arriving
        return (bias + logarithm[..., None] * self.weight).permute(0, 3, 1, 2)


class Messages(nn.Module):
    """One round of message passing: x + GELU(W mean of the neighbours along arriving edges), weighted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """x (B, n, D) after one round along links (B, n, n)."""
        arriving = links.clamp(min=0).transpose(1, 2).to(x.dtype)
        mean = (arriving @ x) / arriving.sum(-1, keepdim=True).clamp(min=1e-6)
        return x + F.gelu(self.linear(mean))


class Modality(base.Modality):
    """A patch is a node. Its values are its features, its links the weights of the edges that leave it."""

    has_links = True
    properties = PROPERTIES
    targets = ("features", "features_mse", "edges")
    views = View.names()
    readouts = ("centre+mean", "mean+std")
    coordinates = (
        "1 at the centre of a sampled subgraph, else 0",
        "Laplacian eigenvectors [unit length], from the second on",
        "random walk [chance of return after 1, 2, ... steps]",
    )

    def __init__(
        self,
        width: int,
        features: int,
        laplacian: int = 8,
        walk: int = 8,
        stem: int = 1,
        distance: int = 3,
        gamma: float = 2.0,
        centred: bool = False,
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            features: F.
            laplacian: number of Laplacian encodings.
            walk: number of random-walk encodings.
            stem: rounds of message passing before the trunk.
            distance: the greatest distance in edges that attention tells apart.
            gamma: exponent of the scaled cosine error.
            centred: graphs are sampled around a node each, which they are about.
        """
        super().__init__()
        self.centred = centred
        self.features, self.laplacian, self.walk, self.distance = features, laplacian, walk, distance
        self.gamma = gamma
        self.proj = nn.Linear(features, width)
        self.mask = MaskToken(width)
        self.stem = nn.ModuleList(Messages(width) for _ in range(stem))
        self.position = self.positions(width)

    def patchify(self, inputs: Inputs) -> Patches:
        """Encodings are computed here where the inputs bring none, as after edges were dropped."""
        x, links, nodes = inputs["x"], inputs["links"], inputs["nodes"]
        if x.shape[-1] != self.features:
            raise UserError(f"nodes have {x.shape[-1]} features, this model has {self.features}")
        known = inputs.get("encodings")
        if known is None:
            known = encodings(links, nodes, self.laplacian, self.walk)
        coords = torch.cat([centres(inputs)[..., None].to(known.dtype), known], -1)
        own = torch.eye(links.shape[1], dtype=torch.bool, device=links.device) & nodes[:, :, None]
        return Patches(x.to(torch.float32), coords, nodes, links=links.masked_fill(own, SELF))

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, F) as the features of graphs like `like`."""
        return like | {"x": values}

    def positions(self, width: int) -> nn.Module:
        """A perceptron of the encodings: nodes lie on no axis."""
        return Structure(width, self.laplacian, self.walk)

    def cells(self, kind: str) -> int:
        """As the contract has them; of subgraphs also "centre", a single one: the node that each was sampled around."""
        return int(self.centred) if kind == "centre" else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """As the contract has it. Nodes beside the centre lie in none; in a graph without one all lie in the first."""
        if kind != "centre":
            return super().cell(kind, patches)
        centre = (patches.coords[..., 0] > 0) & patches.valid
        return (centre.any(1, keepdim=True) & ~centre).long()

    def relations(self, heads: int) -> nn.Module | None:
        """Attention bias of distances, directions and weights."""
        return EdgeBias(heads, self.distance)

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """A linear map of the features, then messages along the links; what is hidden sends the mask token only."""
        assert patches.links is not None
        dtype = self.proj.weight.dtype
        tokens = self.proj(patches.values.to(dtype))
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        for messages in self.stem:
            tokens = messages(tokens, patches.links)
        # under autocast the sum stays float32, as the trunk's residual stream should
        return (tokens + self.position(patches.coords)).to(dtype)

    def pred_width(self, kind: str | None = None) -> int:
        """F, or for edges the width of the vectors whose products say which nodes are connected."""
        return EDGE_WIDTH if self.kind(kind) == "edges" else self.features

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, F) the features; for edges (B, N, 1 + N): the node's number, and to whom it has an edge."""
        if self.kind(kind) != "edges":
            return inputs["x"].to(torch.float32)
        links = inputs["links"]
        near = ((links > 0) | (links > 0).transpose(1, 2)).to(torch.float32)
        number = torch.arange(links.shape[1], device=links.device, dtype=torch.float32).expand(links.shape[:2])
        return torch.cat([number[..., None], near], -1)

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) loss of each node.

        "features": (1 - cosine)^gamma (GraphMAE, Hou et al. 2022, THUDM/GraphMAE `sce_loss`). "features_mse": mean
        squared error. "edges": see `_edge_score`.
        """
        kind = self.kind(kind)
        if kind == "edges":
            return self._edge_score(pred, target, patches)
        if kind == "features_mse":
            return patch_mse(pred, target)
        cosine = F.cosine_similarity(pred, target, dim=-1, eps=1e-6)
        return (1 - cosine).clamp(min=0) ** self.gamma

    @staticmethod
    def _edge_score(pred: Tensor, target: Tensor, patches: Patches) -> Tensor:
        """(B, n) cross-entropy of "is there an edge" between the masked nodes, edges and non-edges weighing alike.

        Edges that the encoder saw (in `patches.links`) do not count, so the view must drop some: view: <with
        drop_edges>, target_view: clean (GraphMAE's sibling MaskGAE, Li et al. 2023, masks edges likewise).
        """
        assert patches.links is not None
        near = target[..., 1:].gather(2, target[..., 0].to(torch.int64)[:, None].expand(-1, target.shape[1], -1)) > 0
        seen = (patches.links != 0) | (patches.links != 0).transpose(1, 2)
        pair = patches.valid[:, :, None] & patches.valid[:, None, :] & ~seen
        logits = pred @ pred.transpose(1, 2) / math.sqrt(pred.shape[-1])
        entropy = F.binary_cross_entropy_with_logits(logits, near.to(logits.dtype), reduction="none")

        def mean(where: Tensor) -> Tensor:
            return (entropy * where).sum(-1) / where.sum(-1).clamp(min=1)

        return mean(pair & near) + mean(pair & ~near)

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: graphs.
            draws: random numbers of the B samples.
            spec: options of `mmssl_graph.options.View`.
        """
        return augment(inputs, draws, View.build(spec))

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Node by node: encodings change with the edges, numbers do not."""
        return by_number(patches)

    def known(self, name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
        """As the contract has it: see `mmssl_graph.known`."""
        return known(name, inputs, patches, seen)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return self.features * (1 if self.centred else 3)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, F or 3 F) features propagated over two hops without a parameter (SGC, Wu et al. 2019): of the centre, in
        the whole graph that it was sampled from; of a graph without centre the means of X, S X and S S X."""
        return inputs["propagated"]

    def guess(self, pred: Tensor, patches: Patches, kind: str | None = None) -> Tensor | None:
        """The features, of "features" up to a factor."""
        return None if self.kind(kind) == "edges" else pred

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The nodes that are there with their edges, of whatever direction."""
        found: list[Shown | None] = []
        for row, (_, features) in enumerate(rows(inputs, "x")):
            there = inputs["nodes"][row].cpu()
            links = inputs["links"][row].cpu()[there][:, there]
            edges = ((links > 0) | (links > 0).T).triu(1).nonzero().numpy()
            mask = flags(hidden, "x", row)
            part = None if mask is None else mask.any(-1)[there.numpy()]
            kinds = features[there.numpy()].argmax(-1) if features.shape[-1] else np.zeros(int(there.sum()), np.int64)
            found.append(Nodes(kinds, edges, part) if len(kinds) else None)
        return found
