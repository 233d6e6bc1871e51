"""Series as patches: the `Modality` that knows channels by their names.

Shapes: B batch, C channels, T steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmssl.modality import Inputs
from mmssl.modality.biosignals.rows import Rows
from mmssl.modality.biosignals.spectrum import band_powers
from mmssl.models.positions import SinCos

BANDS = 8
"""Of the raw features' spectrum, an octave each below half the rate."""
PARTS = 16
"""Stretches of equal length whose means are raw features: the course of a series."""


class Modality(Rows):
    """A patch is one channel of a window, or all of them; coordinates are the time of the window's beginning in
    seconds (in steps, where the model has no rate), and the channel's number in the model.

    patch "channel": C * n patches, channel by channel (PatchTST, Nie et al. 2023, but in one sequence: a trunk sees all
    channels). patch "time": n patches, each in the order (channel, step).
    """

    targets = ("values", "normalised", "spectrum")
    coordinates = ("time [s, or steps]", "channel [number; where a patch is one channel]")

    def __init__(
        self,
        width: int,
        channels: Sequence[str],
        rate: float,
        window: int,
        patch: str = "channel",
        spectrum: Mapping[str, list[float]] | None = None,
        tokens: str = "values",
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            channels: C names.
            rate: steps a second.
            window: steps of a patch in time.
            patch: "channel" or "time".
            spectrum: mean and std of each bin of a window's log spectrum, for targets and tokens.
            tokens: see `SignalModality`.
        """
        order = [float(number) for number in range(len(channels))]
        super().__init__(channels, order, rate, window, patch == "time", spectrum, tokens)
        self.make_tokens(width)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of the window's number, and of the channel's."""
        return SinCos(width, len(self.axes()), scale=self.axes())

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return len(self.names) * (6 + PARTS + BANDS)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, C * 30): of each channel mean, spread, least, largest, mean change and first value, the means of 16
        stretches, and the log power in 8 octaves; 0 where a sample lacks one."""
        signal = inputs["signal"].float()
        there = ~signal.isnan()
        some = there.any(2, keepdim=True)
        filled, count = signal.nan_to_num(0.0), there.sum(2).clamp(min=1)
        mean = filled.sum(2) / count
        spread = ((filled - mean[..., None]).square() * there).sum(2).div(count).sqrt()
        least = signal.masked_fill(~there, torch.inf).amin(2)
        largest = signal.masked_fill(~there, -torch.inf).amax(2)
        change = signal.diff(dim=2).abs()
        moves = change.nan_to_num(0.0).sum(2) / (~change.isnan()).sum(2).clamp(min=1)
        first = filled.gather(2, there.long().argmax(2, keepdim=True)).squeeze(2)
        told = torch.stack([mean, spread, least, largest, moves, first], 2)
        octaves = [self.rate / 2 ** (BANDS - number) for number in range(BANDS)]
        powers = band_powers(signal, self.rate, [0.0, *octaves], signal.shape[2] / self.rate)
        features = torch.cat([told, _course(signal), powers], 2)
        return features.masked_fill(~some, 0.0).flatten(1)


def _course(signal: Tensor) -> Tensor:
    """(B, C, PARTS) means of stretches of each sample's own length, its last step being the last that is measured in
    any channel; where nothing was measured in one, the channel's mean."""
    batch, channels, total = signal.shape
    there = ~signal.isnan()
    steps = torch.arange(total, device=signal.device)
    length = (there.any(1) * (steps + 1)).amax(1).clamp(min=1)
    part = (steps * PARTS // length[:, None]).clamp(max=PARTS - 1)[:, None].expand(-1, channels, -1)
    zeros = signal.new_zeros(batch, channels, PARTS)
    sums = zeros.scatter_add(2, part, signal.nan_to_num(0.0))
    counts = zeros.scatter_add(2, part, there.float())
    mean = sums.sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp(min=1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), mean)
