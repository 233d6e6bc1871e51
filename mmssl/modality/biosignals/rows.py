"""Named channels whose order is known as patches of all of them, or of one: what ECG and other series share.

Shapes: B batch, C channels, T samples, n windows, w samples of a window, N patches, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import UserError
from ...patches import Patches
from ..contract import Preprocessor
from ..inputs import Inputs
from .patching import SignalModality


class Rows(SignalModality):
    """A patch is all channels of a window of time, or one channel of it; seconds are those of the window's beginning.

    Together: n patches, each in the order (channel, sample); coordinates (seconds,). Else C * n patches, channel by
    channel; coordinates (seconds, place), where the place is the channel's number in an order of them all.
    """

    readouts = ("axis+std", "mean+std")
    noun: ClassVar[str] = "channel"
    """What a channel is called, for messages."""

    def __init__(
        self,
        names: Sequence[str],
        order: Sequence[float],
        rate: float,
        window: int,
        together: bool,
        spectrum: Mapping[str, list[float]] | None = None,
        tokens: str = "values",
    ) -> None:
        """Set what describes the channels; a subclass makes the parameters and has `positions`.

        Args:
            names: of the C channels.
            order: the place of each.
            rate: samples a second.
            window: w, samples of a patch in time.
            together: whether a patch holds all channels.
            spectrum, tokens: see `SignalModality`.
        """
        super().__init__(rate, window, len(names) if together else 1, spectrum, tokens)
        self.names, self.order, self.together = list(names), list(order), together

    def patchify(self, inputs: Inputs) -> Patches:
        """A window is a patch where at least half of it was measured, of all channels in some channel.

        Raises:
            UserError: the signal has other channels than the model, or does not divide into windows.
        """
        windows = self.windows(inputs)
        batch, channels, n = windows.shape[:3]
        if channels != len(self.names):
            raise UserError(
                f"signal has {channels} {self.noun}s, this model has {len(self.names)}: {', '.join(self.names)}"
            )
        measured = self.measured(inputs, windows)
        seconds = self.seconds(n, windows.device)
        if self.together:
            values, coords = windows.transpose(1, 2).flatten(2), seconds[:, None]
            valid = None if measured is None else measured.any(1)
            grid: tuple[int, ...] = (n,)
        else:
            values = windows.flatten(1, 2)
            number = torch.tensor(self.order, device=windows.device)
            place = torch.broadcast_tensors(seconds, number[:, None])
            coords = torch.stack(place, -1).flatten(0, 1)
            valid = None if measured is None else measured.flatten(1)
            grid = (channels, n)
        return self.patches(values, coords.expand(batch, -1, -1), valid, *grid)

    def tile(self) -> tuple[int, ...]:
        """(channels, samples); of patches of one channel (1, 0, samples)."""
        return (self.rows, self.window) if self.together else super().tile()

    def unpatchify(self, values: Tensor, like: Inputs) -> Inputs:
        """values (B, N, P) to {"signal": (B, C, T)} and what else `like` has."""
        batch, channels, total = like["signal"].shape
        if self.together:
            signal = values.reshape(batch, -1, channels, self.window).transpose(1, 2).reshape(batch, channels, total)
        else:
            signal = values.reshape(batch, channels, total)
        return like | {"signal": signal}

    def axes(self) -> tuple[float, ...]:
        """Time is counted in windows, channels by their place."""
        window = self.rate / self.window
        return (window,) if self.together else (window, 1.0)

    def cells(self, kind: str) -> int:
        """Halves of time; or every channel, averaged over time, where a patch is one channel."""
        return len(self.names) if kind == "axis" and not self.together else super().cells(kind)

    def cell(self, kind: str, patches: Patches) -> Tensor:
        """By time, or by channel."""
        if kind != "axis":
            return super().cell(kind, patches)
        order = torch.tensor(self.order, device=patches.coords.device)
        return (patches.coords[..., 1:] - order).abs().argmin(-1)

    def channel_names(self, inputs: Inputs, reader: Preprocessor, row: int) -> list[str]:
        """The model's."""
        return self.names
