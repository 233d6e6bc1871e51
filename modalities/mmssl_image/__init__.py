"""Images of any size, channel count and bit depth, as patches on a grid. See README.md in this folder."""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["Config", "Modality", "Preprocessor"]
