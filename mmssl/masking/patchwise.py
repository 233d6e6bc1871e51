"""Masks of single patches and of boxes: exactly the asked share of each sample's patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..draws import Draws
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .growing import Growing
from .splits import check_ratio, hidden_counts, maskable_of, patch_bits, ratio_of, split_by_counts, split_by_order

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


@strict
@dataclass(kw_only=True)
class Random(Growing):
    """Patches hidden independently and uniformly, exactly `ratio` of each sample: any set of that size is as likely
    (MAE, He et al. 2022, whose shuffled noise draws the same)."""

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
class Block(Growing):
    """Contiguous boxes in coordinate space, united until exactly `ratio` of each sample is hidden.

    For each of `boxes` boxes a centre is drawn among the sample's patches, and side lengths with a volume of
    `scale` of the sample's extent and a log-uniform aspect in `aspect`. Patches are ordered by how deep they lie in
    the nearest box, so that the exact count is reached by the outermost layer of the boxes. One axis: time blocks; two:
    image blocks.

    BEiT (Bao et al. 2022, algorithm 1) draws boxes one by one, of an area uniform from 16 patches up to all that is
    left to hide, and stops between two counts; DINOv2 (Oquab et al. 2023) from 4, and completes the count by single
    patches. Of 75 of 14 x 14 patches, BEiT's 4.2 boxes of unequal size make 1.4 regions, ours of equal size 2.0; as
    much lies deep inside: 55 and 54 % of them further than one patch from anything visible, 23 and 21 % further than
    two.

    DINOv2 and DINOv3 hide patches in half of the samples of a batch, with ratios spread evenly over [0.1, 0.5]:
    `ratio: [0.1, 0.5]`, `samples: 0.5`. Exactly so many of the global batch are drawn, and one ratio in each of as
    many equal parts of the range, as theirs are. iBOT (Zhou et al. 2022) draws both for each sample by itself.
    """

    ratio: float | list[float] | dict[str, float] = option(
        0.6, min=0, below=1, help="share hidden; or [lowest, highest], drawn for each sample; or one a modality"
    )
    samples: float = option(1.0, above=0, max=1, help="share of a batch's samples in which anything is hidden")
    boxes: int = option(4, min=1, max=1_024, help="boxes united")
    aspect: list[float] = option(
        factory=lambda: [0.3, 3.3], above=0, max=1_000, help="lowest and highest ratio of two sides"
    )
    axes: list[int] | None = option(None, min=0, max=16, help="coordinates the boxes extend over; null: all")

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        super().__post_init__()

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = self.ratio if isinstance(self.ratio, list) else ratio_of(self.ratio, name)
            if ratio is None:
                continue
            if isinstance(ratio, float | int) and self.samples == 1:
                share = torch.full((p.batch,), float(ratio), dtype=torch.float64, device=p.coords.device)
                out[name] = split_by_order(p, -self._distance(p, share, draws(name)), ratio)
            else:
                share = self._shares(ratio, draws(name)).to(p.coords.device)
                there = maskable_of(p).sum(1)
                shown = there - hidden_counts(there, share)
                out[name] = split_by_counts(p, -self._distance(p, share, draws(name)), shown)
        return out

    def _shares(self, ratio: float | list[float], draws: Draws) -> Tensor:
        """(B,) float64: what is hidden of each sample; exact in the number of samples over all processes."""
        low, high = (ratio[0], ratio[1]) if isinstance(ratio, list) else (ratio, ratio)
        order = draws("samples").permutation()
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        place = place[draws.first : draws.first + draws.rows].double()
        masked = max(int(len(order) * self.samples + 1e-6), 1)
        inside = (place + draws("ratio").uniform()) / masked  # one in each of `masked` equal parts of the range
        return torch.where(place < masked, low + (high - low) * inside, 0.0)

    def _distance(self, p: Patches, ratio: Tensor, draws: Draws) -> Tensor:
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
        share = ((ratio / self.boxes) ** (1 / len(axes))).to(extent.dtype)[:, None]
        for box in range(self.boxes):
            pick = patch_bits(p, draws("centre", box)).masked_fill(~maskable, -1).argmax(1)
            centre = coords.gather(1, pick[:, None, None].expand(-1, 1, len(axes)))
            logs = draws("aspect", box).uniform(len(axes), low=0.0, high=1.0)
            span = torch.tensor(self.aspect, device=coords.device).log()
            stretch = (span[0] + (span[1] - span[0]) * logs) / 2
            sides = extent * torch.exp(stretch - stretch.mean(1, keepdim=True)) * share
            half = (sides[:, None] / 2).clamp(min=1e-30)  # a ratio of 0 has boxes without sides: 0 / 0 has no order
            best = torch.minimum(best, ((coords - centre).abs() / half).amax(2))
        return best + ties
