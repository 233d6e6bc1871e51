"""What a pretraining run needs before its first step: its folder, its data, its recipe with all that was chosen, its
preprocessors, and the loop with what hangs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import Accelerator

from ..data.fingerprint import glance
from ..data.orders import Order
from ..data.quarantine import Quarantine
from ..data.reader import is_stream
from ..data.selection import place_of
from ..data.shards import Lengths
from ..data.stored import Unknown
from ..errors import UserError
from ..evaluation.checking import check_evaluation
from ..modality.columns import further_columns, with_further
from ..models.processing_mmssl import MMSSLProcessor
from ..objectives.pretraining import Pretraining
from ..recipe.config import LoopConfig, Recipe
from ..recipe.mixture import FIRST
from ..reporting.looking import Subject
from ..saying import doing, say
from .beside import about_rows, follow
from .best import KeepBest
from .building import (
    Columns,
    TrainingData,
    build_pretraining,
    fitted_processor,
    open_training_data,
    readers_of,
    sample_seconds,
)
from .choosing import Asked, Choice, choose, keep, kept_choice, told
from .device import Device, this_device
from .engine import check_rows, goes_on, on_first, prepare_folder, warn_of_changes
from .feeding import disk_of
from .fitting import fit_objectives
from .guard import Guard
from .health import Health, load_probe
from .labels import Labels, open_labels, with_labels
from .lock import RunLock
from .loop import Loop
from .micro_batch import settle_micro_batch
from .mixture import Mixed, Shares, by_tokens, noted, open_mixture
from .observers import Observer
from .online_probe import OnlineProbe, load_labelled
from .pace import Pace
from .parallel import Parallel
from .picturing import Pictures
from .renewing import Embedding, Renewed
from .reporting import check_report, subject_of
from .run_log import RunLog
from .sampling import keep_order, order_of
from .sampling import said_of as sampling_said
from .settling import settled_data, settled_train
from .stream_place import StreamPlace
from .trackers import choose_trackers, start_trackers
from .weighing import tokens_a_sample

if TYPE_CHECKING:
    from ..data.loading import Source


@dataclass(frozen=True)
class Begun:
    """A run whose folder is there and whose data are open.

    Attributes:
        recipe: with what was chosen and found in place of `auto` and null.
        parallel: the processes.
        folder: of the run.
        resume: whether it goes on.
        opened: the data of `data.path`.
        mixture: of these and of `data.mix`; None without one.
        labels: the columns that objectives learn from, which `mixture` is read with.
        by: the order of the samples; None: the plain one, or that which `renewed` says.
        renewed: gives clusters while it trains; None: nobody asks for them.
    """

    recipe: Recipe
    parallel: Parallel
    folder: Path
    resume: bool
    opened: TrainingData
    mixture: Mixed | None
    labels: Labels
    by: Order | None = None
    renewed: Renewed | None = None

    @property
    def rows(self) -> Source | Mixed:
        """What is trained on."""
        return self.opened.source if self.mixture is None else self.mixture


def begin(
    asked: Recipe | Asked,
    recipe: Recipe,
    parallel: Parallel,
    log: RunLog,
    lock: RunLock,
    output: str | Path | None,
    resume: bool | str,
) -> Begun:
    """Make or find the folder, open the data, choose what is left open, and check all of it against each other.

    Args:
        asked: what `run_pretraining` got.
        recipe: of it, before anything was chosen.
        parallel: the processes.
        log: gets its file in the folder.
        lock: gets the folder.
        output: where that is to be; None: runs/NAME.
        resume: whether to go on, or `auto`.

    Raises:
        UserError: data, recipe and folder do not fit each other.
    """
    accelerator, device = parallel.accelerator, this_device()
    trackers = choose_trackers(recipe.train).trackers
    check_report(recipe.train)
    goes = on_first(accelerator, lambda: goes_on(recipe.name, output, resume))
    read = [recipe.data.path, recipe.evaluation.path, *(part.path for part in recipe.data.mix.values())]
    folder = on_first(accelerator, lambda: prepare_folder(recipe.name, output, goes, lock, read))
    log.open(folder)
    start_trackers(accelerator, trackers, recipe.name, folder)
    opened = _opened(recipe)
    if accelerator.is_main_process and opened.said:
        say("\n".join(opened.said))
    if isinstance(asked, Asked) and asked.presets:
        first = recipe
        recipe = chosen_recipe(asked, opened.source, opened.columns, folder, accelerator, device, goes)
        if sample_seconds(recipe.modalities) != sample_seconds(first.modalities):  # other windows
            opened = _opened(recipe)
    train, data = settled_train(recipe.train, parallel, device, trackers), settled_data(recipe, opened)
    recipe = replace(recipe, train=train, data=data)
    on_first(accelerator, lambda: disk_of(data) is None)  # that it can be written to
    on_first(accelerator, lambda: warn_of_changes(recipe, folder, goes))
    readers = with_further(readers_of(recipe.modalities), further_columns(recipe.views))
    on_first(accelerator, lambda: check_evaluation(recipe.data, recipe.evaluation, opened.source, readers))
    beside, renewed = about_rows(recipe, opened)
    by = None if renewed is not None and renewed.order is not None else order_of(recipe, opened, beside)
    if by is not None:
        on_first(accelerator, lambda: keep_order(by, folder, goes))
        if accelerator.is_main_process:
            say(sampling_said(by, recipe))
    with doing("looking at the rows"):
        mixture = open_mixture(recipe, opened)
        labels = open_labels(recipe, opened.source, opened.columns, mixture, folder, accelerator, goes, beside)
        if renewed is not None:
            follow(renewed, labels)
        seen = (opened.source, opened.columns | labels.columns, with_labels(mixture, labels), glance)
        on_first(accelerator, lambda: check_rows(folder, noted(*seen), goes))
    return Begun(recipe, parallel, folder, goes, opened, mixture, labels, by, renewed)


def _opened(recipe: Recipe) -> TrainingData:
    """`open_training_data`, which may take a while."""
    with doing(f"opening {recipe.data.path}"):
        return open_training_data(recipe)


def processor_of(begun: Begun) -> MMSSLProcessor:
    """Preprocessors that are fitted to the data, or were when the run began."""
    return fitted_processor(
        begun.recipe.modalities,
        begun.opened.source,
        begun.opened.columns,
        begun.folder,
        begun.parallel.accelerator,
        samples=begun.recipe.data.fit_samples,
        started=begun.recipe.model.from_,
        resume=begun.resume,
        mixture=begun.mixture,
        further=further_columns(begun.recipe.views),
    )


def weighed(begun: Begun, processor: MMSSLProcessor) -> Begun:
    """The same with the shares of a mixture as `data.weigh` says. UserError where nobody can tell."""
    recipe, mixture = begun.recipe, begun.mixture
    if mixture is None or recipe.data.weigh == "samples":
        return begun
    types = {name: part.type for name, part in recipe.modalities.items()}
    with doing("counting the tokens of each of the data"):
        tokens = on_first(begun.parallel.accelerator, lambda: tokens_a_sample(mixture, processor, types))
    return replace(begun, mixture=by_tokens(mixture, tokens, recipe))


def loop_of(
    begun: Begun, processor: MMSSLProcessor, watched_by: Sequence[Observer] = ()
) -> tuple[Loop, float, dict[str, Lengths]]:
    """(the loop, at the step that it goes on from; steps of an epoch; what is known of the lengths of streams).

    watched_by: further observers, in front of the recipe's.
    """
    recipe, parallel, opened, mixture = begun.recipe, begun.parallel, begun.opened, begun.mixture
    accelerator, folder = parallel.accelerator, begun.folder
    with doing("building the model"):
        pretraining = build_pretraining(recipe, processor, begun.labels)
    fit_objectives(begun, pretraining, processor)
    settle_micro_batch(recipe.train, pretraining, accelerator.num_processes)
    if opened.held is not None:
        pretraining.model.config.held_out = asdict(opened.held.rule)
    steps, per_epoch = count_steps(recipe.train, begun.rows, begun.by)
    place = place_of(opened.source) if mixture is None else mixture.place
    share = None if mixture is None else mixture.share
    quarantine = Quarantine(folder if accelerator.is_main_process else None, recipe.data.max_bad, place, share)
    lengths = {name: Lengths() for name in (FIRST, *recipe.data.mix)}
    rows = (opened.source, opened.columns)
    observers = make_observers(recipe, pretraining, processor, *rows, parallel, lengths, mixture, begun.labels)
    if recipe.train.report_every is not None or recipe.train.report_minutes is not None:
        with doing("reading the rows that are pictured"):
            seen = partial(_pictured, recipe, pretraining, processor, opened)
            observers.append(Pictures(parallel, seen, recipe.train, folder))
    if begun.renewed is not None:
        of = begun.renewed.options.of
        begun.renewed.attach(Embedding(of, pretraining.model, processor, *rows, recipe, parallel, folder))
        observers.append(begun.renewed)
    observers = [*watched_by, *observers]
    loop = Loop(parallel, pretraining, recipe.train, steps, folder, recipe.seed, quarantine, observers=observers)
    loop.shares_every = recipe.train.gradient_share_every
    if begun.resume:
        with doing("reading the checkpoint"):
            loop.resume()
    if recipe.train.after is not None and not loop.rates.before:
        with doing("reading the checkpoint of the run before"):
            loop.go_on_from(Path(recipe.train.after))
    return loop, per_epoch, lengths


def _pictured(recipe: Recipe, pretraining: Pretraining, processor: MMSSLProcessor, opened: TrainingData) -> Subject:
    """The model as it trains, and its objectives."""
    return replace(subject_of(recipe, pretraining.model, processor, opened), pretraining=pretraining)


def chosen_recipe(
    asked: Asked, source: Source, columns: Columns, folder: Path, accelerator: Accelerator, device: Device, resume: bool
) -> Recipe:
    """The recipe with what the first process chose for all, or what the run to be gone on with was started with."""

    def settle() -> Choice:
        kept = kept_choice(folder) if resume else None
        if kept is not None and asked.preset not in (None, kept.preset):
            raise UserError(f"--preset: found {asked.preset}, but the run was started with {kept.preset}; leave it out")
        choice = kept or choose(asked, source, columns, device, accelerator.num_processes)
        if kept is None:
            keep(choice, folder)
        count = len(source) if hasattr(source, "__len__") else None
        say("\n".join(told(choice, asked.recipe(choice), count)))
        return choice

    return asked.recipe(on_first(accelerator, settle))


def make_observers(
    recipe: Recipe,
    pretraining: Pretraining,
    processor: MMSSLProcessor,
    source: Source,
    columns: Columns,
    parallel: Parallel,
    lengths: Mapping[str, Lengths],
    mixture: Mixed | None,
    labels: Labels,
) -> list[Observer]:
    """What the recipe wants looked at while it trains; the guard behind them, as it judges what they saw.

    lengths, mixture, labels: see `feed`.

    Raises:
        UserError: there are no labelled rows for the probe.
    """
    train, seed, accelerator = recipe.train, recipe.seed, parallel.accelerator
    reading = "reading the rows that are looked at"
    observers: list[Observer] = [Pace(accelerator.is_main_process, train.compile is True)]
    if train.health_every:
        where = {"rank": accelerator.process_index, "world": accelerator.num_processes, "broken": recipe.data.broken}
        readers = with_further(processor.preprocessors, further_columns(recipe.views)) | labels.readers
        seen = (source, readers, columns | labels.columns)
        with doing(reading):
            given = {key: Unknown(labels.readers[key]) for key in labels.given}
            chunks = load_probe(*seen, train, samples=train.health_samples, seed=seed, stored=given, **where)
        marks = train.guard is not None and train.guard.action != "warn"
        more = {"at_saves": marks, "compiled": train.compile is True}
        observers.append(Health(accelerator, pretraining, chunks, every=train.health_every, seed=seed, **more))
    if train.probe_every:
        probe = OnlineProbe(
            accelerator,
            pretraining.model,
            every=train.probe_every,
            wanted=train.probe_tasks,
            compiled=train.compile is True,
            together=parallel.cut,
        )

        def load() -> None:
            samples = train.probe_samples
            with doing(reading):
                # labels are told from what a modality reads by itself
                probe.rows = load_labelled(
                    source, processor.preprocessors, columns, recipe.data, recipe.evaluation, samples=samples, seed=seed
                )

        on_first(accelerator, load)  # all hear of it where there are no rows
        if parallel.cut and not accelerator.is_main_process:
            load()
        observers.append(probe)
    if train.guard is not None:
        observers.append(Guard(train.guard))
    if train.keep_best is not None:
        observers.append(KeepBest(train.keep_best))
    if is_stream(source):
        observers.append(StreamPlace(accelerator, lengths))
    if mixture is not None:
        observers.append(Shares(mixture, train.batch_size, accelerator.num_processes))
    return observers


def count_steps(train: LoopConfig, source: Source | Mixed, by: Order | None = None) -> tuple[int, float]:
    """(optimiser steps of the run, steps of an epoch or nan where the length of the data is unknown)."""
    # the rest of an epoch that fills no batch is dropped
    per_epoch = len(source) // train.batch_size if hasattr(source, "__len__") else float("nan")
    per_epoch = per_epoch if by is None else by.steps
    if train.steps is not None:
        return train.steps, per_epoch
    assert train.epochs is not None
    if per_epoch != per_epoch:
        raise UserError("train.epochs: the length of streamed data is unknown; set train.steps instead")
    return max(int(train.epochs * per_epoch), 1), per_epoch
