"""One model on one data set, beside its start, its untrained twin and the raw features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..evaluation.answers import Answers
from ..evaluation.evaluate import evaluate
from ..evaluation.leaks import LabelRead
from ..evaluation.options import EvaluateConfig
from ..evaluation.own_run import with_rows, with_way_out
from ..evaluation.table import Scores, as_finetuned
from ..models.locating import Located, locate
from ..models.modeling_mmssl import MMSSLModel
from ..models.opening import open_model
from ..models.processing_mmssl import MMSSLProcessor
from ..models.running import untrained_twin
from ..saying import doing
from ..training.building import start_of


@dataclass(frozen=True)
class Subject:
    """A model that is judged.

    Attributes:
        found: where it lies.
        model, processor: as opened.
        start: what it went on from; None: random weights, or that is gone.
        twin: the same architecture with random weights.
        notes: what a reader must know of these.
    """

    found: Located
    model: MMSSLModel
    processor: MMSSLProcessor
    start: MMSSLModel | None
    twin: MMSSLModel
    notes: tuple[str, ...] = ()


def open_subject(found: Located, base: str | None = None) -> Subject:
    """A model with what it is compared with. base: the model that an adapter belongs on, where it has moved."""
    with doing("loading the model"):
        opened, processor = open_model(found, base)
    start, notes = None, []
    try:
        start = start_of(found, processor, base)
    except UserError as error:  # what the run went on from was moved or deleted since; the model itself is here
        notes = [f"start: left out, {' '.join(str(error).split())}"]
    return Subject(found, opened, processor, start, untrained_twin(opened), tuple(notes))


def judge(subject: Subject, asked: EvaluateConfig, answers: Answers | None = None) -> Scores:
    """The report of an evaluation. asked: with its data; answers: gets what was right row by row."""
    try:
        report = evaluate(
            subject.model,
            subject.processor.preprocessors,
            asked.data,
            asked,
            untrained=subject.twin,
            start=subject.start,
            further=asked.further,
            answers=answers,
            by=asked.by,
        )
    except LabelRead as error:
        raise with_way_out(error, subject.found) from None
    report["notes"] += subject.notes
    if subject.found.task:
        report["tasks"] = {task: as_finetuned(metrics) for task, metrics in report["tasks"].items()}
    return Scores(report)


def judge_model(model: str | Path, asked: EvaluateConfig, base: str | None = None) -> Scores:
    """`judge` of a model that is named; where no data are, on those that it learned from."""
    found = locate(model)
    asked = with_rows(asked, found)
    return judge(open_subject(found, base), asked)
