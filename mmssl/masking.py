"""Masks: coordinates in, `Split`s out. No mask knows a modality; all draws are per sample (see `mmssl.draws`).

A mask is a strict dataclass of its options that is also the function
`mask(patches: dict[name, Patches], draws: Draws) -> dict[name, Split]`. It sees a whole tower's dict, because budgets
may be joint; a name that it leaves out is seen whole. Found by its class name in lower case with dashes
(`per-modality`), or by the dotted path of a class.

Shapes: B batch, N patches, k kept, m hidden, K coordinates.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .draws import Draws, mix
from .errors import UserError, nearest
from .options import option, strict
from .patches import Patches, Split


def _maskable(patches: Patches) -> Tensor:
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
        kept = count - _hidden_count(count, ratio)
        index = order_key.argsort(dim=1, stable=True)
        return Split(index[:, :kept], index[:, None, kept:], full=True)
    maskable = _maskable(patches)
    hidden = _hidden_counts(maskable.sum(1), ratio)
    # fixed first, then maskable by key, then invalid: keep = fixed + first of the maskable
    rank_key = order_key.to(torch.float64)
    low, high = rank_key.amin() - 1, rank_key.amax() + 1
    rank_key = torch.where(maskable, rank_key, torch.where(patches.valid, low, high))
    index = rank_key.argsort(dim=1, stable=True)
    shown = patches.valid.sum(1) - hidden
    place = torch.arange(count, device=index.device)[None]
    most_hidden = _hidden_count(count, ratio)
    most_kept = count - (most_hidden if patches.fixed is None else 0)
    keep = torch.where(place < shown[:, None], index, -1)[:, :most_kept]
    at = (shown[:, None] + torch.arange(most_hidden, device=index.device)[None]).clamp(max=count - 1)
    inside = torch.arange(most_hidden, device=index.device)[None] < hidden[:, None]
    hide = torch.where(inside, index.gather(1, at), -1)
    return Split(keep, hide[:, None])


def _hidden_count(n: int, ratio: float) -> int:
    return n - max(int(n * (1 - ratio) + 1e-6), min(n, 1))


def _hidden_counts(n: Tensor, ratio: float) -> Tensor:
    kept = (n.to(torch.float64) * (1 - ratio) + 1e-6).floor().to(torch.int64)
    return n - torch.maximum(kept, n.clamp(max=1))


def _ratio_of(ratio: float | dict[str, float], name: str) -> float | None:
    if isinstance(ratio, dict):
        return ratio.get(name)
    return ratio


@strict
@dataclass(kw_only=True)
class Random:
    """Patches hidden independently and uniformly, exactly `ratio` of each sample (MAE, He et al. 2022)."""

    ratio: float | dict[str, float] = option(0.75, min=0, below=1, help="share hidden; or one a modality")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = _ratio_of(self.ratio, name)
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
    boxes: int = option(4, min=1, help="boxes united")
    aspect: list[float] = option(factory=lambda: [0.3, 3.3], above=0, help="lowest and highest ratio of two sides")
    axes: list[int] | None = option(None, min=0, help="coordinates the boxes extend over; null: all")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = _ratio_of(self.ratio, name)
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
        maskable = _maskable(p)
        for box in range(self.boxes):
            pick = patch_bits(p, draws("centre", box)).masked_fill(~maskable, -1).argmax(1)
            centre = coords.gather(1, pick[:, None, None].expand(-1, 1, len(axes)))
            logs = draws("aspect", box).uniform(len(axes), low=0.0, high=1.0)
            span = torch.tensor(self.aspect, device=coords.device).log()
            share = (ratio / self.boxes) ** (1 / len(axes))
            stretch = (span[0] + (span[1] - span[0]) * logs) / 2
            sides = extent * torch.exp(stretch - stretch.mean(1, keepdim=True)) * share
            best = torch.minimum(best, ((coords - centre).abs() / (sides[:, None] / 2)).amax(2))
        return best + ties


def split_groups(patches: Patches, group: Tensor, hidden: Callable[[Tensor, Tensor], Tensor]) -> Split:
    """Hide or keep whole groups of patches: those of a sample with an equal number in `group` (B, N).

    hidden(rank (B, N), groups (B,)) -> (B, N) bool says which: rank is the place of a patch's group among its
    sample's `groups` groups in rising order. Fixed patches are always kept. The widths of `keep` and `hide` are those
    of the fullest sample, which costs a look at the data.
    """
    maskable = _maskable(patches)
    last = torch.iinfo(torch.int64).max
    ordered, index = group.to(torch.int64).masked_fill(~maskable, last).sort(dim=1, stable=True)
    new = torch.ones_like(maskable)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    rank = torch.empty_like(index).scatter_(1, index, new.cumsum(1) - 1)
    groups = (rank.masked_fill(~maskable, -1).amax(1) + 1) if patches.count else rank.new_zeros(patches.batch)
    hide = maskable & hidden(rank, groups)
    keep = patches.valid & ~hide
    counts = torch.stack([keep.sum(1), hide.sum(1)])
    (most_kept, most_hidden), (least_kept, least_hidden) = counts.amax(1).tolist(), counts.amin(1).tolist()
    full = patches.full and most_kept == least_kept and most_hidden == least_hidden
    return Split(_indices(keep, most_kept), _indices(hide, most_hidden)[:, None], full)


def _indices(chosen: Tensor, width: int) -> Tensor:
    """(B, width) the places where chosen (B, N) is set, in rising order, -1 padded."""
    index = (~chosen).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    return index.masked_fill(~chosen.gather(1, index), -1)


def _coordinate_bits(coords: Tensor, draws: Draws) -> Tensor:
    """(B, N) uniform 32-bit integers, drawn for a sample and the coordinates (B, N, A) of a patch: patches with equal
    coordinates draw the same, whatever else is in the batch."""
    bits = draws.bits()[:, None].expand(coords.shape[:2])
    for axis in range(coords.shape[2]):
        number = coords[:, :, axis].to(torch.float32) + 0.0  # -0.0 and 0.0 are the same place
        at = number.view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        bits = mix((bits + mix(at ^ 0x85EBCA6B)) & 0xFFFFFFFF)
    return bits


@strict
@dataclass(kw_only=True)
class Tube:
    """The same places hidden at all times (VideoMAE, Tong et al. 2022): in no frame can a neighbour in time tell what
    is there. A place is given by all coordinates but the time; `ratio` is the share of a sample's places."""

    ratio: float | dict[str, float] = option(0.9, min=0, below=1, help="share of places hidden; or one a modality")
    time: int = option(0, min=0, help="which coordinate is the time")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = _ratio_of(self.ratio, name)
            if ratio is not None:
                axes = [axis for axis in range(p.coords.shape[2]) if axis != _axis(self.time, p, name, "tube")]
                out[name] = split_groups(p, _coordinate_bits(p.coords[:, :, axes], draws(name)), _last_ones(ratio))
        return out


@strict
@dataclass(kw_only=True)
class Temporal:
    """Whole times hidden, to be told from the times around them (Orhan et al. 2024 judge video models by it).

    choose: `random` hides times independently; `run` one run of neighbouring times somewhere between the first and
    the last, which stay visible, so that it is interpolated.
    """

    ratio: float | dict[str, float] = option(0.5, min=0, below=1, help="share of times hidden; or one a modality")
    choose: str = option("random", choices=("random", "run"))
    time: int = option(0, min=0, help="which coordinate is the time")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = _ratio_of(self.ratio, name)
            if ratio is not None:
                time = p.coords[:, :, _axis(self.time, p, name, "temporal")]
                if self.choose == "random":
                    out[name] = split_groups(p, _coordinate_bits(time[..., None], draws(name)), _last_ones(ratio))
                else:
                    out[name] = split_groups(p, _rising(time), self._run(ratio, draws(name)))
        return out

    @staticmethod
    def _run(ratio: float, draws: Draws) -> Callable[[Tensor, Tensor], Tensor]:
        def hidden(rank: Tensor, groups: Tensor) -> Tensor:
            length = _hidden_counts(groups, ratio).minimum((groups - 2).clamp(min=0))
            start = 1 + (draws.bits() * (groups - 1 - length).clamp(min=1) >> 32)
            return (rank >= start[:, None]) & (rank < (start + length)[:, None])

        return hidden


def _axis(axis: int, patches: Patches, name: str, mask: str) -> int:
    count = patches.coords.shape[2]
    if axis >= count:
        raise UserError(f"mask {mask}: time: found {axis}, but the patches of '{name}' have {count} coordinate(s)")
    return axis


def _last_ones(ratio: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda rank, groups: rank >= (groups - _hidden_counts(groups, ratio))[:, None]


def _rising(x: Tensor) -> Tensor:
    """float32 numbers as integers of the same order (IEEE 754: the bits of negative ones run backwards)."""
    bits = (x.to(torch.float32) + 0.0).view(torch.int32).to(torch.int64)
    return torch.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


@strict
@dataclass(kw_only=True)
class PerModality:
    """A mask of its own for each named modality; modalities not named are seen whole."""

    masks: dict[str, Any] = option(factory=dict, help="modality -> {type: ..., options}")

    def __post_init__(self) -> None:
        self._built = {name: build_mask(spec) for name, spec in self.masks.items()}

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out: dict[str, Split] = {}
        for name, mask in self._built.items():
            if name in patches:
                out |= mask({name: patches[name]}, draws)
        return out


SHIPPED = (Random, Block, Tube, Temporal, PerModality)


def _slug(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def mask_names() -> list[str]:
    """Names of the masks that mmssl ships."""
    return sorted(_slug(c.__name__) for c in SHIPPED)


def load_mask(name: str) -> type:
    """The mask class of that name (`random`, `block`, ...), or at that dotted path (`mylab.masks.Rings`)."""
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"mask '{name}': {error}") from None
    for candidate in SHIPPED:
        if _slug(candidate.__name__) == name:
            return candidate
    names = mask_names()
    raise UserError(f"unknown mask '{name}', expected one of {', '.join(names)}{nearest(name, names)}")


def build_mask(spec: Any) -> Any:
    """A mask from `{type: name, options}`; an object that is callable already is returned as it is."""
    if callable(spec):
        return spec
    from .schema import load

    options = dict(spec)
    return load(load_mask(options.pop("type", "random")), options)
