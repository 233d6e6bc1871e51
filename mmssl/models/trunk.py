"""The trunk: one pre-norm transformer for every tower, decoder and predictor.

Equal to stock ViT (timm's `Block`, transformers' `ViTLayer`) with the same weights; see tests/parity. Shapes: B batch,
n tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .dispatch import attention, self_attention
from .rotary import Rotation, turn


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): OpenAI CLIP's activation."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "silu": F.silu,
}
GATED = {"geglu": "gelu", "swiglu": "silu"}
"""Gated perceptrons (Shazeer 2020, arXiv 2002.05202) -> the activation of the gate."""


class Attention(nn.Module):
    """Multi-head attention with one product for queries, keys and values."""

    def __init__(self, width: int, heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, bias: Tensor | None = None, first_query: int = 0, rotation: Rotation | None = None
    ) -> Tensor:
        """x (B, n, D) -> (B, n - first_query, D).

        Args:
            x: tokens.
            bias: (B, 1 or H, 1 or n, n) bool, who may be looked at, or what is added to the scores; None: nothing.
            first_query: only tokens from there on ask, all are asked.
            rotation: turns queries and keys (`mmssl.models.rotary`).
        """
        batch, n, width = x.shape
        head = width // self.heads  # no -1: there may be no token that asks
        if first_query:
            w, b = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, first_query:], w[:width], None if b is None else b[:width])
            kv = F.linear(x, w[width:], None if b is None else b[width:])
            q = q.view(batch, n - first_query, self.heads, head).transpose(1, 2)
            k, v = kv.view(batch, n, 2, self.heads, head).permute(2, 0, 3, 1, 4).unbind(0)
            if bias is not None and bias.shape[2] > 1:
                # a key mask is one row for all queries, relations have a row for each
                bias = bias[:, :, first_query:]
        else:
            qkv = self.qkv(x).view(batch, n, 3, self.heads, head)
            if rotation is None:
                return self.proj(self_attention(qkv, bias).transpose(1, 2).flatten(2))
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            q, k = turn(q, rotation, first_query), turn(k, rotation)
        out = attention(q, k, v, bias)
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """x + attention of norm(x) over another sequence: what a decoder's skip connection adds, and what CroCo's decoder
    sees of the other view."""

    def __init__(self, width: int, heads: int, other_width: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.norm_other = nn.LayerNorm(other_width, eps=norm_eps)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(other_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        other: Tensor,
        bias: Tensor | None = None,
        turned: tuple[Rotation, Rotation] | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """x (B, n, D) -> (B, n, D).

        Args:
            x: the last n tokens of a sequence.
            other: (B, m, E).
            bias: (B, 1, 1, m) bool, which of the others exist.
            turned: the rotations of all of the sequence, and of the others.
            present: (B,) bool, samples that have others: nothing is added to the rest. None: all have.
        """
        batch, n, _ = x.shape
        q = self.q(self.norm(x)).view(batch, n, self.heads, -1).transpose(1, 2)
        k, v = self.kv(self.norm_other(other)).view(batch, other.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        if turned is not None:
            q, k = turn(q, turned[0], turned[0].cosine.shape[2] - n), turn(k, turned[1])
        out = self.proj(attention(q, k, v, bias).transpose(1, 2).flatten(2))
        return x + (out if present is None else out * present[:, None, None])


class MLP(nn.Module):
    """Two linear maps with the activation between; where it is gated, the first holds the gate and what it gates."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.gated = activation in GATED
        self.fc1 = nn.Linear(width, hidden * (2 if self.gated else 1))
        self.fc2 = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[GATED.get(activation, activation)]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, -1)
            return self.fc2(self.activation(gate) * x)
        return self.fc2(self.activation(x))


class LayerScale(nn.Module):
    """A learned factor a channel, small at first (CaiT, Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, width: int, value: float) -> None:
        super().__init__()
        self.value = value
        self.gamma = nn.Parameter(torch.full((width,), value))

    def reset_parameters(self) -> None:
        """Set every factor to the starting value."""
        nn.init.constant_(self.gamma, self.value)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., D) -> (..., D)."""
        return x * self.gamma


class Residual(nn.Module):
    """What happens to a branch before it is added: layer scale, dropout, stochastic depth (per sample)."""

    def __init__(self, width: int, layer_scale: float | None, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.scale = LayerScale(width, layer_scale) if layer_scale is not None else None
        self.dropout, self.drop_path = dropout, drop_path

    def forward(self, x: Tensor) -> Tensor:
        """x (B, ..., D) -> (B, ..., D); dropout and stochastic depth in training only."""
        if self.scale is not None:
            x = self.scale(x)
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        if self.training and self.drop_path:
            keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.drop_path
            # over the share that is kept, so that the mean over draws is what evaluation computes
            x = x * (keep.to(x.dtype) / (1 - self.drop_path))
        return x


class Block(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        activation: str = "gelu",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads, qkv_bias)
        self.residual1 = Residual(width, layer_scale, dropout, drop_path)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = MLP(width, int(width * mlp_ratio), activation)
        self.residual2 = Residual(width, layer_scale, dropout, drop_path)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        first_query: int = 0,
        rotation: Rotation | None = None,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """x (B, n, D) -> (B, n - first_query, D); the arguments are those of `Attention.forward`, and what is done to
        the tokens behind it."""
        branch = self.residual1(self.attention(self.norm1(x), bias, first_query, rotation))
        x = x[:, first_query:] + branch
        x = x if between is None else between(x)
        return x + self.residual2(self.mlp(self.norm2(x)))


class Trunk(nn.Module):
    """`depth` blocks and a final norm."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        qkv_bias: bool = True,
        activation: str = "gelu",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads = width, depth, heads
        # deeper blocks are left out more often (stochastic depth, Huang et al. 2016, arXiv 1603.09382: linear decay)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, norm_eps, qkv_bias, activation, layer_scale, dropout, rate) for rate in rates
        )
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        layers: Sequence[int] = (),
        first_query: int = 0,
        before: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
        rotation: Rotation | None = None,
        between: Sequence[Callable[[Tensor], Tensor]] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """x (B, n, D) -> normed output, and the un-normed output of each block in `layers`.

        Args:
            x: tokens.
            bias: as in `Attention.forward`.
            layers: blocks whose output is kept (1 = after the first).
            first_query: only tokens from there on are wanted; the last block is not computed for the others.
            before: block (1 = the first) -> what is done to the tokens ahead of it.
            rotation: of queries and keys.
            between: what is done to the tokens in each block, between its attention and its perceptron.
        """
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks, 1):
            if before is not None and number in before:
                x = before[number](x)
            # only in the last: what an earlier one leaves out, the next could not look at
            more = (between[number - 1],) if between else ()
            x = block(x, bias, first_query if number == self.depth else 0, rotation, *more)
            if number in layers:
                kept[number] = x
        if first_query and not self.depth:
            x = x[:, first_query:]
        return self.norm(x), kept
