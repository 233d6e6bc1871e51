"""Options of cluster assignment between views: see `mmssl.objectives.clustering`."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...options import SET, needs, option, strict
from . import ObjectiveConfig
from .heads import HeadOptions
from .sides import SideOptions


@strict
@dataclass(kw_only=True)
class Config(HeadOptions, SideOptions, ObjectiveConfig):
    """Options of SwAV, DeepCluster and GEDI's cluster loss."""

    papers = (
        "SwAV and DeepCluster-v2, Caron et al. 2020, arXiv 2006.09882; the cluster loss of GEDI, Sansone & Manhaeve "
        "2022, arXiv 2212.13425"
    )
    when = "As contrastive between views, with small batches; or the clusters themselves are wanted."
    suits = "one modality with good views, best several crops; or the modalities of a sample, with common clusters"

    assign: str = option(
        "sinkhorn",
        choices=("sinkhorn", "posterior", "kmeans"),
        help="what a view is to predict: another's balanced assignment (SwAV), its posterior, where a prior keeps all "
        "clusters in use (GEDI), or its nearest mean of k-means over the queue (DeepCluster)",
    )
    prototypes: int = option(512, min=2, max=1_000_000, help="clusters; SwAV takes three times the classes and more")
    global_views: list[str] | None = option(
        None, help="the views that others predict the assignment of; null: all of them"
    )
    temperature: float = option(0.1, above=0, max=1_000, help="of the posteriors")
    sharpness: float = option(0.05, above=0, max=1_000, help="temperature of the balanced assignment (SwAV's epsilon)")
    iterations: int = option(3, min=1, max=1_024, help="of Sinkhorn-Knopp (sinkhorn)")
    queue: int = option(
        0,
        min=0,
        max=1_000_000_000,
        help="embeddings of earlier steps, of all `global_views`, that are balanced along with a batch once there are "
        "so many, small batches need some; or that k-means is of; 0: none",
    )
    every: int = option(
        100, min=1, max=1_000_000_000, help="steps between two k-means (kmeans); an epoch's, in DeepCluster"
    )
    queue_from: float = option(0.0, min=0, below=1, help="share of the run after which the queue is used")
    freeze_prototypes: float = option(0.0, min=0, max=1, help="share of the run, from its start")
    prior_weight: float = option(
        1.0, min=0, max=1_000_000, help="of the cross-entropy of a uniform prior with the mean posterior (posterior)"
    )
    head_norm: str = option("batch", choices=("layer", "batch", "none"), help="after each hidden layer of the head")

    NEEDS = (
        needs("sharpness", "iterations", "queue_from", assign="sinkhorn"),
        needs("queue", assign=("sinkhorn", "kmeans")),
        needs("queue_from", queue=SET),
        needs("every", assign="kmeans"),
        needs("freeze_prototypes", assign=("sinkhorn", "posterior")),
        needs("prior_weight", assign="posterior"),
    )

    def __post_init__(self) -> None:
        if self.assign == "kmeans" and self.queue < self.prototypes:
            raise UserError(f"queue: found {self.queue}, expected at least the {self.prototypes} prototypes")
