"""EEG of any montage, rate and unit, as windows of single channels placed on the head.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor
from .sources import windows

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "windows"]

READS = "EDF, BDF, GDF, FIF, EEGLAB and BrainVision files, arrays with their channels, rate and unit, .npy"
NEEDS: dict[str, str] = {"mne": "mmssl[eeg]"}
