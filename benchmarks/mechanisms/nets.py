"""Trunks that are not mmssl's own, as docs/how-to/own-encoder.md has them."""

from __future__ import annotations

from torch import Tensor, nn


class Convolutions(nn.Module):
    """Strided convolutions over a picture or a spectrogram, each halving both sides, and the mean of what is left."""

    takes, gives = "raster", "sample"

    def __init__(self, width: int, channels: int, blocks: int = 3) -> None:
        super().__init__()
        sizes = [channels, *(width // 2 ** (blocks - 1 - b) for b in range(blocks))]
        layers = [
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(1, b), nn.GELU())
            for a, b in zip(sizes, sizes[1:], strict=False)
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, width)."""
        out: Tensor = self.layers(x).mean((2, 3))
        return out


class SampleCNN(nn.Module):
    """A convolution of three samples, then blocks that each look at three places and keep the largest of three (Lee et
    al. 2017, arXiv 1703.01789): 3^10 = 59,049 samples become one vector in nine blocks, the encoder of CLMR."""

    takes, gives = "raster", "sample"

    def __init__(self, width: int, channels: int, blocks: int = 9) -> None:
        super().__init__()
        first, last = max(1, blocks // 4), max(1, blocks // 4)
        sizes = [width // 4] * (first + 1) + [width // 2] * (blocks - first - last) + [width] * last
        layers = [self.block(channels, sizes[0], 3, 0)]
        for inside, outside in zip(sizes, sizes[1:], strict=False):
            layers += [self.block(inside, outside, 1, 1), nn.MaxPool1d(3)]
        self.layers = nn.Sequential(*layers)

    @staticmethod
    def block(inside: int, outside: int, stride: int, beyond: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(inside, outside, 3, stride, beyond), nn.BatchNorm1d(outside), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, T) -> (B, width)."""
        out: Tensor = self.layers(x).mean(2)
        return out
