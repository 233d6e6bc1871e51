"""Corrupted views: random boxes of pixels or samples, not of patches, are overwritten (GMML).

Group masked model learning (Atito et al. 2021, "GMML is all you need"; SiT, 2021) overwrites boxes that ignore the
patch grid until 50 to 75 % of an image are hit, shows the encoder all patches, and reconstructs what was overwritten
(`objectives/mae.py` without a mask). Here boxes lie along whatever axes the modality says: rows and columns, time, time
and frequency. All draws follow the sample, so two processes corrupt as one does.

What GMML's code draws, and what is drawn here: sides are uniform up to 0.3 of an image in both; there a box starts at
any pixel and is cut at the border, here it lies inside, so that borders are hit less often; there boxes go on until a
share drawn in [0.5, 0.7] is reached, and the last may go beyond, here none goes beyond the highest share; there the
fill is drawn for an image, here for each box (name one fill for a like draw, or two views).

Shapes: B batch, A axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..draws import Draws, uniforms
from ..errors import UserError
from ..lazy import later
from ..options import option, strict
from ..options.schema import build

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = later("numpy", __name__)
    torch = later("torch", __name__)

TRIES = 400
"""Boxes at most: reached only where a few pixels are all that there is."""
DRAWN_AT_ONCE = 16
"""Boxes of all samples that one computation draws."""
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


def corruption_faults(spec: Mapping[str, object], where: str) -> list[str]:
    """What is wrong with `{corrupt: {...}}`, one line each; what `view` names is looked at with all derived views."""
    faults = [
        f"{where}.{key}: found beside 'corrupt', expected it in a view of its own that corrupt.view names"
        for key in spec
        if key != "corrupt"
    ]
    build(Corruption, spec["corrupt"], f"{where}.corrupt", faults)
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
    kind, out = fill.view(shape), x
    for number, name in enumerate(options.fill):
        mine = hit if len(options.fill) == 1 else hit & (kind == number)
        if name == "zero":
            out = out.masked_fill(mine, 0.0)
        elif name == "noise":
            out = _noised(out, mine, draws("noise"))
        else:
            content = partners(x, draws("other"))
            there = ~content.isnan()  # the other one has nothing elsewhere: left alone
            hit, mine = hit & (there | ~mine), mine & there
            out = torch.where(mine, content, out)
    return out, hit


def _noised(x: Tensor, mine: Tensor, draws: Draws) -> Tensor:
    """x (B, ...) with normal noise where `mine` is set."""
    out = x.clone()
    # on a processor row by row: the ten passes that make noise would each wait for the memory
    rows = 1 if x.device.type == "cpu" else len(x)
    for first in range(0, len(x), max(rows, 1)):
        part = out[first : first + rows]
        content = draws.part(first, len(part)).noise(*x.shape[1:]).to(x)
        torch.where(mine[first : first + rows], content, part, out=part)
    return out


def boxes(grid: Tensor, draws: Draws, options: Corruption) -> tuple[Tensor, Tensor]:
    """((B, *sizes) bool what is hit, uint8 by which fill) for samples that exist at `grid` (B, *sizes).

    On the host, sample by sample: whether a box is taken depends on what those before it hit, and a box is a small part
    of a sample. Draws, and so boxes, are the same on every device.
    """
    count, low, high = grid.ndim - 1, *options.share
    host, draws = grid.cpu(), replace(draws, device="cpu")
    total = host.flatten(1).sum(1)
    extent = torch.stack([extent_of(host, axis + 1) for axis in range(count)], 1)  # (B, A)
    wanted = (draws("share").uniform(low=low, high=high) * total).tolist()
    most = (high * total).tolist()
    there = host.numpy()
    hit, fill = np.zeros_like(there), np.zeros(there.shape, np.uint8)
    covered = [0] * len(there)
    for first in range(0, TRIES, DRAWN_AT_ONCE):
        short = [i for i in range(len(there)) if covered[i] < wanted[i]]
        if not short:
            break
        number = min(DRAWN_AT_ONCE, TRIES - first)
        drawn = uniforms([draws("box", first + i) for i in range(number)], 3, count)
        u, where, which = drawn.unbind(2)  # (number, B, A) each
        side = (u * (options.side * extent)).ceil().clamp(min=1)
        start = (where * (extent - side + 1).clamp(min=0)).floor()
        ends, starts = (start + side).long().tolist(), start.long().tolist()
        kinds = (which[..., 0] * len(options.fill)).long().tolist()
        for i in short:
            for n in range(number):
                sides = [slice(a, b) for a, b in zip(starts[n][i], ends[n][i], strict=True)]
                box: tuple[int | slice, ...] = (i, *sides)
                new = there[box] > hit[box]
                reached = covered[i] + int(np.count_nonzero(new))
                if reached <= most[i]:
                    hit[box] |= new
                    fill[box] = kinds[n][i]
                    covered[i] = reached
                if covered[i] >= wanted[i]:
                    break
    return torch.from_numpy(hit).to(grid.device), torch.from_numpy(fill).to(grid.device)


def extent_of(grid: Tensor, axis: int) -> Tensor:
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
