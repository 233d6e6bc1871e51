"""Options of the EEG modality, and of their views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.errors import UserError, nearest
from mmssl.modality.biosignals.options import SignalConfig, View
from mmssl.options import option, strict

from .electrodes import channel_of, table

__all__ = ["Config", "View"]


@strict
@dataclass(kw_only=True)
class Config(SignalConfig):
    """What a recipe may set for EEG; see `SignalConfig` for what it shares with ECG."""

    rate: float = option(
        128.0, above=0, max=1_000_000, help="samples a second of the model's input; recordings are resampled to it"
    )
    window: float = option(1.0, above=0, max=1_000_000, help="seconds in a patch")
    source_unit: str = option("uV", choices=("V", "mV", "uV", "nV"), help="unit of those that do not say their own")
    plausible: list[float] = option(
        factory=lambda: [0.05, 5000.0], min=0, max=1_000_000, help="typical amplitude, uV, least and most"
    )
    channels: list[str] | None = option(None, help="take these only; null: all")
    reference: str | list[str] | None = option(None, help="average, or electrodes whose mean is subtracted")
    unknown: str = option("refuse", choices=("refuse", "drop", "keep"), help="channels without a known place")

    def __post_init__(self) -> None:
        super().__post_init__()
        reference = [] if self.reference in (None, "average") else self.reference
        if isinstance(reference, str):
            raise UserError(f"reference: found '{reference}', expected average, or a list of electrodes")
        for where, names in (("reference", reference or []), ("channels", self.channels or [])):
            for name in names:
                if channel_of(name) is None and not (where == "channels" and self.unknown == "keep"):
                    raise UserError(f"{where}: unknown electrode '{name}'{nearest(name, table())}")
