"""Videos of any frame rate, size and length, as tubelets in space and time.

See README.md in this folder.
"""

from .modality import Modality
from .preprocessor import Config, Preprocessor

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor"]

READS = "MP4, MKV, WebM, AVI, MOV, GIF files or their bytes, folders and lists of pictures, arrays, .npy"
NEEDS: dict[str, str] = {"av": "mmssl[video]"}
