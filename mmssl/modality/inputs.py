"""What a model is given: tensors by modality.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
"""One modality's tensors, collated and padded; optional "present" (B,) bool says which samples have it."""
Batch = dict[str, Inputs]
"""Modality -> inputs: always every modality of the recipe, absent ones as all-invalid rows."""


def with_present(inputs: Inputs, samples: Sequence[object | None]) -> Inputs:
    """`inputs` with "present" (B,) bool where some of the samples are absent (None).

    It is left out where all are there: the host then knows so without asking the device.
    """
    present = torch.tensor([sample is not None for sample in samples], dtype=torch.bool)
    return inputs if bool(present.all()) else inputs | {"present": present}
