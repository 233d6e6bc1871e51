"""A tower that lays patches out as the raster they were cut from, and convolves it (`trunk: resnet`).

Shapes: B batch, n patches at hand, G sizes of their grid, P numbers of a patch, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modality import MaskToken, Modality
from ..patches import Patches
from .convolutions import ConvTrunk
from .options import TowerConfig
from .raster import laid_out, places, raster_tile, scattered
from .tower import Encoded, Tower
from .trunk import GATED


class ConvTower(Tower):
    """One modality whose patches lie on a grid. Patches that were dropped are as if they had never been; a mask token
    stands in for what is hidden, behind the stem, and its patch has a token.

    Where patches are parts of single channels (leads, electrodes), all channels pass through the same convolutions,
    each by itself, with the position of its lead or electrode added: any montage will do, and channels meet in the
    pooling alone.
    No token stands in front, and neither positions nor the modality's own embedding are needed: the edge of the raster
    shows where a patch lies.
    """

    def __init__(self, config: TowerConfig, modalities: Mapping[str, Modality]) -> None:
        nn.Module.__init__(self)
        self.name = config.sole(modalities)
        modality = modalities[self.name]
        where = f"model.towers: modality '{self.name}': found trunk: {config.trunk}"
        tile = raster_tile(modality, where, "trunk: transformer")
        if config.activation in GATED:
            raise UserError(
                f"model.towers: modality '{self.name}': found activation: {config.activation} with trunk: "
                f"{config.trunk}, whose blocks have no gate; expected gelu or silu"
            )
        self.width, self.depth, self.frozen = config.width, 0, config.frozen
        self.modalities = nn.ModuleDict(modalities).requires_grad_(False)  # their linear embedding is not used
        self.prefix = None
        self.channels, self.tile = tile[0], tuple(side for side in tile[1:] if side)
        self.alone = 0 in tile  # each channel is a signal of its own
        flat = len(self.tile) == 1
        self.sides = (1, *self.tile) if flat else self.tile
        self.trunk = ConvTrunk(  # type: ignore[assignment]
            tile[0],
            (0, *self.tile) if flat else self.tile,
            config.width,
            config.depth,
            config.norm_eps,
            config.activation,
            config.layer_scale,
            config.dropout,
            config.drop_path,
        )
        if not config.final_norm:
            self.trunk.norm = nn.Identity()  # type: ignore[assignment]
        stem = self._convolutions.stem_width
        self.mask = MaskToken(stem)
        self.position = modality.positions(config.width) if self.alone else None
        self.placed = nn.Linear(config.width, stem, bias=False) if self.alone else None
        self.make_pooling(config)

    def forward(
        self, patches: Mapping[str, Patches], hidden: Mapping[str, Tensor] | None = None, layers: Sequence[int] = ()
    ) -> Encoded:
        """As `Tower.forward`; `layers` are not to be had: blocks differ in width and places."""
        p, trunk = patches[self.name], self._convolutions
        assert p.grid is not None and p.place is not None
        whole = p.full and p.count == math.prod(p.grid)
        at = places(p)
        covered = (hidden or {}).get(self.name)
        values = p.values.nan_to_num(0.0).to(trunk.stem.weight.dtype)
        if covered is not None:
            values = values.masked_fill(covered[..., None], 0.0)
        raster = laid_out(self._scattered(values, at, p.grid), (self.channels, *self.sides))
        there = None if whole else self._scattered(p.valid[..., None].to(values.dtype), at, p.grid)
        x = trunk(raster, there, self._added(p, at, covered))
        tokens = x.reshape(p.batch, -1, self.width)
        index = at.clamp(max=tokens.shape[1] - 1)[..., None].expand(-1, -1, tokens.shape[2])
        found = {self.name: self._clear([tokens.gather(1, index)], {self.name: p}, [self.name])[0]}
        prefix = found[self.name][:, :0]
        return Encoded(found, {self.name: p}, prefix, self.pooling, self.readout)

    @property
    def _convolutions(self) -> Any:
        return self.trunk

    def _added(self, p: Patches, at: Tensor, covered: Tensor | None) -> Tensor | None:
        """(B, *G, stem) the position of each channel, and a mask token where a patch is covered; None: nothing."""
        if self.position is None and covered is None:
            return None
        stem = self._convolutions.stem
        x = stem.weight.new_zeros(*p.valid.shape, stem.out_channels)
        if self.position is not None and self.placed is not None:
            # the first coordinate is time, which convolutions know by themselves
            place = self.position(torch.cat([torch.zeros_like(p.coords[..., :1]), p.coords[..., 1:]], -1))
            x = x + self.placed(place.to(x.dtype))
        if covered is not None:
            x = x + covered[..., None] * self.mask.token.to(x.dtype)
        assert p.grid is not None
        return self._scattered(x.to(stem.weight.dtype), at, p.grid)

    def _scattered(self, x: Tensor, at: Tensor, grid: tuple[int, ...]) -> Tensor:
        """x (B, n, C) laid out by the numbers of their places (B, n), zero where none is: (B, *grid, C); of signals
        (B, 1, windows, C), each channel that is a signal of its own in a row: (B * channels, 1, windows, C)."""
        out = scattered(x, at, grid)
        if self.alone:
            return out.reshape(-1, 1, grid[1], x.shape[2])
        return out if len(grid) > 1 else out[:, None]
