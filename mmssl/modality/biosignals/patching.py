"""Windows of single channels, and the `Modality` base that EEG and ECG share.

Shapes: B batch, C channels, T samples, n windows of a channel, w samples of a window, N patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...draws import Draws
from ...errors import UserError
from ...patches import Patches, places_of
from ..contract import Preprocessor
from ..inputs import Inputs
from ..known import Property
from ..linear import LinearPatches
from ..places import Places, by_coords
from ..shown import Curves, Shown, flags, rows
from .options import View
from .spectrum import bins, log_spectrum, strongest
from .views import augment, stretch_of

ENOUGH_OF_A_PATCH = 0.5
"""A window is a patch where at least this share of it was measured."""


class SignalModality(LinearPatches):
    """Windows of voltage as patches; a subclass says which channels a patch holds and where they are."""

    targets = ("normalised", "voltage", "spectrum")
    properties: ClassVar[dict[str, Property]] = {
        "frequency": Property("sample", "the frequency of most power, in octaves from an eighth of the rate")
    }
    views = View.names()
    corruptible = View.corruptible
    halved = (0,)

    def __init__(
        self,
        rate: float,
        window: int,
        rows: int = 1,
        spectrum: Mapping[str, list[float]] | None = None,
        tokens: str = "values",
    ) -> None:
        """Set what describes the signals; a subclass makes the parameters.

        Args:
            rate: samples a second.
            window: samples of a patch.
            rows: channels in a patch (1: each channel has its own).
            spectrum: mean and std of each bin of a window's log spectrum, which spectra are standardised by (None: as
                they are).
            tokens: "values", "spectrum" or "both": what tokens are made of.
        """
        super().__init__()
        self.moments = {"mean": [0.0], "std": [1.0]} if spectrum is None else dict(spectrum)
        self.rate, self.window, self.rows = float(rate), window, rows
        self.tokens, self.plain = tokens, tokens == "values"

    @property
    def numbers(self) -> int:
        """P = channels * samples of a patch."""
        return self.rows * self.window

    @property
    def shown(self) -> int:
        """P, the bins of each channel's spectrum, or both."""
        spectra = self.rows * bins(self.window)
        return {"values": self.numbers, "spectrum": spectra, "both": self.numbers + spectra}[self.tokens]

    def described(self, values: Tensor) -> Tensor:
        """(B, n, shown) the voltages (B, n, P), the spectra, or both: tokens of spectra are BIOT's (Yang et al. 2023,
        arXiv 2305.10351, https://github.com/ycq091044/BIOT), there of magnitudes."""
        if self.plain:
            return values
        spectra = self.spectra(values, ENOUGH_OF_A_PATCH)
        return spectra if self.tokens == "spectrum" else torch.cat([values, spectra], 2)

    def spectra(self, values: Tensor, least: float = 1.0) -> Tensor:
        """(B, n, rows * bins) log power spectra of each row of the patches (B, n, P), standardised bin by bin with the
        data's moments; NaN for a row of which a smaller share than `least` was measured."""
        mean, std = (torch.tensor(self.moments[key], device=values.device) for key in ("mean", "std"))
        rows = values.unflatten(2, (self.rows, self.window))
        return ((log_spectrum(rows, least) - mean) / std).flatten(2)

    def windows(self, inputs: Inputs) -> Tensor:
        """(B, C, n, w) of "signal" (B, C, T); UserError when it does not divide into windows."""
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

    def patches(self, values: Tensor, coords: Tensor, measured: Tensor | None, *grid: int) -> Patches:
        """Patches of values (B, N, P) at coords (B, N, K), valid where measured (B, N), or everywhere.

        grid: how many channels and windows there are, or windows alone, row by row.
        """
        place = places_of(*grid, device=values.device).expand(values.shape[0], -1, -1)
        if measured is None:
            everywhere = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
            return Patches(values, coords, everywhere, full=True, grid=grid, place=place)
        return Patches(values, coords, measured, grid=grid, place=place)

    def tile(self) -> tuple[int, ...]:
        """(1, 0, samples): channel by channel, whichever there are."""
        return (1, 0, self.window)

    def pred_width(self, kind: str | None = None) -> int:
        """P, or for "spectrum" the bins of each channel's spectrum."""
        return self.rows * bins(self.window) if self.kind(kind) == "spectrum" else self.numbers

    def target(self, inputs: Inputs, patches: Patches, kind: str | None = None) -> Tensor:
        """(B, n, P) the voltages of each patch as they are, or "normalised" by its mean and standard deviation.

        "spectrum": (B, n, rows * bins) the log power spectrum of each of its rows (as EEGFormer predicts spectra, Chen
        et al. 2024), standardised bin by bin with the data's moments. What was not measured is NaN.
        """
        if self.kind(kind) != "spectrum":
            return super().target(inputs, patches, kind)
        return self.spectra(patches.values)

    def known(self, name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
        """(B, 1) the frequency at which all channels together have most power; unknown where nothing was measured."""
        octave, power = strongest(inputs["signal"].float())
        return octave.masked_fill(power <= 0, torch.nan)[:, None]

    def raster(self, inputs: Inputs) -> tuple[Inputs, str, tuple[int, ...]]:
        """Stretches of time, in all channels at once."""
        return inputs, "signal", (2,)

    def augment(self, inputs: Inputs, draws: Draws, **spec: object) -> Inputs:
        """One view of the batch.

        Args:
            inputs: "signal" (B, C, T), and what else describes it.
            draws: random numbers of the B samples.
            spec: options of `mmssl.modality.biosignals.views.View`.

        Raises:
            UserError: an option is wrong, or this rate cannot carry what is added.
        """
        return augment(inputs, draws, View.build(spec), self.rate, self.window)

    def places(self, inputs: Inputs, patches: Patches, draws: Draws, **spec: object) -> Places:
        """By time in windows, and by electrode or lead as `axes` says."""
        start, _, _, moved = stretch_of(inputs["signal"], draws, View.build(spec), self.rate, self.window)
        return by_coords(patches, self.axes()).shifted(0, (start + moved) / self.window)

    def channel_names(self, inputs: Inputs, reader: Preprocessor, row: int) -> list[str]:
        """Of the channels of one sample, for who looks at it."""
        return [str(number + 1) for number in range(inputs["signal"].shape[1])]

    def show(self, inputs: Inputs, reader: Preprocessor, hidden: Inputs | None = None) -> list[Shown | None]:
        """The channels that were measured."""
        found: list[Shown | None] = []
        for row, (there, values) in enumerate(rows(inputs, "signal")):
            some = ~np.isnan(values).all(1)
            mask, names = flags(hidden, "signal", row), self.channel_names(inputs, reader, row)
            kept = [name for name, one in zip(names, some, strict=True) if one]
            part = None if mask is None else mask[some]
            found.append(Curves(values[some], kept, 1 / self.rate, part) if there and kept else None)
        return found
