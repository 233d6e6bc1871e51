"""Where patches lie: along which axes, in which cells of a sample, and those of a view in the sample it was made of.

A view crops, mirrors and shifts. All of it is drawn by `mmssl.draws.Draws`, whose numbers come out the same when they
are asked for again: a modality says from a view's draws where its patches came from, and nothing needs to be noted when
the view is made. Two views of a sample can so be compared place by place (`mmssl.objectives.dense`).

Shapes: B batch, N patches, K coordinates, A axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..draws import Draws
from ..errors import UserError
from ..patches import Patches, gather
from .inputs import Inputs


@dataclass(frozen=True)
class Places:
    """Where patches lie in the sample as it came, in steps of one of its patches.

    Attributes:
        centre: (B, N, A) float32, the middle of each.
        size: (B, N, A) float32, how far each reaches: 1 where the view is as large as the sample, less in a crop that
            was enlarged.
    """

    centre: Tensor
    size: Tensor

    def take(self, index: Tensor) -> Places:
        """Those of the patches at `index` (B, k) int64; where it is negative any."""
        return Places(gather(self.centre, index), gather(self.size, index))

    def shifted(self, axis: int, by: Tensor) -> Places:
        """Further along an axis, by (B,) steps."""
        centre = self.centre.clone()
        centre[..., axis] += by.to(centre)[:, None]
        return Places(centre, self.size)


def by_coords(patches: Patches, axes: Sequence[float]) -> Places:
    """Places of patches that begin at their coordinates, which are as many steps as `Modality.axes` says."""
    begin = patches.coords[..., : len(axes)].float() * torch.tensor(axes, device=patches.coords.device)
    return Places(begin + 0.5, torch.ones_like(begin))


def by_number(patches: Patches) -> Places:
    """Places of patches that lie on no axis, and that no view puts elsewhere in its row: each is one of its own."""
    number = torch.arange(patches.count, device=patches.coords.device, dtype=torch.float32)
    centre = number.expand(patches.batch, -1)[..., None] + 0.5
    return Places(centre, torch.ones_like(centre))


def together(several: Sequence[Places]) -> Places:
    """The samples of all of them in one batch, padded to the longest."""
    most = max(p.centre.shape[1] for p in several)

    def wide(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(len(x), most - x.shape[1], x.shape[2])], 1)

    return Places(torch.cat([wide(p.centre) for p in several]), torch.cat([wide(p.size) for p in several]))


class Placed:
    """The part of the `Modality` contract that says where patches lie."""

    halved: ClassVar[tuple[int, ...] | None] = None
    """The coordinates that "grid" cuts in halves; None: all that `axes` has."""

    def axes(self) -> tuple[float, ...]:
        """For rotary positions: a factor for each of the first coordinates, which brings it to steps of one patch;
        empty where coordinates are no places. A modality with axes adds `self.position(coords)` in `embed`."""
        return ()

    def cells(self, kind: str) -> int:
        """How many cells the patches lie in, for poolings that keep which patch is which; 0: it has no such cells.

        Args:
            kind: "grid": halves of every axis; "axis": all of one place, whenever; "flat": every patch its own, of
                inputs of the configured size. The contract has the first, for modalities with `axes`.
        """
        return 2 ** len(self._halved()) if kind == "grid" and self.axes() else 0

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """(B, n) int64 the number of the cell that each patch lies in, below `cells(kind)`; of invalid ones any."""
        steps = torch.tensor(self.axes(), device=patches.coords.device)
        place = patches.coords[..., : len(steps)] * steps
        if patches.extent is not None:
            reach = patches.extent[:, None, : len(steps)] * steps
        else:
            reach = place.masked_fill(~patches.valid[..., None], -torch.inf).amax(1, keepdim=True) + 1
        number = torch.zeros(patches.valid.shape, dtype=torch.int64, device=place.device)
        for axis in self._halved():
            number = 2 * number + (2 * place[..., axis] >= reach[..., axis]).long()
        return number

    def _halved(self) -> tuple[int, ...]:
        return tuple(range(len(self.axes()))) if self.halved is None else self.halved

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """Where the patches of a view lie in the sample: `by_coords` or `by_number` where no view moves them.

        Args:
            inputs: the batch as it came, or what was cut for this view (`mmssl.modality.cutting`).
            patches: all patches of the view.
            draws: as `augment` was given them.
            spec: options of the view; none: the batch as it came.

        Raises:
            UserError: the modality does not say; this one has no answer of its own, as a wrong one would not show.
        """
        raise UserError(
            f"{type(self).__module__} does not say where the patches of its views lie in the sample, expected a method "
            "`places` (mmssl.modality.places)"
        )

    @classmethod
    def knows_places(cls) -> bool:
        """Whether it says where the patches of a view lie."""
        return cls.places is not Placed.places
