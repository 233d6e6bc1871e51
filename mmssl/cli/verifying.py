"""`mmssl verify-resume`: proves for a recipe of one's own that a resumed run is the one that never stopped."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..saying import loading, result


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Its words and options."""
    sub.add_argument("config", metavar="RECIPE", help="a .yaml file or a shipped recipe (see `mmssl list recipes`)")
    sub.add_argument("overrides", metavar="key.path=value", nargs="*", help="change the recipe, e.g. data.workers=2")
    sub.add_argument("--steps", metavar="N", type=int, default=8, help="of each of the two runs (default: 8)")
    sub.add_argument("--kills", metavar="N", type=int, default=3, help="how often the second is killed (default: 3)")
    sub.add_argument("--processes", metavar="N", type=int, default=1, help="of each run, on this machine (default: 1)")
    sub.add_argument("--seed", metavar="N", type=int, default=0, help="of the places where it is killed (default: 0)")
    sub.add_argument("--preset", metavar="NAME", help="size of a shipped recipe, as of `mmssl pretrain`")
    sub.add_argument("--output", metavar="DIR", type=Path, help="keep both runs and certificate.json here")
    sub.add_argument("--json", action="store_true", help="the certificate as JSON")


def verify(args: argparse.Namespace) -> int:
    """Run it; 0 where both runs are the same bit for bit, else 1."""
    from ..recipe.loading import load_recipe

    load_recipe(args.config, args.overrides, preset=args.preset)  # a mistake in it shows at once
    with loading():
        from ..training.certify import verify_resume

    with tempfile.TemporaryDirectory(prefix="mmssl-verify-") as folder:
        found = verify_resume(
            args.config,
            args.overrides,
            args.output or Path(folder),
            steps=args.steps,
            kills=args.kills,
            processes=args.processes,
            seed=args.seed,
            preset=args.preset,
        )
    result(found.as_json() if args.json else found.text())
    return 0 if found.same else 1
