"""EEG as patches: the `Modality` that knows where electrodes are.

Shapes: B batch, C channels, T samples, n windows of a channel, w samples of a window, N = C * n patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmssl.modality import Inputs, Preprocessor
from mmssl.modality.biosignals.patching import SignalModality
from mmssl.modality.biosignals.spectrum import BAND_FLOOR, band_powers
from mmssl.models.positions import SinCos
from mmssl.patches import Patches

BANDS = (0.5, 4.0, 8.0, 13.0, 20.0, 30.0, 45.0)
"""Hz: delta, theta, alpha, low and high beta, gamma."""
STRETCH = 1.0
"""Seconds of a stretch that a spectrum is taken of."""
STEP = 0.01
"""Metres that count as one step of a position's coordinate: electrodes are some 2 to 6 of them apart."""


class Modality(SignalModality):
    """Every patch is one window of one channel, channel by channel; coordinates (seconds, x, y, z).

    Seconds are those of the window's beginning; x, y, z are metres as in mne's `standard_1005`.
    """

    readouts = ("axis+std", "mean+std")
    coordinates = ("time [s]", "x [m, to the right]", "y [m, to the front]", "z [m, up]")

    def __init__(
        self,
        width: int,
        rate: float,
        window: int,
        channels: int = 0,
        spectrum: Mapping[str, list[float]] | None = None,
        places: Sequence[Sequence[float]] = (),
        tokens: str = "values",
    ) -> None:
        """Make the parameters.

        Args:
            width: D.
            rate: samples a second.
            window: w, samples of a patch.
            channels: how many different ones the data had, which only the raw features use.
            spectrum: mean and std of each bin of a window's log spectrum, for targets and tokens.
            places: of the electrodes of the data it was fitted on, metres, for `cells`.
            tokens: see `SignalModality`.
        """
        super().__init__(rate, window, 1, spectrum, tokens)
        self.channels, self.electrodes = channels, [list(place) for place in places]
        self.make_tokens(width)

    def patchify(self, inputs: Inputs) -> Patches:
        """Channel by channel; a window is a patch where at least half of it was measured."""
        windows = self.windows(inputs)
        batch, channels, n = windows.shape[:3]
        seconds = self.seconds(n, windows.device)[None, None, :, None].expand(batch, channels, -1, -1)
        places = inputs["electrodes"].to(torch.float32)[:, :, None].expand(-1, -1, n, -1)
        coords = torch.cat([seconds, places], 3).flatten(1, 2)
        measured = self.measured(inputs, windows)
        measured = None if measured is None else measured.flatten(1)
        return self.patches(windows.flatten(1, 2), coords, measured, channels, n)

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, w) to {"signal": (B, C, T)} and what else `like` has."""
        return like | {"signal": values.reshape(like["signal"].shape)}

    def axes(self) -> tuple[float, ...]:
        """Time is counted in windows, places in centimetres."""
        return (self.rate / self.window, 1 / STEP, 1 / STEP, 1 / STEP)

    def cells(self, kind: str) -> int:
        """Halves of time; or every electrode that the data had at first, averaged over time."""
        return len(self.electrodes) if kind == "axis" else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """By time; or by the nearest of the electrodes."""
        if kind != "axis":
            return super().cell(kind, patches)
        places = torch.tensor(self.electrodes, device=patches.coords.device)
        return (patches.coords[..., None, 1:] - places).square().sum(-1).argmin(-1)

    def positions(self, width: int) -> nn.Module:
        """Sine-cosine of the window's number and of the place in centimetres."""
        return SinCos(width, 4, scale=self.axes())

    @property
    def raw_width(self) -> int:
        """F of `raw_features`."""
        return max(self.channels, 1) * (len(BANDS) - 1)

    def raw_features(self, inputs: Inputs) -> Tensor:
        """(B, channels * 6) log power of each channel of the data in 6 bands. The floor where a sample lacks one."""
        powers = band_powers(inputs["signal"], self.rate, BANDS, STRETCH)  # (B, C, 6)
        count = max(self.channels, 1)
        out = torch.full((len(powers), count + 1, powers.shape[2]), BAND_FLOOR, device=powers.device).log()
        channel = inputs["channel"]
        place = torch.where((channel >= 0) & (channel < count), channel, count)  # unknown ones into the last, cut off
        out = out.scatter(1, place[..., None].expand_as(powers), powers)
        return out[:, :count].flatten(1)

    def channel_names(self, inputs: Inputs, reader: Preprocessor, row: int) -> list[str]:
        """By their numbers among the channels of the data; those that it never met by their place."""
        known = reader.fitted()["channels"]
        numbers = inputs["channel"][row].tolist()
        return [known[n] if 0 <= n < len(known) else f"channel {i + 1}" for i, n in enumerate(numbers)]
