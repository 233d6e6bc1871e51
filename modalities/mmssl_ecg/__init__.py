"""ECG of 1 to 12 leads and more, in any order, rate and unit, as patches in time.

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

READS = (
    "WFDB records (.hea, .dat), EDF, BDF, GDF, FIF, EEGLAB and BrainVision files, .mat"
    ", .npy, a csv a recording, arrays with their leads, rate and unit"
)
NEEDS: dict[str, str] = {"wfdb": "mmssl[ecg]", "mne": "mmssl[eeg]"}
