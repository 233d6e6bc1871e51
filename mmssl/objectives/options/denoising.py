"""Options of denoising: see `mmssl.objectives.denoising`."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...options import option, strict
from . import ObjectiveConfig


@strict
@dataclass(kw_only=True)
class WriterConfig:
    """What writes the hidden spans; it belongs to the objective."""

    width: int = option(256, min=1, max=65_536, help="its width")
    depth: int = option(4, min=1, max=1_024, help="its blocks")
    heads: int = option(4, min=1, max=1_024, help="its attention heads, a divisor of its width")

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise UserError(f"heads: found {self.heads}, expected a divisor of width = {self.width}")


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of denoising."""

    papers = "T5, Raffel et al. 2020, arXiv 1910.10683; UL2, Tay et al. 2023, arXiv 2205.05131"
    when = "Texts of which whole spans, or how they go on, are to be written: several tokens from one place."
    suits = "text, and other sequences of ids"

    tower: str = option(help="the tower that reads, of one modality of ids")
    mask: str = option(help="what is hidden of it: span, suffix, or a mixture of them")
    view: str = option("clean", help="what is read")
    decoder: WriterConfig = option(factory=WriterConfig, help="what writes what is hidden")
