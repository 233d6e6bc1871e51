"""Options of the ECG modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.errors import UserError, nearest
from mmssl.modality.biosignals.options import SignalConfig, View
from mmssl.options import option, strict

from .leads import LEADS, lead_of

__all__ = ["Config", "View"]


@strict
@dataclass(kw_only=True)
class Config(SignalConfig):
    """What a recipe may set for ECG; see `SignalConfig` for what it shares with EEG."""

    rate: float = option(
        100.0, above=0, max=1_000_000, help="samples a second of the model's input; recordings are resampled to it"
    )
    window: float = option(0.25, above=0, max=1_000_000, help="seconds in a patch")
    source_unit: str = option("mV", choices=("V", "mV", "uV", "nV"), help="unit of those that do not say their own")
    plausible: list[float] = option(
        factory=lambda: [0.001, 10.0], min=0, max=1_000_000, help="typical amplitude, mV, least and most"
    )
    leads: list[str] | None = option(None, help="leads of the model; null: those that the data has")
    patch: str = option("time", choices=("time", "lead"), help="a patch holds all leads of a window, or one")
    derive: bool = option(False, help="compute III, aVR, aVL, aVF from I and II where they are missing")
    beats: list[float] = option(
        factory=lambda: [35.0, 200.0],
        min=0,
        max=100_000,
        help="typical beats a minute, least and most, where source_rate is used",
    )
    checksums: bool = option(True, help="refuse WFDB records whose samples differ from their header's checksums")
    unknown: str = option("refuse", choices=("refuse", "drop"), help="what is done with a channel that is no lead")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.beats) != 2 or self.beats[0] > self.beats[1]:
            raise UserError(f"beats: found {self.beats}, expected [least, most]")
        for where, names in (("leads", self.leads or []), ("bad", self.bad), ("aliases", self.aliases.values())):
            for name in names:
                if lead_of(name) is None:
                    expected = ", ".join(LEADS) + nearest(name, LEADS)
                    raise UserError(f"{where}: unknown lead '{name}', expected one of {expected}")

    @property
    def wanted(self) -> set[str] | None:
        """The standard names of `leads`."""
        return None if self.leads is None else {lead_of(name)[0] for name in self.leads}  # type: ignore[index]
