"""The modality contract and the look-up by name; beside it, what several modality packages share.

    contract    `Modality`, `Preprocessor`
    inputs      the tensors that a model is given
    lookup      the package of a name, without torch
    view        options of an augmented view
    cutting     views that are cut out of a sample while its row is read
    known       what is known of samples without labels
    shown       what people can look at of a sample
    places      where patches lie, those of a view in the sample that it was made of
    faults      what is wrong with a recipe's views
    linear      tokens by one linear map of a patch's numbers
    raw         structs of bytes and path, tensors, .npy
    pixels      images and videos
    biosignals  EEG and ECG

Modality packages do not import each other; what two of them need lives here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BadSample
from ..lazy import attributes
from .faults import name_fault
from .lookup import (
    crossing_views,
    installed,
    load_modality,
    modality_config,
    modality_names,
    modality_package,
    view_kinds,
    view_options,
)

if TYPE_CHECKING:
    from .contract import Modality, Preprocessor
    from .inputs import Batch, Inputs, with_present
    from .mask_token import MaskToken
    from .raw import select
else:
    __getattr__ = attributes(
        __name__,
        **dict.fromkeys(("Modality", "Preprocessor"), ".contract"),
        **dict.fromkeys(("Batch", "Inputs", "with_present"), ".inputs"),
        MaskToken=".mask_token",
        select=".raw",
    )

__all__ = [
    "BadSample",
    "Batch",
    "Inputs",
    "MaskToken",
    "Modality",
    "Preprocessor",
    "crossing_views",
    "installed",
    "load_modality",
    "modality_config",
    "modality_names",
    "modality_package",
    "name_fault",
    "select",
    "view_kinds",
    "view_options",
    "with_present",
]
