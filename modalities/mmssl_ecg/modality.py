"""ECG as patches: the `Modality` that knows leads.

Shapes: B batch, L leads, T samples, n windows, w samples of a window, N patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.modality import Inputs
from mmssl.modality.biosignals.patching import SignalModality
from mmssl.modality.biosignals.spectrum import band_powers
from mmssl.modality.known import Property
from mmssl.models.positions import SinCos
from mmssl.patches import Patches

from .beats import beats_a_minute
from .leads import LEADS

BANDS = (0.5, 1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 18.0, 25.0, 35.0, 50.0)
"""Edges of the bands of the raw features, in Hz: most of an ECG's power lies below 40."""
STRETCH = 2.0
"""Seconds of a stretch that a spectrum is taken of: it resolves 0.5 Hz."""


class Modality(SignalModality):
    """A patch is all leads of a window of time, or one lead of it; seconds are those of the window's beginning.

    patch "time": n patches, each in the order (lead, sample); coordinates (seconds,). patch "lead": L * n patches, lead
    by lead; coordinates (seconds, lead), where the lead is its place in the standard order `mmssl_ecg.leads.LEADS`,
    whatever leads the model has.
    """

    readouts = ("axis+std", "mean+std")
    properties = SignalModality.properties | {"heart_rate": Property("sample", "beats a second, where they are clear")}
    coordinates = ("time [s]", "lead [standard order; where a patch is one lead]")

    def __init__(
        self,
        width: int,
        leads: Sequence[str],
        rate: float,
        window: int,
        patch: str = "time",
        spectrum: Mapping[str, list[float]] | None = None,
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            leads: L names, in standard order.
            rate: samples a second.
            window: w, samples of a patch in time.
            patch: "time" or "lead".
            spectrum: mean and std of each bin of a window's log spectrum, for targets.
        """
        super().__init__(rate, window, len(leads) if patch == "time" else 1, spectrum)
        self.leads, self.patch = list(leads), patch
        self.order = [float(LEADS.index(lead)) for lead in leads]
        self.make_tokens(width)

    def patchify(self, inputs: Inputs) -> Patches:
        """A window is a patch where at least half of it was measured, of all leads in some lead.

        Raises:
            UserError: the signal has other leads than the model, or does not divide into windows.
        """
        windows = self.windows(inputs)
        batch, leads, n = windows.shape[:3]
        if leads != len(self.leads):
            raise UserError(f"signal has {leads} leads, this model has {len(self.leads)}: {', '.join(self.leads)}")
        measured = self.measured(inputs, windows)
        seconds = self.seconds(n, windows.device)
        if self.patch == "time":
            values, coords = windows.transpose(1, 2).flatten(2), seconds[:, None]
            valid = None if measured is None else measured.any(1)
            grid: tuple[int, ...] = (n,)
        else:
            values = windows.flatten(1, 2)
            number = torch.tensor(self.order, device=windows.device)
            place = torch.broadcast_tensors(seconds, number[:, None])
            coords = torch.stack(place, -1).flatten(0, 1)
            valid = None if measured is None else measured.flatten(1)
            grid = (leads, n)
        return self.patches(values, coords.expand(batch, -1, -1), valid, *grid)

    def known(self, name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
        """As the contract has it: (B, 1) the rate of the heart by its autocorrelation (`mmssl_ecg.beats`)."""
        if name != "heart_rate":
            return super().known(name, inputs, patches, seen)
        found = [beats_a_minute(signal, self.rate) for signal in inputs["signal"].float().cpu().numpy()]
        values = [torch.nan if beats is None else beats / 60 for beats in found]
        return torch.tensor(values, device=patches.coords.device)[:, None]

    def tile(self) -> tuple[int, ...]:
        """(leads, samples); of patches of one lead (1, 0, samples)."""
        return (self.rows, self.window) if self.patch == "time" else super().tile()

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"signal": (B, L, T)} and what else `like` has."""
        batch, leads, total = like["signal"].shape
        if self.patch == "time":
            signal = values.reshape(batch, -1, leads, self.window).transpose(1, 2).reshape(batch, leads, total)
        else:
            signal = values.reshape(batch, leads, total)
        return like | {"signal": signal}

    def axes(self) -> tuple[float, ...]:
        """Time is counted in windows, leads by their place in the standard order."""
        window = self.rate / self.window
        return (window,) if self.patch == "time" else (window, 1.0)

    def cells(self, kind: str) -> int:
        """Halves of time; or every lead, averaged over time, where a patch is one lead."""
        return len(self.leads) if kind == "axis" and self.patch == "lead" else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """By time, or by lead."""
        if kind != "axis":
            return super().cell(kind, patches)
        order = torch.tensor(self.order, device=patches.coords.device)
        return (patches.coords[..., 1:] - order).abs().argmin(-1)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of the window's number, and of the lead's."""
        return SinCos(width, len(self.axes()), scale=self.axes())

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, L * 12) for each lead the log power in 10 bands, the log spread and the log of the largest value."""
        signal = inputs["signal"].float()
        there = ~signal.isnan()
        filled = signal.nan_to_num(0.0)
        count = there.sum(2).clamp(min=1)
        spread = (filled.square().sum(2) / count - (filled.sum(2) / count).square()).clamp(min=0).sqrt()
        peak = filled.abs().amax(2)
        sizes = torch.stack([spread, peak], 2).clamp(min=1e-3).log()
        powers = band_powers(signal, self.rate, BANDS, STRETCH)
        return torch.cat([powers, sizes], 2).flatten(1)
