"""`make fuzz`: all formats on two processes, and the table of what became of the variants.

A process that dies or does not answer is ended and replaced, and its variant is a fault. Exit code 1 where one is.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHUNK = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--variants", type=int, default=12_000, help="of all formats together")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="number of the first variant")
    parser.add_argument("--formats", nargs="*", help="only these")
    parser.add_argument("--table", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    from .targets import targets
    from .workers import run

    chosen = {name: target for name, target in targets().items() if not args.formats or name in args.formats}
    shares = sum(target.share for target in chosen.values())
    chunks: list[tuple[str, int, int]] = []
    for name, target in chosen.items():
        count = -(-args.variants * target.share // shares)
        chunks += [(name, args.seed + at, min(CHUNK, count - at)) for at in range(0, count, CHUNK)]
    scratch = Path(tempfile.mkdtemp(prefix="mmssl-fuzz-"))
    try:
        started = time.monotonic()

        def report(counts: dict[str, Any]) -> None:
            if args.table is not None:
                args.table.write_text(table(counts, time.monotonic() - started) + "\n")

        counts, faults = run(chunks, scratch, args.processes, report)
        text = table(counts, time.monotonic() - started)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(text)
    for outcome in faults[:40]:
        print(f"\nFAULT {outcome.format} {outcome.seed}: {outcome.why[-1500:]}")
    if args.table is not None:
        args.table.write_text(text + "\n")
    return 1 if faults else 0


def table(counts: dict[str, Any], seconds: float) -> str:
    """The counts as a table in Markdown."""
    lines = ["| format | variants | read | refused | fault | slowest, s |", "|---|---|---|---|---|---|"]
    whole = {"read": 0, "refused": 0, "fault": 0, "slowest": 0.0}
    for name, row in counts.items():
        lines.append(_line(name, row))
        whole = {key: max(whole[key], row[key]) if key == "slowest" else whole[key] + row[key] for key in whole}
    return "\n".join([*lines, _line("all", whole), "", f"{seconds:.0f} s"])


def _line(name: str, row: dict[str, Any]) -> str:
    variants = row["read"] + row["refused"] + row["fault"]
    return f"| {name} | {variants:,} | {row['read']:,} | {row['refused']:,} | {row['fault']:,} | {row['slowest']:.2f} |"


if __name__ == "__main__":
    sys.exit(main())
