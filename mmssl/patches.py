"""`Patches`: the waist of the hourglass. Every modality becomes patches with coordinates, every objective reads them.

Shapes: B batch, N patches of a sample (padded), P numbers in a patch, K coordinates of a patch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .lazy import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (B, k) of `x` (B, N, ...): (B, k, ...). Negative indices read row 0; mask them afterwards."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    rows = (index.clamp(min=0) + first).flatten()  # whole rows are copied: `Tensor.gather` goes number by number
    return x.flatten(0, 1).index_select(0, rows).view(*index.shape, *x.shape[2:])


@dataclass(frozen=True)
class Patches:
    """Patches with coordinates. Never cast to half precision.

    Attributes:
        values: (B, N, P) float32, NaN = this element does not exist | (B, N) int64 ids.
        coords: (B, N, K) float32, in the physical units that the modality documents.
        valid: (B, N) bool; False = padding, or a sample without this modality.
        full: true when the host knows that `valid` has no False (a data-dependent test would break the graph).
        links: (B, N, N) what lies between patches (edges); None where nothing does. Follows `take`.
        fixed: (B, N) bool, patches that no mask may hide (a tokenizer's special tokens); None = none.
        extent: (B, K) float32, how far the whole input reaches along each coordinate, in its units, whatever was taken
            out of it since; None where the modality does not say.
        grid: how many places the whole input has along each axis of its grid, known to the host; None where the patches
            lie on none (`Modality.tile`).
        place: (B, N, A) int64, which of them a patch has, along each of the A axes.
        mode: (B,) int64 number of the tower's mode that a sample is read in (`TowerConfig.modes`); None: its first.
        raw: (B, F) float32 the raw features of the whole input, zero where it is absent, where the tower pools them
            (`pooling: raw`); None of what `take` gives: they would tell of patches that it leaves out.
    """

    values: Tensor
    coords: Tensor
    valid: Tensor
    full: bool = False
    links: Tensor | None = None
    fixed: Tensor | None = None
    extent: Tensor | None = None
    grid: tuple[int, ...] | None = None
    place: Tensor | None = None
    mode: Tensor | None = None
    raw: Tensor | None = None

    def __post_init__(self) -> None:
        if self.values.dtype not in (torch.float32, torch.float64, torch.int64):
            raise TypeError(f"Patches.values must be float32 or int64, got {self.values.dtype}")
        if self.coords.ndim != 3 or self.coords.shape[:2] != self.values.shape[:2]:
            raise ValueError(
                f"Patches.coords must be (B, N, K) = {tuple(self.values.shape[:2])} + (K,), "
                f"got {tuple(self.coords.shape)}"
            )
        if self.valid.dtype != torch.bool or self.valid.shape != self.values.shape[:2]:
            raise ValueError(f"Patches.valid must be bool {tuple(self.values.shape[:2])}, got {self.valid.dtype}")

    @property
    def batch(self) -> int:
        """B: samples, absent ones included."""
        return self.values.shape[0]

    @property
    def count(self) -> int:
        """N: patches of a sample, padding included."""
        return self.values.shape[1]

    @property
    def present(self) -> Tensor:
        """(B,) bool: samples that have at least one valid patch."""
        return self.valid.any(1)

    def take(self, index: Tensor, full: bool = False) -> Patches:
        """The patches at `index` (B, k) int64, where -1 is a hole: an invalid patch with values and coords 0.

        `full=True` promises that `index` has no hole, so that no work is spent on looking for one.
        """
        full = full and self.full
        values, coords, valid = gather(self.values, index), gather(self.coords, index), gather(self.valid, index)
        links = self.links
        if links is not None:
            # a link lies between two patches: rows are taken by `index`, and then columns
            columns = index.clamp(min=0)[:, None, :].expand(-1, index.shape[1], -1)
            links = gather(links, index).gather(2, columns)
        fixed, place = (None if x is None else gather(x, index) for x in (self.fixed, self.place))
        if not full:
            there = index >= 0
            valid = valid & there
            values = values.masked_fill(~(there if values.ndim == 2 else there[..., None]), 0)
            coords = coords.masked_fill(~there[..., None], 0)
            if links is not None:
                links = links.masked_fill(~(there[:, :, None] & there[:, None, :]), 0)
            if fixed is not None:
                fixed = fixed & there
        return Patches(values, coords, valid, full, links, fixed, self.extent, self.grid, place, self.mode)

    def found(self, others: Patches) -> Tensor:
        """(B, k) int64 which of these patches lies where each of `others` (B, k) does; -1 where none does."""
        same = self.valid[:, None] & others.valid[:, :, None]
        for axis in range(self.coords.shape[2]):
            same = same & (self.coords[:, None, :, axis] == others.coords[:, :, None, axis])
        at = same.to(torch.uint8).argmax(2)
        return at.masked_fill(~same.any(2), -1)

    def repeated(self, times: int) -> Patches:
        """Every sample `times` times in a row: (B * times, N)."""
        if times == 1:
            return self
        return self._each(lambda x: x.repeat_interleave(times, 0))

    def rows(self, at: slice | Tensor) -> Patches:
        """The patches of some of the samples."""
        return self._each(lambda x: x[at])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Patches:
        """With `change` made to every tensor: the same samples of each."""
        links, fixed, extent, place, mode, raw = (
            None if x is None else change(x)
            for x in (self.links, self.fixed, self.extent, self.place, self.mode, self.raw)
        )
        changed = change(self.values), change(self.coords), change(self.valid)
        return Patches(*changed, self.full, links, fixed, extent, self.grid, place, mode, raw)

    def replace(self, **changes: object) -> Patches:
        """A copy with some fields changed; their shapes are the caller's business."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def hidden_by(self, index: Tensor) -> Tensor:
        """(B, N) bool: True at the patches that `index` (B, ..., m) names; -1 names none."""
        index = index.flatten(1)
        # one place more than there are patches: the -1s are written there, and it is cut off
        hidden = torch.zeros(self.batch, self.count + 1, dtype=torch.bool, device=index.device)
        hidden.scatter_(1, index.masked_fill(index < 0, self.count), True)
        return hidden[:, :-1]


def joined(several: Sequence[Patches]) -> Patches:
    """The samples of all of them in one batch, padded to the longest."""
    if len(several) == 1:
        return several[0]
    most = max(p.count for p in several)

    def wide(x: Tensor, axis: int = 1) -> Tensor:
        shape = [*x.shape[:axis], most - x.shape[axis], *x.shape[axis + 1 :]]
        return torch.cat([x, x.new_zeros(shape)], axis) if shape[axis] else x

    def every(field: str) -> Tensor:
        found = [getattr(p, field) for p in several]
        return torch.cat([wide(wide(x), 2) if field == "links" else wide(x) for x in found])

    links, fixed, place = (
        every(field) if getattr(several[0], field) is not None else None for field in ("links", "fixed", "place")
    )
    full = all(p.full and p.count == most for p in several)
    reaches = [p.extent for p in several if p.extent is not None]
    extent = torch.cat(reaches) if len(reaches) == len(several) else None
    grids = [p.grid for p in several if p.grid is not None]
    grid = tuple(map(max, zip(*grids, strict=True))) if len(grids) == len(several) else None
    raw = None if several[0].raw is None else torch.cat([p.raw for p in several if p.raw is not None])
    found = every("values"), every("coords"), every("valid")
    return Patches(*found, full, links, fixed, extent, grid, place, raw=raw)


def places_of(*sizes: int, device: torch.device) -> Tensor:
    """(N, A) int64 the place of every patch of a grid of so many along each axis, the last axis the fastest."""
    axes = torch.meshgrid(*(torch.arange(size, device=device) for size in sizes), indexing="ij")
    return torch.stack(axes, -1).flatten(0, -2)


@dataclass(frozen=True)
class Split:
    """What a mask says, from coordinates alone.

    Attributes:
        keep: (B, k) int64 indices of the patches the encoder sees, -1 padded; k is static, fewer where a sample is
            short.
        hide: (B, M, m) int64 indices of M target blocks, -1 padded (masked autoencoding has M = 1, JEPA several).
        full: true when the host knows that neither holds a -1.
        kind: (B,) int64 which of a mixture's kinds it is; None of other masks.
    """

    keep: Tensor
    hide: Tensor
    full: bool = False
    kind: Tensor | None = None
