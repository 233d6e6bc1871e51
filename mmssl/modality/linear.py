"""A `Modality` whose token is one linear map of a patch's numbers: images, videos, sound, EEG, ECG.

Shapes: B batch, n patches at hand, P numbers in a patch, D width.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..losses.reconstruction import denormalised, normalised_patches, patch_mse
from ..patches import Patches
from .contract import Modality
from .inputs import Inputs
from .mask_token import MaskToken


class LinearPatches(Modality):
    """Tokens by one linear map, as in the Vision Transformer (Dosovitskiy et al. 2021), and targets of its numbers.

    A subclass sets what `numbers` and `positions` need, calls `make_tokens(width)` last in its `__init__`, and
    implements `patchify`, `unpatchify`, `positions`, `raw_features`.
    """

    targets: ClassVar[tuple[str, ...]] = ("normalised", "values")
    local_targets = True
    as_they_are: ClassVar[tuple[str, ...]] = ("values", "pixels", "voltage")
    """Kinds of target that are a patch's values as they are."""

    @property
    def numbers(self) -> int:
        """P: how many numbers a patch has."""
        raise NotImplementedError

    @property
    def shown(self) -> int:
        """How many numbers of a patch its token is made of: P, unless `described` says otherwise."""
        return self.numbers

    def described(self, values: Tensor) -> Tensor:
        """(B, n, shown) what tokens are made of, NaN where it does not exist: the values (B, n, P) as they are."""
        return values

    def make_tokens(self, width: int) -> None:
        """Make the parameters. Their order is that of the random numbers they start from: seeds rest on it."""
        self.proj = nn.Linear(self.shown, width)
        self.mask = MaskToken(width)
        self.position = self.positions(width)

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """A linear map of what describes the patch, where what does not exist counts as 0, the mean, and the
        position."""
        dtype = self.proj.weight.dtype
        tokens = self.proj(self.described(patches.values).nan_to_num(0.0).to(dtype))
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        # under autocast the sum stays float32, as the trunk's residual stream should
        return (tokens + self.position(patches.coords)).to(dtype)

    def pred_width(self, kind: str | None = None) -> int:
        """P."""
        return self.numbers

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n, P) the patch's values as they are; "normalised": less the patch's mean, over its standard deviation.

        As in masked autoencoders (He et al. 2022, https://github.com/facebookresearch/mae, `norm_pix_loss`) and
        Audio-MAE (Huang et al. 2022): unbiased variance plus 1e-6. Elements that do not exist stay NaN and do not
        count.
        """
        return normalised_patches(patches.values) if self.kind(kind) == "normalised" else patches.values

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) mean squared error over the elements of each patch that exist; 0 for a patch without any."""
        self.kind(kind)
        return patch_mse(pred, target)

    def guess(self, pred: Tensor, patches: Patches, kind: str | None = None) -> Tensor | None:
        """Values as they are predicted; "normalised": with the mean and the deviation of the patch itself."""
        kind = self.kind(kind)
        if kind == "normalised":
            return denormalised(pred, patches.values)
        return pred if kind in self.as_they_are else None
