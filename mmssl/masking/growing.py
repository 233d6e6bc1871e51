"""Masks whose share of hidden patches grows or shrinks over a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from ..errors import UserError
from ..options import option, strict
from ..schedules import RampConfig


@strict
@dataclass(kw_only=True)
class Growing:
    """What masks with a `ratio` have in common: it may be moved by a factor over the run. How many patches are hidden
    then changes on the way, and shapes with it: a compiled trunk is compiled again for some of them."""

    ratio: Any
    ramp: RampConfig | None = option(None, help="lets the ratio grow or shrink over the run; null: it stays")

    def __post_init__(self) -> None:
        if self.ramp is None:
            return
        shares = _shares(self.ratio)
        for factor, name in ((self.ramp.first, "first"), (self.ramp.last, "last")):
            if not factor or max(shares) * factor >= 1:
                raise UserError(
                    f"ramp.{name}: found {factor:g}, which hides {max(shares) * factor:g} of a sample; expected a "
                    "factor by which ratio is above 0 and below 1"
                )

    def at(self, progress: float, steps: int) -> Self:
        """The mask as it is at `progress` in [0, 1] of a run of so many steps."""
        if self.ramp is None:
            return self
        return replace(self, ratio=_scaled(self.ratio, self.ramp.factor(progress, steps)), ramp=None)


def _shares(ratio: Any) -> list[float]:
    return [*ratio.values()] if isinstance(ratio, dict) else ratio if isinstance(ratio, list) else [ratio]


def _scaled(ratio: Any, factor: float) -> Any:
    if isinstance(ratio, dict):
        return {name: share * factor for name, share in ratio.items()}
    return [share * factor for share in ratio] if isinstance(ratio, list) else ratio * factor


def mask_at(mask: Any, progress: float, steps: int) -> Any:
    """A mask, of anybody's, as it is at `progress` in [0, 1] of a run of so many steps."""
    return mask.at(progress, steps) if hasattr(mask, "at") else mask
