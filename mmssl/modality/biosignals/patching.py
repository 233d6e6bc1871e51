"""Windows of single channels, and the `Modality` base that EEG and ECG share.

Shapes: B batch, C channels, T samples, n windows of a channel, w samples of a window, N patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...draws import Draws
from ...errors import UserError
from ...losses.reconstruction import normalised_patches, patch_mse
from ...patches import Patches
from .. import contract as base
from ..contract import Inputs, MaskToken
from .spectrum import bins, log_spectrum
from .views import View, augment

ENOUGH_OF_A_PATCH = 0.5
"""A window is a patch where at least this share of it was measured."""


class SignalModality(base.Modality):
    """rate: samples a second; window: samples in a patch; rows: channels in a patch (1: each channel has its own);
    spectrum: mean and std of each bin of a window's log spectrum, which targets are standardised by (null: as it is).
    """

    targets = ("normalised", "voltage", "spectrum")
    views = View.names()
    corruptible = True
    local_targets = True

    def __init__(
        self, width: int, rate: float, window: int, rows: int = 1, spectrum: Mapping[str, list[float]] | None = None
    ) -> None:
        super().__init__()
        self.moments = {"mean": [0.0], "std": [1.0]} if spectrum is None else dict(spectrum)
        self.rate, self.window, self.rows = float(rate), window, rows
        self.proj = nn.Linear(rows * window, width)
        self.mask = MaskToken(width)

    def windows(self, inputs: Inputs) -> Tensor:
        """(B, C, n, w); UserError when the signal does not divide into windows."""
        signal = inputs["signal"].to(torch.float32)
        if signal.ndim != 3 or signal.shape[2] % self.window:
            raise UserError(
                f"signal is {tuple(signal.shape)}, expected (batch, channels, samples) with a multiple of "
                f"{self.window} samples"
            )
        return signal.unflatten(2, (-1, self.window))

    def seconds(self, count: int, device: torch.device) -> Tensor:
        """(count,) when each window begins, in seconds from the beginning of this input."""
        return torch.arange(count, device=device, dtype=torch.float32) * (self.window / self.rate)

    def measured(self, inputs: Inputs, windows: Tensor) -> Tensor | None:
        """(B, C, n) bool: windows with enough samples; None when the host knows that no sample is missing."""
        if "holes" not in inputs and "present" not in inputs:
            return None
        share = (~windows.isnan()).to(torch.float32).mean(-1)
        measured = share >= ENOUGH_OF_A_PATCH
        return measured & inputs["present"][:, None, None] if "present" in inputs else measured

    def embed(self, patches: Patches, hidden: Tensor | None = None) -> Tensor:
        """A linear map of the voltages, where what was not measured counts as 0, and the position."""
        dtype = self.proj.weight.dtype
        tokens = self.proj(patches.values.nan_to_num(0.0).to(dtype))
        if hidden is not None:
            tokens = self.mask(tokens, hidden)
        # under autocast the sum stays float32, as the trunk's residual stream should
        return (tokens + self.position(patches.coords)).to(dtype)  # type: ignore[operator]

    def pred_width(self, kind: str | None = None) -> int:
        return self.rows * (bins(self.window) if self.kind(kind) == "spectrum" else self.window)

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, N, P) the voltages of each patch as they are, "normalised" by its mean and standard deviation, or the log
        power spectrum of each of its rows (as EEGFormer predicts spectra), standardised bin by bin with the data's
        moments. What was not measured is NaN."""
        kind = self.kind(kind)
        values = patches.values
        if kind == "voltage":
            return values
        if kind == "spectrum":
            mean, std = (torch.tensor(self.moments[key], device=values.device) for key in ("mean", "std"))
            return ((log_spectrum(values.unflatten(2, (self.rows, self.window))) - mean) / std).flatten(2)
        return normalised_patches(values)

    def score(self, pred: Tensor, target: Tensor, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n) mean squared error over the elements of each patch that exist; 0 for a patch without any."""
        self.kind(kind)
        return patch_mse(pred, target)

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Stretches of time, in all channels at once."""
        return inputs, "signal", (2,)

    def augment(self, inputs: Inputs, draws: Draws, **spec: Any) -> Inputs:
        """One view of the batch; `spec` holds options of `mmssl.modality.biosignals.views.View`."""
        return augment(inputs, draws, View.build(spec), self.rate, self.window)
