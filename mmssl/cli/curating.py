"""`mmssl cluster` and `mmssl select`: choosing data before a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..saying import loading, result
from .telling import Command

SELECT = {
    "--embeddings": ("FILE|MODEL", "embeddings of the rows, or a model, which makes them first"),
    "--beside": ("FILE", "a parquet with a row a row, as of `mmssl cluster`: the options below may name its columns"),
    "--drop-duplicates": ("COSINE", "leave out copies of earlier rows; with a number also what is at least so alike"),
    "--near": ("TARGET", "keep what is near to these data: embeddings, or data where --embeddings is a model"),
    "--keep": ("FRACTION", "keep this share of the rows"),
    "--by": ("SCORE", "those with the highest score: a column, typicality, pair, target or random (order=lowest)"),
    "--balance": ("COLUMN", "keep as many rows of each value of a column"),
}
"""Option -> (metavar, help); each stands for the key of its name. Steps come in the order that they stand in here."""
EMBEDDINGS = "a parquet file of embeddings (of `mmssl embed`), or a model, which makes them of --data first"


def add_commands(
    command: Command,
    add_data: Callable[[argparse.ArgumentParser], None],
    flags: Callable[[argparse.Namespace], dict[str, Any]],
) -> None:
    """Add these commands.

    Args:
        command: adds one.
        add_data: adds the options that say where data are.
        flags: key -> value of the options that stand for a key.
    """
    sub = command("cluster", lambda args: _cluster(args, flags(args)), "Cluster the rows of data by their embeddings.")
    sub.add_argument("source", metavar="EMBEDDINGS|MODEL", help=EMBEDDINGS)
    add_data(sub)
    sub.add_argument("--output", metavar="FILE.parquet", type=Path, required=True)
    help = "options, e.g. clusters=[1000,100] kind=plain balanced=true seed=1 (see `mmssl show cluster`)"
    sub.add_argument("overrides", metavar="key=value", nargs="*", help=help)

    sub = command("select", _select, "Choose the rows of data that are worth training on, into a small file.")
    sub.add_argument("data", metavar="DATA", help="a folder, file, glob, Hub id or builtin:NAME")
    for option, (metavar, help) in SELECT.items():
        nargs = "?" if option == "--drop-duplicates" else None
        sub.add_argument(option, metavar=metavar, nargs=nargs, const="true" if nargs else None, help=help)
    sub.add_argument("--base", metavar="MODEL", help="the model that an adapter belongs on, where it has moved")
    help = "column(s) that hold a modality, e.g. image=img; may be repeated"
    sub.add_argument("--column", metavar="MODALITY=COLUMN[,COLUMN]", action="append", default=[], help=help)
    sub.add_argument("--output", metavar="FILE.parquet", type=Path, required=True)
    help = "options, e.g. split=test near_stop=0.9 order=lowest seed=1 (see `mmssl show select`)"
    sub.add_argument("overrides", metavar="key=value", nargs="*", help=help)
    sub.set_defaults(flags=flags)


def _cluster(args: argparse.Namespace, flags: dict[str, Any]) -> int:
    from ..curation.options import ClusterConfig
    from ..recipe.loading import command_options

    options = command_options(ClusterConfig, args.overrides, flags)
    with loading():
        from ..curation.clustering import cluster_as

    done = cluster_as(args.source, options, args.output, args.base)
    left = done["rows"] - done["clustered"]
    why = "are alone" if options.kind == "neighbours" else "have no embedding"
    result(f"{args.output}: {done['clustered']:,} rows" + (f", {left:,} more {why}" if left else ""))
    other = "nearest" if options.kind == "neighbours" else "centre"
    for name, shares in done.get("priors", {}).items():
        result(f"{name}: " + ", ".join(f"class {number} {share:.3g}" for number, share in enumerate(shares)))
    for level in done.get("levels", []):
        sizes = f"{level['least']:,} to {level['most']:,} rows"
        result(f"{level['clusters']:,} clusters of {sizes}; a row is {level['distance']:.3g} from its {other}")
    return 0


def _select(args: argparse.Namespace) -> int:
    from ..curation.options import SelectConfig
    from ..options.plainyaml import parse
    from ..recipe.loading import command_options

    flags = args.flags(args)
    for option in SELECT:
        name = option.removeprefix("--").replace("-", "_")
        value = getattr(args, name)
        if option == "--drop-duplicates" and "=" in (value or ""):  # argparse takes any word behind it
            args.overrides.append(value)
            value = "true"
        if value is not None:
            number = option in ("--keep", "--drop-duplicates")
            flags[name] = parse(value, option) if number else value
    options = command_options(SelectConfig, args.overrides, flags)
    with loading():
        from ..curation.asking import select_as

    done = select_as(options, args.output, args.base)
    result(f"{args.output}: {done['kept']:,} of {done['rows']:,} rows are kept")
    for reason, count in done["reasons"].items():
        result(f"  {count:,} {reason}")
    result(f"use it: data.select={args.output} of a recipe, select={args.output} of a command")
    return 0
