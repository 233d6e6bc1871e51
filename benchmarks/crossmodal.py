"""Cross-modal recipes on real pairs: retrieval and a probe for every subset of the present modalities.

Each data set is trained with its recipe, several seeds, and judged on its test rows by the evaluation task `subsets`,
beside the untrained model, the raw features (a ridge map where modalities are compared) and chance. Writes
`benchmarks/results/crossmodal-<set>.json` and, from all that are there, `benchmarks/results/crossmodal.md` and a
section of RESULTS.md. `crossmodal_tried.yaml` keeps what else was tried.

    python -m benchmarks.crossmodal [--data ../shared/data] [--only emoji ptbxl_500 ...] [--seeds 0 1 2] [--report]
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmssl import load_recipe, pretrain
from mmssl.options import plainyaml
from mmssl.recipe.loading import merge_overrides, recipe_path
from mmssl.training.process import prepare_process

from .matrix.cells import RUN_PARTS
from .matrix.report import changed, shown
from .matrix.report import table as markdown

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SMALL = {"width": 64, "depth": 2, "heads": 4}
BESIDE = {"pooling": "mean+raw"}
RAW = {"depth": 0, "width": 8, "heads": 1, "pooling": "raw", "frozen": True}


def few_pairs(*towers: str) -> dict[str, Any]:
    """What docs/how-to/few-pairs.md changes: raw features, and projections in closed form."""
    return {
        "model": {"projection_standard": True, "towers": {tower: dict(RAW) for tower in towers}},
        "objectives": {"clip": {"start": "cca"}},
        "train": {"steps": 1, "lr": 1e-6, "health_every": None},
    }


SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "emoji": ("examples/image_text_pairs", {}),
    "flickr8k_mini": (
        "examples/image_text_clip",
        {
            "model": {"projection": 64, "towers": {"image": SMALL, "text": SMALL}},
            "objectives": {"image_mae": None, "text_mae": None, "clip": {"temperature": 0.1}},
            "masks": {"patches": None, "words": None},
            "data": {"columns": {"text": "captions"}},
            "modalities": {"image": {"size": 48, "patch": 8, "resize": "crop"}},
            "train": {"steps": 300, "batch_size": 64, "lr": 1e-3},
        },
    ),
    "grid_s1_av": (
        "examples/video_audio_text_clip",
        {
            "model": {"projection_standard": True, "towers": dict.fromkeys(("video", "audio", "text"), BESIDE)},
            "objectives": {"clip": {"start": "cca"}},
            "train": {"steps": 30, "lr": 4e-4},
        },
    ),
    "ptbxl_500": (
        "examples/ecg_text_tabular_clip",
        {
            "model": {"projection_standard": True, "towers": dict.fromkeys(("ecg", "text", "tabular"), BESIDE)},
            "objectives": {"clip": {"start": "cca", "hub_tower": None}},
            "train": {"steps": 100, "lr": 1e-3},
        },
    ),
    "clothing_reviews": ("examples/text_tabular_clip", few_pairs("text", "tabular")),
    "spoken_written_digits": ("examples/audio_image_clip", {}),
    "grid_s1_av/hicmae": ("examples/video_audio_hicmae", {}),
    "emoji/m3ae": (
        "examples/image_text_m3ae",
        {
            "data": {"name": "twemoji"},
            "evaluation": {"label": "label"},
            "modalities": {"image": {"size": 36, "patch": 6}, "text": {"vocab_size": 1500}},
            "train": {"steps": 300},
        },
    ),
}
"""Data set, or data set/method where it has two -> (recipe, what is changed in it)."""
SEEDS = (0, 1, 2)
ARMS = ("model", "untrained", "raw", "chance")
MEASURES = {"accuracy": "kNN accuracy", "R@1": "R@1", "R@10": "R@10", "same class": "same class"}
SHOWN = {
    "emoji": ("image->text", "text->image"),
    "flickr8k_mini": ("image->text", "text->image"),
    "grid_s1_av": ("audio->text", "text->audio", "audio->video", "video->audio", "text->video", "video->text"),
    "ptbxl_500": ("ecg->text", "text->ecg", "ecg+tabular->text"),
    "clothing_reviews": ("text->tabular", "tabular->text"),
    "spoken_written_digits": ("audio->image", "image->audio"),
    "grid_s1_av/hicmae": ("audio->video", "video->audio", "audio+video"),
    "emoji/m3ae": ("image", "text", "image+text"),
}
"""Set -> the directions (recall at 10) and subsets (kNN accuracy) in RESULTS.md; `crossmodal.md` has all."""


def measure(name: str, data: Path, seed: int) -> dict[str, Any]:
    """Train and judge one data set with one seed."""
    recipe_name, changes = SETS[name]
    folder_name = name.partition("/")[0]
    path = data / folder_name / "reviews.csv" if name == "clothing_reviews" else data / folder_name
    recipe, marker = load_recipe(recipe_name, changes), fingerprint(name)
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
        "data": name,
        "recipe": recipe_name,
        "changes": changes,
        "fingerprint": marker,
        "seed": seed,
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "seconds": round(time.perf_counter() - began),
        "cpu_seconds": round(time.process_time() - spent),
        "loss": [losses[0], losses[-1]],
        "n_test": report["n_test"],
        "n_train": report["n_train"],
        "label": recipe.evaluation.label,
        "subsets": report["tasks"].get("subsets", {}),
        "left_out": {"skipped": report["skipped"], "notes": report["notes"]},
    }


def stored_at(name: str, folder: Path = RESULTS) -> Path:
    return folder / f"crossmodal-{name.replace('/', '-')}.json"


def stored(name: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The results of one data set, one per seed; none when it was not run."""
    path = stored_at(name, folder)
    return json.loads(path.read_text()) if path.is_file() else []


def fingerprint(name: str) -> str:
    """A hash of all of a set's recipe, with its changes, that a result depends on; the seed and the code are not in."""
    recipe, changes = SETS[name]
    faults: list[str] = []
    merged = merge_overrides(plainyaml.read(recipe_path(recipe)), copy.deepcopy(changes), faults)
    parts = {key: value for key, value in merged.items() if key in (*RUN_PARTS, "evaluation")}
    return hashlib.sha256(json.dumps([parts, faults], sort_keys=True).encode()).hexdigest()[:12]


def current(result: Mapping[str, Any]) -> bool:
    """Whether a result is of the recipe and the changes that `SETS` names now."""
    return bool(result["fingerprint"] == fingerprint(result["data"]))


def values(results: Sequence[Mapping[str, Any]], key: str, arm: str) -> list[float]:
    """One number per seed: of a subset's measure (`image->text/R@10`) and an arm."""
    return [result["subsets"][key][arm] for result in results]


def marked(results: Sequence[Mapping[str, Any]], key: str) -> str:
    """Mean (and deviation over seeds) of the pretrained model; bold where every one of several seeds beats its twin."""
    ours, theirs = (values(results, key, arm) for arm in ("model", "untrained"))
    mark = "**" if len(ours) > 1 and all(a > b for a, b in zip(ours, theirs, strict=True)) else ""
    return f"{mark}{shown(ours)}{mark}"


def row(results: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """Pretrained, untrained, raw features, chance: `-` where an arm has no such number."""
    metric = results[0]["subsets"][key]
    rest = [shown(values(results, key, arm)) if metric.get(arm) is not None else "-" for arm in ARMS[1:3]]
    return [marked(results, key), *rest, f"{statistics.fmean(values(results, key, 'chance')):.3f}"]


def scorecard(results: Sequence[Mapping[str, Any]]) -> str:
    """One data set's subsets in Markdown."""
    first = results[0]
    loss = " to ".join(f"{statistics.fmean(result['loss'][i] for result in results):.2f}" for i in (0, 1))
    spent = statistics.fmean(result["cpu_seconds"] for result in results)
    seeds = ", ".join(str(result["seed"]) for result in results)
    header = ("subset", "measure", "pretrained", "untrained", "raw features", "chance", "n")
    rows = []
    for key, metric in first["subsets"].items():
        subset, _, name = key.rpartition("/")
        if name in MEASURES:
            rows.append((subset.replace("->", " to "), MEASURES[name], *row(results, key), str(metric["n"])))
    lines = [
        f"### {first['data']}",
        "",
        f"`{SETS[first['data']][0]}`{changed(first['changes'])}: {first['steps']} steps of {first['batch_size']}, "
        f"{first['parameters'] / 1e6:.2f} M parameters, seeds {seeds}, {spent:.0f} s of one processor's time each; "
        f"loss {loss}; {first['n_train']:,} training and {first['n_test']:,} test rows"
        + (f"; classes: `{first['label']}`." if first["label"] else "."),
        "",
        *markdown(header, rows, 2),
    ]
    return "\n".join(lines)


def key_of(way: str) -> str:
    """What is shown of an entry of `SHOWN`."""
    return f"{way}/R@10" if "->" in way else f"{way}/accuracy"


def short_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Recall at 10 of the main directions, or kNN accuracy of a subset, one line each."""
    rows = []
    for name, results in found.items():
        for way in SHOWN[name]:
            n = results[0]["subsets"][key_of(way)]["n"]
            what = f"{way.replace('->', ' to ')}, R@10 of {n}" if "->" in way else f"{way}, kNN accuracy on {n}"
            rows.append((name, f"`{SETS[results[0]['data']][0]}`", what, *row(results, key_of(way)), str(len(results))))
    header = ("data", "recipe", "measure", "pretrained", "untrained", "raw features", "chance", "seeds")
    return "\n".join(markdown(header, rows, 3))


def read_tried(path: Path = HERE / "crossmodal_tried.yaml") -> dict[str, list[str]]:
    return dict(plainyaml.read(path) or {}) if path.is_file() else {}


def section(found: Mapping[str, Sequence[Mapping[str, Any]]], tried: Mapping[str, Sequence[str]]) -> str:
    """What RESULTS.md says of all this."""
    shown_keys = [(found[name], key_of(way)) for name in found for way in SHOWN[name]]
    raw = [pair for pair in shown_keys if pair[0][0]["subsets"][pair[1]].get("raw") is not None]
    above, over = (
        sum(all(a > b for a, b in zip(values(r, k, "model"), values(r, k, arm), strict=True)) for r, k in lines_of)
        for arm, lines_of in (("untrained", shown_keys), ("raw", raw))
    )
    single = sum(len(results) == 1 for results, _ in shown_keys)
    warning = f" {single} lines are of a single seed, which shows little." if single else ""
    lines = [
        "## Across modalities",
        "",
        "`python -m benchmarks.crossmodal`: pairs and triples of real data, judged on their test rows. Raw features of",
        "one modality are mapped to another's by ridge regression on the training pairs. Means over seeds ± their",
        "standard deviation; bold: better than the untrained twin in every seed of several. All subsets of the",
        "modalities, and what each run changes in its recipe, are in",
        "[benchmarks/results/crossmodal.md](benchmarks/results/crossmodal.md).",
        "",
        short_table(found),
        "",
        f"In {above} of {len(shown_keys)} lines the pretrained model beats its untrained twin in every seed; "
        f"in {over} of {len(raw)} it beats the raw features in every seed.{warning}",
    ]
    for name, notes in tried.items():
        lines += ["", f"Tried on **{name}**:", "", *(f"- {' '.join(note.split())}" for note in notes)]
    return "\n".join(lines)


def text(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The whole of `crossmodal.md`."""
    head = [
        "## Across modalities",
        "",
        "Written by `python -m benchmarks.crossmodal`. Small models, minutes on a processor. A subset's embedding is",
        "the normalised mean of its towers' embeddings; a row counts where it has all of it. `a to b`: retrieval",
        "of a row's own b among those of all test rows; `same class`: how often the first hit is of the query's class.",
        "Raw features: between modalities a ridge map fitted on the training pairs. Means over seeds ± their standard",
        "deviation; bold: better than the untrained twin in every seed.",
    ]
    return "\n\n".join(["\n".join(head), *(scorecard(results) for results in found.values())]) + "\n"


def all_stored() -> dict[str, list[dict[str, Any]]]:
    """The results of every set that has some."""
    return {name: results for name in SETS if (results := stored(name))}


def write_report() -> None:
    """`crossmodal.md` and RESULTS.md from all results that there are."""
    from .matrix.__main__ import write_report as write_matrix_report

    (RESULTS / "crossmodal.md").write_text(text(all_stored()))
    write_matrix_report()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--report", action="store_true", help="only write the tables from what is there")
    args = parser.parse_args()
    prepare_process()
    for seed in [] if args.report else args.seeds:
        for name in args.only:
            kept = [result for result in stored(name) if current(result) and result["seed"] != seed]
            kept.append(measure(name, args.data, seed))
            stored_at(name).write_text(json.dumps(sorted(kept, key=lambda result: result["seed"]), indent=1) + "\n")
    write_report()


if __name__ == "__main__":
    main()
