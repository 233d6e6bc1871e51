"""Options of the video modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.errors import UserError
from mmssl.modality.pixels.options import PixelConfig, View
from mmssl.modality.view import check_bounds
from mmssl.options import option, strict


@strict
@dataclass(kw_only=True)
class Config(PixelConfig):
    """What a recipe may set for videos; one number for a side means a square."""

    frames: int = option(16, min=1, max=65_536, help="frames of a clip, at most; shorter videos give fewer")
    fps: float | None = option(
        8.0, above=0, max=1_000, help="frames a second, whatever the file has; null: each as it comes"
    )
    tubelet: int = option(2, min=1, max=65_536, help="frames of a patch")
    resize: str = option("crop", choices=("crop", "squash", "pad"), help="how frames of another shape are made to fit")
    margin: float = option(
        1.0, min=1, max=1_000, help="of resize: crop: frames cover so many times the size before it is cut out"
    )
    interpolation: str = option(
        "bilinear", choices=("bicubic", "bilinear", "nearest"), help="how frames are resampled to the size"
    )
    background: int | list[int] = option(0, min=0, max=255, help="0..255, behind transparent pixels and in padding")
    positions: str = option("sincos", choices=("sincos", "index"), help="of time, row, column; or number")
    default_fps: float = option(
        25.0, above=0, max=1_000, help="of frame folders, lists and arrays that come without a rate"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames % self.tubelet:
            raise UserError(f"frames: found {self.frames}, expected a multiple of the tubelet's {self.tubelet}")


@strict
@dataclass(kw_only=True)
class ClipView(View):
    """The options of an image's view, and those of time."""

    frames: int | None = option(
        None, min=1, max=65_536, help="frames of the view, from anywhere in the clip; null: all"
    )
    stride: list[int] = option(
        factory=lambda: [1, 1], min=1, max=65_536, help="lowest and highest step between frames: the pace"
    )
    time_jitter: int = option(0, min=0, max=65_536, help="frames by which each one may be replaced by a neighbour")
    reverse: float = option(0.0, min=0, max=1, help="probability that a clip runs backwards")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, "stride")

    @property
    def retimes(self) -> bool:
        """Whether any step chooses frames."""
        return self.frames is not None or self.stride[1] > 1 or self.time_jitter > 0 or self.reverse > 0

    @property
    def changes_pixels(self) -> bool:
        """Whether any step works on the frames themselves."""
        return self.style is not None or self.resamples or self.changes_values or self.noise_std > 0
