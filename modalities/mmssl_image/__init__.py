"""Images of any size, channel count and bit depth, as patches on a grid.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor"]

READS = "PNG, JPEG, WebP, GIF, BMP, TIFF, PPM files or their bytes (8 and 16 bits), PIL images, arrays, .npy"
NEEDS: dict[str, str] = {}
