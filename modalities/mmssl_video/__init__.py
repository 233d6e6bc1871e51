"""Videos of any frame rate, size and length, as tubelets in space and time.

See README.md in this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.lazy import attributes

from .options import ClipView as View
from .options import Config

if TYPE_CHECKING:
    from .modality import Modality
    from .preprocessor import Preprocessor
else:
    __getattr__ = attributes(__name__, Modality=".modality", Preprocessor=".preprocessor")

__all__ = ["NEEDS", "READS", "Config", "Modality", "Preprocessor", "View"]

READS = "MP4, MKV, WebM, AVI, MOV, GIF files or their bytes, folders and lists of pictures, arrays, .npy"
NEEDS: dict[str, str] = {"av": "mmssl[video]"}
