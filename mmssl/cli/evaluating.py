"""`mmssl evaluate`: a model on data, or several models on several sets as a suite."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..saying import loading, result
from .results import print_report

HELP = "Measure a model on data, beside its untrained twin and the raw features; several models on several sets, too."
OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")
Flags = Callable[[argparse.Namespace], dict[str, Any]]


def add_arguments(sub: argparse.ArgumentParser, model: str, data: str, base: str) -> None:
    """Its own words and options; model, data, base: what every command says of these."""
    sub.add_argument("model", metavar="MODEL", nargs="*", help=f"{model}; several: a suite, compared with the first")
    sub.add_argument("--base", metavar="MODEL", help=base)
    help = f"{data}; several, or YAML files with the options of sets: a suite"
    sub.add_argument("--data", metavar="DATA", nargs="+", default=[], help=help)
    help = "column(s) that hold a modality, e.g. image=img; may be repeated"
    sub.add_argument("--column", metavar="MODALITY=COLUMN[,COLUMN]", action="append", default=[], help=help)
    help = "knn, linear, zero-shot, retrieval or rankme; may be repeated; default: all that model and data allow"
    sub.add_argument("--task", metavar="TASK", action="append", help=help)
    help = "options, e.g. split=validation limit=1000 k=10 group=patient_id by=sex"
    sub.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=help)
    sub.add_argument("--output", metavar="DIR", type=Path, help="folder of a suite (default: runs/suite)")
    help = "go on with the suite of this folder; auto: where there is one, and start it where there is none"
    sub.add_argument("--resume", metavar="auto", nargs="?", const="last", help=help)


def evaluate(args: argparse.Namespace, flags: Flags) -> int:
    """Run it, and print what it found; 1 where a cell of a suite is lacking."""
    from ..evaluation.options import EvaluateConfig
    from ..recipe.loading import command_options

    models, data, words = parted(args.model, args.data, args.overrides)
    args.data = data[0] if data else None
    if len(models) == 1 and len(data) < 2 and not _is_suite(args, data):
        options = command_options(EvaluateConfig, words, flags(args))
        with loading():
            from ..evaluation.table import why_nothing
            from ..judging.one import judge_model

        report = judge_model(models[0], options, args.base)
        if why := why_nothing(report):
            raise UserError(f"nothing can be measured: {why}")
        print_report(report)
        return 0
    if not data:
        raise UserError("--data: found none, expected the data on which several models are compared")
    args.data = None
    with loading():
        from ..judging.sets import read_sets
        from ..judging.suite import run_suite

    sets = read_sets(data, words, flags(args))
    found = run_suite(models, sets, output=args.output, resume=args.resume or False, base=args.base)
    _print(found.report)
    result(f"\nthe suite, with all numbers: {found.folder}")
    return 1 if found.broken else 0


def _is_suite(args: argparse.Namespace, data: Sequence[str]) -> bool:
    """Whether one model and one set are asked for as a suite: kept, or with options out of a file."""
    return args.output is not None or bool(args.resume) or any(path.endswith((".yaml", ".yml")) for path in data)


def parted(
    models: Sequence[str], data: Sequence[str], overrides: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """(models, data, key=value words) of the words that argparse shared out.

    A word that says key=value is one wherever it stands, but the first behind --data and what is there as a file. Where
    no model stands in front of --data, the last word behind it is one.
    """
    words = [*overrides, *(word for word in models if _overrides(word))]
    words += [word for word in data[1:] if _overrides(word)]
    named = [word for word in models if not _overrides(word)]
    places = [*data[:1], *(word for word in data[1:] if not _overrides(word))]
    if not named and len(places) > 1:
        named = [places.pop()]
    if not named:
        raise UserError("the following arguments are required: MODEL (see `mmssl evaluate --help`)")
    return named, places, words


def _overrides(word: str) -> bool:
    return bool(OVERRIDE.match(word)) and not Path(word).exists()


def _print(report: Mapping[str, Any]) -> None:
    from ..judging.table import plain_suite, rich_suite

    if sys.stdout.isatty():
        result(rich_suite(report))
    else:
        result(plain_suite(report))
