"""What takes the place of hidden content."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskToken(nn.Module):
    """A learned token that takes the place of hidden content."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal, 0.02, as ViTs start theirs."""
        nn.init.normal_(self.token, std=0.02)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """tokens (B, n, D) with those at hidden (B, n) replaced."""
        return torch.where(hidden[..., None], self.token.to(tokens.dtype), tokens)
