"""Options of contrastive learning: see `mmssl.objectives.contrastive`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ...errors import UserError
from ...options import SET, needs, option, strict
from ...schedules import RampConfig
from . import ObjectiveConfig
from .heads import HeadOptions
from .relations import RelationOptions
from .sides import SideOptions
from .teacher import TeacherOptions

RELATED = ("positives", "negatives_column", "neighbours")
LOSSES = ("infonce", "sigmoid", "nt_xent", "dcl", "dclw", "listwise")


@strict
@dataclass(kw_only=True)
class Config(TeacherOptions, RelationOptions, HeadOptions, SideOptions, ObjectiveConfig):
    """Options of CLIP, SigLIP, SimCLR, decoupled contrastive learning, MoCo, NNCLR, SupCon and LOOK."""

    papers = (
        "CLIP, Radford et al. 2021, arXiv 2103.00020; SigLIP, Zhai et al. 2023, arXiv 2303.15343; SimCLR, Chen et al. "
        "2020, arXiv 2002.05709; DCL and DCLW, Yeh et al. 2022, arXiv 2110.06848; SLIP, Mu et al. 2022, arXiv "
        "2112.12750; ImageBind, Girdhar et al. 2023, arXiv 2305.05665; GradCache, Gao et al. 2021, arXiv 2101.06983; "
        "MoCo v1 to v3, He et al. 2020, Chen et al. 2020 and 2021, arXiv 1911.05722, 2003.04297, 2104.02057; NNCLR, "
        "Dwibedi et al. 2021, arXiv 2104.14548; SupCon, Khosla et al. 2020, arXiv 2004.11362; LOOK, Feng et al. 2022, "
        "arXiv 2110.06014; SyCL, Esfandiarpoor et al. 2025, arXiv 2503.23239; ColloSSL, Jain et al. 2022, arXiv "
        "2202.00758"
    )
    when = (
        "Retrieval, zero-shot or few labels are wanted, and pairs or good augmentations exist; big batches help, or a "
        "queue in their place."
    )
    suits = "two or more modalities of the same samples (image-text, audio-video, ECG-report); or one with good views"

    loss: str = option(
        "infonce",
        choices=LOSSES,
        help="CLIP's, SigLIP's, SimCLR's, the decoupled one without and with weights, and SyCL's of graded lists",
    )
    temperature: float | None = option(
        None, above=0, max=1_000, help="initial value; default 0.07, all but infonce 0.1"
    )
    temperature_ramp: RampConfig | None = option(
        None, help="lets a temperature that is not learned grow or shrink over the run; null: it stays"
    )
    learn_temperature: bool | None = option(None, help="default: across towers, but for dcl and dclw; sigmoid always")
    max_scale: float = option(100.0, above=0, max=1_000, help="upper bound of a learned 1 / temperature")
    label_smoothing: float = option(
        0.0, min=0, below=1, help="of infonce: share of the label that all candidates have equal parts of"
    )
    sigma: float = option(0.5, above=0, max=1_000, help="width of the von Mises-Fisher weight of dclw")
    project_within: bool = option(
        False,
        help="within towers, too, compare what the model's projection gives, which embeddings and exports are made of, "
        "as for a question and its answer; false: a head of the objective's own, which is thrown away",
    )
    within_weight: float = option(1.0, min=0, max=1_000_000, help="with pairs: both, weight of the pairs within towers")
    keys: str = option(
        "online",
        choices=("online", "teacher"),
        help="what samples are compared with: the encoder's own embeddings, or those "
        "of its moving average, without gradient (MoCo)",
    )
    export: str | None = option(
        "student", choices=("teacher", "student"), help="whose weights the model has at the end; MoCo's: the student's"
    )
    key_views: list[str] | None = option(
        None, help="of keys: teacher, what it sees, unmasked, where the encoder sees each of the views; null: the same"
    )
    predictor_hidden: int | None = option(
        None,
        min=1,
        max=65_536,
        help="hidden width of a predictor on what gets the gradient, with head_norm (MoCo v3, NNCLR); null: none",
    )
    both_ways: bool = option(True, help="false: only the first of two sides asks, the other is the key (MoCo v1, v2)")
    queue: int | None = option(
        None, min=1, max=10_000_000, help="so many keys of earlier steps are kept, one of each sample and tower"
    )
    negatives: str | None = option(
        None,
        choices=("batch", "queue", "both"),
        help="which keys but its own a sample is told from; null: the queue's, "
        "where there is one, as in MoCo, else the batch's",
    )
    nearest: bool = option(
        False, help="the one that asks is the nearest of the queue to the sample's embedding, not the latter (NNCLR)"
    )
    closest: bool = option(
        False,
        help="of several sides (devices, views) each asks the one whose embeddings are distributed most alike, and is "
        "told from other samples of all of them, by weight of 1 / that discrepancy (ColloSSL)",
    )
    pooled: dict[str, float] = option(
        factory=dict,
        min=0,
        max=1_000,
        help="tower -> weight, of all towers: their embeddings, of length 1, are added up into one a sample, which is "
        "compared between views (CLIPPINGS: a picture and its text)",
    )
    pooled_views: list[str] = option(
        factory=list,
        help="these views count as one: the mean of their embeddings, of those that a sample has (the texts of a "
        "node's neighbours)",
    )
    layers: list[int] = option(
        factory=list, min=1, max=1_024, help="across: mean tokens after these blocks, counted from 1, summed (HiCMAE)"
    )
    layers_normed: bool = option(
        False, help="those tokens behind the tower's last norm, as in HiCMAE; false: as they are"
    )
    start: str | None = option(
        None,
        choices=("cca",),
        help="cca: across towers, projections begin in closed form, by canonical correlations of what the towers pool "
        "the first samples to, shrunk as held-out pairs want it: for few pairs, with model.projection_standard; null: "
        "at random",
    )
    chunk: int | None = option(
        None, min=1, max=1_000_000, help="similarities of this many rows at a time; memory chunk x batch"
    )

    NEEDS = (
        needs("sigma", loss="dclw"),
        needs("label_smoothing", loss="infonce"),
        needs("temperature_ramp", learn_temperature="false", holds=lambda c: not c.learns),
        needs("max_scale", learn_temperature="true", holds=lambda c: c.learns),
        needs("within_weight", pairs="both"),
        needs("start", pairs=("across", "both"), holds=lambda c: c.kind != "within"),
        needs("project_within", pairs=("within", "both"), holds=lambda c: c.kind != "across"),
        needs(
            *(f.name for f in fields(HeadOptions) if f.name != "head_norm"),
            project_within="false",
            holds=lambda c: not c.project_within,
        ),
        needs("layers_normed", layers="some", holds=lambda c: bool(c.layers)),
        needs(
            *(f.name for f in fields(HeadOptions) if f.name != "head_norm"),
            pairs=("within", "both"),
            holds=lambda c: c.kind != "across",
        ),
        needs("head_norm", pairs=("within", "both"), holds=lambda c: c.headed or c.predictor_hidden),
        needs("momentum", "forget", "schedule", "export", "key_views", keys="teacher"),
        needs("predictor_hidden", keys="teacher", holds=lambda c: c.keys == "teacher" or c.nearest),
        needs("nearest", queue=SET),
        needs("queue", negatives=("queue", "both"), holds=lambda c: c.nearest or c.told_from != "batch"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and (self.keys == "teacher" or self.layers):
            what = "layers" if self.layers else "keys"
            raise UserError(
                f"start: found {self.start} with {what}: {getattr(self, what)}, expected projections that are compared "
                "as they are trained: keys: online, and no layers"
            )
        self._refuse_related()
        self._refuse_pooled()
        if self.closest:
            others = ("queue", "predictor_hidden", "chunk", "label_smoothing", "layers", "negatives", *RELATED)
            found = [n for n in others if getattr(self, n)] + ["keys"] * (self.keys == "teacher")
            found += ["both_ways"] * (not self.both_ways) + ["loss"] * (self.loss != "infonce")
            if found:
                raise UserError(
                    f"closest: found true with {found[0]}: {getattr(self, found[0])}, which it does not read"
                )
        if self.negatives in ("queue", "both") and self.queue is None:
            raise UserError(f"negatives: found {self.negatives} and queue: null, expected a number of rows in queue")
        if self.nearest and self.told_from != "batch":
            raise UserError(
                f"negatives: found {self.negatives} with nearest: true, expected batch: the queue has the positives"
            )
        if self.told_from == "queue" and (self.loss in ("nt_xent", "sigmoid") or self.label_smoothing):
            smooth = f"label_smoothing: {self.label_smoothing:g}"
            what = f"loss: {self.loss}" if self.loss in ("nt_xent", "sigmoid") else smooth
            raise UserError(
                f"negatives: found {self.negatives or 'null'} with a queue, whose keys alone are then compared, and "
                f"{what}, which reads those of the batch; expected negatives: both"
            )

    def _refuse_pooled(self) -> None:
        """UserError where means of sides are compared by what knows single ones."""
        name = "pooled" if self.pooled else "pooled_views"
        if not (self.pooled or self.pooled_views):
            return
        alone = {"keys": self.keys == "teacher", "pooled_views": self.pooled and self.pooled_views}
        alone |= {n: getattr(self, n) for n in ("queue", "predictor_hidden", "closest", "layers")}
        for other in (n for n, found in alone.items() if found and n != name):
            raise UserError(f"{other}: found {getattr(self, other)} with {name}, which it does not read")
        if self.pooled and (set(self.pooled) != set(self.towers) or self.pairs is not None or len(self.pooled) < 2):
            raise UserError(
                f"pooled: found {', '.join(self.pooled)} with towers {self.towers} and pairs: {self.pairs}, expected a "
                "weight for each of two towers or more, and no pairs"
            )
        if len(set(self.pooled_views)) == 1:
            raise UserError(f"pooled_views: found {self.pooled_views}, expected two views or more")

    def _refuse_related(self) -> None:
        """UserError where columns say who belongs together to a loss that does not listen."""
        asked = [n for n in RELATED if getattr(self, n)]
        if self.loss == "listwise":
            others = [n for n in ("negatives_column", "neighbours", "queue", "chunk", "nearest") if getattr(self, n)]
            if self.positives is None or others:
                found = "positives: null" if self.positives is None else f"{others[0]}: {getattr(self, others[0])}"
                raise UserError(f"loss: found listwise with {found}, expected positives, of the batch as a whole")
            if (self.positives.form, self.positives.pair) != ("outside", True):
                raise UserError("positives: found form or pair, which loss: listwise does not read; expected neither")
            return
        deaf = {
            "loss": self.loss in ("sigmoid", "dclw"),
            "label_smoothing": self.label_smoothing,
            "nearest": self.nearest,
        }
        for name in (name for name, found in deaf.items() if asked and found):
            raise UserError(
                f"{asked[0]}: found with {name}: {getattr(self, name)}, expected loss: infonce, nt_xent or dcl, "
                "without label_smoothing and nearest"
            )

    @property
    def norms(self) -> bool:
        """The predictor has a hidden layer, too."""
        return super().norms or self.predictor_hidden is not None

    @property
    def headed(self) -> bool:
        """Whether there is a head of its own."""
        return self.kind != "across" and not self.project_within

    @property
    def told_from(self) -> str:
        """`negatives`, or its default."""
        return self.negatives or ("queue" if self.queue is not None and not self.nearest else "batch")

    @property
    def learns(self) -> bool:
        """`learn_temperature`, or its default."""
        if self.learn_temperature is not None:
            return self.learn_temperature
        return self.loss == "sigmoid" or (self.kind != "within" and self.loss in ("infonce", "nt_xent"))
