"""Options of self-distillation: see `mmssl.objectives.distillation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ...options import SET, needs, option, strict
from . import ObjectiveConfig
from .teacher import TeacherOptions


@strict
@dataclass(kw_only=True)
class HeadConfig:
    """DINO's head has 65,536 prototypes; few do for small data."""

    prototypes: int = option(4096, min=2, max=1_000_000, help="clusters that a view or a patch is assigned to")
    hidden: int = option(2048, min=1, max=65_536, help="hidden width of the head")
    bottleneck: int = option(256, min=1, max=65_536, help="width that is normalised and compared with the prototypes")
    layers: int = option(3, min=1, max=1_024, help="dense layers before the prototypes")
    unit_prototypes: bool = option(
        True, help="prototypes have length 1 (DINO, iBOT, DINOv2); false: a plain linear last layer (DINOv3)"
    )


@strict
@dataclass(kw_only=True)
class GramConfig:
    """Gram anchoring. Its teacher is the averaged teacher as it was after step `first`, renewed every `every` steps, or
    one that comes trained, until it is taken anew."""

    weight: float = option(1.0, min=0, max=1_000_000, help="factor of this loss")
    first: int | None = option(
        None, min=1, max=1_000_000_000, help="optimiser steps before the Gram teacher is taken; null: never, see from"
    )
    every: int | None = option(None, min=1, max=1_000_000_000, help="steps after which it is taken anew; null: never")
    renewals: int | None = option(
        None, min=1, max=1_000_000_000, help="how often it is taken anew at most (DINOv3: 3 in all); null: to the end"
    )
    from_: str | None = option(
        None, help="the first teacher: a model that has this tower; without it the loss is 0 until step `first`"
    )
    views: dict[str, Any] = option(
        factory=dict,
        help="options in which the teacher's views differ from the student's, the crops being the same: in DINOv3 a "
        "crop_size of twice as many pixels a side, and no jitter; its patches are brought to the student's grid",
    )
    clamp: str = option("none", choices=("none", "teacher", "both"), help="whose negative similarities count as 0")
    tokens: str = option("all", choices=("all", "masked", "unmasked"), help="the student's patches that are compared")

    NEEDS = (needs("renewals", every=SET), needs("every", first=SET))

    def __post_init__(self) -> None:
        if self.first is None and self.from_ is None:
            raise UserError("first: found null, and no model in from; expected one of them")


@strict
@dataclass(kw_only=True)
class Config(TeacherOptions, ObjectiveConfig):
    """Options of DINO, iBOT, DINOv2 and DINOv3, EsViT and CMD."""

    papers = (
        "DINO, Caron et al. 2021, arXiv 2104.14294; iBOT, Zhou et al. 2022, arXiv 2111.07832; DINOv2, Oquab et al. "
        "2023, arXiv 2304.07193; DINOv3 (Gram anchoring), Simeoni et al. 2025, arXiv 2508.10104; "
        "EsViT, Li et al. 2022, arXiv 2106.09785; CMD, Bi et al. 2025, arXiv 2401.08860"
    )
    when = "Good augmentations are known and features are wanted frozen, of whole samples and of patches; long runs."
    suits = "images first; signals and sound with good views; masked patches alone need no views"

    tower: str = option(help="the tower that is trained")
    global_views: list[str] = option(help="views that student and teacher see")
    local_views: list[str] = option(factory=list, help="views that only the student sees")
    masks: list[str] = option(
        factory=list, help="what the student does not see of global views: one (the same places in all), or one a view"
    )
    head: HeadConfig = option(factory=HeadConfig, help="of views, and of patches where they have none of their own")
    patch_head: HeadConfig | None = option(None, help="a head of its own for patches; null: they share one")
    targets: str = option(
        "sinkhorn", choices=("sinkhorn", "centring"), help="how the teacher's assignments are kept from collapse"
    )
    class_weight: float = option(1.0, min=0, max=1_000_000, help="DINO's loss, between views")
    patch_weight: float = option(
        1.0,
        min=0,
        max=1_000_000,
        help="iBOT's loss, the mean over samples with hidden patches; DINOv2 divides by all samples, and leaves half "
        "of them as they are: its 1 is 0.5 here",
    )
    region_weight: float = option(
        0.0, min=0, max=1_000_000, help="EsViT's loss, of each patch and the teacher's most like it in another view"
    )
    instance_weight: float = option(
        0.0, min=0, max=1_000_000, help="CMD's losses, of all regions of a view together; along with class_weight"
    )
    koleo_weight: float = option(
        0.0, min=0, max=1_000_000, help="of the mean over global views; DINOv2 takes 0.1 of their sum"
    )
    gram: GramConfig | None = option(None, help="Gram anchoring; null: none")
    student_temperature: float = option(0.1, above=0, max=1_000, help="of the student's softmax")
    teacher_temperature: list[float] = option(
        factory=lambda: [0.04, 0.07], above=0, max=1_000, help="at the start, and later"
    )
    temperature_warmup: float = option(0.3, min=0, max=1, help="share of the run in which it rises")
    centre_momentum: float = option(0.9, min=0, below=1, help="what the centre keeps of the last one")
    freeze_prototypes: float = option(0.0, min=0, max=1, help="share of the run, from its start")

    NEEDS = (
        needs("patch_weight", masks=SET),
        needs("patch_head", masks=SET, holds=lambda c: bool(c.masks) or c.regional),
        needs("patch_head", patch_weight="above 0", holds=lambda c: c.patch_weight > 0 or c.regional),
        needs("head", class_weight="above 0", holds=lambda c: c.class_weight > 0 or c.patch_head is None),
        needs("centre_momentum", targets="centring"),
        needs("temperature_warmup", teacher_temperature="different", holds=lambda c: len({*c.teacher_temperature}) > 1),
    )

    @property
    def regional(self) -> bool:
        """Whether patches of whole views are assigned to prototypes."""
        return self.region_weight > 0 or self.instance_weight > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.instance_weight and not self.class_weight:
            raise UserError("instance_weight: found a weight, and class_weight 0; expected both")
        patches = self.patch_head.prototypes if self.patch_head is not None else self.head.prototypes
        if self.instance_weight and patches != self.head.prototypes:
            raise UserError(
                f"patch_head.prototypes: found {patches}, expected {self.head.prototypes} as in head: instance_weight "
                "compares what views and their patches are assigned to"
            )
        if len(self.teacher_temperature) != 2:
            raise UserError(f"teacher_temperature: found {self.teacher_temperature}, expected [start, end]")
        if not self.global_views:
            raise UserError("global_views: found none, expected at least one")
        if len(self.masks) not in (0, 1, len(self.global_views)):
            raise UserError(
                f"masks: found {len(self.masks)}, expected none, one, or one for each of the "
                f"{len(self.global_views)} global views"
            )
