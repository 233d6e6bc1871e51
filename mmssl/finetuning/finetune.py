"""`finetune`: an encoder, data and a label column to a folder that predicts; what `mmssl finetune` does.

The encoder is trained whole, not at all (`linear`), or through a PEFT adapter, by the same loop, engine and data
loading as pretraining: a supervised task is one more objective. The best weights on validation rows are kept.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from ..data.given import given
from ..data.loading import Loaded, training_batches
from ..data.quarantine import Quarantine
from ..distributed import lost_peers_told
from ..errors import RunError, UserError, one_line
from ..evaluation.leaks import LabelRead
from ..evaluation.own_run import with_rows, with_way_out
from ..files import whole_folder, write_whole
from ..models.adapter_files import Base, base_of, write_adapter
from ..models.adapters import add_adapter, trainable
from ..models.locating import locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import in_float32
from ..models.saving import write_model
from ..objectives.pretraining import Pretraining
from ..options.plainyaml import dump, parse, read
from ..options.schema import to_dict
from ..recipe.config import LoopConfig
from ..training.building import flat
from ..training.checkpoints import found
from ..training.engine import (
    changes,
    check_rows,
    choose_trackers,
    end_training,
    make_accelerator,
    on_first,
    run_folder,
    start_trackers,
    warn_of,
)
from ..training.lock import RunLock
from ..training.loop import Batches, Loop
from ..training.validation import Validation
from .card import write_card
from .jobs import VIEW, Job, SupervisedJob, kept_head
from .layer_decay import layered_optimizer
from .options import WHOLE, FinetuneConfig, check_augment, fit_batch, load_options, refuse_beside, steps_of
from .partition import load_partition
from .retrieval import RetrievalJob
from .supervised import pooled_width
from .task import TaskModel, load_task
from .teaching import TeachingJob

if TYPE_CHECKING:
    from peft import PeftModel

    from ..data.given import Data
    from ..evaluation.evaluate import Report

logger = logging.getLogger("mmssl")
NAME = "finetune"
"""What a run is called that nobody gives a folder."""


@dataclass
class FinetuneRun:
    """What a fine-tuning left.

    Attributes:
        folder: of the run.
        model_folder: the model or adapter in it.
        report: its evaluation.json.
    """

    folder: Path
    model_folder: Path
    report: Report = field(default_factory=dict)

    def load(self) -> TaskModel:
        """What was saved, ready to predict."""
        return load_task(self.model_folder)


def finetune(
    model: str | Path,
    data: Data | None,
    label: str | Sequence[str] | None = None,
    *,
    peft: str = "lora",
    output: str | Path | None = None,
    base: str | None = None,
    teacher: str | Path | None = None,
    resume: bool = False,
    **options: Any,
) -> FinetuneRun:
    """Fine-tune a model: on labelled data, on pairs (`task="retrieval"`), or to answer as a fine-tuned teacher.

    It leaves the process as it found it; `mmssl.training.process.prepare_process()` is what the command calls first,
    for the same speed and bits on a CPU.

    Args:
        model: a model, a run, an adapter, a stock folder, a Hub id (see `mmssl.models.locating`).
        data: as for `mmssl.pretrain`; None: what the model's run learned from.
        label: column(s) with the labels; None for pairs and for a teacher.
        peft: "none" (everything is trained), "linear" (nothing of the towers), or the type of an adapter.
        output: folder of the run; default: the next free one in runs/.
        base: the model that an adapter belongs on, where it is not at the place that the adapter remembers.
        teacher: what an earlier `finetune` left, to be distilled into `model`.
        resume: go on from the last checkpoint in `output` (default: the last in runs/).
        **options: fields of `FinetuneConfig`, the command's `key=value`, e.g. `name="the data's configuration",
            fraction=0.1, train={"steps": 100}`.

    Returns:
        The run, with the report of what was saved on the test rows.

    Raises:
        UserError: wrong input, in one clear line, before anything is written.
        RunError: a full disk, a loss that is not finite, in one clear line.
    """
    columns = list(label) if label is not None and not isinstance(label, str) else label
    taught = None if teacher is None else str(teacher)
    with given(data) as path:
        config = load_options(options, {"path": path, "label": columns, "peft": peft})
        return run_finetuning(str(model), config, output=output, base=base, teacher=taught, resume=resume)


def run_finetuning(
    model: str,
    options: FinetuneConfig,
    *,
    output: str | Path | None = None,
    base: str | None = None,
    teacher: str | None = None,
    resume: bool = False,
) -> FinetuneRun:
    """`finetune` with options that were built already."""
    start = locate(model)
    options = with_rows(options, start)
    encoder, processor = open_model(start, base)
    check_augment(options, processor.types)
    try:
        job = make_job(model, encoder, processor, options, teacher)
    except LabelRead as error:
        raise with_way_out(error, start) from None
    accelerator = make_accelerator(options.train)
    main = accelerator.is_main_process
    options = replace(options, train=choose_trackers(options.train))
    folder = on_first(accelerator, lambda: run_folder(NAME, output, resume))
    existed = on_first(accelerator, folder.exists)
    known = base_of(encoder, start.place)
    with RunLock() as lock, lost_peers_told():
        pretraining, handle = build(job, options)
        _start_folder(accelerator, folder, options, resume, lock)
        origin = {"weights": known.weights, "label columns": options.label_columns}
        try:
            used = [*flat(job.rows.columns.values()), *options.label_columns]
            on_first(accelerator, lambda: check_rows(folder, job.rows.train.source, used, resume))
            start_trackers(accelerator, options.train.trackers, folder.name, folder)
            loop, validation, fault = train(accelerator, pretraining, job, options, folder, origin, resume)
            best = None if validation is None else validation.restore()
            step = loop.steps if best is None else best
            end_training(accelerator)
            if not main:
                return FinetuneRun(folder, folder / "model")
            run = finish(job, loop, folder, known, handle, step)
        except UserError:
            if main and not existed and not found(folder / "checkpoints"):
                shutil.rmtree(folder, ignore_errors=True)  # nothing half-written stays of input that was wrong
            raise
    if fault is not None:
        raise RunError(f"{fault}; the model in {run.model_folder} is complete, --resume would train those steps again")
    return run


def make_job(
    path: str, encoder: MMSSLModel, processor: MMSSLProcessor, options: FinetuneConfig, teacher: str | None = None
) -> Job:
    """The job that options and data ask for, its rows shared out. UserError for whatever does not fit."""
    label, rule = options.label_columns, getattr(encoder.config, "held_out", None)
    if teacher is not None or options.task == "retrieval":
        rows = load_partition([], processor.preprocessors, options, rule)
        if teacher is not None:
            refuse_beside(options, "--teacher", {"task": "auto", "keep_head": None, "class_weights": "none"})
            return TeachingJob(encoder, processor, options, rows, teacher_path=teacher, label=tuple(label))
        refuse_beside(options, "task=retrieval", {"keep_head": None, "class_weights": "none"})
        if label:
            raise UserError("--label: found it with task=retrieval, which has no labels")
        return RetrievalJob(encoder, processor, options, rows)
    if not label:
        raise UserError("--label: found none, expected the column(s) of the labels")
    rows = load_partition(label, processor.preprocessors, options, rule)
    kept = None
    if options.keep_head is not None:
        job = SupervisedJob(encoder, processor, options, rows)
        kept = kept_head(path, options.keep_head, job.towers, pooled_width(encoder, job.towers))
    return SupervisedJob(encoder, processor, options, rows, kept)


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
    views = {VIEW: options.augment} if options.augment else {}
    for name in options.augment:
        if name not in job.rows.columns:
            raise UserError(f"augment.{name}: found a modality that takes no part, {', '.join(job.rows.columns)} do")
    return Pretraining(encoder, {"task": objective}, views), handle


def _start_folder(accelerator: Accelerator, folder: Path, options: FinetuneConfig, resume: bool, lock: RunLock) -> None:
    def start() -> None:
        kept = folder / "config.yaml"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(folder)
            if resume and kept.is_file():  # written anew once the checkpoint is found to fit
                _warn_of_changes(read(kept), to_dict(options))
                return
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None
        _write_options(folder, dump(to_dict(options)))

    on_first(accelerator, start)


def _write_options(folder: Path, text: str) -> None:
    try:
        write_whole(folder / "config.yaml", text)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Options that make the resumed run another one than that which was started."""
    now = parse(dump(now), "config.yaml")  # as what was written is read
    changed = [name for name in changes(FinetuneConfig, before, now) if name != "train"]
    warn_of(changed + changes(LoopConfig, before.get("train", {}), now["train"], "train."))


def train(
    accelerator: Accelerator,
    pretraining: Pretraining,
    job: Job,
    options: FinetuneConfig,
    folder: Path,
    origin: dict[str, Any],
    resume: bool,
) -> tuple[Loop, Validation | None, RunError | None]:
    """Run the loop.

    Returns:
        The loop; what looked at the validation rows and kept the best weights, where there are such rows; why the last
        checkpoint could not be written, or None.
    """
    settings, rows = options.train, job.rows
    asked = dump(to_dict(options))
    fit_batch(settings, len(rows.train), accelerator.num_processes)
    steps = steps_of(settings, len(rows.train))
    main = accelerator.is_main_process
    # whole models as in MAE (He et al. 2022, table 9); what is new, as adapters are, has one rate
    decay = options.layer_decay if options.layer_decay is not None else 0.75 if options.peft == "none" else 1.0
    validation = None
    if rows.validation is not None:
        every, monitor = options.eval_every or max(steps // 20, 1), options.monitor
        validation = Validation(
            accelerator, pretraining, job.look, every=every, patience=options.patience, monitor=monitor
        )
    loop = Loop(
        accelerator,
        pretraining,
        settings,
        steps,
        folder,
        options.seed,
        Quarantine(folder if main else None, options.max_bad),
        observers=[validation] if validation is not None else [],
        optimizer=partial(layered_optimizer, decay=decay),
        origin=origin,
    )
    if resume:
        loop.resume()
        on_first(accelerator, lambda: _write_options(folder, asked))
    if main:
        _describe(job, options, loop)
        if resume:
            print(loop.where)
    return loop, validation, loop.run(_feed(job, options, accelerator), max(len(rows.train) // settings.batch_size, 1))


def _describe(job: Job, options: FinetuneConfig, loop: Loop) -> None:
    """The line a run starts with."""
    trained, parameters = trainable(loop.pretraining)
    rows, accelerator = job.rows, loop.accelerator
    for line in rows.notes:
        print(line)
    print(
        f"mmssl finetune: {job.title}; {len(rows.train):,} training rows, "
        f"{len(rows.validation) if rows.validation else 0:,} to stop by, {len(rows.test):,} test rows; "
        f"{trained:,} of {parameters:,} parameters trained ({options.peft}); at most {loop.steps} steps of "
        f"{loop.settings.batch_size}; {accelerator.num_processes} x {accelerator.device}",
        flush=True,
    )


def _feed(job: Job, options: FinetuneConfig, accelerator: Accelerator) -> Batches:
    """This process's micro-batches of the training rows, from any one on."""
    preprocessors, columns = job.inputs()

    def batches(first: int) -> Iterator[Loaded]:
        return training_batches(
            job.rows.train.source,
            preprocessors,
            columns,
            seed=options.seed,
            batch_size=options.train.batch_size,
            accumulation=options.train.accumulation,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            workers=options.workers,
            start_batch=first,
            broken=options.broken,
            memory=options.train.memory,
        )

    return batches


def finish(job: Job, loop: Loop, folder: Path, base: Base, handle: PeftModel | None, step: int) -> FinetuneRun:
    """Write `model/`, reload it as a user would, measure that, write evaluation.json and the card."""
    target = folder / "model"
    if job.rows.held is not None:
        job.encoder.config.held_out = asdict(job.rows.held)
    trained, every = trainable(loop.pretraining)
    try:
        with whole_folder(target) as partial:
            if handle is None:
                write_model(job.encoder, job.processor, partial)
            else:
                write_adapter(handle, base, job.processor, partial, target)
            job.write(partial)
    except OSError as error:
        raise RunError(f"the model could not be written to {target}: {one_line(error)}") from error
    files = {p.name: p.stat().st_size for p in target.rglob("*") if p.suffix == ".safetensors"}
    report: Report = {
        "tasks": job.report(target),
        "notes": list(job.rows.notes),
        "skipped": {},
        "split": job.rows.split,
        "n_train": len(job.rows.train),
        "n_validation": 0 if job.rows.validation is None else len(job.rows.validation),
        "n_test": len(job.rows.test),
        "pool": job.rows.pool,
        "settings": {
            "peft": job.options.peft,
            "seed": job.options.seed,
            "best_step": step,
            "steps": loop.steps,
            "seconds": round(loop.seconds, 1),
        },
        "parameters": {"trained": trained, "all": every, "bytes": files},
    }
    try:
        write_whole(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
        write_card(target, job, None if handle is None else base, report)
    except OSError as error:
        raise RunError(f"{folder / 'evaluation.json'} could not be written: {one_line(error)}") from error
    return FinetuneRun(folder, target, report)
