"""Options of contrastive learning: see `mmssl.objectives.contrastive`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...options import needs, option, strict
from . import ObjectiveConfig
from .heads import HeadOptions
from .sides import SideOptions

LOSSES = ("infonce", "sigmoid", "nt_xent", "dcl", "dclw")


@strict
@dataclass(kw_only=True)
class Config(HeadOptions, SideOptions, ObjectiveConfig):
    """Options of CLIP, SigLIP, SimCLR and decoupled contrastive learning."""

    papers = (
        "CLIP, Radford et al. 2021, arXiv 2103.00020; SigLIP, Zhai et al. 2023, arXiv 2303.15343; SimCLR, Chen et al. "
        "2020, arXiv 2002.05709; DCL and DCLW, Yeh et al. 2022, arXiv 2110.06848; SLIP, Mu et al. 2022, arXiv "
        "2112.12750; ImageBind, Girdhar et al. 2023, arXiv 2305.05665; GradCache, Gao et al. 2021, arXiv 2101.06983"
    )
    when = "Retrieval, zero-shot or few labels are wanted, and pairs or good augmentations exist; big batches help."
    suits = "two or more modalities of the same samples (image-text, audio-video, ECG-report); or one with good views"

    loss: str = option(
        "infonce", choices=LOSSES, help="CLIP's, SigLIP's, SimCLR's, and the decoupled one without and with weights"
    )
    temperature: float | None = option(
        None, above=0, max=1_000, help="initial value; default 0.07, all but infonce 0.1"
    )
    learn_temperature: bool | None = option(None, help="default: across towers, but for dcl and dclw; sigmoid always")
    max_scale: float = option(100.0, above=0, max=1_000, help="upper bound of a learned 1 / temperature")
    label_smoothing: float = option(
        0.0, min=0, below=1, help="of infonce: share of the label that all candidates have equal parts of"
    )
    sigma: float = option(0.5, above=0, max=1_000, help="width of the von Mises-Fisher weight of dclw")
    within_weight: float = option(1.0, min=0, max=1_000_000, help="with pairs: both, weight of the pairs within towers")
    layers: list[int] = option(
        factory=list, min=1, max=1_024, help="across: mean tokens after these blocks, counted from 1, summed (HiCMAE)"
    )
    layers_normed: bool = option(
        False, help="those tokens behind the tower's last norm, as in HiCMAE; false: as they are"
    )
    chunk: int | None = option(
        None, min=1, max=1_000_000, help="similarities of this many rows at a time; memory chunk x batch"
    )

    NEEDS = (
        needs("sigma", loss="dclw"),
        needs("label_smoothing", loss="infonce"),
        needs("max_scale", learn_temperature="true", holds=lambda c: c.learns),
        needs("within_weight", pairs="both"),
        needs("layers_normed", layers="some", holds=lambda c: bool(c.layers)),
        needs(*(f.name for f in fields(HeadOptions)), pairs=("within", "both"), holds=lambda c: c.kind != "across"),
    )

    @property
    def learns(self) -> bool:
        """`learn_temperature`, or its default."""
        if self.learn_temperature is not None:
            return self.learn_temperature
        return self.loss == "sigmoid" or (self.kind != "within" and self.loss in ("infonce", "nt_xent"))
