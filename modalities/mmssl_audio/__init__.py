"""Sound of any length, rate and channel count, as log-mel patches or frames of the waveform.

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

READS = "WAV, FLAC, OGG, MP3, AIFF, the sound of videos, arrays with their rate, .npy"
NEEDS: dict[str, str] = {"soundfile": "mmssl[audio]", "av": "mmssl[video]"}
