"""`mmssl report`: one page of HTML about one run or several."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..saying import loading, result


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """Its words and options."""
    help = "folder of a run, finished or not, or of a model; several are compared"
    sub.add_argument("runs", metavar="RUN", nargs="+", type=Path, help=help)
    help = "the page (default: report.html in the folder of the run, of several in the working directory)"
    sub.add_argument("--output", metavar="FILE.html", type=Path, help=help)


def report(args: argparse.Namespace) -> int:
    """Write it."""
    with loading():
        from ..training.reporting import report as write

    path = write(args.runs, args.output)
    result(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0
