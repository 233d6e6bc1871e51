"""Options of cluster assignment between views: see `mmssl.objectives.clustering`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import SET, needs, option, strict
from . import ObjectiveConfig
from .heads import HeadOptions
from .sides import SideOptions


@strict
@dataclass(kw_only=True)
class Config(HeadOptions, SideOptions, ObjectiveConfig):
    """Options of SwAV and of GEDI's cluster loss."""

    papers = (
        "SwAV, Caron et al. 2020, arXiv 2006.09882; the cluster loss of GEDI, Sansone & Manhaeve 2022, arXiv 2212.13425"
    )
    when = "As contrastive between views, with small batches; or the clusters themselves are wanted."
    suits = "one modality with good views, best several crops; or the modalities of a sample, with common clusters"

    assign: str = option(
        "sinkhorn",
        choices=("sinkhorn", "posterior"),
        help="what a view is to predict: another's balanced assignment (SwAV), or its posterior, where a prior keeps "
        "all clusters in use (GEDI)",
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
        "so many; small batches need some; 0: none",
    )
    queue_from: float = option(0.0, min=0, below=1, help="share of the run after which the queue is used")
    freeze_prototypes: float = option(0.0, min=0, max=1, help="share of the run, from its start")
    prior_weight: float = option(
        1.0, min=0, max=1_000_000, help="of the cross-entropy of a uniform prior with the mean posterior (posterior)"
    )
    head_norm: str = option("batch", choices=("layer", "batch", "none"), help="after each hidden layer of the head")

    NEEDS = (
        needs("sharpness", "iterations", "queue", assign="sinkhorn"),
        needs("queue_from", queue=SET),
        needs("prior_weight", assign="posterior"),
    )
