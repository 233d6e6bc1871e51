"""Options of learning place by place: see `mmssl.objectives.dense`."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...options import needs, option, strict
from . import ObjectiveConfig
from .heads import HeadOptions
from .teacher import TeacherOptions


@strict
@dataclass(kw_only=True)
class Config(TeacherOptions, HeadOptions, ObjectiveConfig):
    """Options of VICRegL's local criterion, DenseCL, PixPro and local contrast."""

    papers = (
        "VICRegL, Bardes et al. 2022, arXiv 2210.01571; DenseCL, Wang et al. 2021, arXiv 2011.09157; PixPro, Xie et "
        "al. 2021, arXiv 2011.10043; the local loss of domain-specific contrastive learning, Chaitanya et al. 2020, "
        "arXiv 2006.10511"
    )
    when = "Patches are what is wanted (segmentation, detection, events in time); beside an objective of whole samples."
    suits = "one modality with crops: images, clips, sound, ECG, EEG; or without, where patches have numbers"

    tower: str = option(help="the tower that is trained")
    views: list[str] = option(help="views whose patches are matched, each with every other")
    local_views: list[str] = option(factory=list, help="small crops, each matched with every one of `views`")
    loss: str = option(
        "vicreg", choices=("vicreg", "infonce", "cosine"), help="VICRegL's, DenseCL's, or PixPro's with a predictor"
    )
    match: str = option(
        "place",
        choices=("place", "feature", "both"),
        help="patches that see one place of the sample, those that are most alike, or both losses added",
    )
    within: float | None = option(
        0.7,
        above=0,
        max=1_000,
        help="how far apart two middles still are one place, over the larger patch's diagonal; null: any distance",
    )
    matches: int | None = option(
        None, min=1, max=1_000_000, help="the closest so many patches of each view and sample are matched; null: all"
    )
    region: int = option(
        1, min=1, max=1_024, help="patches a side of a region, whose mean is taken in place of a patch; 1: patches"
    )
    temperature: float = option(0.2, above=0, max=1_000, help="of infonce")
    negatives: str = option(
        "samples",
        choices=("samples", "queue", "patches"),
        help="of infonce: the mean patches of the batch's other samples and of the queue, if any, those of the queue "
        "alone (DenseCL), or the sample's other places in both views",
    )
    queue: int = option(
        0, min=0, max=1_000_000_000, help="mean patches of earlier steps that are negatives (DenseCL: 65,536); 0: none"
    )
    invariance: float = option(25.0, min=0, max=1_000_000, help="weight of the distance (vicreg)")
    variance: float = option(25.0, above=0, max=1_000_000, help="weight of the spread (vicreg)")
    covariance: float = option(1.0, min=0, max=1_000_000, help="weight of the covariances (vicreg)")
    predictor: str = option(
        "propagate", choices=("propagate", "mlp"), help="of cosine: like patches are summed (PixPro), or a perceptron"
    )
    predictor_hidden: int = option(512, min=1, max=65_536, help="hidden width of the perceptron")
    sharpness: float = option(2.0, above=0, max=1_000, help="of propagate: power of the similarities")
    target: str = option(
        "online",
        choices=("teacher", "online"),
        help="what is matched: an averaged teacher's patches, or the tower's own",
    )
    export: str | None = option(
        "student", choices=("teacher", "student"), help="whose weights the model has at the end"
    )
    head_width: int = option(256, min=2, max=65_536, help="output width of that head")
    head_norm: str = option("batch", choices=("layer", "batch", "none"), help="after each hidden layer of the head")

    NEEDS = (
        needs("within", match="place or both", holds=lambda c: c.match != "feature"),
        needs("temperature", "negatives", "queue", loss="infonce"),
        needs("queue", negatives=("samples", "queue")),
        needs("invariance", "variance", "covariance", loss="vicreg"),
        needs("predictor", loss="cosine"),
        needs("matches", loss="vicreg or infonce", holds=lambda c: c.loss != "cosine" or c.match == "feature"),
        needs("predictor_hidden", loss="cosine"),
        needs("predictor_hidden", predictor="mlp"),
        needs("sharpness", loss="cosine"),
        needs("sharpness", predictor="propagate"),
        needs("momentum", "forget", "schedule", "export", target="teacher"),
    )

    @property
    def norms(self) -> bool:
        """The perceptron of cosine has a hidden layer, too."""
        return super().norms or (self.loss == "cosine" and self.predictor == "mlp")

    def __post_init__(self) -> None:
        super().__post_init__()
        every = [*self.views, *self.local_views]
        if len(set(every)) != len(every) or not self.views or len(every) < 2:
            raise UserError(
                f"views: found {self.views} and local_views {self.local_views}, expected two different ones"
            )
        if self.loss == "vicreg" and self.target == "teacher":
            raise UserError("target: found teacher, expected online: vicreg spreads both views' patches itself")
        if self.loss == "cosine" and self.match != "feature" and self.within is None:
            raise UserError("within: found null, expected a number: cosine is of all pairs within it")
        if self.loss == "infonce" and self.negatives == "patches" and self.match != "feature" and self.within is None:
            raise UserError("within: found null, expected a number: negatives are the places beyond it")
        if self.negatives == "queue" and not self.queue:
            raise UserError("queue: found 0, expected a number of rows: negatives are of the queue alone")
        if self.loss == "infonce" and self.negatives == "patches" and self.match == "feature":
            raise UserError("negatives: found patches, expected samples: what is no negative is said by place")
