"""From what a tower pools to into the embedding that towers share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Standard(nn.Module):
    """Each number less its mean over the training rows, over its deviation; as it comes until `fit` has seen them."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Take the statistics of rows (n, width)."""
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(rows.std(0, correction=0).clamp(min=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width) -> (n, width)."""
        return (x - self.mean) / self.deviation


class LinearProjection(nn.Linear):
    """A linear map without bias, as CLIP's, behind dropout; of standardised numbers, where that is asked for."""

    def __init__(self, width: int, out: int, dropout: float = 0.0, standard: bool = False) -> None:
        super().__init__(width, out, bias=False)
        self.dropout, self.norm = dropout, Standard(width) if standard else None

    @torch.no_grad()
    def set(self, mean: Tensor, deviation: Tensor, weight: Tensor) -> None:
        """Take statistics (width,) of what comes in, and the map (out, width) of what is standardised by them."""
        assert self.norm is not None
        self.norm.mean.copy_(mean)
        self.norm.deviation.copy_(deviation)
        self.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width) -> (n, out)."""
        x = x if self.norm is None else self.norm(x)
        return super().forward(F.dropout(x, self.dropout, self.training))


class DeepProjection(nn.Module):
    """A norm, a hidden layer with GELU, and a linear map: what is trained where towers are frozen.

    The norm is for pooled outputs of stock models, whose numbers are of any size. Dropout is of what comes into either
    layer. With `standard` each number is standardised in place of the norm.
    """

    def __init__(self, width: int, hidden: int, out: int, dropout: float = 0.0, standard: bool = False) -> None:
        super().__init__()
        self.norm: nn.Module = Standard(width) if standard else nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, out, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width) -> (n, out)."""
        x = F.gelu(self.hidden(F.dropout(self.norm(x), self.dropout, self.training)))
        return self.out(F.dropout(x, self.dropout, self.training))


def make_projection(
    width: int, out: int, hidden: int | None, dropout: float, standard: bool = False
) -> LinearProjection | DeepProjection:
    """The projection that `model.projection` and its companions ask for."""
    if hidden is None:
        return LinearProjection(width, out, dropout, standard)
    return DeepProjection(width, hidden, out, dropout, standard)
