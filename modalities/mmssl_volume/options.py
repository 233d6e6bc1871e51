"""Options of the volume modality, and of their views, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmssl.errors import UserError
from mmssl.modality.channels import check_channels
from mmssl.modality.view import View as Base
from mmssl.modality.view import check_bounds
from mmssl.options import option, strict

AXES = ("slices", "rows", "columns")
Three = tuple[int, int, int]


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for volumes; one number for a side means a cube, a list slices, rows and columns."""

    size: int | list[int] = option(64, min=1, max=4096, help="slices, rows and columns of the model's input, in voxels")
    patch: int | list[int] = option(8, min=1, max=4096, help="slices, rows and columns of a patch, in voxels")
    spacing: float | list[float] | None = option(
        None,
        above=0,
        max=1_000_000,
        help="mm from one voxel of the model's input to the next, which volumes are resampled to, and cut or padded "
        "about their middle; null: each volume fills the input, as `resize` says",
    )
    resize: str = option(
        "pad",
        choices=("pad", "crop", "squash"),
        help="without spacing, how a volume of another shape is made to fit; pad and crop keep its proportions in mm",
    )
    channels: list[str] | None = option(None, help="channels of the model, in order; null: those that the data has")
    source_channels: list[str] | None = option(None, help="channels, in order, of volumes that do not name theirs")
    unknown: str = option(
        "refuse", choices=("refuse", "drop"), help="what is done with a channel that the model has not"
    )
    layout: str | None = option(
        None,
        choices=("channels_first", "channels_last"),
        help="of arrays of four axes; null: by their shape, refused where it is open",
    )
    intensity: list[float] | None = option(
        None, min=-1e9, max=1e9, help="lowest and highest value, others are set to them: of CT in HU; null: all count"
    )
    normalise: str = option(
        "volume",
        choices=("volume", "data", "none"),
        help="whose mean and spread each channel is brought to 0 and 1 by: those of each volume above its least value "
        "(MRI, whose scale means nothing), or those of the data (CT)",
    )
    clip: float | None = option(10.0, above=0, max=1_000_000, help="largest absolute value after that; null: no limit")

    def __post_init__(self) -> None:
        for key in ("size", "patch", "spacing"):
            value = getattr(self, key)
            if isinstance(value, list) and len(value) not in (1, 3):
                raise UserError(f"{key}: found {len(value)} numbers, expected one, or slices, rows and columns")
        for side, cut, axis in zip(three(self.size), three(self.patch), AXES, strict=True):
            if side % cut:
                raise UserError(f"size: found {side} {axis}, expected a multiple of the patch's {cut}")
        check_channels(self.channels, self.source_channels)
        if self.intensity is not None and (len(self.intensity) != 2 or not self.intensity[0] < self.intensity[1]):
            raise UserError(f"intensity: found {self.intensity}, expected [lowest, highest]")

    @property
    def step(self) -> tuple[float, float, float] | None:
        """`spacing` along slices, rows and columns."""
        if self.spacing is None:
            return None
        sides = self.spacing if isinstance(self.spacing, list) else [self.spacing]
        return sides[0], sides[len(sides) // 2], sides[-1]


def three(value: int | Sequence[int]) -> Three:
    """A side, or [slices, rows, columns], as (slices, rows, columns)."""
    sides = [value] if isinstance(value, int) else list(value)
    return sides[0], sides[len(sides) // 2], sides[-1]


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view. None or 0 leaves a step out. Order: turn, crop, flip, blur, gain, shift, noise,
    drop."""

    corruptible: ClassVar[bool] = True

    rotate: float = option(0.0, min=0, max=180, help="degrees about each of the three axes, at most")
    crop_scale: list[float] | None = option(None, above=0, max=1, help="lowest and highest share of the volume")
    crop_ratio: list[float] = option(
        factory=lambda: [3 / 4, 4 / 3], above=0, max=1_000, help="of each side to what a crop of equal shape would have"
    )
    crop_size: int | list[int] | None = option(
        None, min=1, max=4096, help="slices, rows and columns of the view; null: the volume's own"
    )
    flip: float | list[float] = option(
        0.0, min=0, max=1, help="probability for each of slices, rows and columns; one number: columns, left to right"
    )
    blur: float = option(0.0, min=0, max=1, help="probability of a Gaussian blur")
    blur_sigma: list[float] = option(factory=lambda: [0.3, 1.5], above=0, max=1_000, help="voxels, lowest and highest")
    gain: float = option(0.0, min=0, max=1_000, help="factor of each channel drawn in 1 - g .. 1 + g")
    shift: float = option(0.0, min=0, max=1_000, help="added to each channel, drawn in -s .. s standard deviations")
    noise_std: float = option(0.0, min=0, max=1_000, help="in standard deviations of the channel")
    drop: float = option(0.0, min=0, max=1, help="probability that a channel is missing; one always stays")

    def __post_init__(self) -> None:
        check_bounds(self, "crop_scale", "crop_ratio", "blur_sigma")
        if isinstance(self.crop_size, list) and len(self.crop_size) not in (1, 3):
            raise UserError(f"crop_size: found {self.crop_size}, expected one number, or slices, rows and columns")
        if isinstance(self.flip, list) and len(self.flip) != 3:
            raise UserError(f"flip: found {len(self.flip)} numbers, expected one, or slices, rows and columns")

    @property
    def flips(self) -> tuple[float, float, float]:
        """`flip` along slices, rows and columns."""
        return (0.0, 0.0, self.flip) if not isinstance(self.flip, list) else (self.flip[0], self.flip[1], self.flip[2])

    @property
    def resamples(self) -> bool:
        """Whether any step moves voxels along the axes."""
        return self.crop_scale is not None or self.crop_size is not None or any(self.flips)
