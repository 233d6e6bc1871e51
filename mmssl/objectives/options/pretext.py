"""Options of pretexts: see `mmssl.objectives.pretext`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import SET, needs, option, strict
from . import ObjectiveConfig

DRAWN, OFFSET = "drawn", "offset"


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of learning what a view was made by, or what a modality knows of its samples."""

    papers = (
        "RotNet, Gidaris et al. 2018, arXiv 1803.07728; jigsaws, Noroozi & Favaro 2016, arXiv 1603.09246; order of "
        "clips, Misra et al. 2016, arXiv 1603.08561; context prediction, Doersch et al. 2015, arXiv 1505.05192; "
        "SelfTask-GNN, Jin et al. 2020, arXiv 2006.10141"
    )
    when = "What can be computed or was done to a sample tells what is in it; best beside another objective."
    suits = "photos, clips, sounds (turns, order, direction); graphs (degrees, distances); signals (frequencies)"

    tower: str = option(help="the tower that has to tell")
    tells: str = option(
        DRAWN,
        help="drawn: which transformation made the view; offset: how far from the first view's middle the second one's "
        "lies, along each axis; else what the modality knows: of graphs degree, landmarks, "
        "edge, distance, similarity; of EEG, ECG and series frequency; of ECG heart_rate",
    )
    views: list[str] = option(
        factory=lambda: ["clean"],
        help="what the encoder is given; drawn: the transformed view, or two, of which it tells what lies between "
        "them; offset: two that are cut out",
    )
    known_view: str = option("clean", help="of what the modality knows: the view that it is known of")
    modality: str | None = option(None, help="which of the tower's modalities it is about; null: the only one")
    mask: str | None = option(None, help="encode only what this mask leaves visible")
    mode: str = option("drop", choices=("drop", "replace"), help="what becomes of hidden patches")
    pairs: int = option(64, min=1, max=100_000, help="of what lies between patches: pairs of each class and sample")
    hidden: int | None = option(None, min=1, max=65_536, help="width of a hidden layer of the head; null: a linear map")

    NEEDS = (
        needs("mode", mask=SET),
        needs("known_view", "pairs", tells="what the modality knows", holds=lambda c: c.tells not in (DRAWN, OFFSET)),
    )
