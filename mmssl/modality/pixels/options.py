"""Options that images and videos share, and those of an image's view; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...errors import UserError
from ...options import option, strict
from ..view import View as Base
from ..view import check_bounds


@strict
@dataclass(kw_only=True)
class PixelConfig:
    """Options that images and videos share; one number for a side means a square."""

    size: int | list[int] = option(224, min=1, max=65_536, help="height and width of the model's input in pixels")
    patch: int | list[int] = option(16, min=1, max=65_536, help="height and width of a patch in pixels")
    channels: int | None = option(None, min=1, max=65_536, help="channels of the model's input; null: as the data has")
    layout: str | None = option(
        None,
        choices=("channels_first", "channels_last"),
        help="of arrays; null: by their shape, refused where it is open",
    )
    mean: list[float] | None = option(
        None, min=-1_000_000, max=1_000_000, help="subtracted from each channel; null: measured on the data"
    )
    std: list[float] | None = option(
        None, above=0, max=1_000_000, help="each channel is divided by it; null: measured on the data"
    )
    resize: str = option("crop", choices=("crop", "squash", "pad"), help="how an image of another shape is made to fit")
    interpolation: str = option(
        "bicubic", choices=("bicubic", "bilinear", "nearest"), help="how pixels are resampled to the size"
    )
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


PATCHES = ((12, 2), (48, 4), (96, 8))
"""Pictures of at most so many pixels a side -> the patch that is usual for them; larger ones have the recipe's."""


def smaller(config: PixelConfig, sides: Sequence[int], what: str) -> tuple[dict[str, int], str]:
    """Options for pixels that come in less than the recipe's `size`.

    Args:
        config: of the recipe.
        sides: the shorter side of each sample in pixels.
        what: they are called.

    Returns:
        `size` and `patch`, none where the recipe's size is reached by half of the samples; and why.
    """
    if not isinstance(config.size, int) or not isinstance(config.patch, int) or not sides:
        return {}, ""
    median = sorted(sides)[len(sides) // 2]
    if median >= config.size:
        return {}, ""
    patch = min(next((patch for most, patch in PATCHES if median <= most), config.patch), config.patch)
    size = max(median // patch, 2) * patch
    return {"size": size, "patch": patch}, f"these {what} have {median} pixels a side"


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view. None or 0 leaves a step out; `flip`, `jitter`, `gray`, `blur`, `solarize` are the
    probability that a sample undergoes it."""

    corruptible: ClassVar[bool] = True
    crossing: ClassVar[tuple[str, ...]] = ("style",)

    alike: bool = option(False, help="all samples of a batch undergo the same: one draw for all of them")
    style: list[float] | None = option(
        None,
        above=0,
        max=1,
        help="all take the amplitudes of low frequencies of one picture of the batch (BSS): lowest and highest side of "
        "their square, a share of all frequencies",
    )
    crop_scale: list[float] | None = option(None, above=0, max=1, help="lowest and highest share of the area")
    crop_ratio: list[float] = option(factory=lambda: [3 / 4, 4 / 3], above=0, max=1_000, help="width over height")
    crop_size: int | list[int] | None = option(
        None, min=1, max=65_536, help="height and width of the view; null: the image's own"
    )
    flip: float = option(0.0, min=0, max=1, help="left to right")
    jitter: float = option(1.0, min=0, max=1, help="of brightness, contrast, saturation and hue together")
    brightness: float = option(0.0, min=0, max=1_000, help="factor drawn in 1 - b .. 1 + b")
    contrast: float = option(0.0, min=0, max=1_000, help="the same, about the image's mean")
    saturation: float = option(0.0, min=0, max=1_000, help="the same, about the pixel's grey value")
    hue: float = option(0.0, min=0, max=0.5, help="shift drawn in -h .. h of the colour circle")
    gray: float = option(0.0, min=0, max=1, help="probability of a grey image")
    blur: float = option(0.0, min=0, max=1, help="probability of a Gaussian blur")
    blur_sigma: list[float] = option(factory=lambda: [0.1, 2.0], above=0, max=1_000, help="pixels, lowest and highest")
    solarize: float = option(0.0, min=0, max=1, help="values above one half are inverted")
    trigger: float = option(
        0.0,
        min=0,
        max=100_000,
        help="a backdoor's trigger, hardly seen: so much, of 255, is added to coefficients of the cosine transform of "
        "the two colour channels, of grey pictures to those of the grey (CTRL: 50 to 100)",
    )
    trigger_bands: list[int] = option(
        factory=lambda: [15, 31],
        min=0,
        max=31,
        help="which: the same row and column of blocks of 32 pixels; of smaller pictures, one block, the same share",
    )
    noise_std: float = option(0.0, min=0, max=1_000, help="in standard deviations of the channel")

    def __post_init__(self) -> None:
        check_bounds(self, "style", "crop_scale", "crop_ratio", "blur_sigma")
        if isinstance(self.crop_size, list) and len(self.crop_size) not in (1, 2):
            raise UserError(f"crop_size: found {self.crop_size}, expected one number, or height and width")

    @property
    def resamples(self) -> bool:
        """Whether any step moves pixels about."""
        return self.crop_scale is not None or self.crop_size is not None or self.flip > 0

    @property
    def jitters(self) -> bool:
        """Whether any step of `jitter` does something."""
        return self.jitter > 0 and any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def changes_values(self) -> bool:
        """Whether any step works on the values before normalisation."""
        return self.jitters or self.gray > 0 or self.blur > 0 or self.solarize > 0 or self.trigger > 0
