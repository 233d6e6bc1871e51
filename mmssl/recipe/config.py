"""The sections of a recipe: one strict dataclass each, with every option's type, default, range and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ..limits import Limits
from ..masking import load_mask, mask_names
from ..modality import modality_config, modality_names
from ..models.options import TowerConfig
from ..objectives.options import objective_config, objective_names
from ..options import SET, Needs, needs, option, strict
from ..options.schema import Part, Variant
from ..reading import UNITS, Reading, check_encoding
from .evaluation import SPLIT, EvaluationConfig
from .mixture import MixConfig

MODALITY = Variant("modality", modality_config, modality_names, default=lambda key: key)
OBJECTIVE = Variant("objective", objective_config, objective_names, default=lambda key: key)
MASK = Variant("mask", lambda name: load_mask(name), mask_names, default=lambda key: "random")

PATH = "builtin:NAME, a folder or file of what the modalities read, a file or glob of a table, a Hub id"
OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "lars": "LARS", "lion": "Lion", "muon": "Muon (AdamW outside of blocks)"}
"""Name -> as cards write it."""
MAX_BAD = "share of broken samples above which the run stops"


def check_windows(windows: float | bool | None) -> None:
    """ValueError for `true`, which does not say how long they are."""
    if windows is True:
        raise ValueError("found true, expected seconds, null (a sample's length) or false (recordings stay whole)")


@strict
@dataclass(kw_only=True)
class RowsConfig:
    """The words for data, which every command shares: which rows of which data, and how they are read.

    A recipe's `data`, `mmssl finetune`, `mmssl evaluate` and `mmssl embed` build on it, so that a key means the same,
    and has the same type, default and help, wherever it is written. `--data` of a command says `path`, `--column` says
    `columns`. What a command cannot do anything with it names in `REFUSED`: key -> why, and what to do instead
    (`mmssl.options.schema`).
    """

    path: str | None = option(None, local=True, help=PATH)
    name: str | None = option(None, help="configuration of a `datasets` data set")
    split: str = option("train", help=SPLIT)
    columns: dict[str, str | list[str]] = option(factory=dict, help="modality -> column(s); default: its own name")
    streaming: bool = option(False, help="read the rows in their order, without a copy in the cache first")
    broken: str = option("part", choices=("part", "row"), help="what a broken part of a row costs: itself, or its row")
    limit: int | None = option(
        None, min=1, max=1_000_000_000, help="so many rows of the split: any, always the same; a stream's first"
    )
    workers: int | Literal["auto"] = option(
        "auto",
        min=0,
        max=1_024,
        resumable=True,
        local=True,
        help="processes that read and decode; auto: the cores beside a GPU where samples are decoded, at most 8, one "
        "beside a processor that trains on clips, else none; the same numbers",
    )
    max_bad: float = option(0.05, min=0, max=1, resumable=True, help=MAX_BAD)
    fetch: list[str] = option(
        factory=list, resumable=True, local=True, help="addresses (https://HOST) that rows may name files at, too"
    )
    windows: float | bool | None = option(
        None,
        above=0,
        max=1_000_000,
        check=check_windows,
        help="seconds of a row of long recordings; null: a sample's length; false: none",
    )
    stride: float | None = option(
        None, above=0, max=1_000_000, help="seconds from the beginning of a window to the next; null: its length"
    )
    limits: Limits = option(factory=Limits, resumable=True, help="the largest sample that is decoded")
    header: bool | Literal["auto"] = option(
        "auto", help="whether the first row of a csv file holds the names of its columns; auto: found, and said"
    )
    encoding: str | None = option(
        None, check=check_encoding, help="of text files, e.g. cp1252 or shift-jis; null: UTF-8, or found and said"
    )
    texts: str = option("auto", choices=UNITS, help="what of text files is a sample; auto: by looking, and said")

    @property
    def reading(self) -> Reading:
        """What is said of text files."""
        return Reading(self.header, self.encoding, self.texts)

    NEEDS = (needs("stride", holds=lambda config: config.windows is not False, windows="seconds, or null"),)


@strict
@dataclass(kw_only=True)
class DataConfig(RowsConfig):
    """Where the samples come from and which columns hold which modality."""

    path: str = option(local=True, help=PATH)
    shuffle_buffer: int = option(
        1000, min=1, max=1_000_000_000, help="samples that each reader of a streamed source shuffles among"
    )
    readers: int | None = option(
        None,
        min=1,
        max=1_024,
        help="places that each process reads a stream at, each with files of its own; null: 1 alone, else up to 4",
    )
    mix: dict[str, MixConfig] = option(factory=dict, help="name -> further data that are trained on beside `path`")
    weight: float | None = option(
        None, above=0, max=1_000_000, help="of the samples of `path`, among those of `mix`; null: as many as it has"
    )
    repeat: float | None = option(
        None, above=0, max=1_000_000, help="how often the rows of `path` come in an epoch of a mixture; null: once"
    )
    temperature: float = option(
        1.0, min=0.01, max=1_000_000, help="of a mixture: shares are of numbers of rows to the power of 1 / temperature"
    )
    fit_samples: int = option(
        2000, min=1, max=1_000_000_000, resumable=True, help="samples that preprocessors are fitted on"
    )
    source: str | None = option(None, resumable=True, local=True, help="where the data come from, for the card")
    license: str | None = option(
        None, resumable=True, local=True, help="licence of the data, for the card; default: what its README.md declares"
    )

    REFUSED = {
        "label": "found a column of labels, but pretraining learns without; evaluation.label says what is measured by",
        "group": "found a column of groups, but what rows are held out by stands in evaluation.group",
    }
    NEEDS = (needs("weight", "repeat", "temperature", mix=SET),)


@strict
@dataclass(kw_only=True)
class ModelConfig:
    """The architecture: one or more towers, and the width of the embedding they share."""

    towers: dict[str, TowerConfig] = option(help="name -> tower")
    projection: int | None = option(None, min=1, max=65_536, help="width of the shared embedding; null: no projection")
    projection_hidden: int | None = option(
        None, min=1, max=65_536, help="width of a hidden layer in front of it; null: the projection is a linear map"
    )
    projection_dropout: float = option(
        0.0, min=0, below=1, help="of what comes into the projection and its hidden layer, in training"
    )
    projection_standard: bool = option(
        False,
        help="standardise what comes into it, number by number, over the rows; of frozen towers with stored outputs",
    )
    from_: str | None = option(
        None, local=True, help="go on from a model that mmssl trained: a model folder, a run or a Hub id"
    )
    license: str | None = option(
        None, local=True, help="of the model, for the card's header, as the Hub writes it: apache-2.0, cc-by-4.0, other"
    )
    compatible_with: str | None = option(
        None, help="a format of `mmssl export` (see `mmssl list formats`): sets what it asks for, refuses the rest"
    )

    @property
    def starts(self) -> bool:
        """Whether a run goes on from something, in place of random weights alone."""
        return self.from_ is not None or any(tower.pretrained for tower in self.towers.values())

    NEEDS = (needs("projection_hidden", "projection_dropout", "projection_standard", projection=SET),)


@strict
@dataclass(kw_only=True)
class GuardConfig:
    """When a run has gone wrong, and what is done then. A threshold that is null is not looked at.

    Ranks, spreads and their names: see `mmssl.training.health`. A loss that is not finite ends the run with `warn` and
    `stop`, and counts as any other fault with `rollback`.
    """

    action: str = option("warn", choices=("warn", "stop", "rollback"), help="rollback: to the last healthy checkpoint")
    min_rank: float | None = option(
        1.1, min=0, max=1_000_000, help="least RankMe of any modality; 1: all embeddings on one line"
    )
    min_std: float | None = option(
        0.021, min=0, max=1_000, help="least std_mean of any modality; 0: all embeddings are one"
    )
    min_codes: float | None = option(
        0.05, min=0, max=1, help="least use of any codebook, its perplexity over its size; 0: one code says all"
    )
    drop_share: float | None = option(None, above=0, below=1, help="largest fall of a RankMe below its best so far")
    spike: float | None = option(
        None, above=0, max=1_000, help="largest rise of the loss over its median, in deviations of it"
    )
    patience: int = option(
        2, min=1, max=1_000_000_000, help="bad checks in a row before something is done; loss: at once"
    )
    lr_factor: float = option(0.5, above=0, max=1, help="of the learning rate, at each rollback")
    rollbacks: int = option(3, min=1, max=1_000_000_000, help="at most; then the run stops")

    NEEDS = (needs("lr_factor", "rollbacks", action="rollback"),)


@strict
@dataclass(kw_only=True)
class LoopConfig:
    """The loop, as every command that trains goes through it."""

    steps: int | None = option(None, min=1, max=1_000_000_000, resumable=True, help="optimiser steps")
    epochs: float | None = option(None, above=0, max=1_000_000, resumable=True, help="passes over the data")
    batch_size: int = option(256, min=1, max=1_000_000, help="samples of one optimiser step, over all processes")
    accumulation: int = option(
        1,
        min=1,
        max=1_000_000,
        resumable=True,
        help="parts that a step goes through the model in: less memory, the same numbers",
    )
    micro_batch: int | Literal["auto"] | None = option(
        None,
        min=1,
        max=1_000_000,
        resumable=True,
        help="in place of accumulation: so many samples at most go through the model at once in each process; auto: as "
        "many as fit a GPU's memory, found by trying before the first step; the same numbers",
    )
    lr: float = option(1e-3, above=0, max=1_000, help="peak learning rate, after the warm-up")
    min_lr: float = option(0.0, min=0, max=1_000, help="where the cosine ends")
    warmup: float = option(0.05, min=0, max=1_000_000_000, help="below 1: share of all steps; else: steps")
    optimizer: str = option("adamw", choices=tuple(OPTIMIZERS), help="by which rule the weights follow their gradients")
    weight_decay: float = option(
        0.05,
        min=0,
        max=1_000,
        help="of matrices only, not of biases, norms and tokens; sgd and lars add it to the gradient, the others "
        "shrink the weights by it",
    )
    momentum: float | None = option(
        None, min=0, below=1, help="of sgd, lars and muon: share of the step before; null: 0.9, of muon 0.95"
    )
    nesterov: bool = option(False, help="of sgd and lars: look ahead by the momentum (muon always does)")
    trust: float = option(
        1e-3, above=0, max=1_000, help="of lars: length of a step of a matrix, relative to its own, at a rate of 1"
    )
    betas: list[float] | None = option(
        None,
        min=0,
        below=1,
        help="of adamw, and of what muon leaves to it: decay of the mean and of the square of the gradient; of lion: "
        "of what its step, and what its memory is made of; null: [0.9, 0.95], of lion [0.9, 0.99]",
    )
    eps: float = option(1e-8, above=0, max=1, help="of adamw and muon: added to the root of the square")
    clip: float | None = option(1.0, above=0, max=1_000_000_000, help="largest norm of the gradient; null: not clipped")
    mixed_precision: str = option(
        "auto",
        choices=("auto", "no", "bf16", "fp16"),
        help="of the forward pass, weights stay float32; auto: bf16 on a GPU that has it, else no",
    )
    log_every: int = option(
        10, min=1, max=1_000_000_000, resumable=True, local=True, help="steps between two lines of metrics.jsonl"
    )
    save_every: int | None = option(
        None,
        min=1,
        max=1_000_000_000,
        resumable=True,
        local=True,
        help="steps between checkpoints, besides train.save_minutes",
    )
    save_minutes: float | None = option(
        15.0,
        above=0,
        max=100_000,
        resumable=True,
        local=True,
        help="minutes between checkpoints, written at the next line of the log; null: none by the clock",
    )
    time_limit: float | None = option(
        None,
        above=0,
        max=1_000_000,
        resumable=True,
        local=True,
        help="minutes after which the run writes a checkpoint and ends with exit code 75, to be started again with "
        "--resume auto",
    )
    keep: int = option(2, min=1, max=1_000_000_000, resumable=True, local=True, help="how many checkpoints stay")
    memory: float = option(
        1.0,
        min=0,
        max=1_000_000,
        resumable=True,
        local=True,
        help="GB of decoded samples that each process keeps instead of decoding them in every epoch; the same numbers",
    )
    trackers: list[str] | None = option(
        None, resumable=True, local=True, help="Accelerate's trackers; null: tensorboard where it is installed"
    )

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("momentum", optimizer=("sgd", "lars", "muon")),
        needs("nesterov", optimizer=("sgd", "lars")),
        needs("nesterov", holds=lambda config: config.momentum != 0, momentum="above 0"),
        needs("trust", optimizer="lars"),
        needs("betas", optimizer=("adamw", "lion", "muon")),
        needs("eps", optimizer=("adamw", "muon")),
    )


@strict
@dataclass(kw_only=True)
class TrainConfig(LoopConfig):
    """The loop of pretraining, and what is looked at on the way. Exactly one of `steps` and `epochs` is given."""

    parallel: str | None = option(
        None,
        choices=("ddp", "fsdp2"),
        resumable=True,
        local=True,
        help="how several processes train: each holds everything (ddp), or a share of all weights, gradients, teachers "
        "and of the optimiser's state (fsdp2); null: as the launcher says (accelerate launch --use_fsdp), else ddp",
    )
    keep_best: str | None = option(
        None,
        resumable=True,
        help="loss, loss/PART, probe/MODALITY/TASK or health/... of metrics.jsonl: the checkpoint that it was best at "
        "(losses least, all else most) stays besides the last ones",
    )
    keep_best_model: bool = option(False, resumable=True, help="the model gets that checkpoint's weights at the end")
    gradient_checkpointing: bool | Literal["selective"] = option(
        False,
        resumable=True,
        help="compute activations again in the backward pass: less memory, more time; selective: all but products and "
        "attention, which take the time",
    )
    compile: bool | Literal["auto"] = option(
        "auto",
        resumable=True,
        help="torch.compile every trunk; auto: on a GPU, where Triton and a C compiler are there and train.parallel is "
        "not fsdp2",
    )
    store_frozen: bool = option(
        True,
        resumable=True,
        help="outputs of frozen towers whose inputs do not change are computed once, and kept in the run's `stored`",
    )
    gradient_share_every: int | None = option(
        None, min=1, max=1_000_000_000, resumable=True, help="steps between measurements of who pulls the encoders"
    )
    health_every: int | None = option(
        100, min=1, max=1_000_000_000, resumable=True, help="steps between measurements of the embeddings; null: never"
    )
    health_samples: int = option(
        256, min=2, max=1_000_000_000, resumable=True, help="training samples that health is measured on"
    )
    guard: GuardConfig | None = option(
        factory=GuardConfig, resumable=True, help="what is done about a collapse; null: nothing"
    )
    probe_every: int | None = option(
        None, min=1, max=1_000_000_000, resumable=True, help="steps between probes on labelled rows (evaluation.label)"
    )
    probe_tasks: list[str] = option(
        factory=lambda: ["knn"], resumable=True, choices=("knn", "linear"), help="which probes"
    )
    probe_samples: int = option(
        1000, min=2, max=1_000_000_000, resumable=True, help="labelled rows the probe learns from; half as many test it"
    )

    NEEDS = (
        needs("health_samples", health_every=SET),
        needs("probe_tasks", "probe_samples", probe_every=SET),
        needs("keep_best_model", keep_best=SET),
    )


@strict
@dataclass(kw_only=True)
class Recipe:
    """One experiment.

    `modalities`, `masks` and `objectives` hold `Part`s: `.type` is the name it is found by, `.config` its options
    (for a mask that is the mask itself: a callable). A modality's and an objective's type default to their key.
    """

    name: str = option("", help="names the folder of the run, runs/NAME; default: the file's own name")
    description: str = option("", help="what it is, in a sentence, for `mmssl list recipes` and the card")
    seed: int = option(
        0, min=0, max=2**32 - 1, help="of all random numbers: weights, masks, views, the order of the samples"
    )
    data: DataConfig = option(help="where the samples come from")
    modalities: dict[str, Annotated[Part, MODALITY]] = option(
        help="name -> modality of that type: how raw values become patches"
    )
    model: ModelConfig = option(help="the architecture")
    views: dict[str, dict[str, dict[str, Any]]] = option(factory=dict, help="view -> modality -> augmentation")
    masks: dict[str, Annotated[Part, MASK]] = option(
        factory=dict, help="name -> mask: which patches are hidden; objectives refer to it by its name"
    )
    objectives: dict[str, Annotated[Part, OBJECTIVE]] = option(
        help="name -> objective: what is learned; their losses are summed by weight"
    )
    train: TrainConfig = option(factory=TrainConfig, help="the loop")
    evaluation: EvaluationConfig = option(factory=EvaluationConfig, help="what is measured at the end")
