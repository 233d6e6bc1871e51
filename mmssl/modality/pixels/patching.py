"""The `Modality` base that images and videos share: patches of a grid of pixels.

Shapes: B batch, C channels, H, W pixels, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import UserError
from ..linear import LinearPatches
from .options import View


class PixelModality(LinearPatches):
    """A grid of rectangular patches, row by row, of normalised pixels."""

    corruptible = View.corruptible

    def __init__(
        self,
        size: Sequence[int],
        patch: Sequence[int],
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        unit_range: bool,
        positions: str,
    ) -> None:
        """Set what describes the pixels; a subclass makes the parameters.

        Args:
            size: (H, W) of the input that was configured.
            patch: (height, width) of a patch.
            channels: C.
            mean: of each channel, which the preprocessor subtracted.
            std: of each channel, which the preprocessor divided by.
            unit_range: un-normalised values lie in 0..1 (8- and 16-bit images), which some augmentations need.
            positions: the kind of positions.
        """
        super().__init__()
        self.size, self.patch, self.channels = (size[0], size[1]), (patch[0], patch[1]), channels
        # plain lists: transformers would reload non-persistent buffers as garbage, and half precision round them
        self.mean, self.std, self.unit_range = list(mean), list(std), unit_range
        self.position_kind = positions

    @property
    def configured_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of the configured size."""
        return self.size[0] // self.patch[0], self.size[1] // self.patch[1]

    def placed(self, coords: Tensor, extent: Tensor | None = None) -> Tensor:
        """(B, n) int64 which patch of the configured grid, row by row, lies at (row, column) = coords (B, n, 2).

        extent: (B, 2) rows and columns of the input; None: of the configured size.
        """
        rows, columns = self.configured_grid
        grid = torch.tensor([rows, columns], device=coords.device, dtype=coords.dtype)
        own = coords if extent is None else (coords + 0.5) * (grid / extent[:, None])
        row, column = own.floor().clamp(min=0).minimum(grid - 1).long().unbind(-1)
        return row * columns + column

    def rows_and_columns(self, channels: int, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of patches in such pixels; UserError when they do not divide into this model's patches."""
        if channels != self.channels:
            raise UserError(f"pixel_values has {channels} channels, this model has {self.channels}")
        if height % self.patch[0] or width % self.patch[1]:
            raise UserError(
                f"pixel_values is {height}x{width}, expected multiples of the patch {self.patch[0]}x{self.patch[1]}"
            )
        return height // self.patch[0], width // self.patch[1]


def grid_coords(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row (rows, 1) and column (columns,) of every patch of a grid, float32, to be broadcast."""
    row = torch.arange(rows, device=device, dtype=torch.float32)[:, None]
    return row, torch.arange(columns, device=device, dtype=torch.float32)


def natural(pixels: Tensor, mean: Sequence[float], std: Sequence[float], unit_range: bool) -> Tensor:
    """Normalised pixels (..., C, H, W) as people see them: (..., H, W, 1 or 3) in 0..1; of other counts of channels the
    mean. Where values have no known range they are stretched between their least and largest."""
    scale, shift = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (std, mean))
    found = (pixels.float() * scale + shift).movedim(-3, -1)
    if found.shape[-1] not in (1, 3):
        found = found.nanmean(-1, keepdim=True)
    if not unit_range:
        known = found[found.isfinite()]
        low, high = (known.min(), known.max()) if known.numel() else (found.new_zeros(()), found.new_ones(()))
        found = (found - low) / (high - low).clamp(min=1e-9)
    return found.clamp(0.0, 1.0)
