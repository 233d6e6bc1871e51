"""The modality contract and the look-up by name; beside it, what several modality packages share.

    contract    `Modality`, `Preprocessor`, and the package of a name
    view        options of an augmented view
    faults      what is wrong with a recipe's views
    linear      tokens by one linear map of a patch's numbers
    raw         structs of bytes and path, tensors, .npy
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
    with_present,
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
    "with_present",
]
