"""The modality contract and the look-up by name; beside it, what several modality packages share.

    contract    `Modality`, `Preprocessor`, and the package of a name
    pixels      images and videos
    biosignals  EEG and ECG

Modality packages do not import each other; what two of them need lives here.
"""

from __future__ import annotations

from .contract import (
    BadSample,
    Batch,
    Inputs,
    MaskToken,
    Modality,
    Preprocessor,
    installed,
    load_modality,
    modality_names,
    select,
)

__all__ = [
    "BadSample",
    "Batch",
    "Inputs",
    "MaskToken",
    "Modality",
    "Preprocessor",
    "installed",
    "load_modality",
    "modality_names",
    "select",
]
