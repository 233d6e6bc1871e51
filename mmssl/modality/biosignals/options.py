"""Options that EEG and ECG share."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...options import option, strict


@strict
@dataclass(kw_only=True)
class SignalConfig:
    """Options that EEG and ECG share."""

    rate: float = option(100.0, above=0, help="samples a second of the model's input; recordings are resampled to it")
    seconds: float | None = option(10.0, above=0, help="the longest window taken of a recording; null: all of it")
    window: float = option(1.0, above=0, help="seconds in a patch")
    source_rate: float | None = option(None, above=0, help="rate of recordings that do not say their own")
    source_unit: str = option("mV", choices=("V", "mV", "uV", "nV"), help="unit of those that do not say their own")
    source_channels: list[str] | None = option(None, help="channels, in order, of arrays that do not name theirs")
    aliases: dict[str, str] = option(factory=dict, help="name of a channel in the data -> the name it has here")
    bad: list[str] = option(factory=list, help="channels to leave out, beside those that a file marks as bad")
    highpass: float | None = option(None, above=0, help="Hz; null: none")
    lowpass: float | None = option(None, above=0, help="Hz; null: none")
    notch: float | None = option(None, above=0, help="mains frequency to take out, Hz; null: none")
    normalise: str = option("data", choices=("data", "recording", "channel"), help="whose spread divides signals")
    clip: float | None = option(20.0, above=0, help="largest absolute value after that; null: no limit")
    plausible: list[float] = option(factory=lambda: [0.0, 1e12], min=0, help="typical amplitude, least and most")

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
