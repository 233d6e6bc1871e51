"""The toy signals read as ECG, on a grid that can be laid out as a raster; what is NaN says that there are holes."""

from __future__ import annotations

from mmssl.modality import Inputs
from mmssl.patches import Patches
from mmssl_ecg.modality import Modality as ECG

from .signal import Config, Preprocessor

__all__ = ["Config", "Modality", "Preprocessor"]


class Modality(ECG):
    """Inputs of the toy signal have no note of their holes, without which there would be none."""

    def patchify(self, inputs: Inputs) -> Patches:
        return super().patchify(inputs | {"holes": inputs["signal"].isnan().flatten(1).any(1)})
