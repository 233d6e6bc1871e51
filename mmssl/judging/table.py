"""A suite as one report: scores of every model, set and task with baselines and intervals, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.answers import Answer, said_by_group
from ..evaluation.differences import Difference, paired_difference, resampled_scores
from ..evaluation.scoring import Array
from ..evaluation.similarity import cka_interval, debiased_cka
from ..evaluation.table import aligned, markdown

if TYPE_CHECKING:
    from rich.console import Group

    from .suite import Cell

RESAMPLES = 500
"""Of the test rows, for the interval of a difference."""
BASELINES = ("start", "untrained", "raw", "boosting")
TITLES = {"start": "start", "untrained": "untrained", "raw": "raw features", "boosting": "raw, boosting"}
HOW_TO_READ = (
    "Scores of frozen encoders with 95 % intervals; `raw features` is the same probe on them, and boosting is gradient "
    "boosting on them. Differences are between answers to the same test rows, with 95 % intervals over resamples of "
    "the rows (of whole groups, where rows belong together); better and worse are said where the interval leaves out "
    "0. They hold the training of probe and encoder fixed, and are not corrected for their number."
)
Key = tuple[str, str]


def report_of(
    cells: Mapping[Key, Cell], models: Sequence[str], sets: Sequence[str], broken: Mapping[Key, str]
) -> dict[str, Any]:
    """JSON values: "rows", a list of one dict a set, task, metric and model; "broken"; "notes"; "by"."""
    rows: list[dict[str, Any]] = []
    for called in sets:
        there = [model for model in models if (model, called) in cells]
        known = dict.fromkeys(
            (task, name)
            for model in there
            for task, metrics in cells[model, called].report["tasks"].items()
            for name in metrics
        )
        for task, name in known:
            if task == "boosting":
                continue  # a column of the others
            rows += [
                _row(cells, called, task, name, model, there)
                for model in there
                if _has(cells, model, called, task, name)
            ]
    return {
        "first": models[0],
        "rows": rows,
        "cka": [one for called in sets for one in _likenesses(cells, called, models)],
        "broken": [{"model": model, "set": called, "reason": why} for (model, called), why in broken.items()],
        "notes": list(_notes(cells)),
        "cells": [
            {"model": model, "set": called, "split": cell.report["split"], "n_test": cell.report["n_test"],
             "n_train": cell.report["n_train"], "skipped": cell.report["skipped"]}
            for (model, called), cell in cells.items()
        ],
    }  # fmt: skip


def _has(cells: Mapping[Key, Cell], model: str, called: str, task: str, name: str) -> bool:
    return name in cells[model, called].report["tasks"].get(task, {})


def _row(
    cells: Mapping[Key, Cell], called: str, task: str, name: str, model: str, there: Sequence[str]
) -> dict[str, Any]:
    cell = cells[model, called]
    metric = cell.report["tasks"][task][name]
    score = metric["model"] if metric.get("model") is not None else metric.get("finetuned")
    span = metric.get("interval", {})
    boosting = cell.report["tasks"].get("boosting", {}).get(name, {}).get("raw")
    row = {"set": called, "task": task, "metric": name, "model": model, "score": score, "n": metric.get("n")}
    row["interval"] = span.get("model", span.get("finetuned"))
    row["baselines"] = {key: metric.get(key) for key in ("start", "untrained", "raw")} | {"boosting": boosting}
    row["chance"] = metric.get("chance")
    mine = cell.answers.get((task, name))
    row["less"] = {}
    if mine is not None:
        others = {key: (mine, key) for key in ("start", "untrained", "raw") if key in mine.right}
        trees = cell.answers.get(("boosting", name))
        if trees is not None and "raw" in trees.right:
            others["boosting"] = (trees, "raw")
        row["less"] = {
            key: said(_difference(cell, mine, cell, theirs, encoder)) for key, (theirs, encoder) in others.items()
        }
        first = there[0]
        theirs = cells[first, called].answers.get((task, name))
        if model != first and theirs is not None:
            row["less"]["first"] = said(_difference(cell, mine, cells[first, called], theirs, "model"))
    return row


def said(found: tuple[Difference, int] | None) -> dict[str, Any] | None:
    """A difference as JSON has it: `says` is better or worse where the interval leaves out 0, else null."""
    if found is None or found[0].mean != found[0].mean:
        return None
    d, n = found
    says = ("better" if d.mean > 0 else "worse") if d.excludes_zero else None
    return {"mean": d.mean, "low": d.low, "high": d.high, "n": n, "says": says}


def _difference(mine: Cell, ours: Answer, other: Cell, theirs: Answer, encoder: str) -> tuple[Difference, int] | None:
    """(ours less theirs on the rows that both answered, how many those are); None without two such rows, or where the
    rows were taken from other rows."""
    if mine.source != other.source or "model" not in ours.right or encoder not in theirs.right:
        return None
    a, b = mine.tested[ours.rows.numpy()], other.tested[theirs.rows.numpy()]
    shared, at, there = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    if len(shared) < 2:
        return None
    pair = ours.right["model"].double().numpy()[at], theirs.right[encoder].double().numpy()[there]
    groups = None if mine.groups is None else mine.groups[ours.rows.numpy()][at].tolist()
    truth = np.zeros(len(shared))
    drawn = [resampled_scores(_mean, right, truth, groups, 0, RESAMPLES)[None] for right in pair]
    return paired_difference(pair[0].mean()[None], pair[1].mean()[None], *drawn), len(shared)


def _likenesses(cells: Mapping[Key, Cell], called: str, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    """CKA of every two models on the rows of a set that both saw, where the task `cka` was asked for."""
    for a, b in combinations([model for model in models if (model, called) in cells], 2):
        one, two = cells[a, called], cells[b, called]
        for name in one.pooled.keys() & two.pooled.keys() if one.source == two.source else ():
            (rows, x), (others, y) = one.pooled[name], two.pooled[name]
            numbers = one.tested[rows.numpy()], two.tested[others.numpy()]
            shared, at, there = np.intersect1d(*numbers, assume_unique=True, return_indices=True)
            if len(shared) < 8:
                continue
            pair = x[at], y[there]
            value = debiased_cka(*pair)
            known = {"value": value, "interval": cka_interval(*pair)} if value == value else {"value": None}
            yield {"set": called, "modality": name, "models": [a, b], "n": len(shared), **known}


def _mean(right: Array, _: Array) -> float:
    return float(right.mean())


def _notes(cells: Mapping[Key, Cell]) -> list[str]:
    """What a reader must know, each line once, with the sets and models that it is said of."""
    found: dict[str, list[str]] = {}
    for (model, called), cell in cells.items():
        report = cell.report
        lines = [*report["notes"], *(f"{task}: left out, {why}" for task, why in report["skipped"].items())]
        by = report.get("by", {})
        for task, of in by.get("scores", {}).items():
            lines += [said_by_group(f"{task} {name}", by["column"], one) for name, one in of.items()]
        for line in lines:
            found.setdefault(line, []).append(f"{model} on {called}")
    return [f"{', '.join(where)}: {line}" for line, where in found.items()]


# --------------------------------------------------------------------------------------------------------------- text


def score_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Titles, then the scores with their baselines."""
    used = [key for key in BASELINES if any(row["baselines"].get(key) is not None for row in report["rows"])]
    rows = [["set", "task", "model", "score (95 %)", *(TITLES[key] for key in used), "chance", "n"]]
    for row in report["rows"]:
        score = _number(row["score"]) + ("" if row["interval"] is None else _span(row["interval"]))
        ends = [_number(row["baselines"].get(key)) for key in used] + [_number(row["chance"]), str(row["n"] or "-")]
        rows.append([row["set"], f"{row['task']} {row['metric']}", row["model"], score, *ends])
    return rows


def difference_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Titles, then what each model is better by than its baselines and than the first model."""
    with_some = [row for row in report["rows"] if row["less"]]
    used = [key for key in (*BASELINES, "first") if any(row["less"].get(key) for row in with_some)]
    titles = {**TITLES, "first": report["first"]}
    rows = [["set", "task", "model, less", *(titles[key] for key in used)]]
    for row in with_some:
        cells = [_less(row["less"].get(key)) for key in used]
        rows.append([row["set"], f"{row['task']} {row['metric']}", row["model"], *cells])
    return rows if used else rows[:1]


def likeness_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Titles, then how alike every two models are."""
    rows = [["set", "model", "model", "CKA (95 %)", "n"]]
    for one in report.get("cka", []):
        value = _number(one["value"]) + (_span(one["interval"]) if one["value"] is not None else "")
        rows.append([f"{one['set']} {one['modality']}", *one["models"], value, str(one["n"])])
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(interval: Sequence[float]) -> str:
    return f" ({interval[0]:.3f}-{interval[1]:.3f})"


def _less(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    says = f" {found['says']}" if found["says"] else ""
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){says}"


def tables(report: Mapping[str, Any]) -> list[list[list[str]]]:
    """The tables that have more than titles."""
    return [rows for rows in (score_rows(report), difference_rows(report), likeness_rows(report)) if len(rows) > 1]


def lines_behind(report: Mapping[str, Any]) -> list[str]:
    """What is said below the tables."""
    lost = [f"{one['model']} on {one['set']}: left out, {one['reason']}" for one in report["broken"]]
    return [*report["notes"], *lost]


def plain_suite(report: Mapping[str, Any]) -> str:
    """The suite as text."""
    parts = ["\n".join(aligned(rows, 3)) for rows in tables(report)] + ["\n".join(lines_behind(report))]
    return "\n\n".join(part for part in parts if part)


def markdown_suite(report: Mapping[str, Any]) -> str:
    """`README.md` of the folder."""
    parts = ["# Suite", *("\n".join(markdown(rows, 3)) for rows in tables(report)), HOW_TO_READ]
    parts.append("\n".join(f"- {line}" for line in lines_behind(report)))
    return "\n\n".join(part for part in parts if part) + "\n"


def rich_suite(report: Mapping[str, Any]) -> Group:
    """The suite for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for rows in tables(report):
        out = Table()
        for number, title in enumerate(rows[0]):
            out.add_column(Text(title), justify="left" if number < 3 else "right")
        for row in rows[1:]:
            out.add_row(*map(Text, row))
        parts.append(out)
    return Group(*parts, *map(Text, lines_behind(report)))
