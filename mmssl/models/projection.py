"""From what a tower pools to into the embedding that towers share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LinearProjection(nn.Linear):
    """A linear map without bias, as CLIP's, behind dropout."""

    def __init__(self, width: int, out: int, dropout: float = 0.0) -> None:
        super().__init__(width, out, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width) -> (n, out)."""
        return super().forward(F.dropout(x, self.dropout, self.training))


class DeepProjection(nn.Module):
    """A norm, a hidden layer with GELU, and a linear map: what is trained where towers are frozen.

    The norm is for pooled outputs of stock models, whose numbers are of any size. Dropout is of what comes into either
    layer.
    """

    def __init__(self, width: int, hidden: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, out, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width) -> (n, out)."""
        x = F.gelu(self.hidden(F.dropout(self.norm(x), self.dropout, self.training)))
        return self.out(F.dropout(x, self.dropout, self.training))


def make_projection(width: int, out: int, hidden: int | None, dropout: float) -> LinearProjection | DeepProjection:
    """The projection that `model.projection` and its companions ask for."""
    if hidden is None:
        return LinearProjection(width, out, dropout)
    return DeepProjection(width, hidden, out, dropout)
