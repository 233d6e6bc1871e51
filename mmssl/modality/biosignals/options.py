"""Options that EEG and ECG share, and those of their views; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import UserError
from ...options import option, strict
from ..view import View as Base
from ..view import check_bounds

LAYOUTS = ("channels_first", "channels_last")
"""Which axis of an array of two holds the channels."""
TOKENS = ("values", "spectrum", "both")
"""What a token is made of."""
TOKENS_HELP = "what a token is made of: the values of its window, their log power spectrum, or both side by side"


@strict
@dataclass(kw_only=True)
class SignalConfig:
    """Options that EEG and ECG share."""

    rate: float = option(
        100.0, above=0, max=1_000_000, help="samples a second of the model's input; recordings are resampled to it"
    )
    seconds: float | None = option(
        10.0, above=0, max=1_000_000, help="the longest window taken of a recording; null: all of it"
    )
    window: float = option(1.0, above=0, max=1_000_000, help="seconds in a patch")
    tokens: str = option("values", choices=TOKENS, help=TOKENS_HELP)
    source_rate: float | None = option(
        None, above=0, max=1_000_000, help="rate of recordings that do not say their own"
    )
    source_unit: str = option("mV", choices=("V", "mV", "uV", "nV"), help="unit of those that do not say their own")
    source_channels: list[str] | None = option(None, help="channels, in order, of those that do not name theirs")
    layout: str | None = option(None, choices=LAYOUTS, help="of arrays; null: by their shape, refused where it is open")
    aliases: dict[str, str] = option(factory=dict, help="name of a channel in the data -> the name it has here")
    bad: list[str] = option(factory=list, help="channels to leave out, beside those that a file marks as bad")
    highpass: float | None = option(None, above=0, max=1_000_000, help="Hz; null: none")
    lowpass: float | None = option(None, above=0, max=1_000_000, help="Hz; null: none")
    notch: float | None = option(None, above=0, max=1_000_000, help="mains frequency to take out, Hz; null: none")
    normalise: str = option("data", choices=("data", "recording", "channel"), help="whose spread divides signals")
    clip: float | None = option(20.0, above=0, max=1_000_000, help="largest absolute value after that; null: no limit")
    plausible: list[float] = option(
        factory=lambda: [0.0, 1e12], min=0, max=1_000_000, help="typical amplitude, least and most"
    )

    def __post_init__(self) -> None:
        samples = self.window * self.rate
        if round(samples) < 2 or abs(samples - round(samples)) > 1e-6:
            raise UserError(
                f"window: found {self.window:g} s at {self.rate:g} Hz = {samples:g} samples, expected a whole number "
                f">= 2"
            )
        if self.seconds is not None and self.seconds < self.window:
            raise UserError(f"seconds: found {self.seconds:g}, expected at least one window of {self.window:g}")
        if self.highpass is not None and self.lowpass is not None and self.highpass >= self.lowpass:
            raise UserError(f"highpass: found {self.highpass:g} Hz, expected less than lowpass = {self.lowpass:g} Hz")
        if len(self.plausible) != 2 or self.plausible[0] > self.plausible[1]:
            raise UserError(f"plausible: found {self.plausible}, expected [least, most]")


@strict
@dataclass(kw_only=True)
class View(Base):
    """Options of one kind of view; None or 0 leaves a step out."""

    corruptible: ClassVar[bool] = True

    crop: list[float] | None = option(None, above=0, max=1, help="lowest and highest share of the batch's length kept")
    shift: float = option(0.0, min=0, max=1_000, help="seconds, drawn in -s .. s; what is shifted in was not measured")
    flip: float = option(0.0, min=0, max=1, help="probability that the polarity is inverted")
    amplitude: float = option(0.0, min=0, max=1_000, help="factor drawn in 1 / (1 + a) .. 1 + a, one a sample")
    gain: float = option(0.0, min=0, max=1_000, help="the same, one a channel")
    bandstop: float = option(0.0, min=0, max=1, help="probability that a band is taken out")
    bandstop_hz: list[float] = option(
        factory=lambda: [1.0, 40.0], above=0, max=1_000_000, help="where the middle of the band lies"
    )
    bandstop_width: float = option(5.0, above=0, max=1_000, help="width of that band, Hz")
    wander: float = option(0.0, min=0, max=1_000, help="largest size of a slow drift, its own in every channel")
    powerline: float = option(0.0, min=0, max=1_000, help="largest size of hum, its own in every channel")
    powerline_hz: float = option(50.0, above=0, max=1_000_000, help="frequency of the mains, 50 or 60 Hz")
    noise: float = option(0.0, min=0, max=1_000, help="largest standard deviation of white noise")
    drop: float = option(0.0, min=0, below=1, help="probability that a channel is missing; one is always left")

    def __post_init__(self) -> None:
        check_bounds(self, "crop", "bandstop_hz")

    @property
    def makes_holes(self) -> bool:
        """Whether any step leaves stretches or channels that were not measured."""
        return self.crop is not None or self.shift > 0 or self.drop > 0
