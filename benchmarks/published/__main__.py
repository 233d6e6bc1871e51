"""See the package."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.machine import machine
from mmssl.training.process import prepare_process

from . import __doc__ as about
from . import graphs, signals, tables
from .claims import Claim

RESULTS = Path(__file__).resolve().parents[1] / "results" / "published.json"
PAGE = pages.REPO / "docs" / "benchmarks" / "published.md"
MARKS = ("<!-- published: python -m benchmarks.published -->", "<!-- /published -->")
CLAIMS: dict[str, Claim] = {**tables.CLAIMS, **graphs.CLAIMS, **signals.CLAIMS}


def says(claim: Claim, runs: list[Mapping[str, Any]]) -> list[str]:
    """A line for every pair of a claim: the seeds side by side, and in how many an interval agrees with the paper."""
    lines = []
    sign = -1 if claim.less_is_better else 1
    for number, (one, other) in enumerate(claim.better):
        scores = [" ".join(f"{run['scores'][arm]:.3f}" for run in runs) for arm in (one, other)]
        less = [run["less"][f"{one} less {other}"] for run in runs]
        told = ", ".join("{:+.3f} ({:+.3f} to {:+.3f})".format(*found) for found in less)
        clear = sum(min(sign * low, sign * high) > 0 for _, low, high in less)
        against = sum(max(sign * low, sign * high) < 0 for _, low, high in less)
        verdict = f"yes in {clear}, no in {against}, open in {len(less) - clear - against}"
        where = f"{claim.paper}; {claim.score}" if not number else "likewise"
        paper = "" if number else claim.says  # of the first pair
        lines.append(f"| {where} | {one}: {scores[0]} | {other}: {scores[1]} | {told} | {paper} | {verdict} |")
    return lines


def table(runs: Mapping[str, Any]) -> str:
    """The page's table."""
    lines = [
        "| paper, data; score | said to be better | than | difference, 95 % interval | the paper's | found in seeds |",
        "|---|---|---|---|---|---|",
    ]
    for name, claim in CLAIMS.items():
        mine = [run for key, run in sorted(runs.items()) if key.partition("/")[0] == name]
        lines += says(claim, mine) if mine else []
    return "\n".join(lines)


def stored() -> dict[str, Any]:
    """What was measured."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}
    return found


def main() -> None:
    """Run what is asked for and not there, and store it."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CLAIMS), default=list(CLAIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    prepare_process()
    for name in args.names:
        for seed in args.seeds:
            key = f"{name}/{seed}"
            if key in stored()["runs"]:
                continue
            with tempfile.TemporaryDirectory() as place:
                found = CLAIMS[name].run(seed, Path(place))
            print(name, seed, json.dumps(found), flush=True)
            kept = stored()
            kept["runs"][key] = found
            RESULTS.write_text(json.dumps(kept | {"machine": machine()}, indent=1) + "\n")
    pages.write(PAGE, table(stored()["runs"]), MARKS)


if __name__ == "__main__":
    main()
