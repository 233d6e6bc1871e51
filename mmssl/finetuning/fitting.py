"""A job's objective on its encoder, trained by the one loop: what a fine-tuning and every arm of a comparison do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from ..data.loading import Loaded, training_batches
from ..data.orders import Weighted
from ..data.quarantine import Quarantine
from ..data.workers import read_by
from ..errors import RunError, UserError
from ..models.adapters import add_adapter, trainable
from ..models.running import in_float32
from ..objectives.pretraining import Pretraining
from ..saying import say
from ..training.engine import on_first
from ..training.loop import Batches, Loop
from ..training.micro_batch import find_micro_batch, settle_micro_batch
from ..training.observers import Observer
from ..training.parallel import Parallel
from ..training.validation import Validation
from .folder import options_text, write_options
from .following import Following
from .jobs import VIEW, Job
from .layer_decay import layered_optimizer
from .options import WHOLE, FinetuneConfig, fit_batch, steps_of
from .unlabelled import Learned

if TYPE_CHECKING:
    from peft import PeftModel


def build(job: Job, options: FinetuneConfig) -> tuple[Pretraining, PeftModel | None]:
    """The encoder with its objective, trainable as `--peft` says, and PEFT's handle on the adapter (or None)."""
    encoder = job.encoder
    if options.peft == "none":
        in_float32(encoder, whole=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        objective = job.objective()
        handle = None
        for name in encoder.towers:
            tower = encoder.tower(name)
            tower.frozen = options.peft == "linear" or name not in job.towers
            if not tower.frozen:
                tower.requires_grad_(True)
        encoder.projections.requires_grad_(options.peft == "none")
        if options.peft == "linear":
            for module in job.trained_when_linear():
                module.requires_grad_(True)
        elif options.peft not in WHOLE:
            extra, save = job.extra_targets(), job.extra_saved()
            handle = add_adapter(encoder, options.adapter, job.towers, extra=extra, save=save)
    in_float32(encoder, whole=False)
    if isinstance(objective, Following):
        objective.follow(encoder)
    views = {VIEW: options.augment} if options.augment else {}
    for name in options.augment:
        if name not in job.rows.columns:
            raise UserError(f"augment.{name}: found a modality that takes no part, {', '.join(job.rows.columns)} do")
    return Pretraining(encoder, {"task": objective}, views), handle


def train(
    accelerator: Accelerator,
    pretraining: Pretraining,
    job: Job,
    options: FinetuneConfig,
    folder: Path,
    origin: dict[str, Any],
    resume: bool,
    *,
    watch: Callable[[int], Observer] | None = None,
    stop: int | None = None,
    asked: str | None = None,
) -> tuple[Loop, Validation | None, RunError | None]:
    """Run the loop.

    Args:
        accelerator: trains.
        pretraining: of `build`.
        job: it is of.
        options: of the run.
        folder: of the run.
        origin: what the run started from, by name.
        resume: go on from the last checkpoint in `folder`.
        watch: makes what looks at the run, from the steps between looks; None: a `Validation`, where there are rows.
        stop: end after so many steps of the schedule; None: after all.
        asked: what config.yaml says where a run is gone on with; None: the options.

    Returns:
        The loop; what looked at the validation rows and kept the best weights, where there are such rows; why the last
        checkpoint could not be written, or None.
    """
    settings, rows, learned = options.train, job.rows, job.learned()
    count = len(learned.source)
    asked = options_text(options) if asked is None else asked
    fit_batch(settings, count, accelerator.num_processes)
    settle_micro_batch(settings, pretraining, accelerator.num_processes)
    steps = steps_of(settings, count)
    main = accelerator.is_main_process
    # whole models as in MAE (He et al. 2022, table 9); what is new, as adapters are, has one rate
    decay = options.layer_decay if options.layer_decay is not None else 0.75 if options.peft == "none" else 1.0
    validation, every = None, options.eval_every or max(steps // 20, 1)
    observers: list[Observer] = [watch(every)] if watch is not None else []
    if watch is None and rows.validation is not None:
        validation = Validation(
            accelerator, pretraining, job.look, every=every, patience=options.patience, monitor=options.monitor
        )
        observers = [validation]
    loop = Loop(
        Parallel(accelerator),
        pretraining,
        settings,
        steps,
        folder,
        options.seed,
        Quarantine(folder if main else None, options.max_bad),
        observers=observers,
        optimizer=partial(layered_optimizer, decay=decay),
        origin=origin,
    )
    if stop is not None:
        loop.steps = stop  # the schedule stays that of all steps
    if resume:
        loop.resume()
        on_first(accelerator, lambda: write_options(folder, asked))
    if main:
        _describe(job, options, loop, count - len(rows.train))
        if resume:
            say(loop.where)
    batches = _feed(job, learned, options, accelerator)
    said = find_micro_batch(loop, batches)
    if main and said is not None:
        say(said)
    return loop, validation, loop.run(batches, max(count // settings.batch_size, 1))


def _describe(job: Job, options: FinetuneConfig, loop: Loop, others: int) -> None:
    """The line a run starts with; others: training rows beside the labelled ones."""
    trained, parameters = trainable(loop.pretraining)
    rows, accelerator = job.rows, loop.accelerator
    for line in rows.notes:
        say(line)
    more = f" and {others:,} that were labelled by what was learned from these" if others else ""
    aside = f"{len(rows.validation) if rows.validation else 0:,} to stop by"
    chosen_by = f"{len(rows.folds)} folds of them to choose by" if rows.folds else aside
    say(
        f"mmssl finetune: {job.title}; {len(rows.train):,} training rows{more}, {chosen_by}, "
        f"{len(rows.test):,} test rows; "
        f"{trained:,} of {parameters:,} parameters trained ({options.peft}); at most {loop.steps} steps of "
        f"{loop.settings.batch_size}; {accelerator.num_processes} x {accelerator.device}; "
        f"{read_by(job.workers(beside_a_step=True))}"
    )


def _feed(job: Job, learned: Learned, options: FinetuneConfig, accelerator: Accelerator) -> Batches:
    """This process's micro-batches of the training rows, from any one on."""
    preprocessors, columns = job.inputs()
    weights, by = learned.weights, None
    if weights is not None:
        by = Weighted.of(options.seed, options.train.batch_size, weights)

    def batches(first: int) -> Iterator[Loaded]:
        return training_batches(
            learned.source,
            preprocessors,
            columns,
            seed=options.seed,
            batch_size=options.train.batch_size,
            accumulation=options.train.accumulation,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            workers=job.workers(beside_a_step=True),
            start_batch=first,
            broken=options.broken,
            memory=options.train.memory,
            stored=learned.stored,
            by=by,
        )

    return batches
