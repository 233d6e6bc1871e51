"""Options of BYOL, SimSiam and DirectPred: see `mmssl.objectives.bootstrap`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import needs, option, strict
from . import ObjectiveConfig
from .heads import HeadOptions
from .sides import SideOptions
from .teacher import TeacherOptions


@strict
@dataclass(kw_only=True)
class Config(TeacherOptions, HeadOptions, SideOptions, ObjectiveConfig):
    """Options of BYOL, SimSiam and DirectPred."""

    papers = (
        "BYOL, Grill et al. 2020, arXiv 2006.07733; SimSiam, Chen and He 2021, arXiv 2011.10566; DirectPred, Tian et "
        "al. 2021, arXiv 2102.06810"
    )
    when = "As contrastive between views, but with small batches and no negatives; watch the teacher for collapse."
    suits = "one modality with good augmentations, where samples are alike (medical images, ECG, EEG)"

    target: str = option("teacher", choices=("teacher", "online"), help="BYOL's averaged teacher, or SimSiam's itself")
    export: str | None = option(
        "student", choices=("teacher", "student"), help="whose weights the model has at the end; BYOL judges its own"
    )
    predictor: str = option(
        "mlp", choices=("mlp", "direct"), help="trained, or set from the eigenvalues of its inputs (DirectPred)"
    )
    predictor_hidden: int = option(512, min=1, max=65_536, help="hidden width of the trained predictor")
    direct_eps: float = option(0.1, min=0, max=1_000, help="DirectPred: what is added to the roots of the eigenvalues")
    direct_momentum: float = option(0.3, min=0, below=1, help="DirectPred: what its correlation keeps of the last one")
    direct_every: int = option(1, min=1, max=1_000_000_000, help="DirectPred: steps between two predictors")
    direct_relative: bool = option(True, help="DirectPred: eigenvalues relative to the largest; false: as printed")
    direct_centre: bool = option(False, help="DirectPred: covariance in place of the correlation")
    head_width: int = option(256, min=2, max=65_536, help="output width of that head")
    head_norm: str = option(
        "batch", choices=("layer", "batch", "none"), help="after each hidden layer of the head and of the predictor"
    )

    NEEDS = (
        needs("momentum", "forget", "schedule", "export", target="teacher"),
        needs("predictor_hidden", predictor="mlp"),
        needs("direct_eps", "direct_momentum", "direct_every", "direct_relative", "direct_centre", predictor="direct"),
    )

    @property
    def norms(self) -> bool:
        """The trained predictor has a hidden layer, too."""
        return super().norms or self.predictor == "mlp"
