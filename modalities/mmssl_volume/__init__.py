"""Volumes: three-dimensional arrays of one channel or several, as MRI, CT, PET and microscopes give them.

See README.md in this folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl.lazy import attributes

from .options import Config, View

if TYPE_CHECKING:
    from .modality import Modality
    from .preprocessor import Preprocessor
    from .sources import open_rows
else:
    __getattr__ = attributes(__name__, Modality=".modality", Preprocessor=".preprocessor", open_rows=".sources")

__all__ = ["NEEDS", "READS", "SLICES", "Config", "Modality", "Preprocessor", "View", "open_rows"]

READS = (
    "NIfTI (.nii, .nii.gz), FreeSurfer (.mgh, .mgz), .npy, arrays with their spacing, lists of slices, "
    "volume:FOLDER of folders of slices, or of slabs"
)
NEEDS: dict[str, str] = {"nibabel": "mmssl[volume]"}
SLICES = "image"
"""Encoders of pictures can see its slices, which lie in a patch each."""
