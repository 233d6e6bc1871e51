"""Several models on several sets: a cell each, kept as soon as it is measured, and one table of all.

A cell is what `mmssl evaluate` says of one model and one set. Beside the scores it keeps which rows were right, so that
differences between models, and to their baselines, are taken on the same rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import RunError, UserError, one_line
from ..evaluation.answers import Answer, Answers
from ..evaluation.options import EvaluateConfig
from ..evaluation.table import why_nothing
from ..files import whole_file, write_whole
from ..models.locating import locate
from ..models.privacy import public
from ..models.saving import weights_hash
from ..options.schema import to_dict
from ..saying import doing, say
from ..training.engine import goes_on, not_of_data, run_folder
from ..training.lock import RunLock
from .one import Subject, judge, open_subject
from .sets import short, unlike
from .table import markdown_suite, plain_suite, report_of

NAME = "suite"
CELLS, BASELINES = "cells", "baselines"
MOST_FILES = 10_000
"""Files of a folder of data that are looked at, whether a set is still what it was."""


@dataclass
class Cell:
    """One model on one set.

    Attributes:
        report: as `mmssl evaluate` gives it.
        answers: (task, metric) -> which rows were right.
        tested: numbers of the test rows in `source`.
        source: which rows they were taken from.
        groups: a number a test row, alike where rows belong together; None: each stands for itself.
        pooled: modality -> (rows, pooled states) where models are compared by them.
    """

    report: dict[str, Any]
    answers: dict[tuple[str, str], Answer]
    tested: np.ndarray
    source: str
    groups: np.ndarray | None
    pooled: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


@dataclass
class Suite:
    """What a suite left.

    Attributes:
        folder: of it.
        report: its suite.json.
        broken: (model, set) -> why there is no cell.
    """

    folder: Path
    report: dict[str, Any]
    broken: dict[tuple[str, str], str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return plain_suite(self.report)


def run_suite(
    models: Sequence[str],
    sets: Mapping[str, EvaluateConfig],
    *,
    output: str | Path | None = None,
    resume: bool | str = False,
    base: str | None = None,
) -> Suite:
    """Measure each model on each set. A cell that fails is told in the report, and the others are kept.

    Args:
        models: as `mmssl evaluate` takes them; differences between models are to the first.
        sets: name -> its options, see `read_sets`.
        output: folder of the suite (default runs/suite, numbered when taken).
        resume: take the cells that are there, where model, options and data are what they were.
        base: of adapters.

    Raises:
        UserError: a model is not there, or no cell at all can be measured; RunError: the disk is full.
    """
    places: dict[str, str] = {}
    for model in models:
        locate(model)
        places[unlike(short(str(model)), places)] = str(model)
    goes = goes_on(NAME, output, resume)
    folder = not_of_data(run_folder(NAME, output, goes), *(asked.path for asked in sets.values()))
    existed = folder.exists()
    broken: dict[tuple[str, str], str] = {}
    cells: dict[tuple[str, str], Cell] = {}
    with RunLock() as lock:
        try:
            (folder / CELLS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None
        lock.acquire(folder)
        for at, (name, place) in enumerate(places.items()):
            found = _cells_of(name, place, sets, folder, base, broken)
            for number, (called, cell) in enumerate(found, at * len(sets) + 1):
                if cell is not None:
                    cells[name, called] = cell
                say(f"{name} on {called}: {_said(cell, broken.get((name, called)))} ({number} of {_all(places, sets)})")
        lacking = [why for cell in cells.values() if (why := why_nothing(cell.report))]
        if len(lacking) == len(cells):  # of input that is wrong nothing stays
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise UserError("; ".join(dict.fromkeys([*broken.values(), *lacking])))
        return _finish(folder, places, sets, cells, broken)


def _all(models: Mapping[str, str], sets: Mapping[str, object]) -> int:
    return len(models) * len(sets)


def _said(cell: Cell | None, why: str | None) -> str:
    if cell is None:
        return f"left out, {why}"
    return f"{sum(map(len, cell.report['tasks'].values()))} scores"


def _cells_of(
    name: str,
    place: str,
    sets: Mapping[str, EvaluateConfig],
    folder: Path,
    base: str | None,
    broken: dict[tuple[str, str], str],
) -> Iterator[tuple[str, Cell | None]]:
    """(set, its cell) of one model, which is opened once; None, and the reason in `broken`, where it cannot be."""
    subject, why = None, ""
    try:
        subject = open_subject(locate(place), base)
        weights = weights_hash(subject.model.state_dict().items())
    except (UserError, RunError) as error:
        why = one_line(error)
    for called, asked in sets.items():
        if subject is None:
            broken[name, called] = why
            yield called, None
            continue
        where = folder / CELLS / f"{name}.{called}.safetensors"
        key = _key(weights, asked)
        cell = _read(where, key)
        if cell is None:
            try:
                with doing(f"{name} on {called}"):
                    cell = _measure(subject, asked, folder / BASELINES)
                _keep(where, key, cell)
            except UserError as error:
                broken[name, called] = one_line(error)
        yield called, cell


def _measure(subject: Subject, asked: EvaluateConfig, memory: Path) -> Cell:
    answers = Answers(memory=memory)
    report = judge(subject, asked, answers)
    named = None if answers.groups is None else np.unique([str(g) for g in answers.groups], return_inverse=True)[1]
    return Cell(dict(report), answers.found, answers.tested, answers.source, named, answers.pooled)


# --------------------------------------------------------------------------------------------------------- kept cells


def _key(weights: str, asked: EvaluateConfig) -> str:
    """What a cell depends on: the weights, the options, and the data as far as their files say."""
    options = json.dumps(to_dict(asked), sort_keys=True, default=str)
    return hashlib.sha256("\n".join([weights, options, *_files(str(asked.path))]).encode()).hexdigest()


def _files(path: str) -> list[str]:
    """Name, size and time of the files of data on this machine."""
    place = Path(path)
    if not place.exists():
        return []
    found = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())[:MOST_FILES]
    return [f"{p.relative_to(place)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in found]


def _keep(where: Path, key: str, cell: Cell) -> None:
    held = {"tested": torch.from_numpy(np.ascontiguousarray(cell.tested))}
    if cell.groups is not None:
        held["groups"] = torch.from_numpy(np.ascontiguousarray(cell.groups.astype(np.int64)))
    for (task, metric), answer in cell.answers.items():
        held[f"rows|{task}|{metric}"] = answer.rows.contiguous()
        held |= {f"right|{task}|{metric}|{encoder}": hits.contiguous() for encoder, hits in answer.right.items()}
    for name, (rows, pooled) in cell.pooled.items():
        held |= {f"seen|{name}": rows.contiguous(), f"pooled|{name}": pooled.contiguous()}
    facts = {"key": key, "source": cell.source, "report": json.dumps(cell.report)}
    try:
        with whole_file(where) as partial:
            # clones: several metrics may be of the same rows, and safetensors stores no memory twice
            save_file({name: tensor.clone() for name, tensor in held.items()}, partial, facts)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{where} could not be written: {one_line(error)}") from error


def _read(where: Path, key: str) -> Cell | None:
    """A kept cell; None where there is none, or it is of another model, other options or other data."""
    if not where.is_file():
        return None
    try:
        with safe_open(where, "pt") as file:
            facts = file.metadata()
            if facts["key"] != key:
                return None
            held = {name: file.get_tensor(name) for name in file.keys()}
            report = json.loads(facts["report"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume: {where} is damaged ({one_line(error)}); delete it, and it is made again") from None
    answers = {}
    for name, rows in held.items():
        kind, _, what = name.partition("|")
        if kind == "rows":
            start = f"right|{what}|"
            right = {key.removeprefix(start): of for key, of in held.items() if key.startswith(start)}
            task, _, metric = what.partition("|")
            answers[task, metric] = Answer(rows, right)
    groups = held["groups"].numpy() if "groups" in held else None
    seen = {name.removeprefix("seen|"): rows for name, rows in held.items() if name.startswith("seen|")}
    pooled = {name: (rows, held[f"pooled|{name}"]) for name, rows in seen.items()}
    return Cell(report, answers, held["tested"].numpy(), facts["source"], groups, pooled)


# --------------------------------------------------------------------------------------------------------------- end


def _finish(
    folder: Path,
    models: Mapping[str, str],
    sets: Mapping[str, EvaluateConfig],
    cells: Mapping[tuple[str, str], Cell],
    broken: dict[tuple[str, str], str],
) -> Suite:
    """Write suite.json and the card."""
    report = report_of(cells, list(models), list(sets), broken)
    report["models"] = models
    report["sets"] = {name: public(to_dict(asked)) for name, asked in sets.items()}
    try:
        write_whole(folder / "suite.json", json.dumps(report, indent=1) + "\n")
        write_whole(folder / "README.md", markdown_suite(report))
    except OSError as error:
        raise RunError(f"{folder} could not be written: {error.strerror or os.strerror(error.errno or 0)}") from error
    return Suite(folder, report, broken)
