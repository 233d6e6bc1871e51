"""Tasks of `mmssl evaluate` on real data: `python -m benchmarks.tasks backdoor|conditional|look-alikes|table`.

`backdoor`: `cifar10_mini` with the trigger of CTRL in 1 % of its training pictures, a tenth of one class, and the clean
set beside it; SimCLR as the matrix trains it, judged on clean rows by probes that learn from clean rows (what the
encoder learned of the trigger) and from rows of which 1 % carry it. `conditional`: spoken digits by another speaker, by
the masked autoencoder of the matrix. `look-alikes`: pictures and captions, emoji and their names, by the recipes of
`benchmarks.crossmodal`. Nothing was tuned. Each run is kept in results/tasks.json, what is there is not run again, and
all are put into docs/benchmarks/tasks.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

import mmssl
from mmssl.evaluation.table import markdown
from mmssl.modality.pixels.trigger import with_trigger
from mmssl.recipe.config import Recipe
from mmssl.recipe.loading import load_recipe
from mmssl.training.process import prepare_process

from . import pages
from .compare import DATA as SHARED
from .crossmodal import SETS as PAIRS
from .matrix.cells import local, read_cells

RESULT = Path(__file__).resolve().parent / "results" / "tasks.json"
PAGE = pages.REPO / "docs" / "benchmarks" / "tasks.md"
SEEDS = (0, 1, 2)
STEPS = 300
ROWS = {"limit": 1000, "train_limit": 2000}
"""Pictures that are tested on, and that probes learn from."""
PICTURES, TARGET = "cifar10_mini", 0
SHARE, MAGNITUDE, BANDS = 0.01, 100.0, [15, 31]
"""Of the backdoor: share of the training rows, magnitude of 255, and bands of the cosine transform."""
TRAINED = {"poisoned": "poisoned rows", "clean": "clean rows"}
PROBES = {"clean": 0.0, "poisoned": SHARE}
"""What a probe learns from -> `backdoor_share`."""
SHOWN = ("clean accuracy", "attack success", "taken for it anyway")
ENCODERS = {"model": "pretrained", "untrained": "untrained twin", "raw": "raw features"}
PAIRED = ("flickr8k_mini", "emoji")
Found = dict[str, Any]


def recipe_of(name: str, seed: int, **data: Any) -> Recipe:
    """A cell of the matrix, of `STEPS` steps, which measures nothing at its end."""
    cell = next(cell for cell in read_cells() if cell.name == name)
    train = {"trackers": [], "report": False, "steps": STEPS}
    quiet = {"seed": seed, "evaluation": {"tasks": []}, "train": train, "data": data}
    return load_recipe(local(cell.recipe_data()), quiet)


def poisoned(seed: int, folder: Path) -> Path:
    """A folder with the training split of the pictures, the trigger in some of the class."""
    rows = datasets.load_dataset("parquet", data_files=str(SHARED / PICTURES / "train.parquet"), split="train")
    rng, labels = np.random.default_rng(seed), np.array(rows["label"])
    chosen = set(rng.permutation(np.flatnonzero(labels == TARGET))[: round(SHARE * len(rows))].tolist())

    def planted(row: dict[str, Any], number: int) -> dict[str, Any]:
        if number not in chosen:
            return row
        pixels = torch.from_numpy(np.array(row["image"].convert("RGB"))).permute(2, 0, 1)[None] / 255
        changed = with_trigger(pixels, MAGNITUDE, BANDS)[0].permute(1, 2, 0) * 255
        return {**row, "image": Image.fromarray(changed.round().byte().numpy())}

    folder.mkdir()
    rows.map(planted, with_indices=True, features=rows.features).to_parquet(folder / "train.parquet")
    return folder


def backdoor(trained: str, seed: int, folder: Path) -> Found:
    """What probes learn from -> metric -> encoder -> value, of an encoder that learned from such rows."""
    data = poisoned(seed, folder / "data") if trained == "poisoned" else SHARED / PICTURES
    run = mmssl.pretrain(recipe_of(f"{PICTURES}/contrastive", seed, path=str(data)), output=folder / "run")
    found = {}
    for probe, share in PROBES.items():
        how = {"backdoor_share": share, "backdoor_class": TARGET, "label": "label", **ROWS}
        found[probe] = told(mmssl.evaluate(run.model_folder, SHARED / PICTURES, tasks=["backdoor"], **how), "backdoor")
    return found


def conditional(_: str, seed: int, folder: Path) -> Found:
    run = mmssl.pretrain(recipe_of("fsdd/mae", seed), output=folder / "run")
    how = {"label": "label", "condition": "speaker"}
    return told(mmssl.evaluate(run.model_folder, SHARED / "fsdd", tasks=["conditional"], **how), "conditional")


def look_alikes(name: str, seed: int, folder: Path) -> Found:
    recipe = load_recipe(*PAIRS[name])
    recipe.data.path, recipe.seed = str(SHARED / name), seed
    recipe.evaluation.tasks, recipe.train.trackers = ["look-alikes"], []
    return told(mmssl.pretrain(recipe, output=folder / "run").report, "look-alikes")


def told(report: Found, task: str) -> Found:
    """Metric -> encoder (chance, number of rows) -> value."""
    assert task in report["tasks"], report["skipped"]
    kept = (*ENCODERS, "chance", "n")
    return {
        metric: {key: round(float(values[key]), 4) for key in kept if values.get(key) is not None}
        for metric, values in report["tasks"][task].items()
    }


RUNS: dict[str, tuple[Callable[[str, int, Path], Found], tuple[str, ...]]] = {
    "backdoor": (backdoor, tuple(TRAINED)),
    "conditional": (conditional, ("fsdd",)),
    "look-alikes": (look_alikes, PAIRED),
}


def stored() -> Found:
    return dict(json.loads(RESULT.read_text())) if RESULT.is_file() else {}


def measure(task: str) -> None:
    """Run what is not there yet, and keep it."""
    run, what = RUNS[task]
    for seed in SEEDS:
        for name in what:
            if str(seed) in stored().get(task, {}).get(name, {}):
                continue
            with tempfile.TemporaryDirectory(prefix="mmssl-tasks-") as folder:
                found = run(name, seed, Path(folder))
            result = stored()
            result.setdefault(task, {}).setdefault(name, {})[str(seed)] = found
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
            print(task, name, seed, json.dumps(found), flush=True)


def values(by_seed: Found, *keys: str) -> list[float]:
    """One number a seed; none where a run has no such number."""
    out: list[float] = []
    for found in by_seed.values():
        for key in keys:
            found = found.get(key, {})
        out += [] if found == {} else [found]
    return out


def shown(numbers: list[float]) -> str:
    """The mean, and each, where they differ."""
    each = ", ".join(f"{one:.3f}" for one in numbers)
    return f"{np.mean(numbers):.3f}" + (f" ({each})" if len(set(numbers)) > 1 else "") if numbers else "-"


def backdoor_table(found: Found) -> str:
    """By the linear probe and by neighbours, of the encoders, the twin and the pixels."""
    lines = [("probe", "learns from", "of", *SHOWN)]
    for way in ("linear", "knn"):
        for probe in PROBES:
            of = [(f"encoder of {title}", trained, "model") for trained, title in TRAINED.items()]
            # these do not depend on what was trained on
            of += [(ENCODERS[encoder], "poisoned", encoder) for encoder in ("untrained", "raw")]
            for title, trained, encoder in of:
                cells = [values(found[trained], probe, f"image/{what}, {way}", encoder) for what in SHOWN]
                lines.append((way, f"{probe} rows", title, *map(shown, cells)))
    return "\n".join(markdown(lines, 3))


def ranked_table(found: Found) -> str:
    """A line a data set and recall of the first."""
    lines = [("data", "score", "queries", *ENCODERS.values(), "chance")]
    for name, by_seed in found.items():
        for score, first in next(iter(by_seed.values())).items():
            if "R@1" not in score:
                continue
            cells = [shown(values(by_seed, score, encoder)) for encoder in ENCODERS]
            lines.append((f"`{name}`", score, f"{first['n']:.0f}", *cells, f"{first['chance']:.3f}"))
    return "\n".join(markdown(lines, 2))


def tables() -> dict[pages.Marks, str]:
    """Marks of the page -> what was measured."""
    out = {}
    for task, found in stored().items():
        marks = (f"<!-- {task}: python -m benchmarks.tasks table -->", f"<!-- /{task} -->")
        out[marks] = backdoor_table(found) if task == "backdoor" else ranked_table(found)
    return out


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*RUNS, "table"))
    what = parser.parse_args().what
    if what != "table":
        prepare_process()
        measure(what)
    for marks, found in tables().items():
        pages.write(PAGE, found, marks)


if __name__ == "__main__":
    main()
