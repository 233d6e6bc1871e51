"""Volumes as patches: the `Modality` that knows voxels. Shapes: B batch, C channels, D, H, W, N patches, P numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.linear import LinearPatches
from mmssl.modality.places import Places
from mmssl.modality.shown import Frames, Shown, flags, rows
from mmssl.models.positions import SinCos
from mmssl.patches import Patches, places_of

from .augment import augment_volumes, boxes_of, places_in
from .options import View

RAW_SIDE = 8
"""Raw features are means over at most so many parts along each axis."""


class Modality(LinearPatches):
    """A grid of boxes, slice by slice, row by row; a patch's numbers are in the order (channel, slice, row, column).

    A voxel that is NaN in a channel counts as 0 and is no target; a patch without any value is none.
    """

    targets = ("normalised", "values")
    views = View.names()
    corruptible = View.corruptible
    readouts = ("grid+std", "mean+std")
    coordinates = ("slice [patches]", "row [patches]", "column [patches]")
    bounded = True

    def __init__(self, width: int, size: Sequence[int], patch: Sequence[int], channels: Sequence[str]) -> None:
        """Make the parameters.

        Args:
            width: D.
            size: (slices, rows, columns) of the input that was configured, in voxels.
            patch: of a patch.
            channels: C names.
        """
        super().__init__()
        self.size, self.patch, self.names = tuple(size), tuple(patch), list(channels)
        self.make_tokens(width)

    @property
    def numbers(self) -> int:
        """P = C * voxels of a patch."""
        return len(self.names) * math.prod(self.patch)

    def grid_of(self, voxels: Tensor) -> tuple[int, ...]:
        """(slices, rows, columns) of patches in (B, C, D, H, W); UserError when they do not divide into patches."""
        channels, sides = voxels.shape[1], tuple(voxels.shape[2:])
        if channels != len(self.names):
            raise UserError(
                f"voxels has {channels} channels, this model has {len(self.names)}: {', '.join(self.names)}"
            )
        if any(side % cut for side, cut in zip(sides, self.patch, strict=True)):
            found, cut = ("x".join(map(str, n)) for n in (sides, self.patch))
            raise UserError(f"voxels is {found}, expected multiples of the patch {cut}")
        return tuple(side // cut for side, cut in zip(sides, self.patch, strict=True))

    def patchify(self, inputs: Inputs) -> Patches:
        """Any size that the patch divides. Coordinates count patches from the first corner of this input."""
        voxels = inputs["voxels"]
        batch, grid, (pd, ph, pw) = voxels.shape[0], self.grid_of(voxels), self.patch
        d, h, w = grid
        values = voxels.float().reshape(batch, len(self.names), d, pd, h, ph, w, pw).permute(0, 2, 4, 6, 1, 3, 5, 7)
        values = values.flatten(4).flatten(1, 3)
        place = places_of(*grid, device=voxels.device)
        coords = place.float().expand(batch, -1, -1)
        extent = coords[:, -1] + 1
        place = place.expand(batch, -1, -1)
        if "holes" not in inputs and "present" not in inputs:
            valid = torch.ones(values.shape[:2], dtype=torch.bool, device=voxels.device)
            return Patches(values, coords, valid, full=True, extent=extent, grid=grid, place=place)
        valid = ~values.isnan().all(2)
        if "present" in inputs:
            valid = valid & inputs["present"][:, None]
        return Patches(values, coords, valid, extent=extent, grid=grid, place=place)

    def tile(self) -> tuple[int, ...]:
        """(channels, slices, rows, columns)."""
        return (len(self.names), *self.patch)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"voxels": (B, C, D, H, W)} and what else `like` has."""
        d, h, w = self.grid_of(like["voxels"])
        pd, ph, pw = self.patch
        voxels = values.reshape(len(values), d, h, w, len(self.names), pd, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return like | {"voxels": voxels.reshape(len(values), len(self.names), d * pd, h * ph, w * pw)}

    def axes(self) -> tuple[float, ...]:
        """Slices, rows and columns are counted in patches."""
        return (1.0, 1.0, 1.0)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of slice, row and column."""
        return SinCos(width, 3)

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: voxels (B, C, D, H, W).
            draws: random numbers of the B samples.
            spec: options of `mmssl_volume.options.View`.

        Raises:
            UserError: an option is wrong, or what comes out does not divide into patches.
        """
        view = View.build(spec)
        voxels = augment_volumes(inputs["voxels"], draws, view)
        self.grid_of(voxels)
        if "holes" in inputs or (view.drop and len(self.names) > 1):
            return inputs | {"voxels": voxels, "holes": voxels.isnan().flatten(1).any(1)}
        return inputs | {"voxels": voxels}

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Slices, rows and columns of the volume, in patches; UserError for views that are turned."""
        view = View.build(spec)
        if view.rotate:
            raise UserError("rotate: where the patches of a turned view lie is not known, expected 0")
        sides = (inputs["voxels"].shape[2], inputs["voxels"].shape[3], inputs["voxels"].shape[4])
        return places_in(patches.coords, boxes_of(view, draws, sides, patches.coords.device), self.patch)

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Slices, rows and columns."""
        return inputs, "voxels", (2, 3, 4)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return len(self.names) * math.prod(min(side, RAW_SIDE) for side in self.size)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, C * d * h * w): means over at most 8 parts along each axis, 0 where there is nothing."""
        voxels = inputs["voxels"].float()
        there = ~voxels.isnan()
        depth, height, width = (min(side, RAW_SIDE) for side in voxels.shape[2:])
        parts = depth, height, width
        total = nn.functional.adaptive_avg_pool3d(voxels.nan_to_num(0.0), parts)
        share = nn.functional.adaptive_avg_pool3d(there.float(), parts)
        return torch.where(share > 0, total / share.clamp(min=1e-9), 0.0).flatten(1)

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The slices, of several channels their mean; large values are brought nearer to each other."""
        seen = inputs | {"voxels": 0.5 + 0.5 * torch.tanh(inputs["voxels"].float().nanmean(1) / 2)}
        found: list[Shown | None] = []
        for row, (there, slices) in enumerate(rows(seen, "voxels")):
            mask = flags(hidden, "voxels", row)
            found.append(Frames(slices[..., None], None if mask is None else mask.any(0)) if there else None)
        return found
