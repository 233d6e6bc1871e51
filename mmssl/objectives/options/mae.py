"""Options of masked autoencoding: see `mmssl.objectives.mae`."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError
from ...masking.replacement import Replacement
from ...models.options import TRUNKS, DecoderPositions
from ...options import SET, needs, option, strict
from . import ObjectiveConfig
from .codes import CodesConfig


@strict
@dataclass(kw_only=True)
class DecoderConfig(DecoderPositions):
    """MAE's decoder is 512 wide and 8 deep for every encoder; small ones do for small data."""

    trunk: str = option(
        "transformer",
        choices=TRUNKS,
        help="of graphs also gin, gcn or gat: messages from the nodes around; what was hidden comes in behind this "
        "decoder's own mask token, whatever the encoder made of it (GraphMAE's re-masking)",
    )
    width: int = option(512, min=1, max=65_536, help="its width")
    depth: int = option(8, min=0, max=1_024, help="0: a two-layer perceptron on the token itself (replacing mode only)")
    heads: int = option(16, min=1, max=1_024, help="its attention heads, a divisor of its width")
    layer: int | None = option(None, min=1, max=1_024, help="decode from the output of this block instead of the last")
    skips: list[int] = option(
        factory=list,
        min=1,
        max=1_024,
        help="blocks of the tower that as many last decoder blocks look at, counted from 1 (in HiCMAE's code from 0)",
    )
    skips_placed: bool = option(
        False,
        help="what they look at goes through the tower's last norm and the decoder's own projection and gets its "
        "positions, as in HiCMAE; false: as it is",
    )

    NEEDS = (
        needs("trunk", "width", "heads", depth="1 or more", holds=lambda c: c.depth > 0),
        needs("skips", "positions", trunk="transformer"),
        needs("positions", depth="1 or more", holds=lambda c: c.depth > 0),
        needs("skips_placed", skips="some", holds=lambda c: bool(c.skips)),
        needs("skips_placed", positions="additive"),
    )


@strict
@dataclass(kw_only=True)
class FusionConfig:
    """The encoder in which several towers look at one another; like the decoders it belongs to the objective."""

    depth: int = option(2, min=1, max=1_024, help="its blocks")
    heads: int = option(8, min=1, max=1_024, help="its attention heads, a divisor of the towers' width")


@strict
@dataclass(kw_only=True)
class Config(ObjectiveConfig):
    """Options of masked autoencoding."""

    papers = (
        "MAE, He et al. 2022, arXiv 2111.06377; BERT, Devlin et al. 2019, arXiv 1810.04805; M3AE, Chen et al. 2022; "
        "HiCMAE, Sun et al. 2024, arXiv 2401.05698; HuBERT, Hsu et al. 2021, arXiv 2106.07447; BEiT, Bao et al. 2022, "
        "arXiv 2106.08254; CroCo, Weinzaepfel et al. 2022, arXiv 2210.10716, and CroCo v2, 2023, arXiv 2211.10408"
    )
    when = "No augmentations are known, or the model will be fine-tuned; the steadiest to train, weaker on few labels."
    suits = "everything that is cut into patches, alone or several modalities in one tower; unpaired data too"

    tower: str | None = option(None, help="the tower that is trained")
    towers: list[str] = option(factory=list, help="instead of `tower`: several, which meet in `fusion`")
    fusion: FusionConfig | None = option(None, help="with `towers`: decode what this encoder makes of all their tokens")
    mask: str | None = option(None, help="the recipe's mask that says what is hidden; null: what `view` corrupted")
    view: str = option("clean", help="what the encoder sees")
    beside_view: str | None = option(
        None,
        help="another view (a second crop, another column) that the same encoder sees whole, and every block of the "
        "decoder attends to (CroCo); nothing where a sample lacks it",
    )
    target_view: str = option("clean", help="what is to be reconstructed")
    mode: str | dict[str, str] = option("drop", choices=("drop", "replace"), help="or one a modality")
    replacement: dict[str, Replacement] = option(
        factory=dict, help="modality of ids -> what is shown of masked ones beside the mask token; {}: BERT's 80-10-10"
    )
    target: dict[str, str] = option(factory=dict, help="kind of target a modality; default: its first kind")
    codes: dict[str, CodesConfig] = option(
        factory=dict, help="modality -> predict ids of its patches, by cross-entropy, in place of a target's numbers"
    )
    decoder: DecoderConfig = option(factory=DecoderConfig, help="of every modality that has none of its own")
    decoders: dict[str, DecoderConfig] = option(factory=dict, help="a decoder of its own for a modality")
    weights: dict[str, float] = option(
        factory=dict, min=0, max=1_000_000, help="weight of a modality within this objective"
    )

    NEEDS = (
        needs("mode", "codes", "beside_view", mask=SET),
        needs("beside_view", tower=SET),
        needs("replacement", mask=SET),
        needs("replacement", mode="replace", holds=lambda c: "replace" in (c.mode, *_values(c.mode))),
    )

    def __post_init__(self) -> None:
        if (self.tower is None) == (not self.towers):
            raise UserError(f"found tower: {self.tower} and towers: {self.towers}, expected one of them")
        both = sorted(set(self.codes) & set(self.target))
        if both:
            raise UserError(f"found target.{both[0]} and codes.{both[0]}, expected one of them")


def _values(mode: str | dict[str, str]) -> list[str]:
    return list(mode.values()) if isinstance(mode, dict) else []
