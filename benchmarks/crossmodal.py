"""Cross-modal recipes on real pairs: retrieval and a probe for every subset of the present modalities.

Each data set is trained with its recipe and judged on its test rows by the evaluation task `subsets`, beside the
untrained model, the raw features (a ridge map where modalities are compared) and chance. Writes
`benchmarks/results/crossmodal-<set>.json` and, from all that are there, `benchmarks/results/crossmodal.md`.

    python -m benchmarks.crossmodal [--data ../shared/data] [--only emoji ptbxl_500 ...] [--seed 0] [--report]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from mmssl import load_recipe, pretrain
from mmssl.evaluation.table import cell

RESULTS = Path(__file__).parent / "results"
SMALL = {"width": 64, "depth": 2, "heads": 4}
CLIP_ONLY: dict[str, Any] = {
    "model": {"projection": 64, "towers": {"image": SMALL, "text": SMALL}},
    "objectives": {"image_mae": None, "text_mae": None, "clip": {"temperature": 0.1}},
    "masks": {"patches": None, "words": None},
}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "emoji": ("image_text_clip", {
        **CLIP_ONLY, "data": {"name": "twemoji"}, "train": {"steps": 300, "batch_size": 96, "lr": 2e-3},
        "evaluation": {"label": "label"},
    }),
    "flickr8k_mini": ("image_text_clip", {
        **CLIP_ONLY, "data": {"columns": {"text": "captions"}},
        "modalities": {"image": {"size": 48, "patch": 8, "resize": "crop"}},
        "train": {"steps": 300, "batch_size": 64, "lr": 1e-3},
    }),
    "grid_s1_av": ("video_audio_text_clip", {}),
    "ptbxl_500": ("ecg_text_tabular_clip", {}),
    "clothing_reviews": ("text_tabular_clip", {}),
    "spoken_written_digits": ("audio_image_clip", {}),
}  # fmt: skip
"""Data set -> (recipe, what is changed in it)."""
MEASURES = ("accuracy", "R@1", "R@10", "same class")


def measure(name: str, data: Path, seed: int) -> dict[str, Any]:
    """Train and judge one data set."""
    recipe_name, changes = SETS[name]
    path = data / name / "reviews.csv" if name == "clothing_reviews" else data / name
    recipe = load_recipe(recipe_name, changes)
    recipe.data.path = str(path)
    recipe.seed = seed
    recipe.evaluation.tasks = ["subsets"]
    recipe.train.trackers = []
    began, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="mmssl-crossmodal-") as folder:
        run = pretrain(recipe, output=Path(folder) / "run")
        losses = [json.loads(line)["loss"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    report = run.report
    return {
        "data": name, "recipe": recipe_name, "changes": changes, "seed": seed, "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size, "parameters": sum(p.numel() for p in run.model.parameters()),
        "seconds": round(time.perf_counter() - began), "cpu_seconds": round(time.process_time() - spent),
        "loss": [losses[0], losses[-1]], "n_test": report["n_test"], "n_train": report["n_train"],
        "label": recipe.evaluation.label, "subsets": report["tasks"].get("subsets", {}),
        "left_out": {"skipped": report["skipped"], "notes": report["notes"]},
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """One data set's scorecard in Markdown."""
    loss = " to ".join(f"{value:.2f}" for value in result["loss"])
    lines = [
        f"### {result['data']}",
        "",
        f"`{result['recipe']}`, {result['steps']} steps of {result['batch_size']}, {result['parameters'] / 1e6:.2f} M "
        f"parameters, seed {result['seed']}, {result['cpu_seconds']} s of one processor's time; loss {loss}; "
        f"{result['n_train']:,} training and {result['n_test']:,} test rows"
        + (f"; classes: `{result['label']}`." if result["label"] else "."),
        "",
        "| subset | measure | pretrained | untrained | raw features | chance | n |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for key, metric in result["subsets"].items():
        subset, _, measure_ = key.rpartition("/")
        if measure_ in MEASURES:
            values = " | ".join(cell(metric, column) for column in ("model", "untrained", "raw", "chance"))
            shown = {"accuracy": "kNN accuracy"}.get(measure_, measure_)
            lines.append(f"| {subset.replace('->', ' to ')} | {shown} | {values} | {metric['n']} |")
    return "\n".join(lines)


def report() -> None:
    """`crossmodal.md` from all results."""
    found = [path for name in SETS if (path := RESULTS / f"crossmodal-{name}.json").is_file()]
    results = [json.loads(path.read_text()) for path in found]
    text = [
        "## Across modalities",
        "",
        "Written by `python -m benchmarks.crossmodal`. Small models, one seed, minutes on a processor. A subset's",
        "embedding is the normalised mean of its towers' embeddings; a row counts where it has all of the subset.",
        "`a to b`: retrieval of a row's own b among those of all test rows; `same class`: how often the first hit is",
        "of the query's class. Raw features: between modalities a ridge map fitted on the training pairs. Brackets are",
        "95 % intervals.",
        "",
    ]
    blocks = "\n\n".join(table(result) for result in results)
    (RESULTS / "crossmodal.md").write_text("\n".join(text) + "\n" + blocks + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="only write crossmodal.md from what is there")
    args = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for name in [] if args.report else args.only:
        result = measure(name, args.data, args.seed)
        (RESULTS / f"crossmodal-{name}.json").write_text(json.dumps(result, indent=1) + "\n")
        report()
    report()


if __name__ == "__main__":
    main()
