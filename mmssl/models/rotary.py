"""Rotary positions: queries and keys turned by angles that grow with the patches' coordinates.

Su et al. 2021, "RoFormer"; over several axes as in V-JEPA 2 (Assran et al. 2025): each axis turns its own share of a
head's channels. Shapes: B batch, H heads, n tokens, K axes, d channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..patches import Patches

BASES = {"rotary": 10000.0, "vjepa2": 10000.0, "dinov3": 100.0}
"""rotary: each pair of neighbouring channels turns by one angle, so that attention depends on differences of
coordinates alone. vjepa2: as transformers' `VJEPA2Model` computes it, where the angles of an axis are laid out twice in
a row, so that the two channels of a pair mostly have different ones; its trained weights need that. dinov3: as
`DINOv3ViTModel` computes it: by where in the whole input a patch's middle lies, from -1 to 1, so that a picture in
twice the size turns its patches as before; the pairs are channels i and i + d / 2. Each with the base of its
frequencies."""


class Rotation(NamedTuple):
    """How tokens are turned.

    Attributes:
        cosine: (B, 1, n, d).
        sine: (B, 1, n, d).
        halves: channel i is turned with channel i + d / 2, where it is otherwise with its neighbour.
    """

    cosine: Tensor
    sine: Tensor
    halves: bool = False


class Rotary(nn.Module):
    """Angles of patches from their coordinates; no parameters.

    Of a head's d channels every axis gets the first, second, ... `2 * (d // K // 2)`; the rest is not turned. With m
    pairs of channels an axis has the frequencies base ** (-j / m), j < m.

    axes: one factor a coordinate, which brings it to steps of one patch (further coordinates are ignored).
    where: what a message begins with.
    precision: of the angles. float32 whatever the model computes in, because a rounded angle grows with the coordinate;
    some stock classes compute them in the model's own precision, which the proof of an export repeats.
    """

    def __init__(
        self,
        head: int,
        axes: Sequence[float],
        kind: str = "rotary",
        base: float | None = None,
        where: str = "model.towers",
    ) -> None:
        super().__init__()
        if kind not in BASES:
            raise ValueError(f"kind: found {kind}, expected one of {', '.join(BASES)}")
        self.head, self.axes, self.kind = head, tuple(axes), kind
        self.base = BASES[kind] if base is None else float(base)
        self.pairs = head // len(self.axes) // 2
        if kind == "dinov3" and head % (2 * len(self.axes)):
            raise UserError(
                f"{where}: positions: dinov3 needs heads of a multiple of {2 * len(self.axes)} channels "
                f"for {len(self.axes)} coordinates, found {head}; use another width or number of heads"
            )
        if not self.pairs:
            raise UserError(
                f"{where}: positions: {kind} needs heads of at least {2 * len(self.axes)} channels "
                f"for {len(self.axes)} coordinates, found {head}; use fewer heads or more width"
            )
        self.precision = torch.float32

    def forward(self, patches: Patches) -> Rotation:
        """Patches (B, n) with K or more coordinates -> the rotation of their tokens."""
        coords = patches.coords
        if self.kind == "dinov3":
            return self._within(patches)
        step = torch.arange(self.pairs, dtype=self.precision, device=coords.device)
        frequencies = 1.0 / self.base ** (step / self.pairs)
        angles = []
        for axis, factor in enumerate(self.axes):
            angle = (coords[..., axis] * factor).to(self.precision)[..., None] * frequencies
            angles.append(angle.repeat_interleave(2, -1) if self.kind == "rotary" else angle.repeat(1, 1, 2))
        rest = self.head - 2 * self.pairs * len(self.axes)
        if rest:
            angles.append(angles[0].new_zeros(*coords.shape[:-1], rest))
        angle = torch.cat(angles, -1)[:, None]
        return Rotation(angle.cos(), angle.sin())

    def _within(self, patches: Patches) -> Rotation:
        """By the places of the patches' middles in the whole input; the stock class's operations, to the last bit."""
        assert patches.extent is not None, "asked for when the tower was made"
        count = len(self.axes)
        step = torch.arange(0, 1, 2 * count / self.head, dtype=self.precision, device=patches.coords.device)
        frequencies = 1.0 / self.base**step
        factors = patches.coords.new_tensor(self.axes)
        middles = patches.coords[..., :count] * factors + 0.5
        places = 2.0 * (middles / (patches.extent[:, None, :count] * factors)).to(self.precision) - 1.0
        angle = ((2 * math.pi * places)[..., None] * frequencies).flatten(2).repeat(1, 1, 2)[:, None]
        return Rotation(angle.cos(), angle.sin(), halves=True)


def unturned(like: Rotation, count: int) -> Rotation:
    """The rotation of tokens that have no place: prefix tokens."""
    shape = (like.cosine.shape[0], 1, count, like.cosine.shape[3])
    return Rotation(like.cosine.new_ones(shape), like.sine.new_zeros(shape), like.halves)


def joined(rotations: Sequence[Rotation]) -> Rotation:
    """Rotations of one span of tokens after another, all of one kind."""
    cosines, sines = ([getattr(r, part) for r in rotations] for part in ("cosine", "sine"))
    return Rotation(torch.cat(cosines, 2), torch.cat(sines, 2), rotations[0].halves)


def repeated(rotation: Rotation, times: int) -> Rotation:
    """That of every sample `times` times in a row."""
    if times == 1:
        return rotation
    cosine, sine = (x.repeat_interleave(times, 0) for x in (rotation.cosine, rotation.sine))
    return Rotation(cosine, sine, rotation.halves)


def turn(x: Tensor, rotation: Rotation, first: int = 0) -> Tensor:
    """Queries or keys with the channels of every token turned, pair by pair.

    The product is taken in the angles' precision and rounded once.

    Args:
        x: (B, H, n, d).
        rotation: of all tokens.
        first: x holds the tokens from there on only.
    """
    cosine, sine = rotation.cosine[:, :, first:], rotation.sine[:, :, first:]
    if rotation.halves:
        half = x.shape[-1] // 2
        across = torch.cat((-x[..., half:], x[..., :half]), -1)
    else:
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
