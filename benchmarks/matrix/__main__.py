"""See the package's docstring; `python -m benchmarks.matrix --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from mmssl.errors import UserError
from mmssl.training.process import prepare_process

from .. import crossmodal, pages, teacher_free
from .cells import HERE, SEEDS, Cell, choose, read_cells, read_result
from .report import MARKS, load_results, read_tried, report, short_table
from .run import run_cell, write_result


def missing(cells: Sequence[Cell], seeds: Sequence[int], folder: Path) -> list[tuple[int, Cell]]:
    """(seed, cell) of all that has no result of its present recipe, the first seed of all cells first."""
    out = []
    for seed in seeds:
        for cell in cells:
            result = read_result(cell, seed, folder) if cell.shipped() else None
            if cell.shipped() and (result is None or result["fingerprint"] != cell.fingerprint()):
                out.append((seed, cell))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="DATA, OBJECTIVE or DATA/OBJECTIVE")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--report", action="store_true", help="only write RESULTS.md from what is there")
    parser.add_argument("--list", action="store_true", help="only list the cells")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    folder = HERE / "results"
    try:
        cells = choose(read_cells(), asked.only)
        if asked.list:
            due = {(seed, cell.name) for seed, cell in missing(cells, asked.seeds, folder)}
            for cell in cells:
                state = (
                    "no recipe yet"
                    if not cell.shipped()
                    else " ".join(f"{seed}:{'due' if (seed, cell.name) in due else 'done'}" for seed in asked.seeds)
                )
                print(f"{cell.name:32s} {cell.recipe:24s} {state}")
            return 0
        if not asked.report:
            prepare_process()
            torch.set_num_threads(asked.threads)
            due = missing(cells, asked.seeds, folder)
            for number, (seed, cell) in enumerate(due, 1):
                print(f"[{number}/{len(due)}] {cell.name} seed {seed}", flush=True)
                write_result(cell, seed, run_cell(cell, seed, folder), folder)
        write_report()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def across() -> str:
    """The section on the cross-modal results."""
    sections = crossmodal.section(crossmodal.all_stored(), crossmodal.read_tried()), teacher_free.section()
    return "\n\n".join(part.rstrip() for part in sections if part)


def write_report() -> None:
    cells = read_cells()
    results = load_results(cells)
    pages.RESULTS.write_text(report(cells, results, read_tried(), across()))
    pages.write(pages.BENCHMARKS, short_table(cells, results), MARKS)
    print(f"wrote {pages.RESULTS.name} and the short table of docs/benchmarks")


if __name__ == "__main__":
    sys.exit(main())
