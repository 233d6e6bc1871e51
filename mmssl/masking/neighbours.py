"""Target sets of neighbours: sensors that lie together, nodes that hang together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..draws import Draws
from ..errors import UserError
from ..lazy import later
from ..options import option, strict
from ..patches import Patches, Split
from .splits import axis_of, coordinate_bits, dense_rank, maskable_of, patch_bits
from .targets import FAR, drawn_share, share_of, share_width, split_ranked

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later("torch", __name__)


@strict
@dataclass(kw_only=True)
class Regions:
    """Regions of sensors as targets, at all times: a channel drawn and the channels nearest to it. What is in no region
    is the context. For EEG, where the coordinates behind the time say where an electrode lies on the head.

    A region has exactly round(n * scale) of a sample's n channels, at least one; a small `scale` thus hides single
    channels. Distances are straight lines in the coordinates `axes`.
    """

    targets: int = option(4, min=1, max=1_024, help="target regions")
    scale: list[float] = option(factory=lambda: [0.1, 0.2], above=0, below=1, help="share of a region, range")
    keep: float | None = option(
        None, above=0, max=1, help="share of the patches that the context has at most; null: all that is left"
    )
    axes: list[int] | None = option(
        None, min=0, max=16, help="coordinates that say where a channel is; null: all but the time"
    )
    time: int = option(0, min=0, max=16, help="which coordinate is the time")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        return {name: self._split(p, name, draws(name)) for name, p in patches.items()}

    def _split(self, p: Patches, name: str, draws: Draws) -> Split:
        time = axis_of(self.time, p, name, "regions", "time")
        axes = (
            [a for a in range(p.coords.shape[2]) if a != time]
            if self.axes is None
            else [axis_of(axis, p, name, "regions", "axes") for axis in self.axes]
        )
        if not axes:
            raise UserError(f"mask regions: the patches of '{name}' have no coordinate but the time, so no channels")
        maskable = maskable_of(p)
        at = p.coords[:, :, axes].to(torch.float64)
        keys = []
        for i in range(self.targets):
            bits = coordinate_bits(p.coords[:, :, axes], draws("target", i))
            seed = bits.masked_fill(~maskable, -1).argmax(1)
            away = (at - at.gather(1, seed[:, None, None].expand(-1, 1, len(axes)))).square().sum(2)
            furthest = away.masked_fill(~maskable, 0.0).amax(1, keepdim=True).clamp(min=1e-30)
            # in units of the furthest: what is added for ties is then small, whatever the coordinates are in
            keys.append(away / furthest + bits * (1e-9 / 2**32))  # equally far ones in an order that is drawn
        key = torch.stack(keys, 1)
        among = maskable[:, None].expand_as(key).flatten(0, 1)
        rank, places = dense_rank(key.flatten(0, 1).view(torch.int64), among)
        size = share_of(places.view(key.shape[:2])[:, 0], drawn_share(self.scale, draws("scale")), spare=1)
        return split_ranked(p, rank.view_as(key), size, None, maskable, self.keep, draws)


@strict
@dataclass(kw_only=True)
class Subgraphs:
    """Connected subgraphs as targets, grown from a node that is drawn by one neighbour, drawn, at a time. What is in no
    subgraph is the context. For graphs: the only mask here that reads the links between patches.

    A subgraph has exactly round(n * scale) of a graph's n nodes, at least one, or fewer where its connected component
    has no more. All linked nodes that are not in it are as likely to be next. Graph-JEPA (Skenderi et al. 2023) instead
    cuts a graph into parts of balanced size by METIS, which overlap by one hop, and takes one of them as context.
    """

    targets: int = option(4, min=1, max=1_024, help="target subgraphs")
    scale: list[float] = option(factory=lambda: [0.1, 0.25], above=0, below=1, help="share of a subgraph, range")
    keep: float | None = option(
        None, above=0, max=1, help="share of the nodes that the context has at most; null: all that is left"
    )

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        return {name: self._split(p, name, draws(name)) for name, p in patches.items()}

    def _split(self, p: Patches, name: str, draws: Draws) -> Split:
        if p.links is None:
            raise UserError(f"mask subgraphs: the patches of '{name}' have no links between them")
        maskable = maskable_of(p)
        scale = drawn_share(self.scale, draws("scale"))
        size = share_of(maskable.sum(1), scale, spare=1)
        width = share_width(p.count, scale, spare=1)
        bits = torch.stack([patch_bits(p, draws("target", i)) for i in range(self.targets)], 1)
        rank = grown(p.links, maskable, bits, width)
        return split_ranked(p, rank, size, width if p.fixed is None else None, maskable, self.keep, draws)


def grown(links: Tensor, maskable: Tensor, bits: Tensor, steps: int) -> Tensor:
    """When each node joins each of M sets, which grow by one linked node a step.

    Args:
        links: (B, N, N), read in both directions.
        maskable: (B, N) bool: nodes that may join.
        bits: (B, M, N) random, the largest among the candidates joins.
        steps: how many join a set, at most.

    Returns:
        (B, M, N) int64; `FAR`: not at all.
    """
    joined = (links != 0) & maskable[:, None]
    joined = (joined | joined.transpose(1, 2)).to(torch.float32)
    free = maskable[:, None].expand_as(bits)
    rank = torch.full_like(bits, FAR)
    candidates = free
    for step in range(steps):
        best, pick = bits.masked_fill(~candidates, -1).max(2, keepdim=True)
        rank.scatter_(2, pick, torch.where(best >= 0, step, rank.gather(2, pick)))
        members = rank < FAR
        candidates = (members.to(torch.float32) @ joined > 0) & free & ~members
    return rank
