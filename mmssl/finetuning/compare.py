"""`mmssl finetune --compare`: is there a reason to pretrain? Several ways to learn from the same few labels.

The test rows are held out once. What is measured of an arm and a draw is a cell, and is kept as soon as it is there:
`--resume` goes on with the next one, and within one that was being trained from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..data.fingerprint import glance
from ..errors import RunError, UserError, one_line
from ..evaluation.leaks import LabelRead
from ..evaluation.own_run import with_rows, with_way_out
from ..files import whole_file, write_whole
from ..models.locating import locate
from ..models.opening import open_model
from ..models.privacy import public
from ..models.running import in_float32, untrained_twin
from ..models.saving import weights_hash
from ..options.plainyaml import dump
from ..options.schema import to_dict
from ..saying import doing, say
from ..training.building import flat, start_of
from ..training.engine import check_rows, check_state, goes_on, make_accelerator, not_of_data, run_folder
from ..training.lock import RunLock
from ..training.run_log import RunLog
from .arms import RUNNING, TITLES, Answers, Bench
from .asking import check_augment, refuse_beside
from .comparison import Cell, Outcome, card, check_score, plain, report_of
from .folder import fixed_options
from .options import BUDGETS, FinetuneConfig
from .partition import Pool, open_pool

NAME = "compare"
CELLS, STATE = "cells", "compare.json"
FREE = {"compare", "labels", "fraction"}
"""Options with which a comparison may go on, besides those that say so: other budgets are other cells."""


@dataclass
class Comparison:
    """What a comparison left.

    Attributes:
        folder: of it.
        report: its comparison.json.
    """

    folder: Path
    report: dict[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        return plain(self.report)


def run_comparison(
    model: str,
    options: FinetuneConfig,
    *,
    output: str | Path | None = None,
    base: str | None = None,
    resume: bool | str = False,
) -> Comparison:
    """Measure what pretraining is worth, with options that were built already; see `finetune`.

    Raises:
        UserError: wrong input, in one clear line.
        RunError: a full disk, a loss that is not finite, in one clear line.
    """
    _refuse(options)
    located = locate(model)
    options = with_rows(options, located)
    encoder, processor = open_model(located, base)
    check_augment(options, processor.types)
    rule, readers = getattr(encoder.config, "held_out", None), processor.preprocessors
    try:
        pool = open_pool(options.label_columns, readers, options, rule)
    except LabelRead as error:
        raise with_way_out(error, located) from None
    assert pool.target is not None
    check_score(pool.target, options.score)
    budgets = budgets_of(options, pool)
    accelerator = make_accelerator(options.train)
    options = replace(options, train=replace(options.train, mixed_precision=accelerator.mixed_precision))
    if accelerator.num_processes > 1:
        raise UserError(f"--compare: found {accelerator.num_processes} processes, expected one")
    encoders = {"model": encoder, "untrained": untrained_twin(encoder)}
    try:
        start = start_of(located, processor, base)
    except UserError as error:  # what the run went on from was moved or deleted since
        start = None
        pool.notes.append(f"start: left out, {' '.join(str(error).split())}")
    if start is not None:
        encoders["start"] = start
    for one in encoders.values():  # probes and training see the same numbers
        in_float32(one, whole=True)
    weights = weights_hash(encoder.state_dict().items())
    resume = goes_on(NAME, output, resume)
    folder = not_of_data(run_folder(NAME, output, resume), options.path)
    existed = folder.exists()
    with RunLog() as log, RunLock() as lock:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from None
        lock.acquire(folder)
        log.open(folder)
        try:
            check_state(folder / STATE, _state(options, pool, weights), resume, "comparison", "cells")
            used = [*flat(pool.columns.values()), *options.label_columns]
            check_rows(folder, glance(pool.train.source, used), resume)
            bench = Bench(encoders, processor, options, pool, list(budgets), accelerator, folder, weights)
            with doing("embedding the rows for the probes"):
                bench.embed()
            arms = _arms(bench, options)
            return _finish(bench, measure_cells(bench, arms), arms, budgets)
        except UserError:
            if not existed and not (folder / CELLS).exists():
                log.drop()
                shutil.rmtree(folder, ignore_errors=True)  # nothing half-written stays of input that was wrong
            raise


def _refuse(options: FinetuneConfig) -> None:
    refuse_beside(options, "--compare", {"keep_head": None, "validation": None})
    if options.task == "retrieval":
        raise UserError("task: found retrieval, but --compare learns from labels: classes, several labels or numbers")
    if not options.label_columns:
        raise UserError("--label: found none, expected the column(s) of the labels")


def budgets_of(options: FinetuneConfig, pool: Pool) -> dict[int, str]:
    """How many labels -> what that is called, in rising order; UserError for more than there are.

    Of those that are tried unasked, all rows stand for what is more.
    """
    n = len(pool.train)
    if options.fraction is not None:
        shares = options.fraction if isinstance(options.fraction, list) else [options.fraction]
        sizes = {max(round(share * n), 2): f"{100 * share:g} % ({max(round(share * n), 2):,})" for share in shares}
        return dict(sorted(sizes.items()))
    asked = list(BUDGETS) if options.labels is None else options.labels
    wanted = asked if isinstance(asked, list) else [asked]
    if not wanted:
        raise UserError("labels: found none, expected how many")
    more = sorted(size for size in wanted if size > n)
    if more and options.labels is not None:
        raise UserError(f"labels: found {more[0]}, but only {n} training rows have a label")
    if more:
        wanted = [size for size in wanted if size <= n] + [n]
    return {size: f"{size:,}" + (" (all)" if size == n else "") for size in sorted(set(wanted))}


def _arms(bench: Bench, options: FinetuneConfig) -> list[str]:
    known = bench.arms
    chosen = known if options.arms is None else list(dict.fromkeys(options.arms))
    for arm in chosen:
        if arm not in known:
            why = "the model went on from nothing" if arm.startswith("start") else "the modality has no raw features"
            raise UserError(f"arms: found {arm}, but {why}; expected some of {', '.join(known)}")
    if not chosen:
        raise UserError(f"arms: found none, expected some of {', '.join(known)}")
    return chosen


# -------------------------------------------------------------------------------------------------------------- cells


def measure_cells(bench: Bench, arms: list[str]) -> dict[Cell, Answers]:
    """The cells that are lacking, each kept as soon as it is there: all arms of a draw one after the other."""
    options, cells = bench.options, {}
    asked = [(size, number) for number in range(options.draws) for size in bench.sizes]
    for at, (size, number) in enumerate(asked):
        draw = bench.draw(size, number)
        for arm in arms:
            place = bench.folder / CELLS / f"{arm}-{size}-{number}.safetensors"
            answers = _read(place)
            if answers is None:
                with doing(f"{size:,} labels, draw {number + 1}: {TITLES[arm]}"):
                    answers = bench.run(arm, draw)
                _keep(place, answers)
                done = f"{at * len(arms) + arms.index(arm) + 1} of {len(asked) * len(arms)}"
                say(f"{size:,} labels, draw {number + 1}: {TITLES[arm]}, {answers.facts['seconds']} s ({done})")
            cells[arm, size, number] = answers
    return cells


def _keep(place: Path, answers: Answers) -> None:
    try:
        with whole_file(place) as partial:
            save_file({"logits": answers.logits.contiguous()}, partial, {"facts": json.dumps(answers.facts)})
    except (OSError, SafetensorError) as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error


def _read(place: Path) -> Answers | None:
    if not place.is_file():
        return None
    try:
        with safe_open(place, "pt") as file:
            return Answers(file.get_tensor("logits"), json.loads(file.metadata()["facts"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--resume: {place} is damaged ({one_line(error)}); delete it, and it is made again") from None


def _state(options: FinetuneConfig, pool: Pool, weights: str) -> dict[str, Any]:
    """What has to be the same for cells to be of one comparison, as JSON has it."""
    rows = hashlib.sha256()
    for part in (pool.train, pool.test):
        assert part.labels is not None
        rows.update(np.ascontiguousarray(part.labels.numpy()).tobytes())
        rows.update(repr(part.groups).encode())
    state: dict[str, Any] = json.loads(
        json.dumps({"the model": weights, "the rows": rows.hexdigest(), **fixed_options(options, FREE)})
    )
    return state


def _write(place: Path, text: str) -> None:
    try:
        write_whole(place, text)
    except OSError as error:
        raise RunError(f"{place} could not be written: {one_line(error)}") from error


# ------------------------------------------------------------------------------------------------------------- report


def _finish(bench: Bench, cells: Mapping[Cell, Answers], arms: list[str], budgets: dict[int, str]) -> Comparison:
    """Write comparison.json and the card."""
    pool, options, folder = bench.pool, bench.options, bench.folder
    target, present = pool.target, bench.test.present
    assert target is not None and pool.test.labels is not None and pool.train.labels is not None
    there = np.flatnonzero(present.numpy())
    groups = None if pool.test.groups is None else [pool.test.groups[row] for row in there]
    outcome = Outcome(
        {cell: answers.logits.numpy() for cell, answers in cells.items()},
        {cell: answers.facts for cell, answers in cells.items()},
        pool.test.labels[present].numpy(),
        groups,
        pool.train.labels.numpy(),
    )
    score = check_score(target, options.score)
    report = {
        "task": f"{target.task} of {', '.join(target.columns)}",
        **report_of(outcome, target, score, arms, budgets, options.draws),
        "n_test": len(there),
        "pool": len(pool.train),
        "split": {"train": options.split, "test": pool.test_name},
        "notes": [*pool.notes, *pool.telling(pool.train), *_notes(pool, budgets, options)],
        "weights": bench.weights,
        "options": public(to_dict(options)),
    }
    _write(folder / "comparison.json", json.dumps(report, indent=2) + "\n")
    _write(folder / "README.md", card(report, dump(report["options"])))
    shutil.rmtree(folder / RUNNING, ignore_errors=True)
    return Comparison(folder, report)


def _notes(pool: Pool, budgets: dict[int, str], options: FinetuneConfig) -> list[str]:
    """What a reader must know of the draws."""
    notes, strata = [], pool.strata()
    rare = int((strata.sum(0) < 2).sum())
    if rare:
        notes.append(f"{rare} classes have fewer than two rows to learn from")
    few = [f"{size:,}" for size in budgets if size < 2 * strata.shape[1] and size < len(pool.train)]
    if few and pool.target is not None and pool.target.task == "classification":
        notes.append(f"with {', '.join(few)} labels not every one of {strata.shape[1]} classes has two of them")
    if options.draws == 1:
        notes.append("one draw: the intervals are of the test rows alone")
    return notes
