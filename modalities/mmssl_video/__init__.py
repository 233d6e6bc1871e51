"""Videos of any frame rate, size and length, as tubelets in space and time. See README.md in this folder."""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["Config", "Modality", "Preprocessor"]
