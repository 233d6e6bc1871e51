"""Images of any size, channel count and bit depth, as patches on a grid.

See README.md in this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.lazy import attributes

from .options import Config, View

if TYPE_CHECKING:
    from .modality import Modality
    from .preprocessor import Preprocessor
else:
    __getattr__ = attributes(__name__, Modality=".modality", Preprocessor=".preprocessor")

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "View"]

READS = "PNG, JPEG, WebP, GIF, BMP, TIFF, PPM files or their bytes (8 and 16 bits), PIL images, arrays, .npy"
NEEDS: dict[str, str] = {}
