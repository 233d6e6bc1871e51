"""What a fine-tuning leaves: the model or adapter with its head, its scores and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunError, one_line
from ..evaluation.table import Scores, in_notebook
from ..files import whole_folder, write_whole
from ..models.adapter_files import Base, write_adapter
from ..models.adapters import trainable
from ..models.saving import write_model
from ..saying import doing
from ..training.loop import Loop
from ..training.reporting import write_page
from .card import write_card
from .experts import weigh
from .jobs import Job
from .supervised_job import SupervisedJob
from .task import TaskModel, load_task

if TYPE_CHECKING:
    from peft import PeftModel

    from ..evaluation.evaluate import Report
    from .choosing import Choice


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        return f"FinetuneRun({str(self.folder)!r})\n{Scores(self.report)!r}"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return in_notebook(self.report, self.folder)

    def load(self) -> TaskModel:
        """What was saved, ready to predict."""
        return load_task(self.model_folder)


def finish(
    job: Job,
    loop: Loop,
    folder: Path,
    base: Base,
    handle: PeftModel | None,
    step: int,
    choice: Choice | None = None,
    rounds: Mapping[str, object] | None = None,
) -> FinetuneRun:
    """Write `model/`, reload it as a user would, measure that, write evaluation.json, the card and `report.html`.

    rounds: of self-training.
    """
    target = folder / "model"
    if job.rows.held is not None:
        job.encoder.config.held_out = asdict(job.rows.held)
    trained, every = trainable(loop.pretraining)
    shares: dict[str, object] = {}
    if isinstance(job, SupervisedJob) and job.options.weigh_experts:
        with doing("weighing the experts"):
            shares["experts"] = weigh(job)
    try:
        job.leave(folder)
        with doing("writing the model"), whole_folder(target) as partial:
            if handle is None:
                write_model(job.encoder, job.processor, partial)
            else:
                write_adapter(handle, base, job.processor, partial, target)
            job.write(partial)
    except OSError as error:
        raise RunError(f"the model could not be written to {target}: {one_line(error)}") from error
    files = {p.name: p.stat().st_size for p in target.rglob("*") if p.suffix == ".safetensors"}
    with doing("measuring the test rows"):
        tasks = job.report(target)
    report: Report = {
        "tasks": tasks,
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
            **({} if choice is None else {"chosen": choice.told()}),
            **({} if rounds is None else {"self_training": dict(rounds)}),
            **shares,
        },
        "parameters": {"trained": trained, "all": every, "bytes": files},
    }
    try:
        write_whole(folder / "evaluation.json", json.dumps(report, indent=2) + "\n")
        write_card(target, job, None if handle is None else base, report)
    except OSError as error:
        raise RunError(f"{folder / 'evaluation.json'} could not be written: {one_line(error)}") from error
    write_page(folder)
    return FinetuneRun(folder, target, report)
