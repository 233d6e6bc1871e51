"""`Codes`: what gives a modality's patches ids, kept with the model. Shapes: B batch, N patches, F numbers, C books."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..modality import Batch, Inputs
from ..patches import Patches
from .quantisers import make_quantiser

if TYPE_CHECKING:
    from .modeling_mmssl import MMSSLModel


class Codes(nn.Module):
    """Ids of the patches of one modality: of its own targets (pixels, mel frames, spectra), or of a tower's tokens.

    Nothing in it is trained once it belongs to a model. `spec`, which stands in `config.json` (JSON values):

    - `modality`: its name
    - `of`: `target` or `tokens`
    - `target`: the kind of target, None: the modality's first
    - `layer`: the tower's block whose tokens are coded, None: its output
    - `width`: numbers that a linear map brings them to before they are coded, None: as they are
    - `numbers`: how many there are before it
    - `kind`, `size`, `books`, `levels`: of the quantiser (`mmssl.models.quantisers`)
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self.spec = dict(spec)
        width = spec["width"]
        self.inward = nn.Identity() if width is None else nn.Linear(spec["numbers"], width)
        self.quantiser = make_quantiser(spec, spec["numbers"] if width is None else width)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each of the C books."""
        return self.quantiser.sizes

    @torch.no_grad()
    def features(self, model: MMSSLModel, inputs: Inputs, patches: Patches) -> Tensor:
        """(B, N, F) float32 of all patches of a modality, before the linear map: what is coded. A target's numbers
        that do not exist count as 0.

        Args:
            model: whose modality and tower it is of.
            inputs: of the modality.
            patches: what they are cut into.
        """
        name, kind = self.spec["modality"], self.spec["target"]
        if self.spec["of"] == "target":
            return flat(model.modality(name).target(inputs, patches, kind))
        tower = model.tower(model.tower_of(name))
        layer = self.spec["layer"]
        # ids are labels: they must not depend on the precision that a run trains in
        with torch.autocast(patches.values.device.type, enabled=False):
            encoded = tower({name: patches}, layers=() if layer is None else (layer,))
        return (encoded.tokens[name] if layer is None else encoded.layers[layer][name]).float()

    @torch.no_grad()
    def ids(self, features: Tensor, valid: Tensor) -> Tensor:
        """(B, N, C) int64 of `features` (B, N, F), -1 where a patch is not `valid` (B, N)."""
        with torch.autocast(features.device.type, enabled=False):
            found = self.quantiser.ids(self.inward(features.flatten(0, 1)))
        return found.unflatten(0, features.shape[:2]).masked_fill(~valid[..., None], -1)


def flat(target: Tensor) -> Tensor:
    """(B, N, F) float32 of a modality's target (B, N, ...), 0 where a number does not exist."""
    return target.flatten(2).float().nan_to_num(0.0)


def code_ids(model: MMSSLModel, batch: Batch) -> dict[str, Tensor]:
    """Name of a model's codes -> (B, N, C) int64 ids of the patches in the batch, -1 where there is none.

    Codes of modalities that are not in the batch are left out.
    """
    found = {}
    for key, codes in model.codes.items():
        assert isinstance(codes, Codes)
        name = codes.spec["modality"]
        if name in batch:
            patches = model.modality(name).patchify(batch[name])
            found[key] = codes.ids(codes.features(model, batch[name], patches), patches.valid)
    return found
