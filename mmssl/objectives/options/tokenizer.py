"""Options of tokenizers: see `mmssl.objectives.tokenizer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...options import Needs, needs, option, strict
from . import ObjectiveConfig
from .codes import BOOKS, OF_BOOKS, BookOptions, CodeDecoderConfig, LearningOptions, check_learned

__all__ = ["CodeDecoderConfig", "Config"]


@strict
@dataclass(kw_only=True)
class Config(LearningOptions, BookOptions, ObjectiveConfig):
    """Options of a tokenizer."""

    papers = (
        "VQ-VAE, van den Oord et al. 2017, arXiv 1711.00937; BEiT's tokenizer, Bao et al. 2022, arXiv 2106.08254; "
        "EEGFormer, Chen et al. 2024, arXiv 2401.10278; FSQ, Mentzer et al. 2023, arXiv 2309.15505"
    )
    when = "Patches shall become ids: for counting and reading them, or as what another encoder predicts (mae's codes)."
    suits = "one modality with numbers in its patches: images, sound, EEG, ECG, series, volumes"

    tower: str = option(help="the tower whose tokens are coded; of a single modality")
    view: str = option("clean", help="what it sees, and what is made of the codes again")
    target: str | None = option(None, help="kind of target that is made again; null: the modality's first")

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("size", "books", "samples", *OF_BOOKS, kind=BOOKS),
        needs("levels", kind="scalar"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_learned(self, self)
