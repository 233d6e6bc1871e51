"""Images as patches: the `Modality` that knows pixels. Shapes: B batch, C channels, H, W, N patches, P numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl import modality as base
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.losses.reconstruction import normalised_patches, patch_mse
from mmssl.modality import Inputs, MaskToken
from mmssl.modality.pixels.augment import View, augment
from mmssl.modality.pixels.resample import pair
from mmssl.models.positions import LearnedGrid, SinCos
from mmssl.patches import Patches

RAW_SIDE = 32  # raw features are pixels of at most this many rows and columns


class Modality(base.Modality):
    """A grid of rectangular patches, row by row; a patch's numbers are in the order (channel, row, column).

    size: (H, W) of the input that was configured; patch: (height, width) of a patch; channels: C.
    mean, std: of each channel, which the preprocessor subtracted and divided by.
    unit_range: un-normalised values lie in 0..1 (8- and 16-bit images), which some augmentations need.
    """

    targets = ("normalised", "pixels")
    views = View.names()
    corruptible = True
    local_targets = True
    coordinates = ("row [patches]", "column [patches]")

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
        super().__init__()
        self.size, self.patch, self.channels = tuple(size), tuple(patch), channels
        # plain lists: transformers would reload non-persistent buffers as garbage
        self.mean, self.std, self.unit_range = list(mean), list(std), unit_range
        self.position_kind = positions
        self.proj = nn.Linear(self.pred_width(), width)
        self.mask = MaskToken(width)
        self.position = self.positions(width)

    def grid_of(self, pixels: Tensor) -> tuple[int, int]:
        """(rows, columns) of patches in pixels (B, C, H, W); UserError when they do not divide into patches."""
        channels, height, width = pixels.shape[1:]
        if channels != self.channels:
            raise UserError(f"pixel_values has {channels} channels, this model has {self.channels}")
        if height % self.patch[0] or width % self.patch[1]:
            raise UserError(
                f"pixel_values is {height}x{width}, expected multiples of the patch {self.patch[0]}x{self.patch[1]}"
            )
        return height // self.patch[0], width // self.patch[1]

    def patchify(self, inputs: Inputs) -> Patches:
        """Any height and width that the patch divides. Coordinates count patches from the top left of this input."""
        pixels = inputs["pixel_values"]
        batch = pixels.shape[0]
        rows, columns = self.grid_of(pixels)
        ph, pw = self.patch
        values = pixels.reshape(batch, self.channels, rows, ph, columns, pw).permute(0, 2, 4, 1, 3, 5).flatten(3)
        values = values.flatten(1, 2).to(torch.float32)
        row = torch.arange(rows, device=pixels.device, dtype=torch.float32)
        column = torch.arange(columns, device=pixels.device, dtype=torch.float32)
        coords = torch.stack(torch.broadcast_tensors(row[:, None], column), -1).flatten(0, 1).expand(batch, -1, -1)
        present = inputs.get("present")
        if present is None:
            valid = torch.ones(batch, rows * columns, dtype=torch.bool, device=pixels.device)
            return Patches(values, coords, valid, full=True)
        return Patches(values, coords, present[:, None].expand(-1, rows * columns))

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"pixel_values": (B, C, H, W)} (and "present") of the size of `like`."""
        rows, columns = self.grid_of(like["pixel_values"])
        ph, pw = self.patch
        grid = values.reshape(len(values), rows, columns, self.channels, ph, pw).permute(0, 3, 1, 4, 2, 5)
        out = {"pixel_values": grid.reshape(len(values), self.channels, rows * ph, columns * pw)}
        return out | {"present": like["present"]} if "present" in like else out

    def axes(self) -> tuple[float, ...]:
        return (1.0, 1.0)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine, the column's half first as in MAE (so that stock weights fit), or a learned table."""
        if self.position_kind == "sincos":
            return SinCos(width, 2, order=(1, 0))
        return LearnedGrid(width, (self.size[0] // self.patch[0], self.size[1] // self.patch[1]))

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """A linear map of the patch; elements that do not exist count as the channel's mean."""
        dtype = self.proj.weight.dtype
        tokens = self.proj(patches.values.nan_to_num(0.0).to(dtype))
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        # under autocast the sum stays float32, as the trunk's residual stream should
        return (tokens + self.position(patches.coords)).to(dtype)

    def pred_width(self, kind: str | None = None) -> int:
        return self.channels * self.patch[0] * self.patch[1]

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, P) the patch's values; "normalised": less the patch's mean, over its standard deviation.

        As in masked autoencoders (He et al. 2022, https://github.com/facebookresearch/mae, `norm_pix_loss`): unbiased
        variance plus 1e-6. Elements that do not exist stay NaN and do not count.
        """
        kind = self.kind(kind)
        values = patches.values
        if kind == "pixels":
            return values
        return normalised_patches(values)

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) mean squared error over the elements of each patch that exist; 0 for a patch without any."""
        self.kind(kind)
        return patch_mse(pred, target)

    def augment(self, inputs: Inputs, draws: Draws, **spec: Any) -> Inputs:
        """One view of the batch; `spec` holds options of `mmssl.modality.pixels.augment.View`."""
        view = View.build(spec)
        if view.crop_size is not None and self.position_kind == "learned" and pair(view.crop_size) != self.size:
            raise UserError("crop_size: another size than the image's needs positions: sincos")
        pixels = augment(inputs["pixel_values"], draws, view, self.mean, self.std, self.unit_range)
        self.grid_of(pixels)
        return inputs | {"pixel_values": pixels}

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Rows and columns."""
        return inputs, "pixel_values", (2, 3)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, C * h * w) pixels, averaged over areas down to at most 32x32; absent rows are zero."""
        pixels = inputs["pixel_values"].float().nan_to_num(0.0)
        height, width = pixels.shape[-2:]
        small = F.adaptive_avg_pool2d(pixels, (min(height, RAW_SIDE), min(width, RAW_SIDE)))
        return small.flatten(1)
