"""`report.html` of a run that ends, and of runs on the disk (`mmssl report`): their data and weights are opened, as far
as they are there, and looked at (`mmssl.reporting`)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from ..data.given import is_object
from ..errors import NoSplit, RunError, UserError, one_line
from ..evaluation.held_out import files_of, opened_rows, read_columns
from ..evaluation.rows import subset
from ..files import replaceable
from ..hub import picture
from ..modality import Preprocessor
from ..modality.columns import further_columns, with_further
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.privacy import is_veiled
from ..models.processing_mmssl import MMSSLProcessor
from ..objectives.base import Objective, load_objective
from ..objectives.pretraining import Pretraining
from ..recipe.config import Recipe, TrainConfig
from ..reporting.card import draw_pictures
from ..reporting.looking import ROWS, Seen, Subject, look
from ..reporting.page import MOST_RUNS, NAME, write_report
from ..reporting.record import Record, names_of, read_record, run_folder
from ..saying import doing, say
from . import checkpoints, shards
from .building import TrainingData, build_pretraining, open_training_data
from .health import eagerly
from .loop import Loop

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger("mmssl")


def check_report(train: TrainConfig) -> None:
    """UserError where a report is wanted, at the end or on the way, or samples on the card, and cannot be drawn."""
    if train.report is False and train.card_samples:
        raise UserError("train.card_samples: found true, but train.report: false leaves out looking at samples")
    for key in ("report", "report_every", "report_minutes", "card_samples"):
        value = getattr(train, key)
        if value not in (None, False, "auto") and picture.lacking():
            found = "true" if value is True else f"{value:g}"
            raise UserError(
                f"train.{key}: found {found}, but {picture.lacking()[0]} is not installed: pip install 'mmssl[plots]'"
            )


# --------------------------------------------------------------------------------------------------- at a run's end


def write_own(
    recipe: Recipe, loop: Loop, model: MMSSLModel, processor: MMSSLProcessor, opened: TrainingData
) -> dict[str, str]:
    """Write `report.html` of a run whose model and scores are written, where it is wanted and can be.

    Args:
        recipe: with what was chosen.
        loop: that has ended, and its objectives.
        model: as it was saved, and read again.
        processor: likewise.
        opened: the data that it learned from.

    Returns:
        The pictures that were drawn for the model's card: file in `model/` -> what it shows.
    """
    drawn: dict[str, str] = {}

    def looks(record: Record) -> Seen | None:
        seen = _seen(record, model, processor, opened, loop.pretraining)
        if seen is not None:
            label, samples = recipe.evaluation.label, recipe.train.card_samples
            drawn.update(draw_pictures(seen, loop.folder / "model", label, samples))
        return seen

    write_page(loop.folder, recipe.train.report, looks)
    return drawn


def write_page(
    folder: Path, wanted: bool | str = "auto", looks: Callable[[Record], Seen | None] = lambda record: None
) -> Path | None:
    """Write `report.html` of what has just ended in a folder: it is complete, so that what cannot be read or written
    any more is a warning.

    Args:
        folder: of a pretraining, or of a fine-tuning.
        wanted: `train.report`.
        looks: at its model.
    """
    if not picture.page_wanted(wanted):
        return None
    path = folder / NAME
    try:
        with doing(f"writing {NAME}"):
            record = read_record(folder, done=True)
            write_report([(record, looks(record))], path)
    except (UserError, RunError, OSError) as error:
        logger.warning("%s was not written (%s); all else is complete", path, one_line(error))
        return None
    say(f"what the run looks like: {path}")
    return path


# -------------------------------------------------------------------------------------------------------- afterwards


def report(runs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """One page about runs on the disk: finished, still training, killed, old, or a model alone.

    Args:
        runs: their folders, or that of a model.
        output: the file; None: `report.html` in the folder of the run, of several in the working directory.

    Returns:
        The file.

    Raises:
        UserError: a folder is none of a run, they are too many, or what draws is not installed.
        RunError: the file cannot be written.
    """
    if not runs or len(runs) > MOST_RUNS:
        raise UserError(f"report: found {len(runs)} runs, expected 1 to {MOST_RUNS}")
    if picture.lacking():
        raise UserError(f"report: {picture.lacking()[0]} is not installed: pip install 'mmssl[plots]'")
    folders = [run_folder(run) for run in runs]
    twice = next((run for run, own in zip(runs, folders, strict=True) if folders.count(own) > 1), None)
    if twice is not None:
        raise UserError(f"report: found '{twice}' twice, expected each run once")
    records = [read_record(folder, name) for folder, name in zip(folders, names_of(folders), strict=True)]
    single = len(records) == 1 and not records[0].alone
    path = Path(output) if output is not None else records[0].folder / NAME if single else Path(NAME)
    replaceable(path)  # said now, not after everything is looked at
    looked: list[tuple[Record, Seen | None]] = []
    for record in records:
        with doing(f"looking at {record.name}"):
            looked.append((record, look_at(record)))
    try:
        with doing(f"writing {path.name}"):
            write_report(looked, path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {one_line(error)}") from error
    return path


def look_at(record: Record) -> Seen | None:
    """What the model of a run sees, as far as its weights and data are there; else the record says why not."""
    if record.model is None:
        record.absent.append("what the model sees: there is no model yet")
        return None
    if record.alone:
        record.absent.append("what the model sees: a model alone does not know where the rows are that it learned from")
        return None
    recipe = record.recipe
    if recipe is None:
        record.absent.append("what the model sees: no recipe of pretraining says what it reads")
        return None
    path = recipe.data.path
    if is_object(path) or is_veiled(path):
        what = "are an object in Python" if is_object(path) else "have an address with a secret, which is not kept"
        record.absent.append(f"what the model sees: its data {what}")
        return None
    try:
        model, processor = open_model(record.folder)
        opened = open_training_data(recipe)
        return _seen(record, model, processor, opened, None)
    except (UserError, RunError, OSError) as error:
        record.absent.append(f"what the model sees: {one_line(error)}")
        return None


def _seen(
    record: Record, model: MMSSLModel, processor: MMSSLProcessor, opened: TrainingData, live: Pretraining | None
) -> Seen | None:
    """Look at a model. live: its objectives at the end of the run, whose towers are the saved ones where no teacher's
    weights were kept; else those of the last checkpoint are taken."""
    recipe = record.recipe
    if recipe is None:
        return None
    subject = subject_of(recipe, model, processor, opened)
    try:
        if live is None or live.kept:
            live = reopened(recipe, record.folder)
    except (UserError, RunError, OSError) as error:
        record.absent.append(f"no reconstructions: {one_line(error)}")
        live = None
    subject = dataclasses.replace(subject, pretraining=live, more=True)
    try:
        with eagerly(recipe.train.compile is True):
            return look(subject)
    except (UserError, RunError, OSError) as error:
        record.absent.append(f"what the model sees: {one_line(error)}")
        return None


def subject_of(recipe: Recipe, model: MMSSLModel, processor: MMSSLProcessor, opened: TrainingData) -> Subject:
    """A model and the rows that it is looked at with, without its objectives."""
    rows, called = _rows(recipe, opened, processor.preprocessors)
    further, label = further_columns(recipe.views), recipe.evaluation.label
    own = model, processor.preprocessors, rows, called, opened.columns, label, recipe.seed
    return Subject(*own, further=further)


def _rows(recipe: Recipe, opened: TrainingData, readers: Mapping[str, Preprocessor]) -> tuple[Dataset, str]:
    """(rows that samples are drawn from, what they are): those that were held out where there are any."""
    data, evaluation = recipe.data, recipe.evaluation
    held = opened.held
    if held is not None:
        rows = held.rows.select(held.held)
        return subset(rows, ROWS, recipe.seed)[0], f"{min(ROWS, len(rows)):,} of {len(rows):,} rows that were held out"
    if evaluation.tasks != []:
        every = with_further(readers, further_columns(recipe.views))
        words = read_columns(evaluation, opened.columns, readers)
        name = evaluation.name or data.name
        try:
            files = files_of(data, every, opened.columns)
            source = opened_rows(data, evaluation.path or data.path, name, evaluation.split, words, files)
        except NoSplit:
            source = None
        if source is not None:
            rows, _ = subset(source, ROWS, recipe.seed, data.shuffle_buffer)
            return rows, f"{len(rows):,} rows of '{evaluation.split}'"
    rows, _ = subset(opened.source, ROWS, recipe.seed, data.shuffle_buffer)
    return rows, f"{len(rows):,} rows that it learned from (none are held out)"


def reopened(recipe: Recipe, folder: Path) -> Pretraining | None:
    """Those objectives of a run that reconstruct, with the weights of its last checkpoint, or of its best where the
    model has those; None where none of them does. UserError where there is no checkpoint that fits."""
    kinds = {name: load_objective(part.type)[1] for name, part in recipe.objectives.items()}
    wanted = {n: recipe.objectives[n] for n, k in kinds.items() if k.reconstructs is not Objective.reconstructs}
    if not wanted:
        return None
    path = checkpoints.latest(folder / "checkpoints")
    if path is None:
        raise UserError("the run has no checkpoint, which alone holds decoders")
    if recipe.train.keep_best_model:
        best = checkpoints.best_step(path)
        path = (None if best is None else checkpoints.of_step(folder / "checkpoints", best)) or path
    train = dataclasses.replace(recipe.train, compile=False)
    part = dataclasses.replace(recipe, objectives=wanted, train=train)
    pretraining = build_pretraining(part, MMSSLProcessor.from_pretrained(folder / "processor"))
    own = pretraining.state_dict()
    stored = shards.Stored.of(path, own)
    if stored is not None:
        weights, _ = dataclasses.replace(stored, moments={}).read(own, {})
    else:
        with safe_open(path / checkpoints.WEIGHTS, framework="pt") as file:
            there = set(file.keys())
            weights = {name: file.get_tensor(name) for name in own if name in there}
    odd = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    if odd:
        raise UserError(f"{path.name} does not fit the recipe: {len(odd)} tensors differ, the first is '{odd[0]}'")
    pretraining.load_state_dict(weights)
    return pretraining.eval()
