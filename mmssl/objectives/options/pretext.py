"""Options of pretexts: see `mmssl.objectives.pretext`."""

from __future__ import annotations

from dataclasses import dataclass

from ...options import SET, needs, option, strict
from . import ObjectiveConfig


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of learning what a view was made by."""

    papers = (
        "RotNet, Gidaris et al. 2018, arXiv 1803.07728; jigsaws, Noroozi & Favaro 2016, arXiv 1603.09246; order of "
        "clips, Misra et al. 2016, arXiv 1603.08561; colours, Lee et al. 2020, arXiv 1910.05872"
    )
    when = "Samples have an upright, an order or a direction that tells what is in them; best beside another objective."
    suits = "photos (rotations, jigsaws), signals, sounds and clips (order and direction of time)"

    tower: str = option(help="the tower that has to tell")
    views: list[str] = option(
        help="the view whose transformation is told, or two: then the one that lies between them (rotation, reversal)"
    )
    modality: str | None = option(None, help="which of the tower's modalities was transformed; null: the only one")
    mask: str | None = option(None, help="encode only what this mask leaves visible")
    mode: str = option("drop", choices=("drop", "replace"), help="what becomes of hidden patches")
    hidden: int | None = option(None, min=1, max=65_536, help="width of a hidden layer of the head; null: a linear map")

    NEEDS = (needs("mode", mask=SET),)
