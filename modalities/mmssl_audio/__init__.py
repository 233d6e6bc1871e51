"""Sound of any length, rate and channel count, as log-mel patches or frames of the waveform. See README.md here."""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["Config", "Modality", "Preprocessor"]
