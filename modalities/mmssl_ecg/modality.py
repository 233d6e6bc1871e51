"""ECG as patches: the `Modality` that knows leads.

Shapes: B batch, L leads, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmssl.modality import Inputs
from mmssl.modality.biosignals.rows import Rows
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


class Modality(Rows):
    """A patch is all leads of a window of time, or one lead of it; seconds are those of the window's beginning.

    patch "time": n patches, each in the order (lead, sample); coordinates (seconds,). patch "lead": L * n patches, lead
    by lead; coordinates (seconds, lead), where the lead is its place in the standard order `mmssl_ecg.leads.LEADS`,
    whatever leads the model has.
    """

    noun = "lead"
    properties = Rows.properties | {"heart_rate": Property("sample", "beats a second, where they are clear")}
    coordinates = ("time [s]", "lead [standard order; where a patch is one lead]")

    def __init__(
        self,
        width: int,
        leads: Sequence[str],
        rate: float,
        window: int,
        patch: str = "time",
        spectrum: Mapping[str, list[float]] | None = None,
        tokens: str = "values",
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            leads: L names, in standard order.
            rate: samples a second.
            window: samples of a patch in time.
            patch: "time" or "lead".
            spectrum: mean and std of each bin of a window's log spectrum, for targets and tokens.
            tokens: see `SignalModality`.
        """
        order = [float(LEADS.index(lead)) for lead in leads]
        super().__init__(leads, order, rate, window, patch == "time", spectrum, tokens)
        self.make_tokens(width)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of the window's number, and of the lead's."""
        return SinCos(width, len(self.axes()), scale=self.axes())

    def known(self, name: str, inputs: Inputs, patches: Patches, seen: Patches) -> Tensor:
        """As the contract has it: (B, 1) the rate of the heart by its autocorrelation (`mmssl_ecg.beats`)."""
        if name != "heart_rate":
            return super().known(name, inputs, patches, seen)
        found = [beats_a_minute(signal, self.rate) for signal in inputs["signal"].float().cpu().numpy()]
        values = [torch.nan if beats is None else beats / 60 for beats in found]
        return torch.tensor(values, device=patches.coords.device)[:, None]

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return len(self.names) * (len(BANDS) + 1)

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
