"""Corrupted views: random boxes of pixels or samples, not of patches, are overwritten (GMML).

Group masked model learning (Atito et al. 2021, "GMML is all you need"; SiT, 2021) overwrites boxes that ignore the
patch grid until 50 to 75 % of an image are hit, shows the encoder all patches, and reconstructs what was overwritten
(`objectives/mae.py` without a mask). Here boxes lie along whatever axes the modality says: rows and columns, time, time
and frequency. All draws follow the sample, so two processes corrupt as one does.

Shapes: B batch, A axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..draws import Draws
from ..errors import UserError, nearest
from ..lazy import later
from ..options import option, strict
from ..options.schema import BAD, build

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)

TRIES = 400
"""Boxes at most: reached only where a few pixels are all that there is."""
LOOK_EVERY = 8
"""Boxes between two looks at whether all samples have enough."""
FILLS = ("noise", "zero", "other")


@strict
@dataclass(kw_only=True)
class Corruption:
    """How a view is corrupted: `views: {spoiled: {image: {corrupt: {view: crop, share: [0.5, 0.75]}}}}`."""

    view: str = option("clean", help="the view that is corrupted; what is reconstructed")
    share: list[float] = option(factory=lambda: [0.5, 0.75], min=0, max=1, help="lowest and highest share overwritten")
    side: float = option(0.3, above=0, max=1, help="greatest side of a box, a share of the sample's")
    fill: list[str] = option(
        factory=lambda: ["noise"], choices=FILLS, help="drawn for each box: normal noise, the mean, another sample's"
    )

    def __post_init__(self) -> None:
        if len(self.share) != 2 or self.share[0] > self.share[1]:
            raise UserError(f"share: found {self.share}, expected [lowest, highest]")
        if not self.fill:
            raise UserError(f"fill: found none, expected some of {', '.join(FILLS)}")


def corruption_faults(
    spec: Mapping[str, object], views: Mapping[str, Any], view: str, name: str, where: str
) -> list[str]:
    """What is wrong with `{corrupt: {...}}`, the options of modality `name` in `view`, one line each."""
    faults = [
        f"{where}.{key}: found beside 'corrupt', expected it in a view of its own that corrupt.view names"
        for key in spec
        if key != "corrupt"
    ]
    options = build(Corruption, spec["corrupt"], f"{where}.corrupt", faults)
    source = getattr(options, "view", BAD)
    if isinstance(source, str) and source != "clean":
        if source not in views:
            faults.append(
                f"{where}.corrupt.view: found unknown view '{source}', expected one of clean, "
                f"{', '.join(views)}{nearest(source, views)}"
            )
        elif source == view or (views[source] is not BAD and "corrupt" in (views[source].get(name) or {})):
            faults.append(f"{where}.corrupt.view: found the corrupted view '{source}', expected one that is not")
    return faults


def corrupt(x: Tensor, axes: tuple[int, ...], draws: Draws, options: Corruption) -> tuple[Tensor, Tensor]:
    """(x with boxes along `axes` overwritten, which elements were: bool), both of the shape of x (B, ...).

    x: normalised, so that 0 is the mean; NaN does not exist, does not count and stays. Each sample gets boxes until a
    share drawn in `options.share` of it is hit, and none that would go beyond the highest. Boxes have sides up to
    `options.side` of the sample's own extent, lie anywhere in it, may overlap, and go through all other axes.
    """
    rest = [axis for axis in range(1, x.ndim) if axis not in axes]
    there = ~x.isnan()
    grid = there.any(dim=rest) if rest else there  # (B, *sizes)
    place, fill = boxes(grid, draws, options)
    shape = [size if axis == 0 or axis in axes else 1 for axis, size in enumerate(x.shape)]
    hit = place.view(shape) & there
    kind = fill.view(shape)
    out = torch.where(hit, 0.0, x)
    for number, name in enumerate(options.fill):
        if name == "zero":
            continue
        content = draws("noise").normal(*x.shape[1:]).to(x) if name == "noise" else partners(x, draws("other"))
        mine = hit & (kind == number)
        lacking = mine & content.isnan()  # the other one has nothing there: left alone
        hit = hit & ~lacking
        out = torch.where(mine, torch.where(lacking, x, content), out)
    return out, hit


def boxes(grid: Tensor, draws: Draws, options: Corruption) -> tuple[Tensor, Tensor]:
    """((B, *sizes) bool what is hit, int64 by which fill) for samples that exist at `grid` (B, *sizes)."""
    device, sizes = grid.device, grid.shape[1:]
    count = len(sizes)
    total = grid.flatten(1).sum(1)
    extent = torch.stack([_extent(grid, axis + 1) for axis in range(count)], 1)  # (B, A)
    low, high = options.share
    wanted = draws("share").uniform(low=low, high=high).to(device) * total
    most = high * total
    hit, fill = torch.zeros_like(grid), torch.zeros(grid.shape, dtype=torch.int64, device=device)
    covered = torch.zeros_like(total)
    for number in range(TRIES):
        if number % LOOK_EVERY == 0 and bool((covered >= wanted).all()):
            break
        u, where, which = (x.to(device) for x in draws("box", number).uniform(3, count).unbind(1))
        side = (u * (options.side * extent)).ceil().clamp(min=1)
        start = (where * (extent - side + 1).clamp(min=0)).floor()
        box = grid
        for axis, size in enumerate(sizes):
            at = torch.arange(size, device=device)
            inside = (at >= start[:, axis, None]) & (at < (start + side)[:, axis, None])
            box = box & inside.view(len(grid), *[size if a == axis else 1 for a in range(count)])
        new = hit | box
        reached = new.flatten(1).sum(1)
        taken = ((covered < wanted) & (reached <= most)).view(-1, *[1] * count)
        kind = (which[:, 0] * len(options.fill)).long().view(-1, *[1] * count)
        hit = torch.where(taken, new, hit)
        fill = torch.where(taken & box, kind, fill)
        covered = hit.flatten(1).sum(1)
    return hit, fill


def _extent(grid: Tensor, axis: int) -> Tensor:
    """(B,) how far each sample reaches along an axis: up to the last place that exists."""
    others = [a for a in range(1, grid.ndim) if a != axis]
    line = grid.any(dim=others) if others else grid
    return (line * torch.arange(1, line.shape[1] + 1, device=grid.device)).amax(1).float()


def partners(x: Tensor, draws: Draws) -> Tensor:
    """Another row of the global batch for each local row of x (B, ...), never its own; where it is shorter, NaN."""
    from ..distributed import gather_rows, world_size

    ring = draws.permutation().to(x.device)
    order = torch.empty_like(ring).scatter_(0, ring, ring.roll(1))[draws.first : draws.first + draws.rows]
    if world_size() == 1:
        return x[order]
    sizes = gather_rows(torch.tensor([x.shape[1:]], device=x.device)).amax(0).tolist()
    wide = x.new_full((len(x), *sizes), torch.nan)
    inner = tuple(slice(size) for size in x.shape[1:])
    wide[(slice(None), *inner)] = x
    return gather_rows(wide)[order][(slice(None), *inner)]
