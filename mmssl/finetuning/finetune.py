"""`finetune`: an encoder, data and a label column to a folder that predicts; what `mmssl finetune` does.

The encoder is trained whole, not at all (`linear`), or through a PEFT adapter, by the same loop, engine and data
loading as pretraining: a supervised task is one more objective. The best weights on validation rows are kept; with few
labels folds of them say how long to train, and all are learned from.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from ..data.fingerprint import glance
from ..data.given import given
from ..distributed import lost_peers_told
from ..errors import RunError, UserError
from ..evaluation.leaks import LabelRead
from ..evaluation.own_run import with_rows, with_way_out
from ..evaluation.table import Scores
from ..models.adapter_files import base_of
from ..models.locating import locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.options import mode_number
from ..models.processing_mmssl import MMSSLProcessor
from ..saying import doing, say, speaker
from ..training.building import flat
from ..training.checkpoints import found
from ..training.engine import check_rows, goes_on, make_accelerator, not_of_data, on_first, run_folder
from ..training.lock import RunLock
from ..training.run_log import RunLog
from ..training.trackers import choose_trackers, end_training, start_trackers, track_settings
from .asking import check_augment, load_options, refuse_beside, refuse_teacher
from .choosing import choose, forget_folds
from .compare import Comparison, run_comparison
from .finishing import FinetuneRun, finish
from .fitting import build, train
from .folder import options_text, start_folder
from .forgetting_job import forgetting_job
from .jobs import Job
from .kept import kept_head
from .options import FinetuneConfig
from .partition import load_partition
from .retrieval import RetrievalJob
from .self_training import forget_rounds, self_trained
from .supervised import pooled_width, tail_of
from .supervised_job import SupervisedJob
from .teaching import TeachingJob

if TYPE_CHECKING:
    from ..data.given import Data

logger = logging.getLogger("mmssl")
LABELLED = {"class_weights": "none", "loss": "cross_entropy", "unlabelled": None}
"""Options of a task with labels, by their defaults."""
NAME = "finetune"
"""What a run is called that nobody gives a folder."""


@overload
def finetune(
    model: str | Path,
    data: Data | None,
    label: str | Sequence[str] | None = None,
    *,
    compare: Literal[False] = False,
    peft: str | None = None,
    output: str | Path | None = None,
    base: str | None = None,
    teacher: str | Path | None = None,
    unlabelled: Data | None = None,
    resume: bool | str = False,
    **options: object,
) -> FinetuneRun: ...
@overload
def finetune(
    model: str | Path,
    data: Data | None,
    label: str | Sequence[str] | None = None,
    *,
    compare: Literal[True],
    peft: str | None = None,
    output: str | Path | None = None,
    base: str | None = None,
    teacher: str | Path | None = None,
    unlabelled: Data | None = None,
    resume: bool | str = False,
    **options: object,
) -> Comparison: ...
def finetune(
    model: str | Path,
    data: Data | None,
    label: str | Sequence[str] | None = None,
    *,
    compare: bool = False,
    peft: str | None = None,
    output: str | Path | None = None,
    base: str | None = None,
    teacher: str | Path | None = None,
    unlabelled: Data | None = None,
    resume: bool | str = False,
    **options: object,
) -> FinetuneRun | Comparison:
    """Fine-tune a model: on labelled data, on pairs (`task="retrieval"`), or to answer as a fine-tuned teacher.

    It leaves the process as it found it; `mmssl.training.process.prepare_process()` is what the command calls first,
    for the same speed and bits on a CPU.

    Args:
        model: a model, a run, an adapter, a stock folder, a Hub id (see `mmssl.models.locating`).
        data: as for `mmssl.pretrain`; None: what the model's run learned from.
        label: column(s) with the labels; None for pairs and for a teacher.
        compare: measure the reason to pretrain: fine-tuning from the model and from scratch, linear probes and boosting
            on raw features, learnt from the same labels (see `mmssl.finetuning.compare`).
        peft: "none" (everything is trained), "linear" (nothing of the towers), or the type of an adapter; None: "lora",
            of a comparison "none".
        output: folder of the run; default: the next free one in runs/.
        base: the model that an adapter belongs on, where it is not at the place that the adapter remembers.
        teacher: what an earlier `finetune` left, to be distilled into `model`.
        unlabelled: data without labels that are learned from, too, as for `data`; "rest": the training rows whose label
            is not known, or was not drawn.
        resume: go on from the last checkpoint in `output` (default: the last in runs/); "auto": where there is one.
        **options: fields of `FinetuneConfig`, the command's `key=value`, e.g. `name="the data's configuration",
            fraction=0.1, train={"steps": 100}`.

    Returns:
        The run, with the report of what was saved on the test rows; the comparison, with its tables.

    Raises:
        UserError: wrong input, in one clear line, before anything is written.
        RunError: a full disk, a loss that is not finite, in one clear line.
    """
    columns = list(label) if label is not None and not isinstance(label, str) else label
    taught = None if teacher is None else str(teacher)
    with given(data) as path, given(unlabelled) as others:
        said = {"path": path, "label": columns, "compare": compare, "unlabelled": others}
        config = load_options(options, said | ({} if peft is None else {"peft": peft}))
        if config.compare:
            refuse_teacher(taught)
            return run_comparison(str(model), config, output=output, base=base, resume=resume)
        return run_finetuning(str(model), config, output=output, base=base, teacher=taught, resume=resume)


def run_finetuning(
    model: str,
    options: FinetuneConfig,
    *,
    output: str | Path | None = None,
    base: str | None = None,
    teacher: str | None = None,
    resume: bool | str = False,
) -> FinetuneRun:
    """`finetune` with options that were built already."""
    with RunLog() as log, doing("fine-tuning"):
        return _run(model, options, log, output, base, teacher, resume)


def _run(
    model: str,
    options: FinetuneConfig,
    log: RunLog,
    output: str | Path | None,
    base: str | None,
    teacher: str | None,
    resume: bool | str,
) -> FinetuneRun:
    start = locate(model)
    options = with_rows(options, start)
    with doing("loading the model"):
        encoder, processor = open_model(start, base)
    check_augment(options, processor.types)
    read_in_modes(encoder, options.modes)
    try:
        with doing("reading rows and labels"):
            job = make_job(model, encoder, processor, options, teacher)
    except LabelRead as error:
        raise with_way_out(error, start) from None
    _one_rate(options, job)
    if job.rows.folds:
        refuse_separability(options, "few labels, where folds say when to stop (few=0: none)")
    accelerator = make_accelerator(options.train)
    main = accelerator.is_main_process
    settled = replace(choose_trackers(options.train), mixed_precision=accelerator.mixed_precision)
    options = replace(options, train=settled)
    resume = on_first(accelerator, lambda: goes_on(NAME, output, resume))
    folder = on_first(accelerator, lambda: not_of_data(run_folder(NAME, output, resume), options.path))
    existed = on_first(accelerator, folder.exists)
    known = base_of(encoder, start.place)
    with RunLock() as lock, lost_peers_told():
        start_folder(accelerator, folder, options, resume, lock)
        log.open(folder)
        origin = {"weights": known.weights, "label columns": options.label_columns}
        try:
            used = [*flat(job.rows.columns.values()), *options.label_columns]
            # before the head starts from a probe, which may take minutes: another run's rows are refused at once
            on_first(accelerator, lambda: check_rows(folder, glance(job.rows.train.source, used), resume))
            asked, choice = options_text(options), None
            if job.rows.folds:
                assert isinstance(job, SupervisedJob)
                with doing("choosing rate and steps"):
                    choice = choose(accelerator, job, options, folder, origin)
                options = job.options = choice.applied(options)
                say(str(choice))
            stop, taught = None if choice is None else choice.step, None
            if job.rows.unlabelled is not None:
                assert isinstance(job, SupervisedJob)
                taught = self_trained(accelerator, job, options, choice, folder, origin)
                job, options, stop, origin = taught.job, taught.job.options, taught.stop, origin | taught.origin
            with doing("preparing the head"):
                pretraining, handle = build(job, options)
                if taught is not None:
                    taught.ready(pretraining)
            start_trackers(accelerator, options.train.trackers, folder.name, folder)
            track_settings(accelerator, options)
            loop, validation, fault = train(
                accelerator, pretraining, job, options, folder, origin, resume, stop=stop, asked=asked
            )
            best = None if validation is None else validation.restore()
            step = loop.steps if best is None else best
            if best is not None:
                job.restored(best)
            end_training(accelerator)
            if not main:
                return FinetuneRun(folder, folder / "model")
            run = finish(job, loop, folder, known, handle, step, choice, None if taught is None else taught.facts)
            forget_folds(folder)
            forget_rounds(folder)
            speaker.note(repr(Scores(run.report)))
        except UserError:
            if main and not existed and not found(folder / "checkpoints"):
                log.drop()
                shutil.rmtree(folder, ignore_errors=True)  # nothing half-written stays of input that was wrong
            raise
    if fault is not None:
        raise RunError(f"{fault}; the model in {run.model_folder} is complete, --resume would train those steps again")
    return run


def _one_rate(options: FinetuneConfig, job: Job) -> None:
    if options.rates is not None and len(options.rates) > 1 and not job.rows.folds:
        rows = f"{len(job.rows.labelled):,} labels, more than the {options.few:,} that are few"
        why = (
            rows if isinstance(job, SupervisedJob) and len(job.rows.labelled) > options.few else "nothing to choose by"
        )
        raise UserError(f"rates: found {len(options.rates)} of them with {why}; expected one, train.lr")


def read_in_modes(encoder: MMSSLModel, modes: Mapping[str, str]) -> None:
    """Let towers read in these of their modes, also where they are opened again. UserError for one they do not have."""
    for name, mode in modes.items():
        if name not in encoder.towers:
            raise UserError(f"modes: found tower '{name}', expected one of {', '.join(encoder.towers)}")
        tower, towers = encoder.tower(name), encoder.config.towers
        if not tower.mode_names:
            raise UserError(f"modes.{name}: found '{mode}', but this tower was told of no modes when it was pretrained")
        try:
            tower.mode = mode_number(list(tower.mode_names), mode)
        except UserError as error:
            raise UserError(f"modes.{name}: {error}") from None
        assert towers is not None
        towers[name]["mode"] = mode


def refuse_separability(options: FinetuneConfig, beside: str) -> None:
    """UserError where a run that has no features of its own for it is to stop by separability."""
    if options.monitor == "separability":
        raise UserError(f"monitor: found separability with {beside}, expected loss or score")


def make_job(
    path: str, encoder: MMSSLModel, processor: MMSSLProcessor, options: FinetuneConfig, teacher: str | None = None
) -> Job:
    """The job that options and data ask for, its rows shared out. UserError for whatever does not fit."""
    label, rule = options.label_columns, getattr(encoder.config, "held_out", None)
    if options.forget is not None:
        if teacher is not None:
            raise UserError("--teacher: found it with --forget, expected one of them")
        return forgetting_job(path, encoder, processor, options, rule)
    if teacher is not None or options.task == "retrieval":
        rows = load_partition([], processor.preprocessors, options, rule)
        if teacher is not None:
            refuse_beside(options, "--teacher", {"task": "auto", "keep_head": None, **LABELLED})
            refuse_separability(options, "--teacher")
            return TeachingJob(encoder, processor, options, rows, teacher_path=teacher, label=tuple(label))
        refuse_beside(options, "task=retrieval", {"keep_head": None, **LABELLED})
        refuse_separability(options, "task=retrieval")
        if label:
            raise UserError("--label: found it with task=retrieval, which has no labels")
        return RetrievalJob(encoder, processor, options, rows)
    if not label:
        raise UserError("--label: found none, expected the column(s) of the labels")
    rows = load_partition(label, processor.preprocessors, options, rule)
    if rows.target is not None and rows.train.labels is not None:
        tail_of(options, rows.target, rows.train.labels)  # refused before anything is computed
    kept = None
    if options.keep_head is not None:
        job = SupervisedJob(encoder, processor, options, rows)
        width = pooled_width(encoder, job.towers, True)
        kept = kept_head(path, options.keep_head, job.towers, width, options.keep_layers)
    return SupervisedJob(encoder, processor, options, rows, kept)
