"""Options of matching: see `mmssl.objectives.matching`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import option, strict
from . import ObjectiveConfig


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of matching."""

    papers = "M3AE, Chen et al. 2022, arXiv 2209.07098; ViLBERT, Lu et al. 2019, arXiv 1908.02265"
    when = "Beside another objective, so that a tower of two modalities compares them instead of reading each alone."
    suits = "pairs of modalities in one tower (image-text, ECG-report), or of columns; else contrastive does more"

    towers: list[str] = option(help="the tower that holds both modalities, or the two towers")
    swap: str | None = option(None, help="one tower: the modality that is swapped; default: its last")
    share: float = option(0.5, above=0, below=1, help="share of the samples that are torn")
    view: str = option("clean", help="what is seen")
    other_view: str | None = option(
        None, help="one tower: the other side is what it makes of this view (another column), and nothing is swapped"
    )
    hidden: int = option(256, min=1, max=65_536, help="width of the classifier")
