"""The report of `mmssl finetune --compare`: scores of every arm, paired differences, and both as tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.labels import Target
from ..errors import UserError, nearest
from ..evaluation.differences import paired_difference, resampled_scores
from ..evaluation.scoring import Array
from ..evaluation.table import aligned, markdown
from .arms import TITLES
from .scores import LOWER, RESAMPLES, chance, score_functions

if TYPE_CHECKING:
    from rich.console import Group

Cell = tuple[str, int, int]
"""(arm, how many labels, number of the draw)."""
HOW_TO_READ = (
    "Mean and standard deviation over draws of the labelled rows, which are the same for all arms. Differences are "
    "between arms on the same labelled and the same test rows, with 95 % intervals over both; better and worse are "
    "said where the interval leaves out 0. A fine-tuned arm chose when to stop (and its learning rate, where there are "
    "several), a linear one its C, boosting the size of its leaves, by rows among the labelled ones."
)


@dataclass
class Outcome:
    """What was measured on.

    Attributes:
        cells: answers of every arm and draw, (n, C).
        facts: how each came about.
        truth: (n,) or (n, C) labels of the test rows.
        groups: whose rows are resampled together.
        train: labels of the rows that draws are taken from, which say what chance is.
    """

    cells: Mapping[Cell, Array]
    facts: Mapping[Cell, dict[str, Any]]
    truth: Array
    groups: Sequence[Hashable] | None
    train: Array


def check_score(target: Target, score: str | None) -> str:
    """The score that tables show; UserError where the task has none of that name."""
    known = list(score_functions(target))
    if score is not None and score not in known:
        raise UserError(f"score: found '{score}', expected one of {', '.join(known)}{nearest(score, known)}")
    return score or known[0]


def report_of(
    outcome: Outcome, target: Target, score: str, arms: Sequence[str], budgets: Mapping[int, str], draws: int
) -> dict[str, object]:
    """Scores of all arms by every score, and by `score` what the first arm is better by. JSON values.

    budgets: how many labels -> what that is called.
    """
    functions, truth = score_functions(target), outcome.truth
    found = {
        key: {name: function(logits, truth) for name, function in functions.items()}
        for key, logits in outcome.cells.items()
    }
    scores = {
        name: {
            arm: {str(size): _spread([found[arm, size, d][name] for d in range(draws)]) for size in budgets}
            for arm in arms
        }
        for name in functions
    }
    function = functions[score]
    resampled = {
        key: resampled_scores(function, logits, truth, outcome.groups, 0, RESAMPLES)
        for key, logits in outcome.cells.items()
    }
    differences: dict[str, dict[str, object]] = {}
    for arm in arms[1:]:
        differences[arm] = {}
        for size in budgets:
            pairs = [[(a, size, d) for d in range(draws)] for a in (arms[0], arm)]
            ours, theirs = (np.array([found[key][score] for key in keys]) for keys in pairs)
            difference = paired_difference(
                ours, theirs, *(np.stack([resampled[key] for key in keys]) for keys in pairs)
            )
            ahead = (difference.mean > 0) != (score in LOWER)
            says = ("better" if ahead else "worse") if difference.excludes_zero else None
            values = {"mean": difference.mean, "low": difference.low, "high": difference.high}
            differences[arm][str(size)] = {k: _known(v) for k, v in values.items()} | {"says": says}
    return {
        "score": score,
        "budgets": {str(size): name for size, name in budgets.items()},
        "draws": draws,
        "arms": list(arms),
        "scores": scores,
        "chance": {name: _known(v) for name, v in chance(target, outcome.train, truth).items()},
        "differences": differences,
        "cells": [
            {"arm": arm, "labels": size, "draw": d, **{k: _known(v) for k, v in found[arm, size, d].items()}}
            | outcome.facts[arm, size, d]
            for arm, size, d in outcome.cells
        ],
    }


def _known(value: float) -> float | None:
    return None if value != value else value


def _spread(values: Sequence[float]) -> dict[str, object]:
    known = [v for v in values if v == v]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "draws": [_known(v) for v in values],
    }


# ------------------------------------------------------------------------------------------------------------- tables


def score_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Arms x budgets: mean and standard deviation of the score that the report shows; titles first."""
    score, budgets = report["score"], report["budgets"]
    rows = [[f"{score}, labels:", *budgets.values()]]
    for arm in report["arms"]:
        found = report["scores"][score][arm]
        rows.append([TITLES[arm], *(_shown(found[size]) for size in budgets)])
    chance = report["chance"].get(score)
    return rows if chance is None else [*rows, ["chance", *[f"{chance:.3f}"] * len(budgets)]]


def difference_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """What the first arm is better by than each other one, at each budget; titles first."""
    budgets = report["budgets"]
    rows = [[f"{TITLES[report['arms'][0]]}, less", *budgets.values()]]
    for arm, found in report["differences"].items():
        rows.append([TITLES[arm], *(_difference(found[size]) for size in budgets)])
    return rows


def _shown(spread: Mapping[str, object]) -> str:
    if spread["mean"] is None:
        return "-"
    return f"{spread['mean']:.3f}" + ("" if spread["std"] is None else f" ± {spread['std']:.3f}")


def _difference(found: Mapping[str, object]) -> str:
    if found["mean"] is None:
        return "-"
    says = f" {found['says']}" if found["says"] else ""
    return f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f}){says}"


def plain(report: Mapping[str, Any]) -> str:
    """Both tables and the notes as text."""
    lines = aligned(score_rows(report), 1)
    if report["differences"]:
        lines += ["", *aligned(difference_rows(report), 1)]
    return "\n".join([*lines, "", *report["notes"]]).rstrip()


def rich_tables(report: Mapping[str, Any]) -> Group:
    """Both tables for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for rows in (score_rows(report), difference_rows(report)):
        if len(rows) > 1:
            table = Table()
            for number, title in enumerate(rows[0]):
                table.add_column(Text(title), justify="right" if number else "left")
            for row in rows[1:]:
                table.add_row(*map(Text, row))
            parts.append(table)
    return Group(*parts, *map(Text, report["notes"]))


def card(report: Mapping[str, Any], options: str) -> str:
    """`README.md` of the folder; options: as YAML."""
    parts = [
        f"# What the pretraining is worth: {report['task']}",
        f"{report['n_test']:,} test rows ({report['split']['test']}), labels taken from {report['pool']:,} rows of "
        f"`{report['split']['train']}`, {report['draws']} draws.",
        "\n".join(markdown(score_rows(report), 1)),
    ]
    if report["differences"]:
        parts.append("\n".join(markdown(difference_rows(report), 1)))
    parts += [HOW_TO_READ, "\n".join(f"- {note}" for note in report["notes"])]
    parts += ["## Options", f"```yaml\n{options.rstrip()}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"
