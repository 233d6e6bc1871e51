"""`mmssl demo`: a page on this machine that searches data by samples of any modality; and that page as a Space."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..saying import loading, result, say

HELP = "Search data by words, pictures, sounds, signals or rows, on a page of this machine."
Flags = Callable[[argparse.Namespace], dict[str, Any]]


def add_arguments(
    sub: argparse.ArgumentParser, model: str, add_data: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Its words and options; model: what every command says of it; add_data: adds the words for data."""
    sub.add_argument("model", metavar="MODEL", help=model)
    add_data(sub)
    help = "parquet of `mmssl embed`, by this model of these rows; written where there is none"
    sub.add_argument("--embeddings", metavar="FILE.parquet", help=help)
    sub.add_argument("--label", metavar="COLUMN", help="column that rows are called by")
    sub.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    sub.add_argument("--port", metavar="N", type=int, default=7860, help="default: 7860; 0: any that is free")
    help = "options, e.g. split=test limit=1000 templates=['a photo of a {}'] (see `mmssl show demo`)"
    sub.add_argument("overrides", metavar="key=value", nargs="*", help=help)


def demo(args: argparse.Namespace, flags: Flags) -> int:
    """Serve it until Ctrl-C."""
    from ..demonstrating.options import DemoConfig
    from ..recipe.loading import command_options

    given = flags(args) | ({"embeddings": args.embeddings} if args.embeddings else {})
    options = command_options(DemoConfig, args.overrides, given)
    with loading():
        from ..demonstrating.opening import demo_as

    demo_as(args.model, options, args.base, args.host, args.port).wait()
    return 0


def add_space(sub: argparse.ArgumentParser) -> None:
    """The words of `mmssl push` that make a Space."""
    help = "push a Space with the page of `mmssl demo`: its files are written to this folder first"
    sub.add_argument("--space", metavar="DIR", type=Path, help=help)
    help = "of a Space: a Hub id, builtin:NAME or an address; default: what the run of MODEL learned from"
    sub.add_argument("--data", metavar="DATA", help=help)
    help = "of a Space: column(s) that hold a modality, e.g. image=img; may be repeated"
    sub.add_argument("--column", metavar="MODALITY=COLUMN[,COLUMN]", action="append", default=[], help=help)
    sub.add_argument(
        "overrides", metavar="key=value", nargs="*", help="of a Space: as for `mmssl demo`, e.g. limit=500"
    )


def push_space(args: argparse.Namespace, flags: Flags) -> int:
    """Write the folder of a Space, and push it."""
    from ..demonstrating.options import DemoConfig
    from ..recipe.loading import command_options

    if args.revision is not None:
        raise UserError(f"--revision: found '{args.revision}' beside --space, but a Space runs its branch main alone")
    options = command_options(DemoConfig, args.overrides, flags(args))
    with loading():
        from ..demonstrating.space import push_space

    done = push_space(
        args.model,
        args.repo_id,
        options,
        args.space,
        private=args.private,
        message=args.message,
        base=args.base,
        dry_run=args.dry_run,
    )
    for note in done.notes:
        say(f"note: {note}")
    result("\n".join([f"{args.space}:", *(f"  {name}" for name in done.files)]))
    result("nothing was sent" if args.dry_run else f"{done.repo_id}: {len(done.files)} files, {done.url}")
    return 0


def refuse_data(args: argparse.Namespace) -> None:
    """UserError for words that a push without --space does nothing with."""
    found = [("--data", args.data), ("--column", args.column), ("key=value", args.overrides)]
    for name, value in found:
        if value:
            shown = value if isinstance(value, str) else " ".join(value)
            raise UserError(f"{name}: found '{shown}' without --space DIR, but no data are pushed beside a model")
