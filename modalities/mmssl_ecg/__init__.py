"""ECG of 1 to 12 leads and more, in any order, rate and unit, as patches in time.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor"]

READS = "WFDB records (.hea, .dat), arrays with their leads, rate and unit, .npy"
NEEDS: dict[str, str] = {"wfdb": "mmssl[ecg]"}
