"""Images as patches: the `Modality` that knows pixels. Shapes: B batch, C channels, H, W, N patches, P numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.pixels.augment import augment, augment_cut
from mmssl.modality.pixels.boxes import box_of, box_places
from mmssl.modality.pixels.options import pair
from mmssl.modality.pixels.patching import PixelModality, grid_coords, natural
from mmssl.modality.places import Places
from mmssl.modality.shown import Frames, Shown, flags, rows
from mmssl.models.positions import LearnedGrid, SinCos
from mmssl.patches import Patches, places_of

from .cutting import BOX, CUT, box_cut
from .options import View

RAW_SIDE = 32
"""Raw features are pixels of at most this many rows and columns."""


class Modality(PixelModality):
    """A grid of rectangular patches, row by row; a patch's numbers are in the order (channel, row, column)."""

    targets = ("normalised", "pixels")
    views, crossing = View.names(), View.crossing
    readouts = ("grid+std", "mean+std")
    coordinates = ("row [patches]", "column [patches]")
    bounded = True

    def __init__(
        self,
        width: int,
        size: Sequence[int],
        patch: Sequence[int],
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        positions: str = "sincos",
        unit_range: bool = True,
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            size: (H, W) of the input that was configured.
            patch: (height, width) of a patch.
            channels: C.
            mean: of each channel, which the preprocessor subtracted.
            std: of each channel, which the preprocessor divided by.
            positions: "sincos", or "learned": a table over the patches of `size`.
            unit_range: un-normalised values lie in 0..1 (8- and 16-bit images), which some augmentations need.
        """
        super().__init__(size, patch, channels, mean, std, unit_range, positions)
        self.make_tokens(width)

    @property
    def numbers(self) -> int:
        """P = C * patch height * patch width."""
        return self.channels * self.patch[0] * self.patch[1]

    def grid_of(self, pixels: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches in pixels (B, C, H, W); UserError when they do not divide into patches."""
        return self.rows_and_columns(*pixels.shape[1:])

    def patchify(self, inputs: Inputs) -> Patches:
        """Any height and width that the patch divides. Coordinates count patches from the top left of this input."""
        pixels = inputs["pixel_values"]
        batch = pixels.shape[0]
        rows, columns = self.grid_of(pixels)
        ph, pw = self.patch
        values = pixels.reshape(batch, self.channels, rows, ph, columns, pw).permute(0, 2, 4, 1, 3, 5).flatten(3)
        values = values.flatten(1, 2).to(torch.float32)
        row, column = grid_coords(rows, columns, pixels.device)
        coords = torch.stack(torch.broadcast_tensors(row, column), -1).flatten(0, 1).expand(batch, -1, -1)
        # from the coordinates, not from Python's numbers: a program that is traced stays open in both
        extent = (torch.stack([row[-1, 0], column[-1]]) + 1).expand(batch, -1)
        place = places_of(rows, columns, device=pixels.device).expand(batch, -1, -1)
        present = inputs.get("present")
        grid = rows, columns
        if present is None:
            valid = torch.ones(batch, rows * columns, dtype=torch.bool, device=pixels.device)
            return Patches(values, coords, valid, full=True, extent=extent, grid=grid, place=place)
        valid = present[:, None].expand(-1, rows * columns)
        return Patches(values, coords, valid, extent=extent, grid=grid, place=place)

    def tile(self) -> tuple[int, ...]:
        """(channels, rows, columns)."""
        return (self.channels, *self.patch)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"pixel_values": (B, C, H, W)} (and "present") of the size of `like`."""
        rows, columns = self.grid_of(like["pixel_values"])
        ph, pw = self.patch
        grid = values.reshape(len(values), rows, columns, self.channels, ph, pw).permute(0, 3, 1, 4, 2, 5)
        out = {"pixel_values": grid.reshape(len(values), self.channels, rows * ph, columns * pw)}
        return out | {"present": like["present"]} if "present" in like else out

    def axes(self) -> tuple[float, ...]:
        """Rows and columns are counted in patches."""
        return (1.0, 1.0)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine, the column's half first as in MAE (so that stock weights fit), or a learned table."""
        if self.position_kind == "sincos":
            return SinCos(width, 2, order=(1, 0))
        return LearnedGrid(width, self.configured_grid)

    def cells(self, kind: str) -> int:
        """Quarters of the picture; or all patches of the configured size."""
        return math.prod(self.configured_grid) if kind == "flat" else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """A patch of a picture of another size lies in the cell of the configured grid that it lies over."""
        return self.placed(patches.coords, patches.extent) if kind == "flat" else super().cell(kind, patches)

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: pixels (B, C, H, W), or what was cut for this view (`.cutting`).
            draws: random numbers of the B samples.
            spec: options of `mmssl.modality.pixels.options.View`.

        Raises:
            UserError: an option is wrong, or what comes out does not divide into patches.
        """
        view = View.build(spec)
        if view.crop_size is not None and self.position_kind == "learned" and pair(view.crop_size) != self.size:
            raise UserError("crop_size: another size than the image's needs positions: sincos")
        known = self.mean, self.std, self.unit_range
        if CUT not in inputs:
            pixels = augment(inputs["pixel_values"], draws, view, *known)
            self.grid_of(pixels)
            return inputs | {"pixel_values": pixels}
        pixels = augment_cut(inputs[CUT], draws, view, *known)
        self.grid_of(pixels)
        if "present" not in inputs:
            return {"pixel_values": pixels}
        present = inputs["present"]
        return {"pixel_values": pixels.masked_fill(~present[:, None, None, None], 0.0), "present": present}

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Rows and columns of the picture in the model's size, in patches; what was cut may lie beyond its edges."""
        if BOX in inputs:
            return Places(*box_places(patches.coords, box_cut(inputs), self.patch))
        size = inputs["pixel_values"].shape[-2], inputs["pixel_values"].shape[-1]
        box = box_of(View.build(spec), draws, size, patches.coords.device)
        return Places(*box_places(patches.coords, box, self.patch))

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Rows and columns."""
        return inputs, "pixel_values", (2, 3)

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return self.channels * math.prod(min(side, RAW_SIDE) for side in self.size)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, C * h * w) pixels, averaged over areas down to at most 32x32; absent rows are zero."""
        pixels = inputs["pixel_values"].float().nan_to_num(0.0)
        height, width = pixels.shape[-2:]
        small = F.adaptive_avg_pool2d(pixels, (min(height, RAW_SIDE), min(width, RAW_SIDE)))
        return small.flatten(1)

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The picture."""
        seen = inputs | {"pixel_values": natural(inputs["pixel_values"], self.mean, self.std, self.unit_range)}
        found: list[Shown | None] = []
        for row, (there, pixels) in enumerate(rows(seen, "pixel_values")):
            mask = flags(hidden, "pixel_values", row)
            found.append(Frames(pixels[None], None if mask is None else mask.any(0)[None]) if there else None)
        return found
