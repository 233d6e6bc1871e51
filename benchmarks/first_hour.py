"""What `mmssl init` chooses for every shared data set, and whether its recipe learns.

`python -m benchmarks.first_hour`: the recipe that `init` writes, a pretraining by it (as many steps as `--seconds` of a
core allow, never more than the recipe has), and its scores beside the untrained twin's. Nothing is chosen by these
scores. Results are kept one by one; those that are there are not made again. `--try`: the recipe and a few steps alone,
to see that it runs. `--report` writes the table of docs/benchmarks/first-hour.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from . import pages

KEPT = Path(__file__).resolve().parent / "results" / "first_hour.json"
PAGE = pages.REPO / "docs" / "benchmarks" / "first-hour.md"
MARKS = ("<!-- first hour: written by python -m benchmarks.first_hour --report -->", "<!-- /first hour -->")
SECONDS, TRIED, LEAST = 240.0, 6, 40
"""Of one core, that a training takes; steps that are timed; steps that are made at least."""
ROWS = 1000
"""Rows that are measured on, and that probes learn from."""
HEAD = "| data | what `init` chose | steps of | task | measure | pretrained | untrained |"
SHOWN = {"linear": "linear probe", "knn": "nearest neighbours", "retrieval": "retrieval", "rankme": "RankMe"}


def shared() -> Path:
    """The folder of the shared data sets."""
    return Path(os.environ.get("MMSSL_SHARED_DATA", pages.REPO.parent / "shared" / "data"))


def run(name: str, seconds: float | None) -> dict[str, Any]:
    """One data set. seconds: of one core, for its training; None: a few steps, to see that the recipe runs."""
    import mmssl
    from mmssl.looking.init import init
    from mmssl.looking.options import InitConfig

    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        started = init(InitConfig(path=str(shared() / name)), place / f"{name}.yaml")
        looked = time.time() - began
        short = {"train": {"steps": TRIED, "log_every": 1, "health_every": None, "trackers": []}}
        cpu, clock = time.process_time(), time.time()
        tried = mmssl.pretrain(started.path, output=place / "tried", **short, evaluation={"tasks": []})
        share = min((time.process_time() - cpu) / (time.time() - clock), 1.0)  # others compute, too
        speed = _last(place / "tried" / "metrics.jsonl", "samples_per_second") / share
        out = _chosen(started, _rows(place / "tried"))
        out["parameters"] = sum(p.numel() for p in tried.model.parameters())
        out["init_seconds"] = round(looked, 1)
        if seconds is not None:
            steps = int(min(out["recipe_steps"], max(seconds * speed / out["batch_size"], LEAST)))
            train = {"steps": steps, "log_every": max(steps // 5, 1), "health_every": None, "trackers": []}
            evaluation = {"tasks": _tasks(started.recipe), "limit": ROWS, "train_limit": ROWS}
            mmssl.pretrain(started.path, output=place / "run", train=train, evaluation=evaluation)
            report = json.loads((place / "run" / "evaluation.json").read_text())
            out |= {"steps": steps, "tasks": {task: _scores(metrics) for task, metrics in report["tasks"].items()}}
    return {**out, "seconds": round(time.time() - began, 1)}


def _chosen(started: Any, rows: int) -> dict[str, Any]:
    """What `init` chose."""
    recipe = started.recipe
    objective, how = next(iter(recipe["objectives"].items()))
    batch = recipe["train"]["batch_size"]
    return {
        "base": started.base,
        "modalities": list(recipe["modalities"]),
        "objective": how.get("type", objective),
        "trunks": [of.get("trunk", "transformer") for of in recipe["model"]["towers"].values()],
        "label": recipe.get("evaluation", {}).get("label"),
        "rows": rows,
        "batch_size": batch,
        "steps": TRIED,
        "recipe_steps": recipe["train"]["epochs"] * max(rows // batch, 1),
        "tasks": {},
    }


def _tasks(recipe: dict[str, Any]) -> list[str]:
    label = recipe.get("evaluation", {}).get("label")
    pairs = len(recipe["model"]["towers"]) > 1
    return [*(["linear", "knn"] if label else []), *(["retrieval"] if pairs else []), "rankme"]


def _rows(folder: Path) -> int:
    """Rows that were trained on."""
    from mmssl.recipe.loading import load_recipe
    from mmssl.training.building import open_training_data

    return len(open_training_data(load_recipe(folder / "config.yaml")).source)


def _last(path: Path, key: str) -> float:
    values = [json.loads(line).get(key) for line in path.read_text().splitlines()]
    known = sorted(float(value) for value in values if value is not None)
    return known[len(known) // 2]


def _scores(metrics: dict[str, Any]) -> dict[str, Any]:
    """Measure -> arm -> number."""
    arms = ("model", "untrained", "raw", "chance")
    return {
        name: {arm: of[arm] for arm in arms if isinstance(of.get(arm), int | float)} for name, of in metrics.items()
    }


def kept() -> dict[str, Any]:
    """Data set -> result, of those that were made."""
    found: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    return found


def table(results: dict[str, Any]) -> str:
    """The rows of the page."""
    lines = [HEAD, "|---|---|---:|---|---|---:|---:|"]
    for name, of in sorted(results.items()):
        if "error" in of:
            lines.append(f"| {name} | failed: {of['error']} | | | | | |")
            continue
        trunk = ", resnet" if "resnet" in of["trunks"] else ""
        chose = f"`{of['base']}`{trunk}" + (f", label `{of['label']}`" if of["label"] else "")
        steps = f"{of['steps']:,} of {of['recipe_steps']:,}"
        if not of["tasks"]:
            lines.append(f"| {name} | {chose} | {steps} | not measured | - | - | - |")
            continue
        task, measure, scores = headline(of)
        better = scores["model"] > scores["untrained"] + 1e-9
        model = f"{scores['model']:.3f}"
        number = f"**{model}**" if better else model
        lines.append(
            f"| {name} | {chose} | {steps} | {SHOWN[task]} | {measure} | {number} | {scores['untrained']:.3f} |"
        )
    return "\n".join(lines)


def headline(of: dict[str, Any]) -> tuple[str, str, dict[str, float]]:
    """(task, measure, scores) of a result: pairs are judged by retrieval, labels by the linear probe, else by rank."""
    tasks = of["tasks"]
    for task in ("retrieval", "linear", "knn", "rankme"):
        fit = {name: scores for name, scores in tasks.get(task, {}).items() if {"model", "untrained"} <= set(scores)}
        fit = {name: s for name, s in fit.items() if "median" not in name} or fit
        if fit:
            name = next((n for n in fit if n.endswith("R@10")), next(iter(fit)))
            return task, name, fit[name]
    raise KeyError("no measure with both arms")


def main() -> None:
    """Run what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="data sets; default: all that are not there")
    parser.add_argument("--try", action="store_true", dest="tried", help="a few steps of each alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one core, for each training")
    parser.add_argument("--report", action="store_true", help="write the table of the page")
    args = parser.parse_args()
    if args.report:
        pages.write(PAGE, table(kept()), MARKS)
        return
    for name in args.names or sorted(path.name for path in shared().iterdir() if path.is_dir()):
        there = kept().get(name, {"error": "not made yet"})
        if "error" not in there and (args.tried or there["tasks"]):
            continue
        try:
            found = run(name, None if args.tried else args.seconds)
        except Exception as error:  # one set's failure is a row of the table
            traceback.print_exc()
            found = {"error": " ".join(str(error).split())[:200]}
        KEPT.write_text(json.dumps(dict(sorted({**kept(), name: found}.items())), indent=1) + "\n")
        print(name, json.dumps(found.get("tasks", found)), flush=True)


if __name__ == "__main__":
    main()
