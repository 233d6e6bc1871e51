"""Full fine-tuning, LoRA and the linear probe on three real sets: `python -m benchmarks.finetune SET [--seeds N]`.

SET: ecg (PTB-XL, NORM against the rest, patient-wise folds), adult (100 and 1,000 labels), emoji (retrieval between
drawings and texts). Encoders are pretrained once with the shipped recipes (`--encoders`, where they are kept). Results
go to benchmarks/results/finetune_SET.json; `python -m benchmarks.finetune table` writes them into
docs/benchmarks/fine-tuning.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from mmssl.data.sources import open_source
from mmssl.finetuning.finetune import finetune
from mmssl.training.pretrain import pretrain
from mmssl.training.process import prepare_process

from . import pages

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MARKS = ("<!-- methods: python -m benchmarks.finetune table -->", "<!-- /methods -->")
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
FOLDS = 4
SMALL = {"width": 64, "depth": 2, "heads": 4}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "ecg": ("examples/ecg_contrastive", {"data.path": str(DATA / "ptbxl_500"), "train.steps": 200}),
    "adult": (
        "examples/tabular_mae",
        {"data.path": str(DATA / "adult/adult.csv"), "data.limit": 20000, "train.steps": 400},
    ),
    # contrastive alone, two small towers, as in benchmarks/crossmodal.py
    "emoji": (
        "examples/image_text_clip",
        {
            "data.path": str(DATA / "emoji"),
            "data.name": "twemoji",
            "train.steps": 600,
            "train.batch_size": 96,
            "train.lr": 2e-3,
            "model": {"projection": 64, "towers": {"image": SMALL, "text": SMALL}},
            "objectives": {"image_mae": None, "text_mae": None, "clip": {"temperature": 0.1}},
            "masks": {"patches": None, "words": None},
        },
    ),
}
METHODS: dict[str, dict[str, Any]] = {"full": {"peft": "none"}, "lora": {"peft": "lora", "adapter": {"r": 4}}}


def encoder(name: str, kept: Path) -> Path:
    """The pretrained encoder of a set, trained when it is not there yet."""
    folder = kept / name
    if not (folder / "model").is_dir():
        recipe, changes = RECIPES[name]
        quiet = {"evaluation.tasks": [], "train.trackers": []}
        pretrain(recipe, output=folder, **{**changes, **quiet})
    return folder


def quietly(*args: Any, **options: Any) -> dict[str, Any]:
    """The report of one fine-tuning, and the size of what it leaves."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        run = finetune(*args, output=Path(scratch) / "out", **options)
        files = {p.name: p.stat().st_size for p in run.model_folder.rglob("*.safetensors")}
    return {**run.report, "files": files}


def facts(report: dict[str, Any]) -> dict[str, Any]:
    main = report["files"].get("adapter_model.safetensors", report["files"].get("model.safetensors"))
    return {
        "trained": report["parameters"]["trained"],
        "bytes": main,
        "seconds": report["settings"]["seconds"],
        "best_step": report["settings"]["best_step"],
    }


def supervised(report: dict[str, Any], metric: str) -> dict[str, Any]:
    tuned, probe = (report["tasks"][t][metric] for t in ("fine-tuned", "linear probe"))
    return {
        "score": tuned["finetuned"],
        "probe": probe["model"],
        "untrained": probe["untrained"],
        "raw": probe["raw"],
        **facts(report),
    }


def folds_by_patient(count: int) -> list[datasets.DatasetDict]:
    """All 500 records, in folds that keep a patient's records together."""
    parts = [open_source(DATA / "ptbxl_500", split=s).with_format(None) for s in ("train", "validation", "test")]
    rows = datasets.concatenate_datasets(parts)
    patients = np.array(rows["patient_id"])
    unique = np.unique(patients)
    place = dict(zip(unique, np.random.default_rng(0).permutation(len(unique)) % count, strict=True))
    fold = np.array([place[p] for p in patients])
    return [
        datasets.DatasetDict(
            {"train": rows.select(np.flatnonzero(fold != k)), "test": rows.select(np.flatnonzero(fold == k))}
        )
        for k in range(count)
    ]


def ecg(seeds: int, kept: Path) -> dict[str, Any]:
    model = encoder("ecg", kept)
    out: dict[str, Any] = {}
    train = {"steps": 100, "batch_size": 32, "log_every": 50}
    for seed in range(seeds):
        for k, data in enumerate(folds_by_patient(FOLDS)):
            for name, how in METHODS.items():
                report = quietly(
                    model,
                    data,
                    "norm",
                    columns={"ecg": "signal"},
                    group="patient_id",
                    seed=seed,
                    task="classification",
                    train=_rate(train, name),
                    eval_every=10,
                    **how,
                )
                row = supervised(report, "ecg/auroc") | {"seed": seed, "fold": k}
                out.setdefault(name, []).append(row)
                print("ecg", name, row, flush=True)
    return out


def adult(seeds: int, kept: Path) -> dict[str, Any]:
    model = encoder("adult", kept)
    columns = {
        "tabular": [
            "age",
            "workclass",
            "fnlwgt",
            "education",
            "education_num",
            "marital_status",
            "occupation",
            "relationship",
            "race",
            "sex",
            "capital_gain",
            "capital_loss",
            "hours_per_week",
            "native_country",
        ]
    }
    test = open_source(DATA / "adult/adult.csv", split="test", limit=4000)
    data = datasets.DatasetDict(
        {
            "train": open_source(DATA / "adult/adult.csv", split="train").remove_columns("split"),
            "test": test.remove_columns("split"),
        }
    )
    out: dict[str, Any] = {}
    for labels in (100, 1000):
        train = {"steps": 150, "batch_size": 32, "log_every": 50}
        for seed in range(seeds):
            for name, how in METHODS.items():
                report = quietly(
                    model,
                    data,
                    "income",
                    columns=columns,
                    labels=labels,
                    seed=seed,
                    eval_every=10,
                    train=_rate(train, name),
                    **how,
                )
                row = supervised(report, "tabular/auroc") | {"seed": seed}
                out.setdefault(f"{name}, {labels} labels", []).append(row)
                print("adult", labels, name, row, flush=True)
    return out


def emoji(seeds: int, kept: Path) -> dict[str, Any]:
    """Retrieval in the other drawing style, which the encoder has not seen."""
    model = encoder("emoji", kept)
    out: dict[str, Any] = {}
    train = {"steps": 100, "batch_size": 96, "log_every": 50}
    for seed in range(seeds):
        for name, how in [*METHODS.items(), ("linear", {"peft": "linear"})]:
            report = quietly(
                model,
                str(DATA / "emoji"),
                name="openmoji",
                task="retrieval",
                validation="validation",
                train=_rate(train, name),
                seed=seed,
                eval_every=25,
                **how,
            )
            both = {
                t: np.mean([m[column] for n, m in report["tasks"][t].items() if n.endswith("R@10")])
                for t, column in (("fine-tuned", "finetuned"), ("before", "model"))
            }
            raw = np.mean([m["raw"] for n, m in report["tasks"]["fine-tuned"].items() if n.endswith("R@10")])
            row = {
                "score": float(both["fine-tuned"]),
                "before": float(both["before"]),
                "raw": float(raw),
                **facts(report),
                "seed": seed,
            }
            out.setdefault(name, []).append(row)
            print("emoji", name, row, flush=True)
    return out


def _rate(train: dict[str, Any], method: str) -> dict[str, Any]:
    return {**train, "lr": {"full": 3e-4, "lora": 2e-3, "linear": 3e-3}[method]}


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


TITLES = {
    "ecg": "`ptbxl_500`, NORM, AUROC",
    "adult": "`adult`, income, AUROC",
    "emoji": "`emoji`, the other drawing style, mean R@10 of 312",
}
METHOD_NAMES = {"lora": "LoRA r=4", "linear": "projections alone", "full": "full"}


def table(folder: Path = RESULTS) -> str:
    """Markdown: mean and standard deviation over seeds (and folds)."""
    lines = [
        "| data | method | trained | file | score | linear probe or start | untrained | raw features | runs |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for key, title in TITLES.items():
        for method, rows in json.loads((folder / f"finetune_{key}.json").read_text()).items():
            base = [r.get("probe", r.get("before")) for r in rows]
            untrained = spread([r["untrained"] for r in rows]) if "untrained" in rows[0] else "-"
            name, comma, labels = method.partition(", ")
            lines.append(
                f"| {title} | {METHOD_NAMES[name]}{comma}{labels} | {rows[0]['trained']:,} | "
                f"{rows[0]['bytes'] / 1e6:.2f} MB | {spread([r['score'] for r in rows])} | {spread(base)} | "
                f"{untrained} | {spread([r['raw'] for r in rows])} | {len(rows)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("what", choices=("ecg", "adult", "emoji", "table"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoders", type=Path, default=Path("runs/finetune_encoders"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.what == "table":
        pages.write(pages.FINE_TUNING, table(), MARKS)
        return
    prepare_process()
    result = {"ecg": ecg, "adult": adult, "emoji": emoji}[args.what](args.seeds, args.encoders)
    args.results.mkdir(exist_ok=True)
    (args.results / f"finetune_{args.what}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
