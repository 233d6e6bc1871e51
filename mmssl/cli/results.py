"""What a finished command shows: scores, and what to try next."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

from ..saying import result

if TYPE_CHECKING:
    from ..evaluation.evaluate import Report
    from ..training.pretrain import Run


def show_run(run: Run) -> None:
    """The scores of a finished run and the next commands to try."""
    from ..recipe.loading import load_recipe

    recipe = load_recipe(run.folder / "config.yaml")
    data = recipe.data
    where = [str(run.model_folder), "--data", data.path]
    for name, column in data.columns.items():
        if name not in run.processor.preprocessors:
            continue  # a further column, which the model knows too
        own = run.processor.preprocessors[name].own_columns()
        if column != own:  # a model knows the columns that it was fitted on
            where += _named("--column", f"{name}=", f"columns.{name}", column)
    for key in ("name", "header", "encoding"):
        value = getattr(data, key)
        where += [] if value in (None, "auto") else [f"{key}={_yaml(value)}"]
    label = recipe.evaluation.label
    probe = ["--task", "linear", *_named("--label", "", "label", label)] if label else ["--task", "rankme"]
    if run.report:
        print_report(run.report)
    result(f"\nthe model, with its card: {run.model_folder}\n\nnext:")
    commands = [
        ["mmssl", "evaluate", *where, *probe],
        ["mmssl", "embed", *where, "--output", str(run.folder / "embeddings.parquet")],
    ]
    if "tensorboard" in (recipe.train.trackers or ()):
        commands.append(["tensorboard", "--logdir", str(run.folder / "tensorboard")])
    for words in commands:
        result("  " + shlex.join(words))


def _named(option: str, prefix: str, key: str, columns: str | list[str]) -> list[str]:
    """Words of a command that name columns; a comma in a name parts names there, and is then said in YAML."""
    listed = [columns] if isinstance(columns, str) else columns
    if any("," in name for name in listed):
        return [f"{key}={_yaml(columns)}"]
    return [option, prefix + ",".join(listed)]


def _yaml(value: object) -> str:
    """A value as an override is read: 2024 as text stands in quotes."""
    return json.dumps(value, ensure_ascii=False)


def print_report(report: Report) -> None:
    """The scores as a table: with colours where somebody looks."""
    from ..evaluation.table import plain_table, rich_table

    if sys.stdout.isatty():
        result(rich_table(report))
    else:
        result(plain_table(report))
