"""EEG of any montage, rate and unit, as windows of single channels placed on the head.

See README.md in this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.lazy import attributes

from .options import Config, View

if TYPE_CHECKING:
    from .modality import Modality
    from .preprocessor import Preprocessor
    from .sources import windows
else:
    __getattr__ = attributes(__name__, Modality=".modality", Preprocessor=".preprocessor", windows=".sources")

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "View", "windows"]

READS = (
    "EDF, BDF, GDF, FIF, EEGLAB and BrainVision files, WFDB records, .mat"
    ", .npy, a csv a recording, arrays with their channels, rate and unit"
)
NEEDS: dict[str, str] = {"mne": "mmssl[eeg]", "wfdb": "mmssl[ecg]"}
