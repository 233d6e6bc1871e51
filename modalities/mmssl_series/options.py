"""Options of the series modality, and of its views, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from mmssl.errors import UserError
from mmssl.modality.biosignals.options import LAYOUTS, TOKENS, TOKENS_HELP, View
from mmssl.modality.channels import check_channels
from mmssl.options import needs, option, strict

__all__ = ["Config", "View"]


@strict
@dataclass(kw_only=True)
class Config:
    """What a recipe may set for series. Lengths are in steps of the grid that all series are brought to."""

    window: int = option(8, min=2, max=1_000_000, help="steps in a patch")
    tokens: str = option("values", choices=TOKENS, help=TOKENS_HELP)
    length: int | None = option(
        512, min=2, max=100_000_000, help="steps of the longest stretch taken of a series; null: all of it"
    )
    rate: float | None = option(
        None, above=0, max=1_000_000, help="steps a second; null: series are taken step by step as they come"
    )
    source_rate: float | dict[str, float] | None = option(
        None,
        above=0,
        max=1_000_000,
        help="rate of series that say neither theirs nor their times, where rate is set; or one a channel, under the "
        "names of the data: {acc: 50, heart: 1}",
    )
    bridge: int = option(
        0, min=0, max=1_000_000, help="steps without a value that a straight line closes, at most; others stay missing"
    )
    channels: list[str] | None = option(None, help="channels of the model, in order; null: those that the data has")
    source_channels: list[str] | None = option(None, help="channels, in order, of series that do not name theirs")
    aliases: dict[str, str] = option(factory=dict, help="name of a channel in the data -> the name it has here")
    unknown: str = option(
        "refuse", choices=("refuse", "drop"), help="what is done with a channel that the model has not"
    )
    layout: str | None = option(None, choices=LAYOUTS, help="of arrays; null: by their shape, refused where it is open")
    patch: str = option("channel", choices=("channel", "time"), help="a patch holds one channel of a window, or all")
    normalise: str = option(
        "data",
        choices=("data", "series", "none"),
        help="whose mean and spread each channel is brought to 0 and 1 by: those of the data, so that levels stay "
        "comparable, or those of each stretch",
    )
    clip: float | None = option(20.0, above=0, max=1_000_000, help="largest absolute value after that; null: no limit")

    NEEDS = (needs("source_rate", rate="a number", holds=lambda c: c.rate is not None),)

    def __post_init__(self) -> None:
        if self.length is not None and self.length < self.window:
            raise UserError(f"length: found {self.length} steps, expected at least one window of {self.window}")
        check_channels(self.channels, self.source_channels)

    @property
    def steps_a_second(self) -> float:
        """`rate`; without one a step counts as a second."""
        return self.rate or 1.0
