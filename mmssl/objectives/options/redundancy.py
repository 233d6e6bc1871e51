"""Options of Barlow Twins, Mixed Barlow Twins, VICReg and LeJEPA: see `mmssl.objectives.redundancy`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import needs, option, strict
from . import ObjectiveConfig, odd_knots
from .heads import HeadOptions
from .sides import SideOptions


@strict
@dataclass(kw_only=True)
class Config(HeadOptions, SideOptions, ObjectiveConfig):
    """Options of Barlow Twins, Mixed Barlow Twins, VICReg and LeJEPA."""

    papers = (
        "Barlow Twins, Zbontar et al. 2021, arXiv 2103.03230; Mixed Barlow Twins, Bandara et al. 2023, arXiv "
        "2312.02151; VICReg, Bardes et al. 2022, arXiv 2105.04906; LeJEPA, Balestriero & LeCun 2025, arXiv 2511.08544"
    )
    when = "As contrastive between views, but batches are small or other samples are no negatives (few true classes)."
    suits = "one modality with good augmentations, or pairs of modalities; Mixed Barlow Twins: little data on a grid"

    loss: str = option(
        "barlow",
        choices=("barlow", "mixed_barlow", "vicreg", "lejepa"),
        help="Barlow Twins', that with mixed inputs, VICReg's, or LeJEPA's: each side to the mean of the global ones",
    )
    off_diagonal: float = option(
        5e-3, above=0, max=1_000_000, help="weight of the off-diagonal correlations (Barlow Twins)"
    )
    mixing_weight: float = option(
        4.0, min=0, max=1_000_000, help="weight of the mixed inputs, times off_diagonal (mixed_barlow)"
    )
    invariance: float = option(25.0, min=0, max=1_000_000, help="weight of the views' distance (VICReg)")
    variance: float = option(
        25.0, above=0, max=1_000_000, help="weight of the spread (VICReg); without it embeddings collapse"
    )
    covariance: float = option(1.0, min=0, max=1_000_000, help="weight of the covariances (VICReg)")
    global_views: list[str] | None = option(
        None, help="the views whose mean all are pulled to (LeJEPA); null: all of them"
    )
    sigreg_weight: float = option(
        0.05, above=0, below=1, help="of SIGReg, and one minus that of the distance to the mean (LeJEPA)"
    )
    slices: int = option(256, min=1, max=1_000_000, help="random directions a step (LeJEPA)")
    knots: int = option(17, min=3, max=65_536, help="knots of SIGReg's integral, an odd number (LeJEPA)")
    bound: float = option(5.0, above=0, max=1_000, help="end of SIGReg's integral (LeJEPA)")
    head_layers: int = option(3, min=0, max=1_024, help="dense layers of the projection head; 0: none")
    head_width: int = option(2048, min=2, max=65_536, help="output width of that head; these losses like it wide")
    head_norm: str = option("batch", choices=("layer", "batch", "none"), help="after each hidden layer of the head")

    NEEDS = (
        needs("off_diagonal", loss=("barlow", "mixed_barlow")),
        needs("mixing_weight", loss="mixed_barlow"),
        needs("invariance", "variance", "covariance", loss="vicreg"),
        needs("global_views", "sigreg_weight", "slices", "knots", "bound", loss="lejepa"),
    )

    def validate_knots(self) -> None:
        """ValueError for an even number."""
        odd_knots(self.knots)
