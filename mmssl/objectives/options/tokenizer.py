"""Options of tokenizers: see `mmssl.objectives.tokenizer`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...errors import UserError
from ...options import SET, needs, option, strict
from . import ObjectiveConfig
from .codes import MOST_CODES, BookOptions


@strict
@dataclass(kw_only=True)
class CodeDecoderConfig:
    """What makes a patch of codes; shallow, so that the codes have to say what is there."""

    width: int = option(128, min=1, max=65_536, help="its width")
    depth: int = option(2, min=0, max=1_024, help="its blocks; 0: a linear map of each code alone")
    heads: int = option(4, min=1, max=1_024, help="its attention heads, a divisor of its width")

    NEEDS = (needs("heads", depth=SET),)

    def __post_init__(self) -> None:
        if self.depth and self.width % self.heads:
            raise UserError(f"heads: found {self.heads}, expected a divisor of width = {self.width}")


@strict
@dataclass(kw_only=True)
class Config(BookOptions, ObjectiveConfig):
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
    kind: str = option(
        "vector",
        choices=("vector", "residual", "product", "scalar"),
        help="one book; books that each code what the ones before leave over; a book for each part of the vector; or "
        "every number rounded to one of `levels` (FSQ)",
    )
    levels: list[int] = option(
        factory=list, min=2, max=4_096, help="of scalar: of each number, e.g. [8, 5, 5, 5]: 1,000 codes"
    )
    width: int = option(32, min=1, max=65_536, help="numbers that a token is brought to before it is coded")
    learned_by: str = option(
        "averages",
        choices=("averages", "gradient"),
        help="how books learn: they follow moving averages of what comes to them, or are trained as all else, by their "
        "distance to that (VQ-VAE's second term)",
    )
    commitment: float = option(0.25, min=0, max=1_000_000, help="weight of the distance of a token to its code")
    decay: float = option(
        0.9, min=0, below=1, help="of the moving averages that the books follow; 0.99 in VQ-VAE, for runs of 10^5 steps"
    )
    revive: float = option(
        0.1,
        min=0,
        below=1,
        help="a code that fewer come to than this share of the mean is set to a token of the batch; 0: never",
    )
    decoder: CodeDecoderConfig = option(factory=CodeDecoderConfig, help="what makes patches of the codes")

    NEEDS = (
        needs(
            *("size", "books", "samples", "width", "commitment", "learned_by", "decay", "revive"),
            kind=("vector", "residual", "product"),
        ),
        needs("decay", "revive", learned_by="averages"),
        needs("levels", kind="scalar"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "scalar" and (not self.levels or math.prod(self.levels) > MOST_CODES):
            raise UserError(f"levels: found {self.levels}, expected numbers that make at most {MOST_CODES:,} codes")
        if self.kind == "product" and self.width % self.books:
            raise UserError(f"books: found {self.books}, expected a divisor of width = {self.width}")
