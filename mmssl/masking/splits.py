"""What masks are made of: how many patches are hidden, which ones by an order or by groups, and draws that follow the
sample alone. Shapes: B batch, N patches, k kept, m hidden, K coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..draws import Draws, mix
from ..errors import UserError
from ..lazy import later
from ..patches import Patches, Split

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


def ratio_of(ratio: float | dict[str, float], name: str) -> float | None:
    """The share of a modality that is hidden; None where a ratio a modality does not name it."""
    if isinstance(ratio, dict):
        return ratio.get(name)
    return ratio


def check_ratio(ratio: object) -> None:
    """UserError for a range that is none."""
    if isinstance(ratio, list) and (len(ratio) != 2 or ratio[0] > ratio[1]):
        raise UserError(f"ratio: found {ratio}, expected a number or [lowest, highest]")


def hidden_count(n: int, ratio: float) -> int:
    """How many of n patches are hidden: MAE's count, but one is always kept."""
    # int() rounds down, as in MAE; 1e-6, because 10 * (1 - 0.9) falls just short of 1
    return n - max(int(n * (1 - ratio) + 1e-6), min(n, 1))


def hidden_counts(n: Tensor, ratio: float | Tensor) -> Tensor:
    """`hidden_count` of every number in n (B,) int64, on its device: (B,) int64; ratio: one, or (B,) float64."""
    # float64, so that host and device count alike
    kept = (n.to(torch.float64) * (1 - ratio) + 1e-6).floor().to(torch.int64)
    return n - torch.maximum(kept, n.clamp(max=1))


def maskable_of(patches: Patches) -> Tensor:
    """(B, N) bool: patches that exist and may be hidden."""
    return patches.valid if patches.fixed is None else patches.valid & ~patches.fixed


def patch_bits(patches: Patches, draws: Draws) -> Tensor:
    """(B, N) uniform 32-bit integers, one a valid patch. They follow the number of a patch among its sample's valid
    ones, so that they do not depend on how a batch is padded, wherever the padding lies."""
    bits = draws.bits(patches.count)
    if patches.full:
        return bits
    return bits.gather(1, (patches.valid.cumsum(1) - 1).clamp(min=0))


def split_by_order(patches: Patches, order_key: Tensor, ratio: float) -> Split:
    """Hide the `ratio` of every sample's maskable patches that have the largest `order_key` (B, N).

    Of the n maskable patches of a sample `max(int(n * (1 - ratio)), 1)` are kept: MAE's count, but never nothing.
    Fixed patches are always kept. Within `keep` and `hide` the order is that of `order_key`, as in MAE's argsort of
    noise.
    """
    count = patches.count
    if patches.full and patches.fixed is None:
        kept = count - hidden_count(count, ratio)
        index = order_key.argsort(dim=1, stable=True)
        return Split(index[:, :kept], index[:, None, kept:], full=True)
    maskable = maskable_of(patches)
    hidden = hidden_counts(maskable.sum(1), ratio)
    # fixed first, then maskable by key, then invalid: keep = fixed + first of the maskable
    rank_key = order_key.to(torch.float64)
    low, high = rank_key.amin() - 1, rank_key.amax() + 1
    rank_key = torch.where(maskable, rank_key, torch.where(patches.valid, low, high))
    index = rank_key.argsort(dim=1, stable=True)
    shown = patches.valid.sum(1) - hidden
    place = torch.arange(count, device=index.device)[None]
    most_hidden = hidden_count(count, ratio)
    most_kept = count - (most_hidden if patches.fixed is None else 0)
    keep = torch.where(place < shown[:, None], index, -1)[:, :most_kept]
    at = (shown[:, None] + torch.arange(most_hidden, device=index.device)[None]).clamp(max=count - 1)
    inside = torch.arange(most_hidden, device=index.device)[None] < hidden[:, None]
    hide = torch.where(inside, index.gather(1, at), -1)
    return Split(keep, hide[:, None])


def split_by_counts(patches: Patches, order_key: Tensor, shown: Tensor) -> Split:
    """Keep of each sample the `shown` (B,) maskable patches with the smallest `order_key` (B, N), and fixed ones. The
    widths of `keep` and `hide` are those of the fullest sample, which costs a look at the data."""
    maskable = maskable_of(patches)
    last = torch.inf if order_key.is_floating_point() else torch.iinfo(torch.int64).max
    rank = order_key.masked_fill(~maskable, last).argsort(dim=1, stable=True).argsort(dim=1)
    hide = maskable & (rank >= shown[:, None])
    keep = patches.valid & ~hide
    # both widths in one transfer: each would wait for the device
    widest = torch.stack([keep.sum(1).amax(), hide.sum(1).amax()]).tolist()
    return Split(indices(keep, max(widest[0], min(patches.count, 1))), indices(hide, widest[1])[:, None])


def split_groups(patches: Patches, group: Tensor, hidden: Callable[[Tensor, Tensor], Tensor]) -> Split:
    """Hide or keep whole groups of patches: those of a sample with an equal number in `group` (B, N).

    hidden(rank (B, N), groups (B,)) -> (B, N) bool says which: rank is the place of a patch's group among its
    sample's `groups` groups in rising order. Fixed patches are always kept. The widths of `keep` and `hide` are those
    of the fullest sample, which costs a look at the data.
    """
    maskable = maskable_of(patches)
    rank, groups = dense_rank(group, maskable)
    hide = maskable & hidden(rank, groups)
    keep = patches.valid & ~hide
    counts = torch.stack([keep.sum(1), hide.sum(1)])
    (most_kept, most_hidden), (least_kept, least_hidden) = counts.amax(1).tolist(), counts.amin(1).tolist()
    full = patches.full and most_kept == least_kept and most_hidden == least_hidden
    most_kept = max(most_kept, min(patches.count, 1))  # a batch without any valid patch still is a batch
    return Split(indices(keep, most_kept), indices(hide, most_hidden)[:, None], full)


def dense_rank(group: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """(rank (B, N) int64, groups (B,) int64): the place of each patch's number `group` (B, N) int64 among the distinct
    ones of its sample in rising order, and how many there are; `among` (B, N) bool says which patches count."""
    last = torch.iinfo(torch.int64).max
    # what does not count is sorted to the end, where it moves no rank
    ordered, index = group.to(torch.int64).masked_fill(~among, last).sort(dim=1, stable=True)
    new = torch.ones_like(among)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = torch.empty_like(index).scatter_(1, index, new.cumsum(1) - 1)
    groups = (rank.masked_fill(~among, -1).amax(1) + 1) if group.shape[1] else rank.new_zeros(len(group))
    return rank, groups


def indices(chosen: Tensor, width: int) -> Tensor:
    """(B, width) the places where chosen (B, N) is set, in rising order, -1 padded."""
    index = (~chosen).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    return index.masked_fill(~chosen.gather(1, index), -1)


def axis_of(axis: int, patches: Patches, name: str, mask: str, key: str) -> int:
    """`axis`, when the patches of `name` have such a coordinate; UserError otherwise."""
    count = patches.coords.shape[2]
    if axis >= count:
        raise UserError(
            f"mask {mask.lower()}: {key}: found {axis}, but the patches of '{name}' have {count} coordinate(s), "
            f"numbered from 0"
        )
    return axis


def coordinate_bits(coords: Tensor, draws: Draws) -> Tensor:
    """(B, N) uniform 32-bit integers, drawn for a sample and the coordinates (B, N, A) of a patch: patches with equal
    coordinates draw the same, whatever else is in the batch."""
    bits = draws.bits()[:, None].expand(coords.shape[:2])
    for axis in range(coords.shape[2]):
        number = coords[:, :, axis].to(torch.float32) + 0.0  # -0.0 and 0.0 are the same place
        at = number.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        bits = mix((bits + mix(at ^ 0x85EBCA6B)) & 0xFFFFFFFF)
    return bits


def last_ones(ratio: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The choice that hides the groups of highest rank.

    Args:
        ratio: share of the groups to hide, counted as `hidden_count` counts patches.

    Returns:
        A function of rank (B, N) and groups (B,), how many there are, to (B, N) bool: hidden.
    """
    return lambda rank, groups: rank >= (groups - hidden_counts(groups, ratio))[:, None]


def rising(x: Tensor) -> Tensor:
    """float32 numbers as integers of the same order (IEEE 754: the bits of negative ones run backwards)."""
    bits = (x.to(torch.float32) + 0.0).view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
