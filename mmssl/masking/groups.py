"""Masks of whole groups of patches: those that agree in some of their coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..draws import Draws
from ..options import option, strict
from ..patches import Patches, Split
from .growing import Growing
from .splits import axis_of, coordinate_bits, hidden_counts, last_ones, ratio_of, rising, split_groups

if TYPE_CHECKING:
    from torch import Tensor


def hide_equal(patches: Patches, axes: list[int], ratio: float, draws: Draws) -> Split:
    """Hide `ratio` of the groups that agree in the coordinates `axes`, drawn uniformly."""
    return split_groups(patches, coordinate_bits(patches.coords[:, :, axes], draws), last_ones(ratio))


@strict
@dataclass(kw_only=True)
class Tube(Growing):
    """The same places hidden at all times (VideoMAE, Tong et al. 2022): in no frame can a neighbour in time tell what
    is there. A place is given by all coordinates but the time; `ratio` is the share of a sample's places. Any set of so
    many places is as likely, as in VideoMAE's permutation of them."""

    ratio: float | dict[str, float] = option(0.9, min=0, below=1, help="share of places hidden; or one a modality")
    time: int = option(0, min=0, max=16, help="which coordinate is the time")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = ratio_of(self.ratio, name)
            if ratio is not None:
                time = axis_of(self.time, p, name, type(self).__name__, "time")
                axes = [axis for axis in range(p.coords.shape[2]) if axis != time]
                out[name] = hide_equal(p, axes, ratio, draws(name))
        return out


@strict
@dataclass(kw_only=True)
class Channel(Tube):
    """Whole channels, leads or electrodes hidden at all times: what `tube` does, under the name that signals have for
    it, and with half of them hidden instead of nine tenths, because sensors are few."""

    ratio: float | dict[str, float] = option(0.5, min=0, below=1, help="share of channels hidden; or one a modality")


@strict
@dataclass(kw_only=True)
class Whole(Growing):
    """Whole groups of patches hidden: all that agree in the coordinates `axes`. Words of text (`axes: [1]`, where a
    word is several tokens; whole word masking, Cui et al. 2019), frequency bands of audio (`axes: [1]`), rows of an
    image (`axes: [0]`). `ratio` is the share of a sample's groups, exactly."""

    ratio: float | dict[str, float] = option(0.15, min=0, below=1, help="share of groups hidden; or one a modality")
    axes: list[int] = option(
        factory=lambda: [1], min=0, max=16, help="coordinates that the patches of a group have in common"
    )

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = ratio_of(self.ratio, name)
            if ratio is not None:
                axes = [axis_of(axis, p, name, "whole", "axes") for axis in self.axes]
                out[name] = hide_equal(p, axes, ratio, draws(name))
        return out


@strict
@dataclass(kw_only=True)
class Temporal(Growing):
    """Whole times hidden, to be told from the times around them (Orhan et al. 2024 judge video models by it).

    choose: `random` hides times independently; `run` one run of neighbouring times somewhere between the first and
    the last, which stay visible, so that it is interpolated.
    """

    ratio: float | dict[str, float] = option(0.5, min=0, below=1, help="share of times hidden; or one a modality")
    choose: str = option(
        "random", choices=("random", "run"), help="times by themselves, or one run of neighbouring ones"
    )
    time: int = option(0, min=0, max=16, help="which coordinate is the time")

    def __call__(self, patches: dict[str, Patches], draws: Draws) -> dict[str, Split]:
        out = {}
        for name, p in patches.items():
            ratio = ratio_of(self.ratio, name)
            if ratio is not None:
                axis = axis_of(self.time, p, name, "temporal", "time")
                if self.choose == "random":
                    out[name] = hide_equal(p, [axis], ratio, draws(name))
                else:
                    out[name] = split_groups(p, rising(p.coords[:, :, axis]), self._run(ratio, draws(name)))
        return out

    @staticmethod
    def _run(ratio: float, draws: Draws) -> Callable[[Tensor, Tensor], Tensor]:
        def hidden(rank: Tensor, groups: Tensor) -> Tensor:
            length = hidden_counts(groups, ratio).minimum((groups - 2).clamp(min=0))
            start = 1 + (draws.bits() * (groups - 1 - length).clamp(min=1) >> 32)
            return (rank >= start[:, None]) & (rank < (start + length)[:, None])

        return hidden
