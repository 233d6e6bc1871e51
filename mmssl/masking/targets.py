"""Context and several target sets, as JEPA needs them: what all such masks share, and sets without any geometry.

The context never holds a patch of a target set; sets may overlap one another. Sizes are shares of a sample's places
(the patches, or the groups of patches that lie at one place), so that they are exact for every sample. Where a size is
a range, it is drawn once a step for the whole batch, as in I-JEPA, which keeps the tensors' widths fixed.

Shapes: B batch, N patches, M target sets, K coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING

from ..draws import Draws, key_of
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .splits import axis_of, indices, maskable_of, patch_bits, rising, split_groups

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)

FAR = 1 << 40
"""The rank of a patch that can be in no target set."""


def drawn_share(span: Sequence[float], draws: Draws) -> float:
    """One number of the range for the whole step: it depends on the key alone, not on the rows of this process."""
    return span[0] + (span[-1] - span[0]) * key_of(draws.key, "step") / 2**32


def share_of(n: Tensor, share: float, spare: int = 0) -> Tensor:
    """round(n * share) (B,) of n (B,) places, at least one, but never the last `spare` of them."""
    return (n.to(torch.float64) * share + 0.5).floor().to(torch.int64).clamp(min=1).minimum((n - spare).clamp(min=0))


def share_width(n: int, share: float, spare: int = 0) -> int:
    """`share_of` for a number known on the host."""
    return min(max(int(n * share + 0.5), 1), max(n - spare, 0))


def split_ranked(
    patches: Patches, rank: Tensor, size: Tensor, width: int | None, context: Tensor, keep: float | None, draws: Draws
) -> Split:
    """A `Split` whose target sets are the first ones of an order, and whose context is what they leave of `context`.

    Where nothing would be left, what lies outside of `context` is taken; where the targets cover everything, they are
    cut back, from their ends, until a place is free.

    Args:
        patches: (B, N) patches.
        rank: (B, M, N) int64, the place of each patch in the order of each target set, `FAR` where it can be in none.
        size: (B,) how many places a set has.
        width: patches of a set, when the host knows it; None: the fullest set's. The context's width costs a look at
            the data in either case.
        context: (B, N) bool.
        keep: share of a sample's patches that the context has at most, drawn among those that are left; None: all of
            them.
        draws: of that choice.
    """
    maskable = maskable_of(patches)
    some = not patches.full or patches.fixed is not None  # patches that do not count
    rank = rank.masked_fill(~maskable[:, None], FAR) if some else rank
    nearest = reduce(torch.minimum, rank.unbind(1))  # (B, N); amin is slow on a CPU
    nearest = nearest.masked_fill(~maskable, -1) if some else nearest
    # a context without any place has nothing to predict from: the sets shrink until one is free
    covered = (nearest < size[:, None]).all(1) & (size > 0)
    size = torch.where(covered, nearest.amax(1), size)
    chosen = rank < size[:, None, None]
    free = ~chosen.any(1)
    free = maskable & free if some else free
    left = free & context
    left = torch.where(left.any(1, keepdim=True), left, free)
    most = patches.count
    if keep is not None:
        wanted = share_of(maskable.sum(1), keep)
        order = patch_bits(patches, draws("keep")).masked_fill(~left, torch.iinfo(torch.int64).max)
        place = torch.empty_like(order)
        every = torch.arange(most, device=order.device).expand_as(order)
        place.scatter_(1, order.argsort(dim=1, stable=True), every)
        left = left & (place < wanted[:, None])
    kept = left if patches.fixed is None else left | (patches.valid & patches.fixed)
    kept_now, hidden_now = kept.sum(1), chosen.sum(2).flatten()
    bounds = [kept_now.amin(), kept_now.amax(), hidden_now.amin(), hidden_now.amax()]
    # all four in one transfer: each would wait for the device
    least_kept, most_kept, least_hidden, most_hidden = torch.stack(bounds).tolist()
    most_kept = max(most_kept, min(most, 1))  # a batch without any valid patch still is a batch
    full = patches.full and most_kept == least_kept and most_hidden == least_hidden
    even = most_hidden == least_hidden and width in (None, most_hidden)
    if width is not None:
        most_hidden, full = width, full and width == most_hidden
    if even:  # what `indices` gives, in a quarter of its time
        hide = chosen.nonzero()[:, 2].view(*chosen.shape[:2], most_hidden)
    else:
        hide = indices(chosen.flatten(0, 1), most_hidden).unflatten(0, chosen.shape[:2])
    return Split(indices(kept, most_kept), hide, full)


def united(split: Split, patches: Patches) -> Split:
    """The same split with all target sets as one, which costs a look at the data for its width."""
    chosen = patches.hidden_by(split.hide)
    counts = chosen.sum(1)
    most, least = torch.stack([counts.amax(), counts.amin()]).tolist()
    return Split(split.keep, indices(chosen, most)[:, None], split.full and most == least)


def order_ranks(key: Tensor) -> Tensor:
    """(..., N) int64 place of each element of key (..., N) in rising order; equal ones in the order that they have."""
    order = key.argsort(dim=-1, stable=True)
    every = torch.arange(key.shape[-1], device=key.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, every)


@strict
@dataclass(kw_only=True)
class FeatureSubsets:
    """A random set of patches as context and several random sets outside of it as targets: T-JEPA (Thimonier et al.
    2025), where patches are the columns of a table. Prefix tokens (`[REG]`) are no patches: they are in no set.

    The sizes are drawn once a step, as there; there they are drawn again until a target set has room beside the
    context, here a set that has no room is cut back to what the context leaves. The paper's target sets are drawn each
    by itself, as these are; in its code (src/mask.py) all sets of a sample are views of one array, and so the same.
    """

    context: list[float] = option(factory=lambda: [0.25, 0.5], above=0, below=1, help="share the encoder sees, range")
    targets: int = option(4, min=1, max=1_024, help="target sets")
    scale: list[float] = option(factory=lambda: [0.15, 0.4], above=0, below=1, help="share of a target set, range")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        return {name: self._split(p, draws(name)) for name, p in patches.items()}

    def _split(self, p: Patches, draws: Draws) -> Split:
        maskable = maskable_of(p)
        n = maskable.sum(1)
        last = torch.iinfo(torch.int64).max
        place = order_ranks(patch_bits(p, draws("context")).masked_fill(~maskable, last))
        context = place < share_of(n, drawn_share(self.context, draws("context")), spare=1)[:, None]
        outside = maskable & ~context
        bits = torch.stack([patch_bits(p, draws("target", i)) for i in range(self.targets)], 1)
        rank = order_ranks(bits.masked_fill(~outside[:, None], last)).masked_fill(~outside[:, None], FAR)
        size = share_of(n, drawn_share(self.scale, draws("scale"))).minimum(outside.sum(1))
        return split_ranked(p, rank, size, None, context & maskable, None, draws)


@strict
@dataclass(kw_only=True)
class TimeBlocks:
    """Contiguous stretches of time hidden until a share is left as context: ECG-JEPA (Weimann & Conrad 2024).

    All that is hidden is one target set; the share left is drawn once a step, and each sample keeps it exactly.

    `draw: lengths` is the paper's (section 3; its code, data/masks.py): as long as times are left to hide, a time that
    is still visible is drawn, and in the visible stretch around it a length, uniform from `shortest` up to all that is
    left to hide, and a place; a stretch that is no longer than that is hidden whole, and a rest shorter than `shortest`
    is put at an end of one. Stretches meet, so few and long ones come out: of 200 times with `shortest` 10, 2.7 of 42
    in the median; 53 % of what is hidden lies more than 20 times from anything visible.

    `draw: number` is ours: the number of stretches is uniform up to all that fit, and lengths and distances are
    uniform among those that sum to what is hidden. Stretches never meet, so many and short ones come out: of the same,
    8.3 of 12, and 15 %. A heart that beats once a second can then be copied from the next beat.

    A sample with fewer than `shortest` times to hide has one stretch.
    """

    context: list[float] = option(factory=lambda: [0.15, 0.25], above=0, below=1, help="share of times left, range")
    shortest: int = option(10, min=1, max=1_000_000_000, help="times of a stretch, at least")
    draw: str = option(
        "number",
        choices=("number", "lengths"),
        help="uniform is the number of stretches, or the length of each up to all that is left to hide (ECG-JEPA)",
    )
    time: int = option(0, min=0, max=16, help="which coordinate is the time")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        hidden = self._drawn_lengths if self.draw == "lengths" else self._drawn_number
        out = {}
        for name, p in patches.items():
            times = rising(p.coords[:, :, axis_of(self.time, p, name, "time-blocks", "time")])
            share = drawn_share(self.context, draws(name, "share"))
            out[name] = split_groups(p, times, partial(hidden, share, draws(name)))
        return out

    def _drawn_number(self, share: float, draws: Draws, rank: Tensor, times: Tensor) -> Tensor:
        """(B, N) bool: whether the time of that rank, of `times` (B,), lies in a stretch."""
        kept = share_of(times, share)
        hidden = times - kept
        shortest = hidden.clamp(max=self.shortest)
        most = max(rank.shape[1] // self.shortest, 1)
        # at least one time lies between two stretches
        fitting = torch.minimum(hidden // shortest.clamp(min=1), kept + 1).clamp(min=1)
        count = 1 + (draws("count").bits() * fitting >> 32)
        runs = torch.arange(most, device=rank.device)[None]
        there = runs < count[:, None]
        lengths = _parts(hidden - count * shortest, count, draws("lengths").bits(most)) + shortest[:, None]
        inner = _parts(kept - (count - 1), count + 1, draws("gaps").bits(most + 1))
        gaps = inner[:, :most] + (runs > 0)
        ends = (gaps + lengths).masked_fill(~there, 0).cumsum(1)
        starts = ends - lengths
        at = rank[:, :, None]
        return ((at >= starts[:, None]) & (at < ends[:, None]) & there[:, None]).any(2)

    def _drawn_lengths(self, share: float, draws: Draws, rank: Tensor, times: Tensor) -> Tensor:
        """As `_drawn_number`. The paper rounds what is kept up."""
        at = torch.arange(rank.shape[1], device=rank.device)[None]
        visible = at < times[:, None]  # (B, T): hidden are places behind the sample's last, too
        kept = (times.to(torch.float64) * share - 1e-6).ceil().to(torch.int64).minimum((times - 1).clamp(min=0))
        left, number = times - torch.maximum(kept, times.clamp(max=1)), 0
        while bool((left > 0).any()):
            drawn = draws("stretch", number).bits(3)
            start, end = _stretch(visible, left, self.shortest, times, drawn)
            inside = (at >= start[:, None]) & (at < end[:, None]) & (left > 0)[:, None]
            left = left - inside.sum(1)
            visible, number = visible & ~inside, number + 1
        return ~visible.gather(1, rank.clamp(min=0, max=max(rank.shape[1] - 1, 0)))


def _stretch(visible: Tensor, left: Tensor, shortest: int, times: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """(first (B,), behind the last (B,)) of the times that ECG-JEPA hides next.

    visible: (B, T) bool; left: (B,) how many there are to hide; times: (B,) of a sample; bits: (B, 3) random.
    """
    at = torch.arange(visible.shape[1], device=visible.device)[None]
    chosen = bits[:, 0] * visible.sum(1) >> 32  # a visible time: a visible stretch in proportion to its length
    seen = visible.to(torch.int64).cumsum(1)
    time = (seen <= chosen[:, None]).sum(1).clamp(max=visible.shape[1] - 1)
    low = torch.where(~visible & (at < time[:, None]), at, -1).amax(1) + 1
    high = torch.where(~visible & (at > time[:, None]), at, visible.shape[1]).amin(1)
    own = left >= shortest  # a rest that is shorter goes to an end of the stretch, beside something hidden
    length = torch.where(own, shortest + (bits[:, 1] * (left - shortest + 1).clamp(min=1) >> 32), left)
    fits = high - low - length
    inner = bits[:, 2] * (fits + 1).clamp(min=1) >> 32
    ends = torch.where((low > 0) & ((high == times) | (bits[:, 2] < 1 << 31)), 0, fits)
    offset = torch.where(own | ((low == 0) & (high == times)), inner, ends)
    whole = fits <= 0
    start = torch.where(whole, low, low + offset)
    return start, torch.where(whole, high, start + length)


def _parts(whole: Tensor, count: Tensor, bits: Tensor) -> Tensor:
    """(B, most) numbers >= 0 that sum to `whole` (B,): the first `count` (B,) of them drawn, the others 0.

    bits: (B, most) random 32-bit integers.
    """
    cut = bits * (whole[:, None] + 1) >> 32
    inside = torch.arange(bits.shape[1], device=bits.device)[None] < (count - 1)[:, None]
    cut = torch.where(inside, cut, whole[:, None]).sort(dim=1).values
    return torch.diff(cut, dim=1, prepend=torch.zeros_like(cut[:, :1]))
