"""The options of `mmssl finetune`: one strict dataclass, `key=value` on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..modality import crossing_views, view_options
from ..modality.faults import augment_faults, crossing_faults
from ..models.options import AdapterConfig
from ..options import option, strict
from ..options.schema import BAD, Faults, build
from ..recipe.checks import micro_batch_faults, rate_faults
from ..recipe.config import LoopConfig, RowsConfig
from ..recipe.loading import merge_flags, merge_overrides

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
    weigh: bool = option(
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


def load_options(
    words: Sequence[str] | Mapping[str, object], flags: Mapping[str, object] | None = None
) -> FinetuneConfig:
    """Options from `key=value` words or a mapping; `flags` are those that the command line has an option for.

    Raises one UserError with a line a fault, also for an adapter that PEFT does not have.
    """
    faults: Faults = []
    data: dict[str, Any] = {"train": {"batch_size": 32, "trackers": [], "warmup": 0.1}}
    data = merge_overrides(data, words, faults)
    merge_flags(data, flags or {}, faults)
    if data.get("compare") is True:
        data.setdefault("peft", "none")  # as what starts from random weights is trained
    peft = data.get("peft", "lora")
    train = data["train"]
    if isinstance(train, dict):
        if train.get("optimizer", "adamw") in ("adamw", "muon"):
            train.setdefault("betas", [0.9, 0.999])
        if "lr" in train:
            if data.get("rates") is not None:
                faults.append("rates: found both rates and train.lr, expected one of them")
            data["rates"] = [train["lr"]]
        rates = data.get("rates")
        if isinstance(rates, list) and len(rates) == 1:
            train["lr"] = rates[0]
        train.setdefault("lr", PEAK.get(peft, PEAK_ADAPTER) if isinstance(peft, str) else PEAK_ADAPTER)
    options = build(FinetuneConfig, data, "", faults)
    if not faults and options is not BAD:
        _check(options, faults, set(data.get("adapter", {})))
    if faults:
        raise UserError("\n".join(faults))
    result: FinetuneConfig = options
    return result


def check_augment(chosen: FinetuneConfig, types: Mapping[str, str]) -> None:
    """UserError, a line a fault, for augmentations that the model's modalities do not have, or not with accumulation.

    types: name -> type of the model's modalities.
    """
    faults: Faults = []
    for name, spec in chosen.augment.items():
        where = f"augment.{name}"
        if name not in types:
            faults.append(f"{where}: found no such modality of the model, expected one of {', '.join(types)}")
            continue
        options = view_options(types[name])
        if options is not None:
            faults += augment_faults(options, spec, where)
        if isinstance(spec, Mapping):
            faults += crossing_faults(crossing_views(types[name]), spec, where, chosen.train.accumulation)
    if faults:
        raise UserError("\n".join(faults))


def _check(options: FinetuneConfig, faults: Faults, given: set[str]) -> None:
    train = options.train
    if options.streaming:
        faults.append(
            "streaming: found true, but fine-tuning holds rows out by label and group, for which it looks at every "
            "row by its number; use limit for fewer rows"
        )
    if train.steps is not None and train.epochs is not None:
        faults.append("train.epochs: found both epochs and steps, expected one of them")
    if options.fraction is not None and options.labels is not None:
        faults.append("labels: found both fraction and labels, expected one of them")
    if not options.compare:
        faults += [
            f"{key}: found {getattr(options, key)}, which is of a comparison; expected it with --compare"
            for key in ("draws", "arms", "score")
            if getattr(options, key) != getattr(DEFAULTS, key)
        ]
        faults += [
            f"{key}: found several, {getattr(options, key)}; expected one of them, or --compare"
            for key in ("labels", "fraction")
            if isinstance(getattr(options, key), list)
        ]
    faults += _unlabelled_faults(options) + _tail_faults(options)
    if train.accumulation > train.batch_size:
        faults.append(f"train.accumulation: found {train.accumulation}, expected at most train.batch_size")
    faults += micro_batch_faults(train.micro_batch, train.accumulation) + rate_faults(train)
    if "type" in given:
        faults.append("adapter.type: found it as an override, expected --peft to say the type of the adapter")
    elif options.peft in WHOLE and given:
        faults.append(f"adapter: found options of an adapter, but --peft {options.peft} has none")
    elif options.peft not in WHOLE:
        from ..models.adapters import check_adapter  # PEFT knows its types, and imports torch

        options.adapter.type = options.peft
        try:
            check_adapter(options.adapter, "adapter")
        except UserError as error:
            faults.append(str(error).replace("adapter.type:", "--peft:"))


def _tail_faults(options: FinetuneConfig) -> list[str]:
    faults = [
        f"{key}: found {getattr(options, key)}, but loss={options.loss}; expected it with loss={loss}"
        for key, loss in (("tau", "logit_adjusted"), ("margin", "ldam"), ("lean", "experts"), ("weigh", "experts"))
        if options.loss != loss and getattr(options, key) != getattr(DEFAULTS, key)
    ]
    if options.loss in ("logit_adjusted", "experts") and options.class_weights != "none":
        faults.append(f"class_weights: found balanced with loss={options.loss}, which does the same; expected one")
    if options.weigh and not options.augment:
        faults.append("weigh: found it without augment, expected augment.MODALITY: what two views of a row are")
    if options.weigh and options.compare:
        faults.append("weigh: found it with --compare, whose arms are measured on rows that nothing was chosen by")
    if options.keep_head is None and options.keep_layers != DEFAULTS.keep_layers:
        faults.append(f"keep_layers: found {options.keep_layers} without keep_head, expected both")
    if len(options.shots) != 2 or options.shots[0] > options.shots[1]:
        faults.append(f"shots: found {options.shots}, expected two numbers in rising order")
    return faults


def _unlabelled_faults(options: FinetuneConfig) -> list[str]:
    said = options.self_training
    if options.unlabelled is None:
        keys = [key for key in ("rounds", "self_training") if getattr(options, key) != getattr(DEFAULTS, key)]
        return [f"{key}: found it without --unlabelled, expected both" for key in keys]
    ways = _way_faults(options)
    if ways:
        return ways
    if options.compare:
        return ["unlabelled: found it with --compare, which learns from labels alone"]
    if options.unlabelled == REST:
        keys = [key for key in ("split", "name", "limit") if getattr(said, key) != getattr(DEFAULTS.self_training, key)]
        return [f"self_training.{key}: found it with --unlabelled rest, which are rows of --data" for key in keys]
    given = (options.unlabelled, options.path)
    places = [None if path is None else Path(path).expanduser().resolve() for path in given]
    same = places[0] == places[1] and said.name == options.name
    if same and said.split in (options.split, options.test, options.validation):
        return [
            f"unlabelled: found split '{said.split}' of --data, which has rows that are measured on or learned from by "
            "their labels; expected --unlabelled rest, or other data"
        ]
    return []


def _way_faults(options: FinetuneConfig) -> list[str]:
    said, usual = options.self_training, DEFAULTS.self_training
    if said.by != "teacher":
        keys = [key for key in ("sure", "momentum", "ahead") if getattr(said, key) != getattr(usual, key)]
        return [f"self_training.{key}: found it with by={said.by}, expected by=teacher" for key in keys]
    others = ("keep", "grow", "balance", "neighbours", "near", "reweigh", "gold_last")
    faults = [
        f"self_training.{key}: found it with by=teacher, which keeps rows by how sure it is (self_training.sure)"
        for key in others
        if getattr(said, key) != getattr(usual, key)
    ]
    if options.rounds != DEFAULTS.rounds:
        faults.append(f"rounds: found {options.rounds} with self_training.by=teacher, which is one training")
    if options.class_weights != "none":
        faults.append("class_weights: found balanced with self_training.by=teacher, expected loss=logit_adjusted")
    return faults


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


def refuse_beside(options: FinetuneConfig, where: str, defaults: Mapping[str, object]) -> None:
    """UserError when an option is not its default, which it must be beside `where` (`--teacher`, a task)."""
    for key, default in defaults.items():
        if getattr(options, key) != default:
            raise UserError(f"{key}: found {getattr(options, key)}, which does not go with {where}")


def refuse_teacher(teacher: str | None) -> None:
    """UserError where a comparison is to learn from a teacher's answers, which are no labels."""
    if teacher is not None:
        raise UserError("--teacher: found it with --compare, which learns from labels")
