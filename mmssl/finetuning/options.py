"""The options of `mmssl finetune`: one strict dataclass, `key=value` on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..models.options import AdapterConfig
from ..options import option, strict
from ..recipe.config import LoopConfig, RowsConfig

TASKS = ("auto", "classification", "multilabel", "regression", "retrieval")
WHOLE = ("none", "linear")
"""Values of `--peft` that are no adapter: train everything, or the head alone."""
PEAK = {"none": 2e-4, "linear": 1e-2}
"""Peak learning rates; adapters take `PEAK_ADAPTER`."""
PEAK_ADAPTER = 1e-3
STEEPER = 5.0
"""The second rate that is tried is so many times the first: random weights stand, and ask for, more."""
ARMS = ("pretrained", "scratch", "start", "probe", "start_probe", "untrained_probe", "raw_linear", "raw_boosting")
"""What `--compare` compares; see `mmssl.finetuning.arms`."""
BUDGETS = (20, 100, 1000)
"""Labels that a comparison has when nobody says how many."""
LEAST_STEPS, EPOCHS = 200, 30
REST = "rest"
"""Stands for data without labels: the training rows whose label is not known or was not drawn."""
WAYS = ("confidence", "neighbours", "propagation", "label_model", "teacher")
"""What labels a row without a label; see `mmssl.finetuning.pseudo`."""
FORGET_STEPS = 200
"""Steps of a forgetting, when nobody says."""
FEW_STEPS, FEW_RATE = 60, 2.5
"""With few labels, when nobody says: steps of the schedule, and how many times the usual peak rate. When to stop is
chosen by folds, so that the rate may be high."""


@strict
@dataclass(kw_only=True)
class SelfTrainingConfig:
    """How rows without labels are learned from (--unlabelled)."""

    by: str = option(
        "confidence",
        choices=WAYS,
        help="what labels a row: the likeliest class of the model so far; the same where most of the nearest labelled "
        "rows agree; labels spread along the graph of nearest neighbours; many weak rules and a model of their votes; "
        "teacher: an average of the model labels them in every step, of one training and not in rounds",
    )
    keep: float = option(0.5, above=0, max=1, help="share of the rows of each class kept in the last round, the surest")
    grow: bool = option(True, help="from round to round as many more, instead of that share from the first on")
    weight: float = option(
        0.3, above=0, max=1_000_000, help="what those that are kept count together, the labelled ones being 1"
    )
    balance: bool = option(True, help="of each class together as it does among the labelled rows")
    neighbours: int = option(5, min=1, max=10_000, help="nearest rows that vote, or that a row is joined with")
    near: int | None = option(
        None, min=1, max=1_000_000, help="of the rows those alone that are among so many nearest to a labelled one"
    )
    steps: int | None = option(
        None, min=0, max=1_000_000_000, help="of a training on rows so labelled; null: as on the labelled ones alone"
    )
    reweigh: bool = option(
        False, help="kept rows count by how much learning from them helps labelled rows that are kept aside"
    )
    sure: float = option(0.8, min=0, below=1, help="how sure the teacher has to be of a row (by=teacher)")
    momentum: float = option(0.95, min=0, max=1, help="of the teacher: what is left of it after a step (by=teacher)")
    ahead: int = option(
        0, min=0, max=1_000, help="steps, like its last, that the student goes on for the teacher alone (by=teacher)"
    )
    gold_last: bool = option(False, help="learn from those that are kept first, and from the labelled rows alone last")
    split: str = option("train", help="of the unlabelled data, where they are data of their own")
    name: str | None = option(None, help="of their configuration")
    limit: int | None = option(None, min=1, max=1_000_000_000_000, help="at most so many of them")


@strict
@dataclass(kw_only=True)
class ForgettingConfig:
    """How a model is made to forget rows (--forget)."""

    weight: float = option(1.0, above=0, max=1_000_000, help="what the forgotten rows count, the kept ones being 1")
    temperature: float = option(0.2, above=0, max=1_000, help="of the cosines between features, before and after")
    places: int = option(
        256, min=1, max=1_000_000, help="rows of either kind whose features before stand for where their kind lies"
    )
    against: str | None = option(
        None, local=True, help="a model retrained without them (select=RUN/kept.parquet), which is measured, too"
    )


@strict
@dataclass(kw_only=True)
class FinetuneConfig(RowsConfig):
    """What is trained on which rows, and how long.

    The rows are those of `split`, of which some are held out where the data has no splits for it; `limit` is of each.
    `path` null: those that the model's run learned from.
    """

    label: str | list[str] | None = option(None, help="column of the labels, or several")
    seed: int = option(0, min=0, max=2**32 - 1, help="of all random numbers: splits, the head, the order of the rows")
    task: str = option("auto", choices=TASKS, help="auto: by what the label columns hold")
    peft: str = option("lora", help="none (train everything), linear (the head alone), or a type of PEFT's")
    adapter: AdapterConfig = option(factory=AdapterConfig, help="options of the adapter that --peft names")
    modalities: list[str] | None = option(None, help="null: those that the data has columns for")
    validation: str | None = option(None, help="a split for early stopping; null: a part of the training rows")
    validation_share: float = option(0.2, min=0, below=1, help="that part; 0: no early stopping")
    test: str | None = option("test", help="a split to measure on; null, or none there: a part of all rows")
    test_share: float = option(0.2, above=0, below=1, help="share of the rows, where the data have no split to test on")
    group: str | None = option(None, help="column (patient, speaker) whose rows stay on one side of every split")
    fraction: float | list[float] | None = option(
        None, above=0, max=1, help="share of the labels to use, stratified; with --compare several"
    )
    labels: int | list[int] | None = option(
        None,
        min=2,
        max=1_000_000_000,
        help="number of labels to use, stratified, instead of a share; with --compare several, null: 20, 100, 1000",
    )
    few: int = option(
        500,
        min=0,
        max=1_000_000_000,
        help="with at most so many labelled rows, rate and number of steps are chosen by cross-validation inside them, "
        "and all of them are learned from; with more, a part is held out to stop by; 0: always",
    )
    folds: int = option(4, min=2, max=100, help="parts of this cross-validation")
    compare: bool = option(False, help="measure the reason to pretrain: several ways to learn from the same labels")
    draws: int = option(5, min=1, max=1_000, resumable=True, help="draws of the labelled rows (--compare)")
    arms: list[str] | None = option(
        None, choices=ARMS, resumable=True, help="what is compared, with the first one; null: all (--compare)"
    )
    rates: list[float] | None = option(
        None,
        above=0,
        max=1_000,
        help="peak learning rates, chosen among with few labels and by --compare; null: train.lr, or with few labels "
        "5e-4 (2.5e-3 of an adapter), else 2e-4 and 1e-3 (1e-3 and 5e-3 of an adapter)",
    )
    score: str | None = option(
        None, resumable=True, help="which score the tables show; null: the first of the task (--compare)"
    )
    augment: dict[str, dict[str, Any]] = option(factory=dict, help="modality -> augmentation of the training rows")
    modes: dict[str, str] = option(
        factory=dict, help="tower -> which of its `modes` it reads in from here on (UL2); default: as it did"
    )
    class_weights: str = option(
        "none", choices=("none", "balanced"), help="balanced: every class counts alike in the loss"
    )
    loss: str = option(
        "cross_entropy",
        choices=("cross_entropy", "logit_adjusted", "ldam", "experts"),
        help="of classes; logit_adjusted: what is rare is not said less often for that; ldam: with the wider a margin "
        "the rarer the class is; experts: three heads, one plain, one for classes that are equally frequent and one "
        "for the rare being frequent, whose answers are averaged",
    )
    tau: float = option(1.0, min=0, max=100, help="of logit_adjusted; 1: as if all classes were as frequent")
    margin: float = option(0.5, min=0, max=1_000, help="of ldam: that of the rarest class, in logits")
    lean: float = option(2.0, min=0, max=100, help="of experts: how far the third leans to rare classes")
    weigh_experts: bool = option(
        False,
        help="what the experts' answers count is found on the inputs of the test rows, without their labels: so that "
        "two views of a row (augment) are answered alike",
    )
    shots: list[int] = option(
        factory=lambda: [20, 100],
        min=1,
        max=1_000_000_000,
        help="training rows of a class from which on it counts as medium, and above which as many, where the report "
        "has scores by how frequent classes are",
    )
    head_start: str = option("probe", choices=("probe", "zero"), help="probe: start from the fitted linear probe")
    keep_head: str | None = option(None, help="name of the objective whose head's first layer is kept (SimCLRv2)")
    keep_layers: int = option(1, min=1, max=1_000, help="how many hidden layers of that head, from the first on")
    layer_decay: float | None = option(None, above=0, max=1, help="null: 0.75 when everything is trained, else 1")
    monitor: str = option(
        "loss",
        choices=("loss", "score", "separability"),
        help="what early stopping looks at; separability: how well the validation rows' features fall into clusters, "
        "without labels (see evaluate --task separability)",
    )
    patience: int | None = option(
        5,
        min=1,
        max=1_000_000_000,
        resumable=True,
        help="looks at the validation rows without gain; null: never stop early",
    )
    eval_every: int | None = option(None, min=1, max=1_000_000_000, help="steps between them; null: a twentieth of all")
    eval_batch_size: int = option(256, min=1, max=1_000_000, resumable=True, help="rows that are scored at a time")
    temperature: float = option(1.0, above=0, max=1_000, help="of a teacher's answers and the student's (--teacher)")
    soft_loss: str = option(
        "cross_entropy",
        choices=("cross_entropy", "js"),
        help="between a teacher's chances and the student's; js: Jensen-Shannon divergence, which no sure answer of "
        "either makes large (--teacher)",
    )
    unlabelled: str | None = option(
        None,
        help="data without labels that are learned from, too; rest: the training rows whose label is not known, or was "
        "not drawn",
    )
    rounds: int = option(3, min=1, max=1_000, help="how often they are labelled anew (--unlabelled)")
    self_training: SelfTrainingConfig = option(factory=SelfTrainingConfig, help="how (--unlabelled)")
    forget: str | None = option(
        None,
        help="training rows that the model is to forget: COLUMN=VALUE or COLUMN=VALUE,VALUE (a label, a patient, ids), "
        "or a file of `mmssl select`: those that it keeps",
    )
    forgetting: ForgettingConfig = option(factory=ForgettingConfig, help="how (--forget)")
    train: LoopConfig = option(factory=LoopConfig, help="the loop")

    def rates_of(self, peft: str, few: bool) -> list[float]:
        """The peak learning rates that are tried, of what is trained so; few: with few labels."""
        first = PEAK.get(peft, PEAK_ADAPTER)
        return self.rates or ([FEW_RATE * first] if few else [first, STEEPER * first])

    @property
    def label_columns(self) -> list[str]:
        """The columns of the labels; none without labels."""
        return [self.label] if isinstance(self.label, str) else list(self.label or [])


DEFAULTS = FinetuneConfig()


def fit_batch(train: LoopConfig, rows: int, processes: int) -> None:
    """Where the rows fill no batch, one has all of them, as far as processes can share them equally; in place.

    Its parts (`accumulation`) are then as many as divide it, which changes no number.
    """
    most = max(rows // processes * processes, processes)
    if train.batch_size > most:
        train.batch_size, share = most, most // processes
        train.accumulation = max(n for n in range(1, min(train.accumulation, share) + 1) if share % n == 0)


def steps_of(train: LoopConfig, rows: int) -> int:
    """Optimiser steps over so many rows: what is asked for, else 30 epochs but at least 200 steps."""
    per_epoch = max(rows // train.batch_size, 1)
    if train.steps is not None:
        return train.steps
    if train.epochs is not None:
        return max(int(train.epochs * per_epoch), 1)
    return max(EPOCHS * per_epoch, LEAST_STEPS)
