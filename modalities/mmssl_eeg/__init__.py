"""EEG of any montage, rate and unit, as windows of single channels placed on the head. See README.md in this folder."""

from .modality import Modality
from .preprocessor import Config, Preprocessor
from .sources import windows

__all__ = ["Config", "Modality", "Preprocessor", "windows"]
