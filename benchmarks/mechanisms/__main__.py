"""See the package's docstring; `python -m benchmarks.mechanisms --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmssl.errors import UserError
from mmssl.training.process import prepare_process

from .. import pages
from . import __doc__ as about
from .rows import Row, due, read_rows
from .run import measure
from .table import MARKS, PAGE, table

SEEDS = (0, 1, 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mechanisms", description=about)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--again", action="store_true", help="also what has a result of its present recipe")
    parser.add_argument("--table", action="store_true", help="only write the table from what is there")
    asked = parser.parse_args(arguments)
    try:
        rows = read_rows(asked.names)
        if not asked.table:
            prepare_process()
            _measure(rows, asked.seeds, asked.again)
        pages.write(PAGE, table(read_rows()), MARKS)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(rows: Sequence[Row], seeds: Sequence[int], again: bool) -> None:
    wanted = [(row, seed) for row in rows for seed in seeds if again or due(row, seed)]
    with tempfile.TemporaryDirectory(prefix="mechanisms-") as folder:
        for number, (row, seed) in enumerate(wanted, 1):
            print(f"[{number}/{len(wanted)}] {row.name} seed {seed}", flush=True)
            print(f"  {measure(row, seed, Path(folder))}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
