"""Encoders of somebody else's, as docs/how-to/own-encoder.md has them, on patches and on rasters of any axes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssl.patches import Patches


class Memory(nn.Module):
    """Tokens in their order, each with what came before it that is there."""

    takes = "patches"

    def __init__(self, width: int, gate: float = 1.0) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.register_buffer("gate", torch.tensor(gate))

    def forward(self, tokens: Tensor, patches: Patches) -> Tensor:
        there = patches.valid[..., None].to(tokens.dtype)
        seen = (tokens * there).cumsum(1) / there.cumsum(1).clamp(min=1)
        return tokens + self.gate * torch.tanh(self.map(seen))


class Summary(Memory):
    """The mean of what `Memory` makes: one vector a sample."""

    gives = "sample"

    def forward(self, tokens: Tensor, patches: Patches) -> Tensor:
        there = patches.valid[..., None].to(tokens.dtype)
        return (super().forward(tokens, patches) * there).sum(1) / there.sum(1)


class Cells(nn.Module):
    """One convolution that steps from patch to patch: a cell a patch."""

    takes = "raster"

    def __init__(self, width: int, channels: int, patch: list[int]) -> None:
        super().__init__()
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(patch)]
        self.conv = kind(channels, width, tuple(patch), stride=tuple(patch))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class SampleCNN(nn.Module):
    """Convolutions over all of a signal, and their mean: one vector a sample (Lee et al. 2017, in small)."""

    takes, gives = "raster", "sample"

    def __init__(self, width: int, channels: int, norm: bool = False) -> None:
        super().__init__()
        first = nn.Conv1d(channels, width, 3, stride=3, padding=1)
        self.layers = nn.Sequential(first, nn.BatchNorm1d(width) if norm else nn.Identity(), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(2)


class Peaks(nn.Module):
    """The largest answer to each of a few waves, anywhere in a signal: what is appended to it changes nothing."""

    takes, gives = "raster", "sample"

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.waves = nn.Conv1d(channels, width, 5, stride=5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.waves(x).abs().amax(2)


class Odd(nn.Module):
    """Breaks the contract in the way that it is asked for."""

    takes = "patches"

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.how = how
        if how == "value":
            raise ValueError("width: too odd")
        if how == "buffer":
            self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, tokens: Tensor, patches: Patches) -> object:
        return {"shape": tokens[:, :1], "tuple": (tokens,)}[self.how]


class Silent(nn.Module):
    """Does not say what it takes."""


def function(width: int) -> None:
    """No class."""
