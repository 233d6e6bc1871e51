"""`mmssl cluster` and `mmssl select`: choosing data before a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..saying import doing
from .telling import Command

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


def _cluster(args: argparse.Namespace, flags: dict[str, Any]) -> int:
    from ..curation.options import ClusterConfig
    from ..recipe.loading import command_options

    options = command_options(ClusterConfig, args.overrides, flags)
    with doing("loading torch and transformers"):
        from ..curation.clustering import cluster_as

    done = cluster_as(args.source, options, args.output, args.base)
    left = done["rows"] - done["clustered"]
    print(f"{args.output}: {done['clustered']:,} rows" + (f", {left:,} more have no embedding" if left else ""))
    for level in done["levels"]:
        sizes = f"{level['least']:,} to {level['most']:,} rows"
        print(f"{level['clusters']:,} clusters of {sizes}; a row is {level['distance']:.3g} from its centre")
    return 0
