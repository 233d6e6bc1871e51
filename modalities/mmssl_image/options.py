"""Options of the image modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.modality.pixels.options import PixelConfig, View
from mmssl.options import option, strict

__all__ = ["Config", "View"]


@strict
@dataclass(kw_only=True)
class Config(PixelConfig):
    """What a recipe may set for images; one number for a side means a square."""

    positions: str = option(
        "sincos", choices=("sincos", "learned"), help="fixed sines and cosines of row and column, or a learned table"
    )
