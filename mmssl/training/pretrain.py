"""A recipe to a trained model: data, preprocessors, model, objectives, the loop, the model folder, its scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.checkpoint import checkpoint

from ..data.fingerprint import fingerprint
from ..data.loading import Loaded, presence, read_rows, training_batches
from ..data.quarantine import Quarantine
from ..data.sources import open_source
from ..errors import RunError, UserError
from ..evaluation.evaluate import check_evaluation, evaluate
from ..hub.card import Facts, write_card
from ..hub.picture import PICTURE, draw_training
from ..hub.record import write_record
from ..memory import keep_freed_memory
from ..modality import Preprocessor, load_modality, select
from ..models.configuration_mmssl import MMSSLConfig
from ..models.dispatch import f32_products_by_onednn
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.saving import save_model
from ..objectives.base import load_objective
from ..objectives.pretraining import Pretraining
from ..recipe.config import Recipe
from ..recipe.loading import load_recipe, to_yaml
from .engine import choose_trackers, end_training, line, make_accelerator, on_first, prepare_folder, start_trackers
from .health import Watch, load_online, load_probe
from .loop import Loop
from .metrics import last_health, last_losses
from .starting import check_adapters, foreign_of, load_start, put_adapters


@dataclass
class Run:
    """What `pretrain` returns. folder: the run's folder; model_folder: the Hugging Face folder in it; report: the
    scores (`evaluation.json`); model and processor: as reloaded from `model_folder`."""

    folder: Path
    model_folder: Path
    model: MMSSLModel
    processor: MMSSLProcessor
    report: dict[str, Any] = field(default_factory=dict)


def pretrain(
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    output: str | Path | None = None,
    resume: bool = False,
    **overrides: Any,
) -> Run:
    """Pretrain as the recipe says; what `mmssl pretrain` does.

    recipe: a Recipe, a path, the name of a shipped recipe, or a dict. overrides: e.g. `train={"steps": 100}`.
    output: the run's folder (default `runs/<name>`, numbered when taken). resume: go on from its last checkpoint.
    Raises UserError (wrong input) or RunError (a full disk, a loss that is not finite), each with one clear line.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    elif overrides:
        raise UserError("overrides go with a recipe's name, path or dict, not with a Recipe object")
    check_adapters(recipe)
    accelerator = make_accelerator(recipe)
    main = accelerator.is_main_process
    recipe = replace(recipe, train=choose_trackers(recipe.train))
    folder = on_first(accelerator, lambda: prepare_folder(recipe, output, resume))
    start_trackers(accelerator, recipe, folder)
    f32_products_by_onednn()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    source, columns = open_training_data(recipe)
    on_first(accelerator, lambda: check_evaluation(recipe.data, recipe.evaluation, source))
    processor = fitted_processor(recipe, source, columns, folder, resume, accelerator)
    pretraining = build_pretraining(recipe, processor)
    steps, per_epoch = count_steps(recipe, source)
    quarantine = Quarantine(folder if main else None, recipe.data.max_bad)
    watch = make_watch(recipe, pretraining, processor, source, columns, accelerator)
    loop = Loop(accelerator, pretraining, recipe.train, steps, folder, recipe.seed, quarantine, watch)
    describe(recipe, pretraining.model, source, steps, accelerator)
    if resume:
        loop.resume()
        if main:
            print(f"going on after step {loop.start} of {steps}" if loop.start else "no checkpoint yet: from the start")
    if main:
        _write(folder / "config.yaml", to_yaml(recipe))

    def batches(first: int) -> Iterator[Loaded]:
        return training_batches(
            source,
            processor.preprocessors,
            columns,
            seed=recipe.seed,
            batch_size=recipe.train.batch_size,
            accumulation=recipe.train.accumulation,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            workers=recipe.data.workers,
            shuffle_buffer=recipe.data.shuffle_buffer,
            start_batch=first,
        )

    fault = loop.run(batches, per_epoch)
    end_training(accelerator)
    if not main:
        return Run(folder, folder / "model", pretraining.model, processor)
    run = finish(recipe, loop, processor, source, columns, fault)
    if fault is not None:
        raise RunError(f"{fault}; the model in {run.model_folder} is complete, --resume would train those steps again")
    return run


# ------------------------------------------------------------------------------------------------------------- setup


def open_training_data(recipe: Recipe) -> tuple[Any, dict[str, str | list[str]]]:
    """The training source and, for each modality, the column(s) it is read from."""
    columns = {name: recipe.data.columns.get(name, name) for name in recipe.modalities}
    data = recipe.data
    source = open_source(
        data.path, name=data.name, split=data.split, streaming=data.streaming, limit=data.limit, columns=columns
    )
    return source, columns


def fitted_processor(
    recipe: Recipe,
    source: Any,
    columns: dict[str, str | list[str]],
    folder: Path,
    resume: bool,
    accelerator: Accelerator,
) -> MMSSLProcessor:
    """Preprocessors fitted on the data by the first process, kept in `processor/` of the run, read by all others.

    A resumed run takes the ones it was started with.
    """
    kept = folder / "processor"

    def fit() -> None:
        if resume and kept.is_dir():
            return
        if recipe.model.from_ is not None:  # preprocessing is part of what was learned
            return keep(open_model(recipe.model.from_)[1])
        rows = read_rows(source, list(_flat(columns.values())), recipe.data.fit_samples)
        preprocessors: dict[str, Preprocessor] = {}
        for name, part in recipe.modalities.items():
            values = [v for v in (select(row, columns[name]) for row in rows) if v is not None]
            if not values:
                raise UserError(f"data.columns.{name}: column {columns[name]!r} is empty in the first {len(rows)} rows")
            preprocessors[name] = load_modality(part.type).Preprocessor(part.config).fit(values)
        keep(MMSSLProcessor(preprocessors, {name: part.type for name, part in recipe.modalities.items()}))

    def keep(processor: MMSSLProcessor) -> None:
        partial = folder / ".processor.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            processor.save_pretrained(partial)
            shutil.rmtree(kept, ignore_errors=True)
            partial.rename(kept)
        except OSError as error:
            raise RunError(f"the processor could not be written to {kept}: {line(error)}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    on_first(accelerator, fit)
    return MMSSLProcessor.from_pretrained(kept)


def _flat(columns: Any) -> Iterator[str]:
    for column in columns:
        if isinstance(column, str):
            yield column
        else:
            yield from column


def build_model(recipe: Recipe, processor: MMSSLProcessor) -> MMSSLModel:
    """The model that a recipe starts from, without adapters: the same for the same seed, whatever was drawn before."""
    from ..models.stock.towers import load_origin, refuse_incompatible, tower_specs

    modalities = {name: {"type": processor.types[name], **p.sizes()} for name, p in processor.preprocessors.items()}
    started = recipe.model.from_
    wrapped = {} if started is None else foreign_of(started)
    config = MMSSLConfig(
        modalities=modalities,
        towers=tower_specs(recipe.model.towers, processor.types, wrapped),
        projection=recipe.model.projection,
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
    if recipe.model.compatible_with is not None:
        refuse_incompatible(model, processor, recipe.model.compatible_with)
    return model


def build_pretraining(recipe: Recipe, processor: MMSSLProcessor) -> Pretraining:
    """The model of a recipe with its objectives, as the loop takes it."""
    model = build_model(recipe, processor)
    adapter = put_adapters(model, recipe)  # first: a teacher shares what is frozen when it is made
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)  # other numbers than the model's
        parts = recipe.objectives.items()
        objectives = {name: load_objective(part.type)[1](part.config, model) for name, part in parts}
    masks = {name: part.config for name, part in recipe.masks.items()}
    pretraining = Pretraining(model, objectives, recipe.views, masks)
    pretraining.adapter = adapter
    if recipe.train.gradient_checkpointing:
        checkpoint_blocks(pretraining)
    if recipe.train.compile:
        compile_trunks(pretraining)
    return pretraining


def make_watch(
    recipe: Recipe,
    pretraining: Pretraining,
    processor: MMSSLProcessor,
    source: Any,
    columns: dict[str, str | list[str]],
    accelerator: Accelerator,
) -> Watch | None:
    """What measures the run's health, or None where the recipe wants none of it."""
    train, preprocessors = recipe.train, processor.preprocessors
    if not (train.health_every or train.probe_every):
        return None
    rank, world = accelerator.process_index, accelerator.num_processes
    chunks = load_probe(source, preprocessors, columns, recipe, rank, world) if train.health_every else []
    watch = Watch(accelerator, pretraining, train, recipe.seed, chunks)

    def load_labelled() -> None:
        watch.online = load_online(source, preprocessors, columns, recipe)

    if train.probe_every:
        on_first(accelerator, load_labelled)
    return watch


def checkpoint_blocks(pretraining: Pretraining) -> None:
    """Recompute every block in the backward pass: the model's, and the objectives' decoders, which see all patches."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in pretraining.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]
            module.gradient_checkpointing = True


def compile_trunks(pretraining: Pretraining) -> None:
    """torch.compile every trunk in place (the rest is data-dependent bookkeeping); state dicts keep their names."""
    from ..models.trunk import Trunk

    for module in pretraining.modules():
        if isinstance(module, Trunk):
            module.compile()


def count_steps(recipe: Recipe, source: Any) -> tuple[int, float]:
    """(optimiser steps of the run, steps of an epoch or nan where the length of the data is unknown)."""
    # the rest of an epoch that fills no batch is dropped
    per_epoch = len(source) // recipe.train.batch_size if hasattr(source, "__len__") else float("nan")
    if recipe.train.steps is not None:
        return recipe.train.steps, per_epoch
    assert recipe.train.epochs is not None
    if per_epoch != per_epoch:
        raise UserError("train.epochs: the length of streamed data is unknown; set train.steps instead")
    return max(int(recipe.train.epochs * per_epoch), 1), per_epoch


def describe(recipe: Recipe, model: MMSSLModel, source: Any, steps: int, accelerator: Accelerator) -> None:
    """The line a run starts with."""
    if accelerator.is_main_process:
        size = f"{len(source):,} samples" if hasattr(source, "__len__") else "streamed samples"
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        print(
            f"mmssl pretrain {recipe.name}: {', '.join(recipe.modalities)}; {size}; {millions:.2f} M parameters; "
            f"{steps} steps of {recipe.train.batch_size}; {accelerator.num_processes} x {accelerator.device}, "
            f"{recipe.train.mixed_precision if recipe.train.mixed_precision != 'no' else 'float32'}",
            flush=True,
        )


# ------------------------------------------------------------------------------------------------------------ finish


def finish(
    recipe: Recipe,
    loop: Loop,
    processor: MMSSLProcessor,
    source: Any,
    columns: dict[str, str | list[str]],
    fault: RunError | None,
) -> Run:
    """Write `model/`, reload it as a user would, evaluate that, write `evaluation.json` and the card.

    fault: why the last checkpoint could not be written, if so. RunError when the model cannot be written either.
    """
    model, folder = loop.pretraining.model, loop.folder
    target = folder / "model"
    adapter = loop.pretraining.adapter
    for objective in loop.pretraining.objectives.values():
        for name, value in objective.constants().items():  # type: ignore[operator]
            setattr(model.config, name, value)
    try:
        if adapter is None:
            save_model(model, processor, target)
        else:
            adapter.save(processor, target)
    except OSError as error:
        lost = f"; {fault}" if fault else "; nothing is lost"
        raise RunError(
            f"the model could not be written to {target}: {line(error)}{lost}; free some space and run the same "
            f"command with --output {folder} --resume"
        ) from error
    reloaded, reprocessor = open_model(target)
    print(f"reloaded {target} through {'PEFT' if adapter else 'AutoModel and AutoProcessor'}", flush=True)
    report: dict[str, Any] = {}
    if recipe.evaluation.tasks != []:
        untrained = build_model(recipe, processor)
        report = evaluate(
            reloaded,
            reprocessor.preprocessors,
            recipe.data,
            recipe.evaluation,
            columns=columns,
            train_source=source,
            untrained=untrained,
        )
        _write(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
    facts = facts_of(recipe, loop, source, columns)
    write_card(target, recipe, report, facts)
    write_record(target, recipe, report, facts.fingerprint, facts.versions, facts.device)
    return Run(folder, target, reloaded, reprocessor, report)


def facts_of(recipe: Recipe, loop: Loop, source: Any, columns: dict[str, str | list[str]]) -> Facts:
    """What the card says about the run."""
    sized = hasattr(source, "__len__")
    metrics = loop.folder / "metrics.jsonl"
    try:
        drawn = draw_training(metrics, loop.folder / "model" / PICTURE)
    except OSError as error:
        raise RunError(f"the picture of the run could not be written: {line(error)}") from error
    return Facts(
        samples=len(source) if sized else None,
        presence=presence(source, columns) if sized else {},
        broken_samples=loop.quarantine.summary(),
        steps=loop.steps,
        seen=loop.steps * recipe.train.batch_size,
        seconds=loop.seconds,
        loss=last_losses(metrics),
        health=last_health(metrics),
        health_samples=loop.health.samples if loop.health is not None else 0,
        guard=[f"after step {e['step']} {e['action']}: {e['reason']}" for e in loop.guard.events],
        fingerprint=fingerprint(source, _flat(columns.values())),
        picture=PICTURE if drawn else None,
        parameters=sum(p.numel() for p in loop.pretraining.model.parameters()),
        trainable=sum(p.numel() for p in loop.pretraining.model.parameters() if p.requires_grad),
        processes=loop.accelerator.num_processes,
        device=_device_name(loop.accelerator.device),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}") from error
