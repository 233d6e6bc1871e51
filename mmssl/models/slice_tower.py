"""A tower of what consists of pictures, as volumes do: an image encoder sees slice by slice, and slices are joined.

`model.towers.volume.from` names the encoder: a run or model of mmssl's own, or a stock one. Every slice goes through it
by itself, as a picture of its own. Behind it, `slice_blocks` blocks of attention let each place look at itself in all
slices, which have their number in the pile added: axial attention (Ho et al. 2019, arXiv 1912.12180) along the one axis
that the encoder has not seen, as TimeSformer attends over time (Bertasius et al. 2021, arXiv 2102.05095). What the
tower pools (`pooling`: mean, attention, cls) is of all tokens of all slices.

Blocks and positions begin as next to nothing, so that the tower begins as what the encoder says of each slice.

Shapes: B batch, S slices, n tokens of a slice, R tokens in front of them, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..modality import Modality
from ..patches import Patches
from .foreign import ForeignTower
from .options import TowerConfig
from .positions import SinCos
from .tower import Tower
from .trunk import Trunk

SLICES = "slices"
"""What `config.json` calls the library of such a tower's encoder."""
HEAD = 64
"""Numbers of a head of the blocks between slices, at least."""
SMALL = 1e-5
"""How much of what these blocks say is added at first: CaiT's for deep networks, which is as good as nothing."""


class SlicePlace(nn.Module):
    """Sine-cosine of a slice's number, times a learned factor a channel that is 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position = SinCos(width, 1)
        self.gain = nn.Parameter(torch.zeros(width))

    def reset_parameters(self) -> None:
        """Set the factors to 0."""
        nn.init.zeros_(self.gain)

    def forward(self, number: Tensor) -> Tensor:
        """number (B, S) -> (B, S, D)."""
        out: Tensor = self.position(number[..., None]) * self.gain
        return out


class SliceTower(ForeignTower):
    """One modality whose patches lie in one slice each, on an encoder of pictures. It sees all patches."""

    def __init__(self, options: TowerConfig, modalities: Mapping[str, Modality], encoder: Tower) -> None:
        """Make the blocks.

        Args:
            options: of the tower.
            modalities: the one.
            encoder: of a slice; its one modality has the same name.
        """
        name = next(iter(modalities))
        self.repeats = _repeats(name, modalities[name], encoder.modalities[name])
        self.front = encoder.classes  # first: what pooling there may be depends on it
        super().__init__(options, modalities, nn.ModuleDict({"encoder": encoder}), encoder.width)
        width = encoder.width
        heads = next(h for h in range(max(width // HEAD, 1), 0, -1) if width % h == 0)
        self.place = SlicePlace(width)
        self.between = Trunk(
            width,
            options.slice_blocks,
            heads,
            options.mlp_ratio,
            options.norm_eps,
            layer_scale=options.layer_scale or SMALL,
            dropout=options.dropout,
            drop_path=options.drop_path,
        )
        self.between.norm = nn.Identity()  # type: ignore[assignment]  # the encoder's tokens are normed already
        self.make_pooling(dataclasses.replace(options, width=width, heads=heads))
        self.replaces = encoder.replaces and not encoder.single

    @property
    def encoder(self) -> Tower:
        """What sees a slice."""
        found: Tower = self.net["encoder"]  # type: ignore[index]
        return found

    @property
    def classes(self) -> bool:
        """Whether the encoder puts a class token in front of a slice; that of the whole is their mean."""
        return self.front

    @property
    def mixes_rows(self) -> bool:
        """As the encoder."""
        return not self.frozen and self.encoder.mixes_rows

    def run(self, patches: Patches, hidden: Tensor | None) -> tuple[Tensor, Tensor, Patches]:
        """As `ForeignTower.run`; the prefix is the mean of the slices'."""
        assert patches.grid is not None
        count = patches.grid[0]
        given = self._slices(patches)
        covered = None if hidden is None else {self.name: hidden.reshape(len(given.values), -1)}
        out = self.encoder({self.name: given}, covered)
        seen, front = out.patches[self.name], out.prefix.shape[1]
        x = torch.cat([out.prefix, out.tokens[self.name]], 1).unflatten(0, (-1, count))
        there = torch.cat([seen.present[:, None].expand(-1, front), seen.valid], 1).unflatten(0, (-1, count))
        number = patches.coords.unflatten(1, (count, -1))[:, :, 0, 0]
        x = self._joined(x, there, number, patches.full)
        weight = there[:, :, :front, None].to(x.dtype)
        prefix = (x[:, :, :front] * weight).sum(1) / weight.sum(1).clamp(min=1)
        whole = patches if seen is given else _cells(seen, number, patches)
        return prefix, x[:, :, front:].flatten(1, 2), whole

    def _slices(self, patches: Patches) -> Patches:
        """Each slice as a picture of its own: (B * S, n). A slice of one channel is seen alike in all of theirs."""
        assert patches.grid is not None and patches.place is not None
        count, *plane = patches.grid
        values, coords, valid, place = (
            x.unflatten(1, (count, -1)).flatten(0, 1)
            for x in (patches.values, patches.coords, patches.valid, patches.place)
        )
        extent = None if patches.extent is None else patches.extent[:, 1:].repeat_interleave(count, 0)
        if self.repeats > 1:
            values = values.repeat(1, 1, self.repeats)
        return Patches(
            values, coords[..., 1:], valid, patches.full, extent=extent, grid=tuple(plane), place=place[..., 1:]
        )

    def _joined(self, x: Tensor, there: Tensor, number: Tensor, full: bool) -> Tensor:
        """Tokens x (B, S, R + n, D), of which `there` exist, after each has looked at its like in all slices."""
        x = x + self.place(number)[:, :, None].to(x.dtype)
        if not self.between.depth:
            return x
        batch = len(x)
        along = x.transpose(1, 2).flatten(0, 1)
        keys = None
        if not full:
            keys = there.transpose(1, 2).flatten(0, 1)
            keys = (keys | ~keys.any(1, keepdim=True))[:, None, None]  # softmax over nothing is nan
        return self.between(along, keys)[0].unflatten(0, (batch, -1)).transpose(1, 2)


def _cells(seen: Patches, number: Tensor, patches: Patches) -> Patches:
    """What an encoder's own cells of each slice stand for in the whole, without content.

    Args:
        seen: (B * S, n) the cells.
        number: (B, S) of each slice.
        patches: the whole.
    """
    batch, count = number.shape
    inside = seen.coords.unflatten(0, (batch, count))
    coords = torch.cat([number[:, :, None, None].expand(-1, -1, seen.count, 1), inside], 3).flatten(1, 2)
    valid = seen.valid.reshape(batch, -1)
    return Patches(
        coords.new_zeros(*valid.shape, 1), coords, valid, patches.full, extent=patches.extent, raw=patches.raw
    )


def _repeats(name: str, modality: Modality, pictures: object) -> int:
    """How often a slice's channels are given to the encoder. UserError unless a slice is one of its pictures.

    Args:
        name: of the modality.
        modality: of the whole.
        pictures: the modality of the encoder.
    """
    where = f"modalities.{name}"
    theirs = pictures.tile() if isinstance(pictures, Modality) else ()
    channels, thick, *patch = modality.tile() or (0, 0)
    if len(theirs) != 3 or len(patch) != 2 or 0 in theirs:
        raise UserError(f"model.towers: modality '{name}': found no pictures in it that an encoder of them could see")
    if thick != 1 or patch != list(theirs[1:]):
        found, wanted = (" x ".join(map(str, sides)) for sides in ((thick, *patch), (1, *theirs[1:])))
        raise UserError(f"{where}.patch: found {found}, but the encoder of its slices has {wanted}")
    if channels not in (1, theirs[0]):
        raise UserError(
            f"{where}.channels: found {channels}, but the encoder of its slices takes {theirs[0]}; expected "
            + (f"one, or {theirs[0]}" if theirs[0] > 1 else "one")
        )
    return theirs[0] // channels
