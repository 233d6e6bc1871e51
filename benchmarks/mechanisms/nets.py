"""A trunk that is not mmssl's own, as docs/how-to/own-encoder.md has them."""

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
