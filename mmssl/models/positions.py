"""Positions from coordinates: modules (B, n, K) float32 -> (B, n, width)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UserError


class SinCos(nn.Module):
    """Fixed sine-cosine embedding of continuous coordinates (Vaswani et al. 2017; 2-D as in MAE, He et al. 2022).

    Every coordinate takes `width / dims` channels: the sines of its product with all frequencies, then the cosines.
    Equal to facebookresearch/mae `util/pos_embed.py` for integer coordinates, but defined at any coordinate, so any
    input size works. Channels that `2 * dims` does not divide are zero.

    Args:
        width: D.
        dims: K, how many coordinates to embed (further ones are ignored).
        order: which coordinate comes first; MAE puts the column before the row: (1, 0).
        scale: multiplies the coordinates, to bring physical units (seconds) to the order of patch counts.
    """

    def __init__(
        self,
        width: int,
        dims: int,
        temperature: float = 10000.0,
        order: Sequence[int] | None = None,
        scale: Sequence[float] | float = 1.0,
    ) -> None:
        super().__init__()
        self.width, self.dims, self.temperature = width, dims, temperature
        self.order = tuple(order) if order is not None else tuple(range(dims))
        self.scale = tuple(scale) if isinstance(scale, Sequence) else (float(scale),) * dims
        self.bands = width // dims // 2
        self.frequencies: Tensor
        self.register_buffer("frequencies", self._table(), persistent=False)

    def _table(self) -> Tensor:
        steps = torch.arange(self.bands, dtype=torch.float64, device="cpu") / max(self.bands, 1)
        return (self.temperature**-steps).to(torch.float32)

    def reset_parameters(self) -> None:
        """Refill the table: transformers rebuilds non-persistent buffers as garbage and calls this afterwards."""
        with torch.no_grad():
            self.frequencies.copy_(self._table())

    def forward(self, coords: Tensor) -> Tensor:
        """coords (..., A) -> (..., D) float32, sines and cosines axis by axis; what the bands do not fill is 0."""
        parts = []
        for axis in self.order:
            angle = (coords[..., axis] * self.scale[axis])[..., None] * self.frequencies
            parts += [angle.sin(), angle.cos()]
        rest = self.width - 2 * self.bands * self.dims
        if rest:
            parts.append(coords.new_zeros(*coords.shape[:-1], rest))
        return torch.cat(parts, -1)


class IndexSinCos(nn.Module):
    """Fixed sine-cosine embedding of a patch's number on a grid, as VideoMAE has it.

    Sines and cosines in turn (Vaswani et al. 2017), computed in float64: numbers run into the thousands.

    Args:
        width: D.
        sizes: of all axes but the first (the number counts them fastest last).
        scale: multiplies the first coordinate.
    """

    def __init__(self, width: int, sizes: Sequence[int], scale: float = 1.0) -> None:
        super().__init__()
        self.width, self.sizes, self.scale = width, tuple(sizes), scale

    def forward(self, coords: Tensor) -> Tensor:
        """coords (..., A) -> (..., D) float32."""
        number = (coords[..., 0].double() * self.scale).round()
        for axis, size in enumerate(self.sizes, 1):
            number = number * size + coords[..., axis].double().round()
        channel = torch.arange(self.width, device=coords.device)
        angle = number[..., None] / 10000.0 ** (2.0 * (channel // 2).double() / self.width)
        return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()


class LearnedGrid(nn.Module):
    """A learned table over a grid of integer coordinates, as stock ViT and BERT have. Row-major: the last axis is
    the fastest. Coordinates outside the grid raise on the CPU; `resize` interpolates to another grid.

    scale: multiplies the coordinates, to make places of the grid of physical units (seconds)."""

    def __init__(self, width: int, sizes: Sequence[int], scale: Sequence[float] | None = None) -> None:
        super().__init__()
        self.width, self.sizes = width, tuple(sizes)
        self.scale = tuple(scale) if scale is not None else (1.0,) * len(self.sizes)
        count = 1
        for size in self.sizes:
            count *= size
        self.table = nn.Parameter(torch.zeros(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew: N(0, 0.02)."""
        nn.init.normal_(self.table, std=0.02)

    def forward(self, coords: Tensor) -> Tensor:
        """The rows of the table at coords (..., A): (..., D).

        Raises:
            UserError: a patch lies outside the grid. Looked for on the CPU only: elsewhere it would stall the device,
                and the last row is taken.
        """
        index = torch.zeros(coords.shape[:-1], dtype=torch.int64, device=coords.device)
        for axis, size in enumerate(self.sizes):
            at = (coords[..., axis] * self.scale[axis]).round().to(torch.int64)
            if at.device.type == "cpu" and not torch.compiler.is_exporting() and at.numel() and int(at.max()) >= size:
                raise UserError(
                    f"a patch lies at coordinate {int(at.max())} of axis {axis}, but learned positions end at "
                    f"{size - 1}; use positions: sincos, or resize the table"
                )
            # row by row: the last axis is the fastest
            index = index * size + at.clamp(0, size - 1)
        return self.table[index]

    @torch.no_grad()
    def resize(self, sizes: Sequence[int], antialias: bool = False, mode: str = "bicubic") -> None:
        """Interpolate a 1-D or 2-D table to a new grid: linear, or bicubic, as stock ViT without antialiasing.

        mode: of a 2-D table, as torch's `interpolate` has it.
        """
        if tuple(sizes) == self.sizes:
            return
        grid = self.table.reshape(1, *self.sizes, self.width)
        if len(self.sizes) == 1:
            moved = grid.permute(0, 2, 1)
            new = nn.functional.interpolate(moved, size=tuple(sizes), mode="linear", align_corners=False)
            table = new.permute(0, 2, 1)
        else:
            moved = grid.permute(0, 3, 1, 2)
            new = nn.functional.interpolate(
                moved, size=tuple(sizes), mode=mode, align_corners=False, antialias=antialias
            )
            table = new.permute(0, 2, 3, 1)
        self.sizes = tuple(sizes)
        self.table = nn.Parameter(table.reshape(-1, self.width).contiguous())
