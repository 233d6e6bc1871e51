"""Pooling by a learned query. Shapes: B batch, n tokens, D width, H heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .dispatch import attention
from .trunk import MLP


class AttentionPool(nn.Module):
    """One learned query asks all tokens; then a norm and a perceptron with a skip connection.

    The head of SigLIP's image encoder (Zhai et al. 2023; big_vision's `MAPHead`), after multi-head attention pooling
    (Lee et al. 2019, "Set Transformer").
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, norm_eps: float, activation: str) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(width))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, int(width * mlp_ratio), activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the query anew: N(0, 0.02)."""
        nn.init.normal_(self.query, std=0.02)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens (B, n, D), valid (B, n) -> (B, D). A row without valid tokens attends to all; clear it afterwards."""
        batch, n, width = tokens.shape
        w, b = self.qkv.weight, self.qkv.bias
        tokens = tokens.to(w.dtype)
        # a third of the fused product for the one query, the rest for the tokens
        q = nn.functional.linear(self.query.to(w.dtype), w[:width], b[:width]).view(1, 1, self.heads, -1)
        kv = nn.functional.linear(tokens, w[width:], b[width:]).view(batch, n, 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        # softmax over nothing is nan
        keys = valid | ~valid.any(1, keepdim=True)
        out = attention(q.transpose(1, 2).expand(batch, -1, -1, -1), k, v, keys[:, None, None])
        x = self.proj(out.transpose(1, 2).flatten(1))
        return x + self.mlp(self.norm(x))
