"""What `mmssl finetune --forget` does on real data: `python -m benchmarks.forgetting measure|table`.

An encoder of `benchmarks.matrix` for each seed, fine-tuned whole on some rows of its set until it knows them by heart;
then a class is forgotten, or a drawn tenth of the rows, with the defaults of the command, and measured beside the model
as it came and one that was fine-tuned in the same way without the rows. Nothing was tuned on these rows. Results:
benchmarks/results/forgetting.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.evaluation.table import markdown
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.finetune import finetune, make_job
from mmssl.finetuning.forgetting_job import ForgettingJob
from mmssl.models.opening import open_model
from mmssl.models.saving import save_model
from mmssl.recipe.loading import load_recipe

from . import pages
from .matrix.cells import HERE as MATRIX
from .matrix.cells import local, read_cells
from .matrix.run import trained

RESULT = Path(__file__).resolve().parent / "results" / "forgetting.json"
MARKS = ("<!-- forgetting: python -m benchmarks.forgetting table -->", "<!-- /forgetting -->")
DATA, CELL, LABEL = "letter_recognition/letter.csv", "letter_recognition/contrastive", "letter"
ROWS, SEEDS = 1500, 3
"""Rows to learn from, and as many to measure on; runs, each with an encoder, rows and a draw of its own."""
FORGOTTEN = {"a class": "letter=A", "a tenth of the rows": "tenth=t0"}
HOW: dict[str, Any] = {"peft": "none", "few": 0, "validation_share": 0, "patience": None}
TRAIN = {"steps": 500, "batch_size": 64, "lr": 1e-3, "log_every": 500}
SHOWN = ("forgotten", "kept", "never seen", "never seen, alike")
MODELS = {"start": "before", "finetuned": "after forgetting", "retrained": "trained without them"}


def encoder(seed: int, folder: Path) -> Path:
    """The encoder of a seed, as a folder."""
    cell = next(cell for cell in read_cells() if cell.name == CELL)
    quiet = {"seed": seed, "evaluation": {"tasks": []}, "train": {"trackers": []}}
    recipe = load_recipe(local(cell.recipe_data()), quiet)
    model, processor, _ = trained(recipe, MATRIX / "cache" / f"{cell.data}.{cell.objective}.{seed}.{cell.training()}")
    save_model(model, processor, folder)
    return folder


def data(seed: int, place: Path) -> Path:
    """Some rows of the set, in a drawn tenth each."""
    import pandas as pd

    from .compare import DATA as SHARED

    table, rng = pd.read_csv(SHARED / DATA), np.random.default_rng(seed)
    parts = []
    for split in ("train", "test"):
        of = table[table["split"] == split]
        part = of.iloc[rng.permutation(len(of))[:ROWS]].copy()
        part["tenth"] = [f"t{number}" for number in rng.permutation(len(part)) % 10]
        parts.append(part)
    pd.concat(parts).to_csv(place, index=False)
    return place


def measure() -> dict[str, Any]:
    """What is forgotten -> metric -> model -> its value by seed."""
    out: dict[str, Any] = {}
    for seed in range(SEEDS):
        with tempfile.TemporaryDirectory(prefix="mmssl-forgetting-") as name:
            folder = Path(name)
            base, rows = encoder(seed, folder / "base"), data(seed, folder / "rows.csv")
            more = {**HOW, "seed": seed, "train": TRAIN}
            came = finetune(base, rows, LABEL, output=folder / "came", **more)
            for kind, forget in FORGOTTEN.items():
                asked = load_options({"seed": seed}, {"path": str(rows), "forget": forget})
                job = make_job(str(came.model_folder), *open_model(came.model_folder), asked)
                assert isinstance(job, ForgettingJob) and job.named is not None
                kept = folder / f"{asked.forget}.parquet"
                job.named.write_kept(kept)
                without = finetune(base, rows, LABEL, output=folder / f"without {forget}", select=str(kept), **more)
                run = finetune(
                    came.model_folder,
                    rows,
                    forget=forget,
                    forgetting={"against": str(without.model_folder)},
                    seed=seed,
                    output=folder / f"forgot {forget}",
                )
                for name, found in run.report["tasks"]["forgetting"].items():
                    for model in MODELS:
                        values = out.setdefault(kind, {}).setdefault(name, {}).setdefault(model, [])
                        values.append(round(float(found[model]), 4))
                out[kind].setdefault("best step", []).append(run.report["settings"]["best_step"])
    return out


def table(found: dict[str, Any]) -> str:
    """Accuracy on each kind of rows, and how well a low loss tells forgotten rows from those never seen."""
    lines = [("forgotten", "model", *SHOWN, "membership", "in each seed")]
    for kind, metrics in found.items():
        for model, title in MODELS.items():
            cells = [
                f"{np.mean(metrics[f'{of}/accuracy'][model]):.3f}" if f"{of}/accuracy" in metrics else "-"
                for of in SHOWN
            ]
            member = metrics["membership/auroc"][model]
            lines.append((kind, title, *cells, f"{np.mean(member):.3f}", ", ".join(f"{value:.3f}" for value in member)))
    return "\n".join(markdown(lines))


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("measure", "table"))
    if parser.parse_args().what == "measure":
        RESULT.write_text(json.dumps(measure(), indent=1) + "\n")
    pages.write(pages.FINE_TUNING, table(json.loads(RESULT.read_text())), MARKS)


if __name__ == "__main__":
    main()
