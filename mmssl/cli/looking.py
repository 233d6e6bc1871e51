"""`mmssl init`, `mmssl check` and `mmssl plan`: what is seen before a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import shown
from ..saying import doing
from .words import columns_of

if TYPE_CHECKING:
    from .telling import Command

DATA = "a folder, file, glob, Hub id or builtin:NAME"
IMPORTS = "loading torch and transformers"


def add_commands(command: Command) -> None:
    """Add these commands to the parser."""
    sub = command("init", _init, "Look at data and write a commented recipe for them.")
    sub.add_argument("data", metavar="DATA", help=DATA)
    _add_words(sub, "options of the data, e.g. name=CONFIGURATION split=train group=patient_id")
    sub.add_argument("--goal", metavar="retrieval|classify|embed", help="what the encoder is for")
    sub.add_argument("--label", metavar="COLUMN", help="column of what is to be predicted: it is no input")
    sub.add_argument("--preset", metavar="NAME", help="size: demo, small or base; default: by the rows and the device")
    sub.add_argument("--output", metavar="FILE", type=Path, default=Path("recipe.yaml"), help="default: recipe.yaml")
    sub.add_argument("--force", action="store_true", help="replace the file that is there")


def _add_words(sub: argparse.ArgumentParser, help: str) -> None:
    sub.add_argument("overrides", metavar="key=value", nargs="*", help=help)
    columns = "column(s) that hold a modality, e.g. image=img; may be repeated"
    sub.add_argument("--column", metavar="MODALITY=COLUMN[,COLUMN]", action="append", default=[], help=columns)


def _init(args: argparse.Namespace) -> int:
    from ..recipe.loading import command_options

    with doing(IMPORTS):
        from ..looking.init import init
        from ..looking.options import InitConfig
        from ..training.process import prepare_process

    prepare_process()
    options: InitConfig = command_options(InitConfig, args.overrides, flags(args, "goal", "label", "preset"))
    done = init(options, args.output, force=args.force)
    print("\n".join(map(shown, done.found)))
    print(f"\nwrote {done.path}, from {done.base}: every choice with its reason\n\nnext:\n  mmssl pretrain {done.path}")
    return 0


def flags(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """key -> value of the options that stand for a key, where they were given."""
    found = {"path": args.data, "columns": columns_of(args.column), **{name: getattr(args, name) for name in names}}
    return {key: value for key, value in found.items() if value}
