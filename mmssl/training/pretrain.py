"""A recipe to a trained model: data, preprocessors, model, objectives, the loop, the model folder, its scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from ..data.fingerprint import glance
from ..data.quarantine import Quarantine
from ..data.reader import is_stream
from ..data.selection import place_of
from ..data.shards import Lengths
from ..data.workers import read_by
from ..distributed import lost_peers_told
from ..errors import RunError, UserError, one_line
from ..evaluation.evaluate import Report, check_evaluation, evaluate
from ..evaluation.table import Scores
from ..files import write_whole
from ..hub.card import write_card
from ..hub.record import write_record
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import untrained_twin
from ..models.saving import save_model
from ..models.stock.targets import said_of_targets
from ..objectives.parts.teacher import LEFT
from ..objectives.pretraining import Pretraining
from ..recipe.config import LoopConfig, Recipe
from ..recipe.loading import to_yaml
from ..recipe.mixture import FIRST
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
from .device import Device, this_device
from .engine import (
    check_rows,
    choose_trackers,
    end_training,
    goes_on,
    make_parallel,
    on_first,
    prepare_folder,
    start_trackers,
    warn_of_changes,
)
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
from .settling import settled_data, settled_train
from .starting import check_adapters
from .storing import store_outputs
from .stream_place import StreamPlace

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
    recipe = asked if isinstance(asked, Recipe) else asked.recipe()
    refuse_placeholder(recipe)
    check_adapters(recipe.model, recipe.name)
    device = this_device()
    parallel = make_parallel(recipe.train)
    accelerator = parallel.accelerator
    with RunLock() as lock, lost_peers_told():
        resume = on_first(accelerator, lambda: goes_on(recipe.name, output, resume))
        folder = on_first(accelerator, lambda: prepare_folder(recipe.name, output, resume, lock))
        trackers = choose_trackers(recipe.train).trackers
        start_trackers(accelerator, trackers, recipe.name, folder)
        main = accelerator.is_main_process
        opened = open_training_data(recipe)
        source, columns = opened.source, opened.columns
        if main:
            print("\n".join(opened.said), end="\n" if opened.said else "", flush=True)
        if isinstance(asked, Asked) and asked.presets:
            first = recipe
            recipe = chosen_recipe(asked, source, columns, folder, accelerator, device, resume)
            if sample_seconds(recipe.modalities) != sample_seconds(first.modalities):  # other windows
                opened = open_training_data(recipe)
                source, columns = opened.source, opened.columns
        recipe = replace(
            recipe, train=settled_train(recipe.train, parallel, device, trackers), data=settled_data(recipe, opened)
        )
        on_first(accelerator, lambda: warn_of_changes(recipe, folder, resume))
        on_first(
            accelerator, lambda: check_evaluation(recipe.data, recipe.evaluation, source, readers_of(recipe.modalities))
        )
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
            loop.resume()
        if main:
            describe(recipe, loop, source if mixture is None else mixture, resume)
            if mixture is not None:
                print("\n".join(said_of(mixture, recipe.modalities)), flush=True)
            if not recipe.model.starts or pretraining.adapter is None:
                print(said_of_targets(pretraining.model, processor), flush=True)
            _write(folder / "config.yaml", to_yaml(settled(recipe)))
        stored = store_outputs(recipe, pretraining, processor, source, columns, accelerator, folder)
        batches = feed(recipe, source, columns, processor, accelerator, stored, lengths, mixture)
        said = find_micro_batch(loop, batches)
        if main and said is not None:
            print(said, flush=True)
            _write(folder / "config.yaml", to_yaml(settled(recipe)))
        fault = loop.run(batches, per_epoch)
        if recipe.train.keep_best_model:
            loop.keeper.take_best()
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
        print("\n".join(told(choice, asked.recipe(choice), count)), flush=True)
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
    observers: list[Observer] = [Pace(accelerator.is_main_process, train.compile is True)]
    if train.health_every:
        where = {"rank": accelerator.process_index, "world": accelerator.num_processes, "broken": recipe.data.broken}
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


FEW = 2.0
"""Passes over the data below which a run says that it is short."""


def describe(recipe: Recipe, loop: Loop, source: Source | Mixed, resumed: bool) -> None:
    """The line a run starts with; the first process says it."""
    size = f"{len(source):,} samples" if hasattr(source, "__len__") else "streamed samples"
    millions = sum(p.numel() for p in loop.pretraining.model.parameters()) / 1e6
    precision = recipe.train.mixed_precision if recipe.train.mixed_precision != "no" else "float32"
    print(
        f"mmssl pretrain {recipe.name}: {', '.join(recipe.modalities)}; {size}; {millions:.2f} M parameters; "
        f"{loop.steps} steps of {recipe.train.batch_size}; "
        f"{loop.accelerator.num_processes} x {loop.accelerator.device}{', fsdp2' * loop.parallel.cut}, {precision}"
        f"{', compiled' * (recipe.train.compile is True)}; {read_by(recipe.data.workers)}",
        flush=True,
    )
    seen = loop.steps * recipe.train.batch_size / len(source) if hasattr(source, "__len__") else FEW
    if seen < FEW:
        print(
            f"{loop.steps} steps see each sample {seen:.1f} times; encoders are rarely worth having below 10: "
            "train.epochs=10 (train.steps=null)"
        )
    for name, objective in loop.pretraining.objectives.items():
        left = loop.pretraining.left(name, loop.steps)
        if left > LEFT:
            momentum: Any = objective.momentum
            whose = "teacher" if name in loop.pretraining.kept.values() else "student"
            print(
                f"objectives.{name}: {left:.0%} of its teacher will still be its random start after {loop.steps} "
                f"steps: momentum {momentum.first:g} to {momentum.last:g} is for longer runs; the model gets the "
                f"{whose}'s weights"
            )
    if resumed:
        print(loop.where)


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
    reloaded, reprocessor = open_model(target)
    print(f"reloaded {target} through {'PEFT' if adapter else 'AutoModel and AutoProcessor'}", flush=True)
    facts = facts_of(loop, opened.source, opened.columns, mixture)

    def describe_model(report: Report) -> None:
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
    return Run(folder, target, reloaded, reprocessor, Scores(report))


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
