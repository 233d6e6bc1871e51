"""Is it worth to go on from a public text encoder, without labels, through LoRA? Wins and losses, several seeds.

    python -m benchmarks.stock_encoders ../encoders
    python -m benchmarks.stock_lora [news clothes] --encoders ../encoders

MiniLM goes on with what belongs together in a row (title and text), as docs/tutorials/lora.ipynb does, and is judged by
labels it did not see, beside itself as it came, on the same held-out rows. One setting, that of the tutorial, with more
steps; nothing was searched. Results go to results/stock_lora.json and docs/benchmarks/fine-tuning.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import mmssl
from mmssl.training.process import prepare_process

from . import pages
from .machine import machine
from .stock_encoders import TEXT

RESULTS = Path(__file__).parent / "results" / "stock_lora.json"
MARKS = ("<!-- stock lora: python -m benchmarks.stock_lora -->", "<!-- /stock lora -->")
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", pages.REPO.parent / "shared" / "data"))
STEPS = 100
SETS: dict[str, tuple[str, dict[str, str], str]] = {
    "news": ("ag_news_mini", {"text": "description", "answer": "title"}, "label"),
    "clothes": ("clothing_reviews/reviews.csv", {"text": "review", "answer": "title"}, "department"),
}
"""Set -> data, the two columns of a pair, the label that judges."""
ARMS = ("start", "model", "untrained", "raw")


def one(name: str, seed: int, encoders: Path) -> dict[str, Any]:
    """Task -> arm -> score of one seed, and the difference to the start with its interval."""
    data, columns, label = SETS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = mmssl.pretrain(
            "text_pairs",
            data={"path": str(DATA / data), "columns": columns},
            output=Path(folder) / "run",
            seed=seed,
            modalities={"text": {"max_length": 48}},
            model={
                "projection": None,
                "towers": {"text": {"from": str(encoders / TEXT), "adapter": {"type": "lora", "r": 8}}},
            },
            objectives={"pairs": {"project_within": False}},
            train={"steps": STEPS, "batch_size": 32, "lr": 5e-4, "log_every": 25, "trackers": [], "report": False},
            evaluation={"label": label, "tasks": ["linear", "knn"], "limit": 1000, "train_limit": 1000},
        )
        return dict(run.report["tasks"])


def table(stored: dict[str, Any]) -> str:
    """A line for every set and judge, the seeds side by side."""
    lines = ["| texts, judged by | as it came | after LoRA | untrained | word counts | as it came, 95 % |"]
    lines.append("|---|---|---|---|---|---|")
    for name, (data, _, label) in SETS.items():
        runs = [found for key, found in sorted(stored.items()) if key.partition("/")[0] == name]
        for task, said in (("linear", "linear probe"), ("knn", "nearest neighbours")) if runs else ():
            metrics = [run[task]["text/accuracy"] for run in runs]
            arms = [" ".join(f"{found[arm]:.3f}" for found in metrics) for arm in ARMS]
            low, high = metrics[0]["interval"]["start"]
            where = f"{data.partition('/')[0]}, {label}: {said}"
            lines.append(f"| {where} | {' | '.join(arms)} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def stored() -> dict[str, Any]:
    """What was measured."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def main() -> None:
    """Run what is asked for and store it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=", ".join(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--encoders", type=Path, required=True)
    args = parser.parse_args()
    prepare_process()
    for name in args.sets:
        for seed in args.seeds:
            found = one(name, seed, args.encoders)
            print(name, seed, json.dumps(found), flush=True)
            kept = stored() | {f"{name}/{seed}": found, "machine": machine()}
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    pages.write(pages.FINE_TUNING, table(stored()), MARKS)


if __name__ == "__main__":
    main()
