"""Does JEPA without a teacher collapse, and does a regulariser keep it from that? Real data, several seeds.

The recipes, data and probe are those of the matrix (`benchmarks.matrix`): JEPA as it is shipped with an averaged
teacher (`ema`), and the same with the encoder as its own teacher, targets with gradient, and SIGReg (LeJEPA), VICReg,
or nothing (`none`, which mmssl refuses; `Unkept` allows it) against collapse. Health is measured while it trains, on
256 training samples: RankMe and the spread of the embeddings (1: even, 0: all the same). The collapse guard is off.

    python -m benchmarks.teacher_free [--data fashion_mnist adult] [--seeds 0 1 2] [--arms ema sigreg vicreg none]

Writes benchmarks/results/teacher_free.json, adding to what is there; `--report` prints it as a table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.objectives import jepa
from mmssl.recipe.loading import load_recipe
from mmssl.training.pretrain import pretrain
from mmssl.training.process import prepare_process

from .matrix.cells import Cell, choose, local, read_cells
from .matrix.judging import judge, make_folds
from .matrix.run import read_rows

RESULT = Path(__file__).resolve().parent / "results" / "teacher_free.json"
FREE: dict[str, Any] = {"teacher": "none", "momentum": None}  # there is no teacher to have one
ARMS: dict[str, dict[str, Any]] = {
    "ema": {},
    "sigreg": {**FREE, "regulariser": {"kind": "sigreg"}},
    "vicreg": {**FREE, "regulariser": {"kind": "vicreg"}},
    "none": {**FREE, "type": "benchmarks.teacher_free"},
}
EVERY = 50
Config = jepa.Config


class Unkept(jepa.JEPA):
    """JEPA that may collapse: the objective of the arm `none`."""

    def _refuse_collapse(self, c: jepa.Config) -> None:
        pass


def run(cell: Cell, arm: str, seed: int) -> dict[str, Any]:
    """Pretrain one arm, probe it, and give its health as it went."""
    data = local(cell.recipe_data())
    overrides = {
        "seed": seed,
        "objectives": {"jepa": {**data["objectives"]["jepa"], **ARMS[arm]}},  # another type inherits nothing
        "evaluation": {"tasks": []},
        "train": {"trackers": [], "health_every": EVERY, "guard": None, "log_every": EVERY},
    }
    recipe = load_recipe(data, overrides)
    with tempfile.TemporaryDirectory(prefix="mmssl-teacher-free-") as folder:
        spent = time.process_time()
        done = pretrain(recipe, output=Path(folder) / "run")
        spent = time.process_time() - spent
        lines = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
        rows = read_rows(cell, recipe, done)
    folds = make_folds(rows.y, rows.split, rows.columns, cell.protocol)
    arms = {name: rows.arms[name] for name in ("pretrained", "untrained")}
    scores = judge(arms, rows.y, None, folds, cell.metric)
    name = next(iter(recipe.modalities))
    health = {
        measure: [round(line[f"health/{name}/{measure}"], 4) for line in lines if f"health/{name}/{measure}" in line]
        for measure in ("rankme", "std_mean")
    }
    return {
        "data": cell.data,
        "arm": arm,
        "seed": seed,
        "metric": cell.metric,
        "steps": recipe.train.steps,
        "width": int(rows.arms["pretrained"].shape[1]),
        "health_samples": recipe.train.health_samples,
        "health_every": EVERY,
        **health,
        "losses": [round(line["loss"], 5) for line in lines if "loss" in line],
        "scores": {k: round(v, 4) for k, v in scores.items()},
        "cpu_seconds": round(spent, 1),
    }


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: means over seeds, and the range of what the guard looks at."""
    lines = [
        "| data | arm | seeds | probe | untrained | last RankMe | least RankMe | last spread | least spread |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for data in dict.fromkeys(r["data"] for r in found):
        for arm in ARMS:
            rows = [r for r in found if (r["data"], r["arm"]) == (data, arm)]
            if not rows:
                continue
            columns = [
                [r["scores"]["pretrained"] for r in rows],
                [r["scores"]["untrained"] for r in rows],
                [r["rankme"][-1] for r in rows],
                [min(r["rankme"]) for r in rows],
                [r["std_mean"][-1] for r in rows],
                [min(r["std_mean"]) for r in rows],
            ]
            cells = [
                f"{np.mean(column):.{d}f}" + (f" ({min(column):.{d}f}-{max(column):.{d}f})" if len(rows) > 1 else "")
                for column, d in zip(columns, (3, 3, 1, 1, 3, 3), strict=True)
            ]
            lines.append(f"| {data} | {arm} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


SECTION = """\
## JEPA without a teacher

`python -m benchmarks.teacher_free`: JEPA of the matrix with its averaged teacher (`ema`), and with the encoder as its
own teacher, kept from collapse by SIGReg, by VICReg, or by nothing (`none`). Means over seeds and their range. RankMe
and spread (1: embeddings evenly spread, 0: all the same) are those of 256 training samples, measured every 50 steps.
Without a teacher and a regulariser the spread falls to a hundredth and the loss to a thousandth in every seed; either
regulariser prevents it. The probe does not show it: it standardises what little is left, which on `fashion_mnist` even
scores best of all arms there, while both regularisers end below the untrained encoder after so short a training. The
averaged teacher comes near collapse in one seed of `adult` and recovers."""


def section() -> str:
    """What RESULTS.md says of it; empty where nothing was measured."""
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    return f"{SECTION}\n\n{table(found)}\n" if found else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["fashion_mnist", "adult"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--report", action="store_true", help="only print what was measured")
    args = parser.parse_args()
    found: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.is_file() else []
    if args.report:
        print(table(found))
        return
    prepare_process()
    cells = choose(read_cells(), [f"{data}/jepa" for data in args.data])
    for seed in args.seeds:
        for cell in cells:
            for arm in args.arms:
                result = run(cell, arm, seed)
                same = ("data", "arm", "seed")
                found = [r for r in found if any(r[k] != result[k] for k in same)] + [result]
                found.sort(key=lambda r: (r["data"], list(ARMS).index(r["arm"]), r["seed"]))
                RESULT.write_text(json.dumps(found, indent=None).replace("}, {", "},\n {") + "\n")
                print(
                    f"{cell.data} {arm} seed {seed}: {result['scores']} RankMe {result['rankme'][-1]:.2f} "
                    f"spread {result['std_mean'][-1]:.4f} ({result['cpu_seconds']:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
