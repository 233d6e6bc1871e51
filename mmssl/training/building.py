"""What a run is built from: the opened data, the fitted preprocessors, the model, and its objectives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from .. import limits
from ..data.choosing import choose_columns, no_inputs, possible_label
from ..data.loading import read_rows
from ..data.row_files import kept_among
from ..data.sampler import order
from ..data.selection import limited
from ..data.sources import open_source, used_columns
from ..errors import RunError, UserError, one_line
from ..evaluation.held_out import Held, files_of, hold_out, opened_rows, said_of
from ..evaluation.leaks import refuse_label
from ..files import whole_folder
from ..modality import Preprocessor, load_modality, select
from ..modality.columns import further_columns, with_further
from ..models.configuration_mmssl import MMSSLConfig
from ..models.convolutions import ConvTrunk
from ..models.locating import Located
from ..models.messages import MessageTrunk
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import adapter_spec, load_base, open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.stock.towers import load_origin, refuse_incompatible, tower_specs
from ..models.trunk import Trunk
from ..objectives.base import load_objective
from ..objectives.pretraining import Pretraining
from ..options.schema import Part
from ..recipe.config import Recipe
from ..recipe.loading import load_recipe
from ..saying import Advance, doing
from .engine import on_first
from .labels import Labels, wanted_columns
from .recompute import checkpoint_blocks
from .starting import foreign_of, load_start, put_adapters

if TYPE_CHECKING:
    from ..data.loading import Source
    from ..data.mixed_streams import MixedStreams
    from ..data.mixing import Mixture
    from ..recipe.config import DataConfig

Columns = dict[str, str | list[str]]
"""Modality, or further column that a view reads -> its column(s) of the data."""


def readers_of(modalities: Mapping[str, Part]) -> dict[str, Preprocessor]:
    """A recipe's preprocessors, not fitted: what says which files they read."""
    return {name: load_modality(part.type).Preprocessor(part.config) for name, part in modalities.items()}


def sample_seconds(modalities: Mapping[str, Part]) -> dict[str, float | None]:
    """Modality -> the length of its samples in seconds, which long recordings are cut by."""
    return {name: reader.seconds for name, reader in readers_of(modalities).items()}


@dataclass
class TrainingData:
    """What is trained on.

    Attributes:
        source: the rows, without those that are held out.
        columns: modality, or further column of a view -> its column(s).
        chosen: those of them that nobody named, found by looking.
        held: the rows that are held out; None where the data have a split to test on, or nothing is measured.
        said: what the user should know of both.
        numbers: of the rows in their split, in rising order; None: all of them.
        split: all rows of the split; None: these.
    """

    source: Source
    columns: Columns
    chosen: Columns = field(default_factory=dict)
    held: Held | None = None
    said: list[str] = field(default_factory=list)
    numbers: NDArray[np.int64] | None = None
    split: Source | None = None

    def whole(self) -> Source:
        """All rows of the split, which files about rows are about."""
        return self.source if self.split is None else self.split


def open_training_data(recipe: Recipe) -> TrainingData:
    """The rows that a recipe trains on, and the columns that its modalities read.

    Raises UserError also where a label or group is among the columns that are read.
    """
    data, evaluation = recipe.data, recipe.evaluation
    limits.apply(data.limits)
    readers = with_further(readers_of(recipe.modalities), further_columns(recipe.views))
    words = {*used_columns({**{name: name for name in readers}, **data.columns})}
    chosen, said = _chosen(recipe, words)
    columns = {name: data.columns.get(name) or chosen.get(name, name) for name in readers}
    refuse_label(evaluation.label, columns)
    held = (
        None
        if evaluation.tasks == []
        else hold_out(data, evaluation, words - {evaluation.label or "label"}, files=files_of(data, readers, columns))
    )
    source = open_source(
        data.path,
        name=data.name,
        split=data.split,
        streaming=data.streaming,
        columns=columns,
        fetch=data.fetch,
        reading=data.reading,
        files=files_of(data, readers, columns),
    )
    numbers, split = left_numbers(source, data, held), source
    source = limited(source, data.limit) if numbers is None else source.select(numbers)
    if held is not None:
        said.append(said_of(held, evaluation.split))
    if data.select is not None:
        said.append(f"data.select: {len(source):,} rows are trained on, as {data.select} says")
    return TrainingData(source, columns, chosen, held, said, numbers, split)


def left_numbers(source: Source, data: DataConfig, held: Held | None) -> NDArray[np.int64] | None:
    """Numbers, in rising order, of the rows of a split that are trained on: which a selection keeps, which are not held
    out, and of these as many as `limit` says; None: all, or a stream. UserError where the selection is of others."""
    if not hasattr(source, "__len__") and data.select is None:
        return None
    rows = np.arange(len(source) if hasattr(source, "__len__") else 0) if held is None else held.rest
    rows = kept_among(source, data.select, rows)
    if data.limit is not None and data.limit < len(rows):
        rows = rows[np.sort(order(len(rows), 0, 0)[: data.limit])]
    return None if len(rows) == len(source) else rows


def _chosen(recipe: Recipe, words: set[str]) -> tuple[Columns, list[str]]:
    """The columns of the modalities that the recipe names none for, where the data have none of that name."""
    data, evaluation = recipe.data, recipe.evaluation
    if set(recipe.modalities) <= set(data.columns):
        return {}, []
    readers = readers_of(recipe.modalities)
    source = opened_rows(data, data.path, data.name, data.split, words, files_of(data, readers))
    given = {**{name: name for name in further_columns(recipe.views)}, **data.columns}
    labels = [column for wanted in wanted_columns(recipe.objectives).values() for column in wanted.columns]
    not_read = no_inputs([*filter(None, [evaluation.label]), *labels], evaluation.group, source)
    chosen, said = choose_columns(readers, given, source, not_read)
    hint = possible_label(chosen, source, evaluation.label)
    return chosen, said if hint is None else [*said, hint]


def fitted_processor(
    modalities: Mapping[str, Part],
    source: Source,
    columns: Columns,
    folder: Path,
    accelerator: Accelerator,
    *,
    samples: int,
    started: str | None = None,
    resume: bool = False,
    mixture: Mixture | MixedStreams | None = None,
    further: Mapping[str, str] | None = None,
) -> MMSSLProcessor:
    """Preprocessors fitted on the data by the first process, kept in `processor/` of the run, read by all others.

    Args:
        modalities: name -> type and options.
        source: the training data.
        columns: modality -> its column(s).
        folder: of the run.
        accelerator: the processes.
        samples: how many are fitted on.
        started: the model that the run goes on from, whose preprocessing is taken: it is part of what was learned.
        resume: take what the run was started with.
        mixture: the data that `source` is trained on with; their samples are fitted on as they are shared.
        further: name of a further column -> its modality, which is fitted on both.

    Raises:
        UserError: a column is empty.
        RunError: the processor cannot be written.
    """
    kept = folder / "processor"

    def fit(advance: Advance) -> None:
        if resume and kept.is_dir():
            return
        if started is not None:
            return keep(open_model(started)[1])
        found = _raw_samples(source, columns, samples, mixture)
        for name, values in found.items():
            if all(value is None for value in values):
                raise UserError(
                    f"data.columns.{name}: column {columns[name]!r} is empty in the first {len(values)} rows"
                )
        preprocessors: dict[str, Preprocessor] = {}
        for number, (name, part) in enumerate(modalities.items()):
            advance(number)
            own = [column for column, modality in (further or {}).items() if modality == name]
            # row by row: a fit may stop early, and would know nothing of the columns behind the first
            rows = zip_longest(*(found[column] for column in (name, *own)))
            values = [value for row in rows for value in row if value is not None]
            preprocessors[name] = load_modality(part.type).Preprocessor(part.config).fit(values)
            preprocessors[name].read_from = columns[name]
        keep(MMSSLProcessor(preprocessors, {name: part.type for name, part in modalities.items()}))

    def keep(processor: MMSSLProcessor) -> None:
        for column, name in (further or {}).items():  # also beside what a model that is gone on from knew
            own = processor.preprocessors[name]
            own.further = {**own.further, column: columns[column]}
        try:
            with whole_folder(kept) as partial:
                processor.save_pretrained(partial)
        except OSError as error:
            raise RunError(f"the processor could not be written to {kept}: {one_line(error)}") from error

    with doing("fitting the preprocessors", len(modalities)) as advance:
        on_first(accelerator, lambda: fit(advance))
    return MMSSLProcessor.from_pretrained(kept)


def _raw_samples(
    source: Source, columns: Columns, samples: int, mixture: Mixture | MixedStreams | None
) -> dict[str, list[object]]:
    """Modality -> what so many rows hold of it, of a mixture as they are shared; None where one lacks it."""
    parts: list[tuple[Source, Columns, int]] = [(source, columns, samples)]
    if mixture is not None:
        parts = [(of.source, of.columns, ceil(samples * mixture.share(n))) for n, of in mixture.portions.items()]
    found: dict[str, list[object]] = {name: [] for name in columns}
    for of, wanted, count in parts:
        for row in read_rows(of, list(flat(wanted.values())), count):
            for name, column in wanted.items():
                found[name].append(select(row, column))
    return found


def flat(columns: Iterable[str | list[str]]) -> Iterator[str]:
    """All names of columns."""
    for column in columns:
        if isinstance(column, str):
            yield column
        else:
            yield from column


def build_model(recipe: Recipe, processor: MMSSLProcessor) -> MMSSLModel:
    """The model that a recipe starts from, without adapters: the same for the same seed, whatever was drawn before."""
    modalities = {name: {"type": processor.types[name], **p.sizes()} for name, p in processor.preprocessors.items()}
    started = recipe.model.from_
    wrapped = {} if started is None else foreign_of(started)
    config = MMSSLConfig(
        modalities=modalities,
        towers=tower_specs(recipe.model.towers, modalities, wrapped),
        projection=recipe.model.projection,
        projection_hidden=recipe.model.projection_hidden,
        projection_dropout=recipe.model.projection_dropout,
        projection_standard=recipe.model.projection_standard,
        initializer_seed=recipe.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = MMSSLModel(config)
        for name, tower in recipe.model.towers.items():
            if tower.from_ is not None and started is None:
                load_origin(model, processor, name, tower)
    if started is not None:
        load_start(model, started)
    else:
        model.settle_readouts()
    if recipe.model.compatible_with is not None:
        refuse_incompatible(model, processor, recipe.model.compatible_with)
    return model


def start_of(found: Located, processor: MMSSLProcessor, base: str | None = None) -> MMSSLModel | None:
    """What a trained MODEL went on from: the base of an adapter, or what the recipe of its run started from.

    Args:
        found: the model.
        processor: its own.
        base: of an adapter, where it has moved.

    Returns:
        The start, in evaluation mode; None where training began with random weights, or nothing says what it began
        with: a folder that was taken out of its run.

    Raises:
        UserError: what it started from is not where it was.
    """
    if found.kind == "adapter":
        folder, spec = adapter_spec(found)
        return load_base(folder, spec, base)
    place = Path(found.place)
    config = place.parent / "config.yaml"
    of_run = place.name == "model" and config.is_file()
    if found.kind != "mmssl" or found.task or not of_run:
        return None
    recipe = load_recipe(config, own=False)
    return build_model(recipe, processor).eval() if recipe.model.starts else None


def build_pretraining(recipe: Recipe, processor: MMSSLProcessor, labels: Labels | None = None) -> Pretraining:
    """The model of a recipe with its objectives, as the loop takes it. labels: what they learn from beside inputs."""
    model = build_model(recipe, processor)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 2)  # other numbers than the model's and the objectives'
        adapter = put_adapters(model, recipe.model)  # first: a teacher shares what is frozen when it is made
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)  # other numbers than the model's
        parts = recipe.objectives.items()
        known = {name: [] if labels is None else labels.of(part.config) for name, part in parts}
        objectives = {name: load_objective(part.type)[1](part.config, model, *known[name]) for name, part in parts}
        masks = {name: part.config for name, part in recipe.masks.items()}
        pretraining = Pretraining(model, objectives, recipe.views, masks)  # here: what depends on views is made
    pretraining.adapter = adapter
    pretraining.started = recipe.model.starts
    if recipe.train.gradient_checkpointing:
        checkpoint_blocks(pretraining, selective=recipe.train.gradient_checkpointing == "selective")
    if recipe.train.compile is True:
        compile_trunks(pretraining)
    return pretraining


def compile_trunks(pretraining: Pretraining) -> None:
    """torch.compile every trunk in place (the rest is data-dependent bookkeeping); state dicts keep their names."""
    for module in pretraining.modules():
        if isinstance(module, (Trunk, MessageTrunk, ConvTrunk)):
            module.compile()
