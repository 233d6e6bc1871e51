"""What the folder of a run says of itself, without its data and without its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..boundary import own_file
from ..errors import UserError, one_line
from ..evaluation.table import header, remarks, table_rows
from ..hub.picture import read_rows
from ..hub.record import FILE as REPRODUCTION
from ..models.privacy import public, veiled
from ..options import plainyaml
from ..recipe.config import Recipe
from ..recipe.loading import load_recipe

MOST_LINES = 200
"""Warnings, and broken samples, that are shown."""
LOGGED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  (.*)")
MARKS = ("config.yaml", "metrics.jsonl")
"""Files that say by their presence that a folder is that of a run."""
FILES = (*MARKS, "evaluation.json", "quarantine.jsonl", REPRODUCTION)


@dataclass
class Record:
    """A run, as its files tell it; everything may be missing.

    Attributes:
        folder: of the run, or of a model that was taken out of its run.
        name: what it is called beside the others.
        alone: it is a model without its run.
        model: the folder of its model, where there is one.
        settings: its recipe as plain data, without paths of this machine.
        recipe: the same, checked; None where this version cannot read it.
        rows: of metrics.jsonl.
        scores: of evaluation.json.
        warnings: (when, what).
        broken: of quarantine.jsonl.
        ended: "" while nothing says how it ended; else "done", or why it ended.
        steps: that it was to do.
        absent: what the page cannot show, and why.
    """

    folder: Path
    name: str
    alone: bool = False
    model: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    broken: list[dict[str, Any]] = field(default_factory=list)
    ended: str = ""
    steps: int | None = None
    absent: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The last one that was logged."""
        return max((int(row["step"]) for row in self.rows), default=0)

    @property
    def seconds(self) -> float | None:
        """Between its first and its last line."""
        times = [row["wall_time"] for row in self.rows if isinstance(row.get("wall_time"), int | float)]
        return times[-1] - times[0] if len(times) > 1 else None

    @property
    def state(self) -> str:
        """How it stands, in words."""
        of = f" of {self.steps:,}" if self.steps else ""
        if self.alone:
            return "a model without its run"
        if self.ended == "done" or (not self.ended and self.model is not None):
            return f"finished after {self.step:,} steps"
        logged = f"last logged: step {self.step:,}{of}" if self.rows else "nothing was logged"
        if self.ended:
            return f"not finished ({logged}): {self.ended}"
        return f"not finished ({logged}): it still trains, or was killed"

    @property
    def finished(self) -> bool:
        """Whether it did all its steps."""
        return self.state.startswith("finished")

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
        """(titles, rows, remarks) of its scores."""
        return header(self.scores), table_rows(self.scores), remarks(self.scores)


def run_folder(place: str | Path) -> Path:
    """The folder of a run, of whose `model/` may be spoken, or of a model alone. UserError where it is none of them."""
    path = Path(place)
    if not path.is_dir():
        found = "a file" if path.exists() else "nothing there"
        raise UserError(f"report: found {found} at '{place}', expected the folder of a run")
    above = path.resolve().parent
    if path.resolve().name == "model" and any((above / name).is_file() for name in MARKS):
        return above if path.is_absolute() else path.parent
    if any((path / name).is_file() for name in MARKS) or (path / "config.json").is_file():
        return path
    inner = sorted(p.name for p in path.iterdir() if p.is_dir() and any((p / name).is_file() for name in MARKS))
    hint = f"; it holds the run{'s' * (len(inner) > 1)} {', '.join(inner[:5])}" if inner else ""
    raise UserError(f"report: '{place}' has neither {MARKS[0]} nor {MARKS[1]}, expected the folder of a run{hint}")


def names_of(folders: Sequence[Path]) -> list[str]:
    """What runs are called: the last part of their folder, and as many before it as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    found = []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        found.append("/".join(own[-count:]))
    return found


def read_record(folder: Path, name: str | None = None, done: bool = False) -> Record:
    """What a run's folder says.

    Args:
        folder: as `run_folder` found it.
        name: what it is called.
        done: it has just ended well, which its log does not say yet.
    """
    for path in [folder / file for file in FILES] + sorted(folder.glob("train*.log")):
        own_file(folder, path)
    record = Record(folder, name or folder.resolve().name)
    record.alone = not any((folder / mark).is_file() for mark in MARKS)
    record.model = folder if record.alone else folder / "model"
    if not (record.model / "config.json").is_file() and not (record.model / "adapter_config.json").is_file():
        record.model = None
    rows = read_rows(folder / "metrics.jsonl")
    record.rows = [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
    scores = _object(folder / "evaluation.json", record)
    record.scores = scores if isinstance(scores.get("tasks", {}), dict) else {}
    _read_settings(record)
    _read_log(record)
    record.broken = [row for row in read_rows(folder / "quarantine.jsonl") if isinstance(row, dict)]
    record.ended = "done" if done else record.ended
    if not record.rows:
        record.absent.append("no curves: no metrics.jsonl, or nothing in it")
    if not record.scores.get("tasks"):
        record.absent.append("no scores: no evaluation.json, or no task in it")
    return record


def _object(path: Path, record: Record) -> dict[str, Any]:
    """A file of JSON that holds an object; what is damaged is said."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        record.absent.append(f"{path.name} cannot be read ({one_line(error)})")
        return {}
    return found if isinstance(found, dict) else {}


def _read_settings(record: Record) -> None:
    """The recipe of a run, or of the record beside a model that was taken out of one."""
    path = record.folder / "config.yaml"
    source: Any = path
    if record.alone:
        source = _object(record.folder / REPRODUCTION, record).get("recipe")
    if source is None or (source is path and not path.is_file()):
        record.absent.append(f"no settings: no {REPRODUCTION if record.alone else path.name}")
        return
    try:
        plain = plainyaml.read(path) if source is path else source
        record.settings = public(veiled(plain)) if isinstance(plain, Mapping) else {}
    except UserError as error:
        record.absent.append(f"no settings: {one_line(error)}")
        return
    if "objectives" not in record.settings:  # of a fine-tuning
        record.steps = _planned(record.settings)
        return
    try:
        record.recipe = load_recipe(source, own=False)
    except UserError as error:
        record.absent.append(f"its recipe is not one of this version of mmssl ({one_line(error)})")
    record.steps = _planned(record.settings)


def _planned(settings: Mapping[str, Any]) -> int | None:
    train = settings.get("train")
    steps = train.get("steps") if isinstance(train, Mapping) else None
    return steps if isinstance(steps, int) else None


def _read_log(record: Record) -> None:
    """Warnings and the end of the run off `train.log`, and off those of other processes."""
    for path in sorted(record.folder.glob("train*.log")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            record.absent.append(f"{path.name} cannot be read ({one_line(error)})")
            continue
        for line in lines:
            found = LOGGED.fullmatch(line)
            if found is None:
                continue
            when, text = found[1], found[2]
            kind, colon, said = text.partition(": ")
            if kind in ("warning", "error", "critical") and colon:
                record.warnings.append((when, said))
            elif path.name == "train.log" and text.startswith("---- "):
                record.ended = text[5:].removeprefix("ended: ") if not text.startswith("---- process") else ""
