"""Sound of any length, rate and channel count, as log-mel patches or frames of the waveform.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor"]

READS = "WAV, FLAC, OGG, MP3, AIFF, the sound of videos, arrays with their rate, .npy"
NEEDS: dict[str, str] = {"soundfile": "mmssl[audio]", "av": "mmssl[video]"}
