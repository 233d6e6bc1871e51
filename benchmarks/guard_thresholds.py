"""Where the collapse guard's thresholds lie between runs that learned and runs that collapsed.

Healthy: runs of shipped recipes on real data, and the arms of `benchmarks.teacher_free` that something keeps from
collapse. Collapsed: its arm `none`. For the spread (`std_mean`) and RankMe of every modality it prints the least of any
healthy measurement, the largest of any collapsed one, and what the guard's defaults say of each run.

    python -m benchmarks.guard_thresholds [--add RUN ...]

`--add` keeps the health of finished runs in benchmarks/results/guard_runs.json; they are taken as healthy, so add only
runs that learned. Of those that are there, `image_text_m3ae` is in doubt: its losses fall, but its images lie close.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mmssl.options import plainyaml
from mmssl.recipe.config import GuardConfig
from mmssl.training.guard import Guard

RESULTS = Path(__file__).resolve().parent / "results"
RUNS, ARMS = RESULTS / "guard_runs.json", RESULTS / "teacher_free.json"
MEASURES = ("std_mean", "rankme")


def read_run(folder: Path) -> list[dict[str, Any]]:
    """One entry a modality of a run: its recipe, data, steps and what its health was at each measurement."""
    recipe = plainyaml.read(folder / "config.yaml")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    out = []
    for name in recipe["modalities"]:
        keys = {measure: f"health/{name}/{measure}" for measure in MEASURES}
        series = {m: [round(line[key], 4) for line in lines if line.get(key) is not None] for m, key in keys.items()}
        if series["std_mean"]:
            out.append(
                {
                    "run": recipe["name"],
                    "data": Path(recipe["data"]["path"]).name,
                    "modality": name,
                    "steps": lines[-1]["step"],
                    **series,
                }
            )
    return out


def collect() -> list[dict[str, Any]]:
    """All series, each with `collapsed`."""
    runs = [r | {"collapsed": False} for r in json.loads(RUNS.read_text())] if RUNS.is_file() else []
    arms = json.loads(ARMS.read_text()) if ARMS.is_file() else []
    runs += [
        {
            "run": f"{r['arm']} {r['seed']}",
            "data": r["data"],
            "modality": "",
            "steps": r["steps"],
            "collapsed": r["arm"] == "none",
            **{m: r[m] for m in MEASURES},
        }
        for r in arms
    ]
    return runs


def stopped(run: dict[str, Any]) -> bool:
    """Whether the guard with its defaults, and `action: stop`, ends the run at any of its measurements."""
    guard = Guard(GuardConfig(action="stop"))
    for step, row in enumerate(zip(*(run[measure] for measure in MEASURES), strict=True)):
        if guard.check(step, 1.0, {f"x/{m}": value for m, value in zip(MEASURES, row, strict=True)}) is not None:
            return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, nargs="+", default=[])
    args = parser.parse_args()
    if args.add:
        known = json.loads(RUNS.read_text()) if RUNS.is_file() else []
        known += [entry for folder in args.add for entry in read_run(folder)]
        RUNS.write_text(json.dumps(known).replace("}, {", "},\n {") + "\n")
    runs = collect()
    for measure in MEASURES:
        for collapsed, edge in ((False, min), (True, max)):
            found = [(edge(r[measure]), r) for r in runs if r["collapsed"] is collapsed]
            value, run = edge(found, key=lambda pair: pair[0])
            kind = "largest of a collapsed" if collapsed else "least of a healthy"
            print(f"{measure}: {kind} run {value:.4g} ({run['data']}, {run['run']} {run['modality']})")
    for collapsed in (False, True):
        told = [stopped(r) for r in runs if r["collapsed"] is collapsed]
        print(f"{'collapsed' if collapsed else 'healthy'}: stopped {sum(told)} of {len(told)}")


if __name__ == "__main__":
    main()
