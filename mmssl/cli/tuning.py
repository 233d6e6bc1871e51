"""`mmssl tune`: several values of a recipe, an ordinary run each, and the one that scores best."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..saying import loading, result

if TYPE_CHECKING:
    from ..tuning.tune import Tuned

HELP = "Run a recipe with several values, and choose among them, also without labels."


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Its words and options."""
    sub.add_argument("config", metavar="RECIPE", help="a .yaml file or a shipped recipe (see `mmssl list recipes`)")
    help = (
        "what is searched, in quotes: 'key=[a,b]', 'key=log(1e-4,1e-2)', 'key=uniform(0.5,0.9)', 'key=int(2,8)'; "
        "key.path=value stays the same in all trials"
    )
    sub.add_argument("overrides", metavar="key=SEARCH", nargs="*", help=help)
    sub.add_argument("--trials", metavar="N", type=int, default=20, help="how many runs (default: 20)")
    help = "what the best trial is best by: rankme (default), lidar, alpha-req, without labels; or probe, with them"
    sub.add_argument("--by", metavar="SCORE", default="rankme", help=help)
    sub.add_argument("--label", metavar="COLUMN", help="column of the labels of --by probe (evaluation.label)")
    help = "training rows that the scores are computed on (default: 5000)"
    sub.add_argument("--samples", metavar="N", type=int, default=5000, help=help)
    sub.add_argument("--seed", metavar="N", type=int, default=0, help="of the search; the runs have the recipe's")
    sub.add_argument("--no-prune", action="store_true", help="each trial runs to its end")
    sub.add_argument("--preset", metavar="NAME", help="size of a shipped recipe, as of `mmssl pretrain`")
    sub.add_argument("--output", metavar="DIR", type=Path, help="folder of the study (default: runs/tune-NAME)")
    help = "go on with the study of this folder; auto: where there is one, and start it where there is none"
    sub.add_argument("--resume", metavar="auto", nargs="?", const="last", help=help)


def tune(args: argparse.Namespace) -> int:
    """Run it, and print its table."""
    from ..tuning.space import read_space

    words = [*args.overrides, *([f"evaluation.label={args.label}"] if args.label else [])]
    fixed, space = read_space(words)
    with loading():
        from ..training.process import prepare_process
        from ..tuning.tune import Wanted, run_tuning

    prepare_process()
    prune = not args.no_prune
    wanted = Wanted(args.config, fixed, space, args.trials, args.by, args.samples, args.seed, prune, args.preset)
    found = run_tuning(wanted, output=args.output, resume=args.resume or False)
    _print(found)
    result(f"\nthe best recipe: {found.recipe}\nall trials: {found.folder / 'trials.csv'}")
    result(f"\nnext:\n  mmssl pretrain {found.recipe}")
    return 0


def _print(found: Tuned) -> None:
    from ..tuning.table import plain, rich_table

    if sys.stdout.isatty():
        result(rich_table(found.trials, found.best))
    else:
        result(plain(found.trials, found.best))
