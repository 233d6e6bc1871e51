"""`mmssl init`, `mmssl check` and `mmssl plan`: what is seen before a run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, shown
from ..saying import loading, result, speaker
from .words import columns_of

if TYPE_CHECKING:
    from .telling import Command

DATA = "a folder, file, glob, Hub id or builtin:NAME"


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
    sub.add_argument("--ask", action="store_true", help="tell what was found, and ask on the terminal before it writes")

    help = "Look through data for what is wrong with them: broken, missing, repeated, leaking, constant."
    sub = command("check", _check, help)
    sub.add_argument("data", metavar="DATA|RECIPE", help=f"{DATA}; or a .yaml file or shipped recipe that names data")
    _add_words(sub, "options of the data, e.g. sample=200 workers=4; of a recipe key.path=value")
    sub.add_argument("--all", action="store_true", help="decode every row, not a sample; goes on where it was stopped")
    sub.add_argument("--label", metavar="COLUMN", help="column of what is to be predicted")
    sub.add_argument("--output", metavar="DIR", type=Path, default=Path("check"), help="of the report (default: check)")

    sub = command("plan", _plan, "Say what a run will cost, from a few steps of it that are thrown away.")
    sub.add_argument("config", metavar="RECIPE", help="a .yaml file or a shipped recipe (see `mmssl list recipes`)")
    sub.add_argument(
        "overrides", metavar="key.path=value", nargs="*", help="change the recipe, e.g. train.batch_size=64"
    )
    sub.add_argument("--preset", metavar="NAME", help="size of a shipped recipe, as of `mmssl pretrain`")
    sub.add_argument("--steps", metavar="N", type=int, default=6, help="of the trial (default: 6)")
    sub.add_argument("--json", action="store_true", help="the plan as JSON")


def _add_words(sub: argparse.ArgumentParser, help: str) -> None:
    sub.add_argument("overrides", metavar="key=value", nargs="*", help=help)
    columns = "column(s) that hold a modality, e.g. image=img; may be repeated"
    sub.add_argument("--column", metavar="MODALITY=COLUMN[,COLUMN]", action="append", default=[], help=columns)


def _init(args: argparse.Namespace) -> int:
    from ..recipe.loading import command_options

    if args.ask and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError("--ask: found no terminal to ask on, expected one; without --ask init takes what it finds")
    with loading():
        from ..looking.asking import answered
        from ..looking.init import Draft, init
        from ..looking.options import InitConfig
        from ..training.process import prepare_process

    prepare_process()
    options: InitConfig = command_options(InitConfig, args.overrides, flags(args, "goal", "label", "preset"))
    told: list[str] = []

    def ask(asked: InitConfig, found: Draft) -> InitConfig:
        told.extend(found.lines)
        result("\n".join(map(shown, [*told, "", "Enter keeps what stands in brackets, Ctrl-C leaves all as it was."])))
        return answered(asked, found.recipe, found.columns, speaker.ask, result)

    done = init(options, args.output, force=args.force, ask=ask if args.ask else None)
    if done.found != told:
        result("\n".join(map(shown, done.found)))
    result(
        f"\nwrote {done.path}, from {done.base}: every choice with its reason\n\nnext:\n  mmssl pretrain {done.path}"
    )
    return 0


def _check(args: argparse.Namespace) -> int:
    with loading():
        from ..looking.check import asked_of, check

    options, recipe = asked_of(args.data, args.overrides, flags(args, "label"))
    done = check(options, args.output, recipe=recipe, every=args.all)
    result("\n".join(map(shown, done.lines())))
    result(f"\nthe report: {args.output / 'report.html'} (and report.json)")
    return 1 if done.worthless else 0


def _plan(args: argparse.Namespace) -> int:
    from ..recipe.loading import load_recipe

    load_recipe(args.config, args.overrides, preset=args.preset)  # a mistake in it shows at once
    with loading():
        from ..looking.plan import plan
        from ..training.choosing import Asked
        from ..training.process import prepare_process

    prepare_process()
    found = plan(Asked(args.config, args.overrides, args.preset), args.steps)
    result(json.dumps(found.plain(), indent=1) if args.json else "\n".join(["", *found.lines()]))
    return 0


def flags(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """key -> value of the options that stand for a key, where they were given."""
    found = {"path": args.data, "columns": columns_of(args.column), **{name: getattr(args, name) for name in names}}
    return {key: value for key, value in found.items() if value}
