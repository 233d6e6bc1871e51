"""Options that images and videos share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UserError
from ...options import option, strict


@strict
@dataclass(kw_only=True)
class PixelConfig:
    """Options that images and videos share; one number for a side means a square."""

    size: int | list[int] = option(224, min=1, help="height and width of the model's input in pixels")
    patch: int | list[int] = option(16, min=1, help="height and width of a patch in pixels")
    channels: int | None = option(None, min=1, help="channels of the model's input; null: as the data has")
    mean: list[float] | None = option(None, help="subtracted from each channel; null: measured on the data")
    std: list[float] | None = option(None, above=0, help="each channel is divided by it; null: measured on the data")
    resize: str = option("crop", choices=("crop", "squash", "pad"), help="how an image of another shape is made to fit")
    interpolation: str = option("bicubic", choices=("bicubic", "bilinear", "nearest"))
    background: int | list[int] = option(255, min=0, max=255, help="0..255, behind transparent pixels and in padding")

    def __post_init__(self) -> None:
        for name in ("size", "patch"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) not in (1, 2):
                raise UserError(f"{name}: found {len(value)} numbers, expected one, or height and width")
        for side, cut, axis in zip(pair(self.size), pair(self.patch), ("height", "width"), strict=True):
            if side % cut:
                raise UserError(f"size: found a {axis} of {side}, expected a multiple of the patch's {cut}")
        if isinstance(self.background, list) and len(self.background) not in (1, 3):
            raise UserError(f"background: found {len(self.background)} numbers, expected 1 or 3")
        counts = {len(v) for v in (self.mean, self.std) if v is not None and len(v) != 1}
        if self.channels is not None:
            counts.add(self.channels)
        if 0 in counts or len(counts) > 1:
            raise UserError("mean, std: expected one number, or one a channel")

    @property
    def behind(self) -> list[int]:
        """`background` as 1 or 3 numbers."""
        return [self.background] if isinstance(self.background, int) else list(self.background)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A side, or [height, width], as (height, width)."""
    sides = [value] if isinstance(value, int) else list(value)
    return sides[0], sides[-1]
