"""Options of Barlow Twins, Mixed Barlow Twins, VICReg, LeJEPA and MSBReg: see `mmssl.objectives.redundancy`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import needs, option, strict
from . import ObjectiveConfig, odd_knots
from .heads import HeadOptions
from .sides import SideOptions
from .teacher import TeacherOptions


@strict
@dataclass(kw_only=True)
class Config(TeacherOptions, HeadOptions, SideOptions, ObjectiveConfig):
    """Options of Barlow Twins, Mixed Barlow Twins, VICReg, LeJEPA and MSBReg."""

    papers = (
        "Barlow Twins, Zbontar et al. 2021, arXiv 2103.03230; Mixed Barlow Twins, Bandara et al. 2023, arXiv "
        "2312.02151; VICReg, Bardes et al. 2022, arXiv 2105.04906; LeJEPA, Balestriero & LeCun 2025, arXiv 2511.08544; "
        "MSBReg, 2022, arXiv 2207.03552"
    )
    when = "As contrastive between views, but batches are small or other samples are no negatives (few true classes)."
    suits = "one modality with good augmentations, or pairs of modalities; Mixed Barlow Twins: little data on a grid"

    loss: str = option(
        "barlow",
        choices=("barlow", "mixed_barlow", "vicreg", "lejepa", "msbreg"),
        help="Barlow Twins', that with mixed inputs, VICReg's, LeJEPA's: each side to the mean of the global ones, or "
        "MSBReg's: to the mean of an averaged teacher's",
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
        None, help="the views whose mean all are pulled to (LeJEPA, MSBReg); null: all of them"
    )
    sigreg_weight: float = option(
        0.05, above=0, below=1, help="of the regulariser, and one minus that of the distance to the mean (LeJEPA)"
    )
    regulariser: str | None = option(
        None,
        choices=("sigreg", "whitening"),
        help="what keeps embeddings apart: a standard normal, or covariances alone; null: sigreg for LeJEPA, whitening "
        "for MSBReg",
    )
    regulariser_weight: float = option(1.0, above=0, max=1_000_000, help="of that (MSBReg)")
    brownian_weight: float = option(0.1, min=0, max=1_000_000, help="of the pull to random directions (MSBReg)")
    slices: int = option(256, min=1, max=1_000_000, help="random directions a step (sigreg)")
    knots: int = option(17, min=3, max=65_536, help="knots of SIGReg's integral, an odd number (sigreg)")
    bound: float = option(5.0, above=0, max=1_000, help="end of SIGReg's integral (sigreg)")
    export: str | None = option(
        "student", choices=("teacher", "student"), help="whose weights the model has at the end (MSBReg)"
    )
    head_layers: int = option(3, min=0, max=1_024, help="dense layers of the projection head; 0: none")
    head_width: int = option(2048, min=2, max=65_536, help="output width of that head; these losses like it wide")
    head_norm: str = option("batch", choices=("layer", "batch", "none"), help="after each hidden layer of the head")

    NEEDS = (
        needs("off_diagonal", loss=("barlow", "mixed_barlow")),
        needs("mixing_weight", loss="mixed_barlow"),
        needs("invariance", "variance", "covariance", loss="vicreg"),
        needs("global_views", "regulariser", loss=("lejepa", "msbreg")),
        needs("sigreg_weight", loss="lejepa"),
        needs("slices", "knots", "bound", regulariser="sigreg", holds=lambda c: c.spread_by == "sigreg"),
        needs("regulariser_weight", "brownian_weight", "momentum", "forget", "schedule", "export", loss="msbreg"),
    )

    @property
    def spread_by(self) -> str | None:
        """`regulariser`, or its default; of the other losses None."""
        return {"lejepa": self.regulariser or "sigreg", "msbreg": self.regulariser or "whitening"}.get(self.loss)

    def validate_knots(self) -> None:
        """ValueError for an even number."""
        odd_knots(self.knots)
