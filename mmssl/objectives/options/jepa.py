"""Options of joint-embedding prediction: see `mmssl.objectives.jepa`."""

from __future__ import annotations

from dataclasses import dataclass

from ...losses.latent import LATENT_LOSSES
from ...models.options import DecoderPositions
from ...options import needs, option, strict
from . import ObjectiveConfig, odd_knots
from .teacher import TeacherOptions


@strict
@dataclass(kw_only=True)
class PredictorConfig(DecoderPositions):
    """I-JEPA's predictor is 384 wide and 6 deep (12 for its largest); small ones do for small data.

    Of prefix tokens the papers differ: T-JEPA's [REG] goes into the predictor, ECG-JEPA's register does not, I-JEPA and
    V-JEPA have none.
    """

    width: int = option(384, min=1, max=65_536, help="its width, less than the tower's")
    depth: int = option(6, min=1, max=1_024, help="its blocks")
    heads: int = option(12, min=1, max=1_024, help="its attention heads, a divisor of its width")
    prefix: bool = option(True, help="the tower's prefix tokens (CLS, registers, [REG]) go into it beside the patches")


@strict
@dataclass(kw_only=True)
class RegulariserConfig:
    """Of the embeddings that have a gradient: the context's, and without a teacher the targets'."""

    kind: str = option(
        "none", choices=("none", "sigreg", "vicreg"), help="SIGReg (LeJEPA), variance and covariance (VICReg), or none"
    )
    weight: float | None = option(
        None, above=0, max=1_000_000, help="factor; default 0.05 for sigreg (LeJEPA), 1 for vicreg"
    )
    on: str = option("pooled", choices=("pooled", "tokens", "both"), help="embeddings of samples or of patches")
    covariance: float = option(
        0.04, min=0, max=1_000_000, help="vicreg: factor of the covariance, relative to that of the variance"
    )
    slices: int = option(256, min=1, max=1_000_000, help="sigreg: random directions a step")
    knots: int = option(17, min=3, max=65_536, help="sigreg: knots of its integral, an odd number")
    bound: float = option(5.0, above=0, max=1_000, help="sigreg: end of its integral")

    NEEDS = (
        needs("weight", "on", kind=("sigreg", "vicreg")),
        needs("covariance", kind="vicreg"),
        needs("slices", "knots", "bound", kind="sigreg"),
    )

    def validate_knots(self) -> None:
        """ValueError for an even number."""
        odd_knots(self.knots)


@strict
@dataclass(kw_only=True)
class Config(TeacherOptions, ObjectiveConfig):
    """Options of joint-embedding prediction."""

    papers = (
        "I-JEPA, Assran et al. 2023, arXiv 2301.08243; V-JEPA, Bardes et al. 2024, arXiv 2404.08471; "
        "T-JEPA, Thimonier et al. 2025, arXiv 2410.05016; ECG-JEPA, Weimann & Conrad 2024, arXiv 2410.13867; "
        "SIGReg of LeJEPA, Balestriero & LeCun 2025, arXiv 2511.08544; VICReg, Bardes et al. 2022, arXiv 2105.04906"
    )
    when = "Content is wanted rather than detail, and no augmentation is known; watch the spread of its targets."
    suits = "anything whose parts tell of one another: images, video, signals, tables, graphs; pairs of modalities"

    tower: str = option(help="the tower that sees the context")
    mask: str | list[str] | None = option(
        None,
        help="says what is context and what is a target; several: the mean of their losses, each with its context; "
        "null: all is context, of another target_tower or target_view",
    )
    view: str = option("clean", help="what the context encoder sees")
    target_tower: str | None = option(None, help="another tower, whose modalities are predicted")
    target_mask: str | None = option(
        None, help="which patches of the other tower, or of another target_view, are predicted; null: all"
    )
    target_view: str = option(
        "clean", help="what the target encoder sees; with a mask, the same places in it are predicted"
    )
    predictor: PredictorConfig = option(
        factory=PredictorConfig, help="what says the targets' latents from the context's"
    )
    predict: str = option("apart", choices=("apart", "together"), help="target sets each by itself, or as one set")
    teacher: str = option(
        "ema",
        choices=("ema", "none"),
        help="targets are made by a moving average of the encoder, or by the encoder itself",
    )
    schedule: str = option("linear", choices=("linear", "cosine"), help="how the momentum goes from first to last")
    stop_gradient: bool = option(False, help="without a teacher: no gradient through the targets")
    regulariser: RegulariserConfig = option(
        factory=RegulariserConfig, help="what keeps embeddings from collapse where there is no teacher"
    )
    loss: str = option("smooth_l1", choices=LATENT_LOSSES, help="distance of a predicted latent from its target")
    beta: float = option(1.0, above=0, max=1_000, help="smooth_l1: where it turns from square to linear")
    normalise_targets: bool = option(True, help="layer norm without parameters on the targets")
    average_layers: int = option(
        1, min=1, max=1_024, help="targets are the mean of the last so many blocks, each layer-normed"
    )
    weights: dict[str, float] = option(
        factory=dict, min=0, max=1_000_000, help="weight of a modality within this objective"
    )

    NEEDS = (
        needs("momentum", "forget", "schedule", "export", teacher="ema"),
        needs("stop_gradient", teacher="none"),
        needs("beta", loss="smooth_l1"),
    )
