"""Masks of single patches and of boxes: exactly the asked share of each sample's patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..draws import Draws
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .splits import maskable_of, patch_bits, ratio_of, split_by_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


@strict
@dataclass(kw_only=True)
class Random:
    """Patches hidden independently and uniformly, exactly `ratio` of each sample (MAE, He et al. 2022)."""

    ratio: float | dict[str, float] = option(0.75, min=0, below=1, help="share hidden; or one a modality")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = ratio_of(self.ratio, name)
            if ratio is not None:
                out[name] = split_by_order(p, patch_bits(p, draws(name)), ratio)
        return out


@strict
@dataclass(kw_only=True)
class Block:
    """Contiguous boxes in coordinate space, united until exactly `ratio` of each sample is hidden.

    For each of `boxes` boxes a centre is drawn among the sample's patches, and side lengths with a volume of
    `scale` of the sample's extent and a log-uniform aspect in `aspect`. Patches are ordered by how deep they lie in
    the nearest box, so that the exact count is reached by the outermost layer of the boxes (BEiT's blockwise mask,
    Bao et al. 2022, stops between two counts instead). One axis: time blocks; two: image blocks.
    """

    ratio: float | dict[str, float] = option(0.6, min=0, below=1, help="share hidden; or one a modality")
    boxes: int = option(4, min=1, max=1_024, help="boxes united")
    aspect: list[float] = option(
        factory=lambda: [0.3, 3.3], above=0, max=1_000, help="lowest and highest ratio of two sides"
    )
    axes: list[int] | None = option(None, min=0, max=16, help="coordinates the boxes extend over; null: all")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = ratio_of(self.ratio, name)
            if ratio is not None:
                out[name] = split_by_order(p, -self._distance(p, ratio, draws(name)), ratio)
        return out

    def _distance(self, p: Patches, ratio: float, draws: Draws) -> Tensor:
        """(B, N) Chebyshev distance to the nearest box centre in units of its half sides, ties broken at random."""
        axes = self.axes if self.axes is not None else list(range(p.coords.shape[2]))
        coords = p.coords[:, :, axes]  # (B, N, A)
        inf = torch.inf
        low = coords.masked_fill(~p.valid[..., None], inf).amin(1)
        high = coords.masked_fill(~p.valid[..., None], -inf).amax(1)
        extent = (high - low).nan_to_num(1.0, 1.0, 1.0).clamp(min=1e-6)  # (B, A)
        ties = patch_bits(p, draws("ties")) * (1e-4 / 2**32)
        best = torch.full(p.values.shape[:2], inf, device=coords.device)
        maskable = maskable_of(p)
        for box in range(self.boxes):
            pick = patch_bits(p, draws("centre", box)).masked_fill(~maskable, -1).argmax(1)
            centre = coords.gather(1, pick[:, None, None].expand(-1, 1, len(axes)))
            logs = draws("aspect", box).uniform(len(axes), low=0.0, high=1.0)
            span = torch.tensor(self.aspect, device=coords.device).log()
            share = (ratio / self.boxes) ** (1 / len(axes))
            stretch = (span[0] + (span[1] - span[0]) * logs) / 2
            sides = extent * torch.exp(stretch - stretch.mean(1, keepdim=True)) * share
            half = (sides[:, None] / 2).clamp(min=1e-30)  # a ratio of 0 has boxes without sides: 0 / 0 has no order
            best = torch.minimum(best, ((coords - centre).abs() / half).amax(2))
        return best + ties
