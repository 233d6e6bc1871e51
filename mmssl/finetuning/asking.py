"""What `mmssl finetune` is asked for: `key=value` words and flags made into its options, and looked at before anything
is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..modality import crossing_views, view_options
from ..modality.faults import augment_faults, crossing_faults
from ..options.schema import BAD, Faults, build
from ..recipe.checks import micro_batch_faults, rate_faults
from ..recipe.loading import merge_flags, merge_overrides
from .options import DEFAULTS, FORGET_STEPS, PEAK, PEAK_ADAPTER, REST, WHOLE, FinetuneConfig


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
    if data.get("forget") is not None:
        _set_forgetting(data)
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
    if "rounds" in data and data.get("unlabelled") is None:
        faults.append(f"rounds: found {data['rounds']} without --unlabelled, expected both")
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
    faults += _unlabelled_faults(options) + _tail_faults(options) + _forget_faults(options)
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
    of = {"tau": "logit_adjusted", "margin": "ldam", "lean": "experts", "weigh_experts": "experts"}
    faults = [
        f"{key}: found {getattr(options, key)}, but loss={options.loss}; expected it with loss={loss}"
        for key, loss in of.items()
        if options.loss != loss and getattr(options, key) != getattr(DEFAULTS, key)
    ]
    if options.loss in ("logit_adjusted", "experts") and options.class_weights != "none":
        faults.append(f"class_weights: found balanced with loss={options.loss}, which does the same; expected one")
    if options.weigh_experts and not options.augment:
        faults.append("weigh_experts: found it without augment, expected augment.MODALITY: what two views of a row are")
    if options.weigh_experts and options.compare:
        faults.append("weigh_experts: found it with --compare, whose rows to measure on choose nothing")
    if options.keep_head is None and options.keep_layers != DEFAULTS.keep_layers:
        faults.append(f"keep_layers: found {options.keep_layers} without keep_head, expected both")
    if len(options.shots) != 2 or options.shots[0] > options.shots[1]:
        faults.append(f"shots: found {options.shots}, expected two numbers in rising order")
    return faults


def _set_forgetting(data: dict[str, Any]) -> None:
    """What is usual where rows are to be forgotten: all is trained, few steps, and no end before the last of them."""
    data.setdefault("peft", "none")
    data.setdefault("patience", None)
    train = data["train"]
    if isinstance(train, dict) and train.get("steps") is None and train.get("epochs") is None:
        train["steps"] = FORGET_STEPS


FORGET_ALONE = (
    "compare",
    "unlabelled",
    "select",
    "limit",
    "fraction",
    "labels",
    "few",
    "folds",
    "rates",
    "validation",
    "validation_share",
    "loss",
    "class_weights",
    "keep_head",
    "monitor",
)
"""Options that a forgetting has nothing to do with, or decides itself."""


def _forget_faults(options: FinetuneConfig) -> list[str]:
    if options.forget is None:
        alone = options.forgetting != DEFAULTS.forgetting
        return ["forgetting: found it without --forget, expected both"] if alone else []
    lr = [options.train.lr]
    return [
        f"{key}: found {getattr(options, key)} with --forget, which decides that itself"
        for key in FORGET_ALONE
        if getattr(options, key) != getattr(DEFAULTS, key) and not (key == "rates" and options.rates == lr)
    ]


def _unlabelled_faults(options: FinetuneConfig) -> list[str]:
    said = options.self_training
    if options.unlabelled is None:
        alone = said != DEFAULTS.self_training
        return ["self_training: found it without --unlabelled, expected both"] if alone else []
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


def refuse_beside(options: FinetuneConfig, where: str, defaults: Mapping[str, object]) -> None:
    """UserError when an option is not its default, which it must be beside `where` (`--teacher`, a task)."""
    for key, default in defaults.items():
        if getattr(options, key) != default:
            raise UserError(f"{key}: found {getattr(options, key)}, which does not go with {where}")


def refuse_teacher(teacher: str | None) -> None:
    """UserError where a comparison is to learn from a teacher's answers, which are no labels."""
    if teacher is not None:
        raise UserError("--teacher: found it with --compare, which learns from labels")
