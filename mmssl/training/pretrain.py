"""A recipe to a trained model: data, preprocessors, model, objectives, the loop, the model folder, its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate import Accelerator

from ..data.fingerprint import glance
from ..data.quarantine import Quarantine
from ..data.reader import is_stream
from ..data.selection import place_of
from ..data.shards import Lengths
from ..distributed import lost_peers_told
from ..errors import RunError, UserError, one_line
from ..evaluation.evaluate import Report, check_evaluation, evaluate
from ..evaluation.table import Scores
from ..files import write_whole
from ..hub.card import write_card
from ..hub.record import write_record
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.privacy import GONE, veiled
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import untrained_twin
from ..models.saving import save_model
from ..models.stock.targets import said_of_targets
from ..objectives.pretraining import Pretraining
from ..options.plainyaml import dump
from ..options.schema import to_dict
from ..recipe.config import LoopConfig, Recipe
from ..recipe.mixture import FIRST
from ..saying import doing, say, speaker
from .best import KeepBest
from .building import (
    Columns,
    TrainingData,
    build_model,
    build_pretraining,
    fitted_processor,
    open_training_data,
    readers_of,
    sample_seconds,
)
from .choosing import Asked, Choice, choose, keep, kept_choice, refuse_placeholder, told
from .describing import describe
from .device import Device, this_device
from .engine import check_rows, goes_on, make_parallel, on_first, prepare_folder, warn_of_changes
from .facts import facts_of
from .feeding import feed
from .guard import Guard
from .health import Health, load_probe
from .lock import RunLock
from .loop import Loop
from .micro_batch import find_micro_batch, settle_micro_batch, settled
from .mixture import Mixed, Shares, noted, open_mixture, said_of
from .observers import Observer
from .online_probe import OnlineProbe, load_labelled
from .pace import Pace
from .parallel import Parallel
from .run_log import RunLog
from .settling import settled_data, settled_train
from .starting import check_adapters
from .storing import store_outputs
from .stream_place import StreamPlace
from .trackers import choose_trackers, end_training, start_trackers

if TYPE_CHECKING:
    from ..data.loading import Source


@dataclass(repr=False)
class Run:
    """What `pretrain` returns.

    Attributes:
        folder: of the run.
        model_folder: the Hugging Face folder in it.
        model, processor: as reloaded from `model_folder`.
        report: the scores (`evaluation.json`).
    """

    folder: Path
    model_folder: Path
    model: MMSSLModel
    processor: MMSSLProcessor
    report: Report = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}){chr(10) + repr(self.report) if self.report else ''}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        html = getattr(self.report, "_repr_html_", str)()
        return f"<p><code>{self.folder}</code></p>{html if self.report else ''}"


def pretrain(
    recipe: Recipe | str | Path | Mapping[str, object],
    *,
    output: str | Path | None = None,
    resume: bool | str = False,
    preset: str | None = None,
    **overrides: object,
) -> Run:
    """See `mmssl.api.pretrain`, which offers it."""
    if not isinstance(recipe, Recipe):
        return run_pretraining(Asked(recipe, overrides, preset), output=output, resume=resume)
    if overrides or preset:
        raise UserError("overrides and presets go with a recipe's name, path or dict, not with a Recipe object")
    return run_pretraining(recipe, output=output, resume=resume)


def run_pretraining(asked: Recipe | Asked, *, output: str | Path | None = None, resume: bool | str = False) -> Run:
    """`pretrain`, of a recipe or of what somebody asks for, some of which may have to be chosen first."""
    with RunLog() as log, doing("pretraining"):
        return _run(asked, log, output, resume)


def _run(asked: Recipe | Asked, log: RunLog, output: str | Path | None, resume: bool | str) -> Run:
    recipe = asked if isinstance(asked, Recipe) else asked.recipe()
    refuse_placeholder(recipe)
    check_adapters(recipe.model, recipe.name)
    device = this_device()
    parallel = make_parallel(recipe.train)
    accelerator = parallel.accelerator
    with RunLock() as lock, lost_peers_told():
        trackers = choose_trackers(recipe.train).trackers
        resume = on_first(accelerator, lambda: goes_on(recipe.name, output, resume))
        folder = on_first(accelerator, lambda: prepare_folder(recipe.name, output, resume, lock))
        log.open(folder)
        start_trackers(accelerator, trackers, recipe.name, folder)
        main = accelerator.is_main_process
        opened = opening(recipe)
        source, columns = opened.source, opened.columns
        if main and opened.said:
            say("\n".join(opened.said))
        if isinstance(asked, Asked) and asked.presets:
            first = recipe
            recipe = chosen_recipe(asked, source, columns, folder, accelerator, device, resume)
            if sample_seconds(recipe.modalities) != sample_seconds(first.modalities):  # other windows
                opened = opening(recipe)
                source, columns = opened.source, opened.columns
        recipe = replace(
            recipe, train=settled_train(recipe.train, parallel, device, trackers), data=settled_data(recipe, opened)
        )
        on_first(accelerator, lambda: warn_of_changes(recipe, folder, resume))
        on_first(
            accelerator, lambda: check_evaluation(recipe.data, recipe.evaluation, source, readers_of(recipe.modalities))
        )
        with doing("looking at the rows"):
            mixture = open_mixture(recipe, opened)
            on_first(accelerator, lambda: check_rows(folder, noted(source, columns, mixture, glance), resume))
        processor = fitted_processor(
            recipe.modalities,
            source,
            columns,
            folder,
            accelerator,
            samples=recipe.data.fit_samples,
            started=recipe.model.from_,
            resume=resume,
            mixture=mixture,
        )
        with doing("building the model"):
            pretraining = build_pretraining(recipe, processor)
        settle_micro_batch(recipe.train, pretraining, accelerator.num_processes)
        if opened.held is not None:
            pretraining.model.config.held_out = asdict(opened.held.rule)
        steps, per_epoch = count_steps(recipe.train, source if mixture is None else mixture)
        place = place_of(source) if mixture is None else mixture.place
        share = None if mixture is None else mixture.share
        quarantine = Quarantine(folder if main else None, recipe.data.max_bad, place, share)
        lengths = {name: Lengths() for name in (FIRST, *recipe.data.mix)}
        observers = make_observers(recipe, pretraining, processor, source, columns, parallel, lengths, mixture)
        loop = Loop(parallel, pretraining, recipe.train, steps, folder, recipe.seed, quarantine, observers=observers)
        loop.shares_every = recipe.train.gradient_share_every
        if resume:
            with doing("reading the checkpoint"):
                loop.resume()
        if main:
            describe(recipe, loop, source if mixture is None else mixture, resume)
            if mixture is not None:
                say("\n".join(said_of(mixture, recipe.modalities)))
            if not recipe.model.starts or pretraining.adapter is None:
                say(said_of_targets(pretraining.model, processor))
            write_config(folder / "config.yaml", settled(recipe))
        stored = store_outputs(recipe, pretraining, processor, source, columns, accelerator, folder)
        batches = feed(recipe, source, columns, processor, accelerator, stored, lengths, mixture)
        said = find_micro_batch(loop, batches)
        if main and said is not None:
            say(said)
            write_config(folder / "config.yaml", settled(recipe))
        fault = loop.run(batches, per_epoch)
        if recipe.train.keep_best_model:
            loop.keeper.take_best()
        with doing("putting the model together"):
            whole = parallel.whole(pretraining)
            end_training(accelerator)
        if not main:
            return Run(folder, folder / "model", whole.model, processor)
        loop.pretraining = whole
        run = finish(recipe, loop, processor, opened, mixture, fault)
    if fault is not None:
        raise RunError(f"{fault}; the model in {run.model_folder} is complete, --resume would train those steps again")
    return run


# ------------------------------------------------------------------------------------------------------------- setup


def opening(recipe: Recipe) -> TrainingData:
    """`open_training_data`, which may take a while."""
    with doing(f"opening {recipe.data.path}"):
        return open_training_data(recipe)


def write_config(path: Path, recipe: Recipe) -> None:
    """Write the recipe with all its defaults; without passwords and tokens, which is said."""
    plain = to_dict(recipe)
    if veiled(plain) != plain:
        say(
            f"{path.name} keeps no passwords and tokens ({GONE} stands there): name the data again to read them from it"
        )
    _write(path, dump(veiled(plain)))


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
) -> list[Observer]:
    """What the recipe wants looked at while it trains; the guard behind them, as it judges what they saw.

    lengths, mixture: see `feed`.

    Raises:
        UserError: there are no labelled rows for the probe.
    """
    train, seed, accelerator = recipe.train, recipe.seed, parallel.accelerator
    rows = (source, processor.preprocessors, columns)
    reading = "reading the rows that are looked at"
    observers: list[Observer] = [Pace(accelerator.is_main_process, train.compile is True)]
    if train.health_every:
        where = {"rank": accelerator.process_index, "world": accelerator.num_processes, "broken": recipe.data.broken}
        with doing(reading):
            chunks = load_probe(*rows, train, samples=train.health_samples, seed=seed, **where)
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
                probe.rows = load_labelled(*rows, recipe.data, recipe.evaluation, samples=samples, seed=seed)

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


def count_steps(train: LoopConfig, source: Source | Mixed) -> tuple[int, float]:
    """(optimiser steps of the run, steps of an epoch or nan where the length of the data is unknown)."""
    # the rest of an epoch that fills no batch is dropped
    per_epoch = len(source) // train.batch_size if hasattr(source, "__len__") else float("nan")
    if train.steps is not None:
        return train.steps, per_epoch
    assert train.epochs is not None
    if per_epoch != per_epoch:
        raise UserError("train.epochs: the length of streamed data is unknown; set train.steps instead")
    return max(int(train.epochs * per_epoch), 1), per_epoch


# ------------------------------------------------------------------------------------------------------------ finish


def finish(
    recipe: Recipe,
    loop: Loop,
    processor: MMSSLProcessor,
    opened: TrainingData,
    mixture: Mixed | None,
    fault: RunError | None,
) -> Run:
    """Write `model/`, reload it as a user would, evaluate that, write `evaluation.json` and the card.

    fault: why the last checkpoint could not be written, if so. RunError when the model cannot be written either.
    """
    model, folder = loop.pretraining.model, loop.folder
    target = folder / "model"
    adapter = loop.pretraining.adapter
    loop.pretraining.finish()
    try:
        with doing("writing the model"):
            if adapter is None:
                save_model(model, processor, target)
            else:
                adapter.save(processor, target)
    except OSError as error:
        lost = f"; {fault}" if fault else "; nothing is lost"
        raise RunError(
            f"the model could not be written to {target}: {one_line(error)}{lost}; free some space and run the same "
            f"command with --output {folder} --resume"
        ) from error
    with doing("reading the model again"):
        reloaded, reprocessor = open_model(target)
    say(f"reloaded {target} through {'PEFT' if adapter else 'AutoModel and AutoProcessor'}")
    with doing("counting what it learned from"):
        facts = facts_of(loop, opened.source, opened.columns, mixture)

    def describe_model(report: Report) -> None:
        with doing("writing the card"):
            tell(report)

    def tell(report: Report) -> None:
        write_card(target, recipe, report, facts)
        write_record(target, recipe, report, facts.fingerprint, facts.versions, facts.device)

    report: Report = {}
    describe_model(report)  # the model has its card whatever becomes of the evaluation
    if recipe.evaluation.tasks != []:
        try:
            report = evaluate(
                reloaded,
                reprocessor.preprocessors,
                recipe.data,
                recipe.evaluation,
                columns=opened.columns,
                train_source=opened.source,
                untrained=untrained_twin(reloaded),
                start=build_model(recipe, processor) if recipe.model.starts else None,
            )
        except UserError as error:
            raise RunError(
                f"the evaluation failed: {one_line(error)}; the model in {target} is complete with its card, "
                f"`mmssl evaluate {folder}` measures it"
            ) from error
        _write(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
        describe_model(report)
        speaker.note(repr(Scores(report)))
    return Run(folder, target, reloaded, reprocessor, Scores(report))


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
