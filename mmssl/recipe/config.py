"""The sections of a recipe: one strict dataclass each, with every option's type, default, range and help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from ..limits import Limits
from ..masking import load_mask, mask_names
from ..modality import modality_config, modality_names
from ..models.options import TowerConfig
from ..objectives.options import objective_config, objective_names
from ..options import SET, Needs, needs, option, strict
from ..options.schema import Part, Variant
from ..reading import GIGABYTES, UNITS, Reading, check_encoding
from .evaluation import SPLIT, EvaluationConfig
from .mixture import MixConfig
from .renewing import RenewedConfig
from .sampling import SamplerConfig
from .train import OPTIMIZERS, GuardConfig, LoopConfig, TrainConfig

__all__ = [
    "OPTIMIZERS",
    "DataConfig",
    "GuardConfig",
    "LoopConfig",
    "ModelConfig",
    "Recipe",
    "RowsConfig",
    "TrainConfig",
]

MODALITY = Variant("modality", modality_config, modality_names, default=lambda key: key)
OBJECTIVE = Variant("objective", objective_config, objective_names, default=lambda key: key)
MASK = Variant("mask", lambda name: load_mask(name), mask_names, default=lambda key: "random")

PATH = "builtin:NAME, a folder or file of what the modalities read, a file or glob of a table, a Hub id"
SELECT = "a file of `mmssl select`: only the rows of the split that it keeps"
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
    columns: dict[str, str | list[str]] = option(
        factory=dict, help="modality, or `column` of a view -> column(s) of the data; default: its own name"
    )
    streaming: bool = option(
        False, help="read the rows in their order; else by number, after a copy of what is no parquet here"
    )
    broken: str = option("part", choices=("part", "row"), help="what a broken part of a row costs: itself, or its row")
    limit: int | None = option(
        None, min=1, max=1_000_000_000, help="so many rows of the split: any, always the same; a stream's first"
    )
    select: str | None = option(None, local=True, help=SELECT)
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
    copy: bool | None = option(
        None,
        help="copy the rows of parquet files on this disk into the cache of `datasets` first, as large as they are; "
        "null: only for an order that goes anywhere in them (sampler, renewed)",
    )

    @property
    def reading(self) -> Reading:
        """What is said of tables."""
        return Reading(self.header, self.encoding, self.texts, bool(self.copy))

    NEEDS: ClassVar[tuple[Needs, ...]] = (
        needs("stride", holds=lambda config: config.windows is not False, windows="seconds, or null"),
    )


@strict
@dataclass(kw_only=True)
class CacheConfig:
    """Decoded clips and sounds on disk, so that they are decoded once; any number of runs and processes share it."""

    path: str = option(local=True, help="a folder, on a disk that is faster than decoding")
    gigabytes: float = option(
        50.0, above=0, max=1_000_000, resumable=True, local=True, help="at most; what was not read for longest goes"
    )


@strict
@dataclass(kw_only=True)
class DataConfig(RowsConfig):
    """Where the samples come from and which columns hold which modality."""

    path: str = option(local=True, help=PATH)
    shuffle_buffer: int = option(
        1000, min=1, max=1_000_000_000, help="samples that each reader of a streamed source shuffles among"
    )
    shuffle_gigabytes: float = option(
        GIGABYTES,
        above=0,
        max=1_000_000,
        help="decoded rows of parquet files on this disk that are shuffled among; each worker keeps as many, shared by "
        "the processes; of data no larger the order is one of all rows",
    )
    readers: int | None = option(
        None,
        min=1,
        max=1_024,
        help="places that each process reads a stream at, each with files of its own; null: 1 alone, else up to 4",
    )
    sampler: SamplerConfig | None = option(
        None, help="which samples are together in a batch, and how often they come; null: all once, in any order"
    )
    renewed: RenewedConfig | None = option(
        None, help="columns that the model in training gives rows, and gives anew; null: none"
    )
    beside: str | None = option(
        None, local=True, help="a parquet with a row a row, as of `mmssl cluster`, whose columns may be named"
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
    weigh: str = option(
        "samples",
        choices=("samples", "tokens"),
        help="what weights and temperature of a mixture are of: its samples, or the tokens in them, which are counted "
        "on some of each of the data",
    )
    cache: CacheConfig | None = option(
        None, resumable=True, local=True, help="decoded clips and sounds are kept on disk; null: in memory alone"
    )
    variants: int | None = option(
        None,
        min=1,
        max=1_000_000,
        help="of what is drawn anew whenever a row is read (where in a longer recording a clip starts, which caption): "
        "so many different ones of each row, which data.cache then keeps, too; null: any",
    )
    fit_samples: int = option(
        2000, min=1, max=1_000_000_000, resumable=True, help="samples that preprocessors are fitted on"
    )
    source: str | None = option(None, resumable=True, local=True, help="where the data come from, for the card")
    license: str | None = option(
        None, resumable=True, local=True, help="licence of the data, for the card; default: what its README.md declares"
    )

    @property
    def reading(self) -> Reading:
        """What is said of tables, and what their order needs."""
        anywhere = self.sampler is not None or self.renewed is not None
        return replace(super().reading, copy=anywhere if self.copy is None else self.copy)

    REFUSED = {
        "label": "found a column of labels, but evaluation.label says what is measured by, and an objective of type "
        "supervised learns from one",
        "group": "found a column of groups, but what rows are held out by stands in evaluation.group",
    }
    NEEDS = (
        needs("variants", cache=SET),
        needs("weight", "repeat", "temperature", "weigh", mix=SET),
        needs(
            "weigh",
            holds=lambda config: config.temperature != 1 or config.weight is not None,
            weight="a number for each of the data, or temperature other than 1",
        ),
    )


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
    views: dict[str, dict[str, dict[str, Any]]] = option(factory=dict, help="view -> modality -> column, augmentation")
    masks: dict[str, Annotated[Part, MASK]] = option(
        factory=dict, help="name -> mask: which patches are hidden; objectives refer to it by its name"
    )
    objectives: dict[str, Annotated[Part, OBJECTIVE]] = option(
        help="name -> objective: what is learned; their losses are summed by weight"
    )
    train: TrainConfig = option(factory=TrainConfig, help="the loop")
    evaluation: EvaluationConfig = option(factory=EvaluationConfig, help="what is measured at the end")
