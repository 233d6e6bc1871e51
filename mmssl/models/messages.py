"""Message passing: layers that a node's neighbours are summed up by, blocks of them, and the trunk they make.

Edges are `Patches.links`, dense: subgraphs and molecules have some tens of nodes. An entry (i, j) above zero is the
weight of the edge from i to j, and messages go along it, from i to j. Each layer equals torch_geometric's of the same
name with the same weights (tests/unit/models/test_messages.py).

No layer knows anything of other graphs in the batch: norms are layer norms, where GIN's paper has batch norms. Those
mix the graphs of a batch, so that accumulation, processes and padding would change what is learned.

Shapes: B graphs, n nodes (padded), D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .trunk import ACTIVATIONS, MLP, Residual


def arriving(links: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, n, n) weights of the edges that arrive: row, where to; column, where from; marks below zero are no edges."""
    return links.clamp(min=0).transpose(1, 2).to(dtype)


class GIN(nn.Module):
    """MLP((1 + eps) x + sum of w x over the edges that arrive), eps learned.

    Graph isomorphism network, Xu et al. 2019, arXiv 1810.00826.
    """

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = MLP(width, hidden, activation)

    def reset_parameters(self) -> None:
        """A node counts as much as a neighbour: eps = 0."""
        nn.init.zeros_(self.eps)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """x (B, n, D), links (B, n, n) -> (B, n, D)."""
        return self.mlp((1 + self.eps.to(x.dtype)) * x + arriving(links, x.dtype) @ x)


class GCN(nn.Module):
    """W x summed over a node and the edges that arrive, by D^-1/2 (A + I) D^-1/2, plus a bias.

    Graph convolutional network, Kipf and Welling 2017, arXiv 1609.02907.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """No bias to begin with."""
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """x (B, n, D), links (B, n, n) -> (B, n, D)."""
        weights = arriving(links, torch.promote_types(x.dtype, torch.float32))
        weights = weights + torch.eye(links.shape[1], dtype=weights.dtype, device=links.device)
        scale = weights.sum(-1).rsqrt()  # never of zero: every node is its own neighbour
        weights = scale[:, :, None] * weights * scale[:, None, :]
        y = self.linear(x)
        return weights.to(y.dtype) @ y + self.bias.to(y.dtype)


class GAT(nn.Module):
    """W x averaged over a node and the edges that arrive, weighing each by a learned score; heads side by side.

    Graph attention network, Velickovic et al. 2018, arXiv 1710.10903. Edge weights do not enter.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.linear = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.sends = nn.Parameter(torch.zeros(heads, width // heads))
        self.receives = nn.Parameter(torch.zeros(heads, width // heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """What scores are made of is drawn as torch_geometric draws it: Xavier uniform. No bias."""
        nn.init.xavier_uniform_(self.sends)
        nn.init.xavier_uniform_(self.receives)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """x (B, n, D), links (B, n, n) -> (B, n, D)."""
        y = self.linear(x).unflatten(-1, self.sends.shape)  # (B, n, H, D / H)
        wide = y.to(torch.promote_types(y.dtype, torch.float32))
        sends, receives = ((wide * a).sum(-1).transpose(1, 2) for a in (self.sends, self.receives))
        scores = F.leaky_relu(receives[..., :, None] + sends[..., None, :], 0.2)
        own = torch.eye(links.shape[1], dtype=torch.bool, device=links.device)
        near = (links.transpose(1, 2) > 0) | own
        share = scores.masked_fill(~near[:, None], -torch.inf).softmax(-1)
        return (share.to(y.dtype) @ y.transpose(1, 2)).transpose(1, 2).flatten(2) + self.bias.to(y.dtype)


class MessageBlock(GradientCheckpointingLayer):
    """x + messages of norm(x), with dropout before them; GCN and GAT, which are linear in what they sum, are activated.

    Args:
        kind: "gin", "gcn" or "gat".
        width: D.
        heads: of gat.
        mlp_ratio: of gin's perceptron.
        norm_eps: of the norm.
        activation: as in `mmssl.models.trunk`.
        layer_scale, dropout, drop_path: as in `mmssl.models.trunk.Residual`, but that dropout comes first.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        heads: int,
        mlp_ratio: float,
        norm_eps: float,
        activation: str,
        layer_scale: float | None,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.messages: nn.Module
        self.activation = None
        if kind == "gin":
            self.messages = GIN(width, int(width * mlp_ratio), activation)
        else:
            self.messages = GCN(width) if kind == "gcn" else GAT(width, heads)
            self.activation = ACTIVATIONS[activation]
        self.dropout = dropout
        self.residual = Residual(width, layer_scale, 0.0, drop_path)

    def forward(self, x: Tensor, links: Tensor) -> Tensor:
        """x (B, n, D), links (B, n, n) -> (B, n, D)."""
        y = self.messages(F.dropout(self.norm(x), self.dropout, self.training), links)
        return x + self.residual(y if self.activation is None else self.activation(y))


class MessageTrunk(nn.Module):
    """`depth` blocks and a final norm. Arguments as of `MessageBlock`; drop_path grows linearly to the last block."""

    def __init__(
        self,
        kind: str,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        activation: str = "gelu",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            MessageBlock(kind, width, heads, mlp_ratio, norm_eps, activation, layer_scale, dropout, rate)
            for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, x: Tensor, links: Tensor, layers: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """x (B, n, D), links (B, n, n) -> normed output, and the un-normed output of each block in `layers`."""
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, 1):
            x = block(x, links)
            if number in layers:
                kept[number] = x
        return self.norm(x), kept
