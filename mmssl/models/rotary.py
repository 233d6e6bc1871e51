"""Rotary positions: queries and keys turned by angles that grow with the patches' coordinates.

Su et al. 2021, "RoFormer"; over several axes as in V-JEPA 2 (Assran et al. 2025): each axis turns its own share of a
head's channels. Shapes: B batch, H heads, n tokens, K axes, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError

BASE = 10000.0
KINDS = ("rotary", "vjepa2")
"""rotary: each pair of neighbouring channels turns by one angle, so that attention depends on differences of
coordinates alone. vjepa2: as transformers' `VJEPA2Model` computes it, where the angles of an axis are laid out twice in
a row, so that the two channels of a pair mostly have different ones; its trained weights need that."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each (B, 1, n, d)."""


class Rotary(nn.Module):
    """Angles of patches from their coordinates; no parameters.

    Of a head's d channels every axis gets the first, second, ... `2 * (d // K // 2)`; the rest is not turned. With m
    pairs of channels an axis has the frequencies 10000 ** (-j / m), j < m.

    axes: one factor a coordinate, which brings it to steps of one patch (further coordinates are ignored).
    precision: of the angles. float32 whatever the model computes in, because a rounded angle grows with the coordinate;
    the stock class computes them in the model's own precision, which the proof of an export repeats.
    """

    def __init__(self, head: int, axes: Sequence[float], kind: str = "rotary") -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind: found {kind}, expected one of {', '.join(KINDS)}")
        self.head, self.axes, self.kind = head, tuple(axes), kind
        self.pairs = head // len(self.axes) // 2
        if not self.pairs:
            raise UserError(
                f"model.towers: positions: {kind} needs heads of at least {2 * len(self.axes)} channels "
                f"for {len(self.axes)} coordinates, found {head}; use fewer heads or more width"
            )
        self.precision = torch.float32

    def forward(self, coords: Tensor) -> Rotation:
        """coords (B, n, K or more) float32 -> the rotation of their tokens."""
        step = torch.arange(self.pairs, dtype=self.precision, device=coords.device)
        frequencies = 1.0 / BASE ** (step / self.pairs)
        angles = []
        for axis, factor in enumerate(self.axes):
            angle = (coords[..., axis] * factor).to(self.precision)[..., None] * frequencies
            angles.append(angle.repeat_interleave(2, -1) if self.kind == "rotary" else angle.repeat(1, 1, 2))
        rest = self.head - 2 * self.pairs * len(self.axes)
        if rest:
            angles.append(angles[0].new_zeros(*coords.shape[:-1], rest))
        angle = torch.cat(angles, -1)[:, None]
        return angle.cos(), angle.sin()


def unturned(like: Rotation, count: int) -> Rotation:
    """The rotation of tokens that have no place: prefix tokens."""
    shape = (like[0].shape[0], 1, count, like[0].shape[3])
    return like[0].new_ones(shape), like[1].new_zeros(shape)


def joined(rotations: Sequence[Rotation]) -> Rotation:
    """Rotations of one span of tokens after another."""
    cosines, sines = zip(*rotations, strict=True)
    return torch.cat(cosines, 2), torch.cat(sines, 2)


def turn(x: Tensor, rotation: Rotation, first: int = 0) -> Tensor:
    """Queries or keys with channels (2i, 2i + 1) of every token turned.

    The product is taken in the angles' precision and rounded once.

    Args:
        x: (B, H, n, d).
        rotation: of all tokens.
        first: x holds the tokens from there on only.
    """
    cosine, sine = (part[:, :, first:] for part in rotation)
    across = torch.stack((-x[..., 1::2], x[..., 0 : x.shape[-1] // 2 * 2 : 2]), -1).flatten(-2)
    if x.shape[-1] % 2:
        # an odd channel is left over: its sine is 0, so it stays as it is
        across = torch.cat([across, torch.zeros_like(x[..., :1])], -1)
    return (x * cosine + across * sine).to(x.dtype)


class Unplaced(nn.Module):
    """What takes the place of a modality's own positions in a tower with rotary ones: it adds nothing."""

    def forward(self, coords: Tensor) -> Tensor:
        """coords (..., A) -> (..., 1) zeros, which broadcast over the width."""
        return coords.new_zeros(*coords.shape[:-1], 1)
