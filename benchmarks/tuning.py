"""Does a label-free score choose well? `python -m benchmarks.tuning SET [--runs DIR]`, and `table`.

SET: letter (letter_recognition, tables, mae), speech (fsdd, contrastive), fashion (fashion_mnist, mae). Some ten short
trials of a shipped recipe by `mmssl tune` without pruning, each then judged by the linear probe of `mmssl evaluate` on
held-out rows, which nothing was chosen on. What is told is Spearman's correlation, over the trials, of each score with
that accuracy, with the 95 % interval of Bonett and Wright (2000): few trials have wide ones. An interrupted study goes
on where it was. Results go to benchmarks/results/tuning.json, `table` writes them into docs/benchmarks/tuning.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from mmssl.api import evaluate
from mmssl.evaluation.table import markdown
from mmssl.training.process import prepare_process
from mmssl.tuning.scores import BY
from mmssl.tuning.space import read_space
from mmssl.tuning.tune import TRIALS, Wanted, run_tuning

from . import pages
from .compare import LETTER

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "tuning.json"
MARKS = ("<!-- tuned: python -m benchmarks.tuning table -->", "<!-- /tuned -->")
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
QUIET = ["train.trackers=[]", "train.log_every=1000", "train.save_every=null"]
SETS: dict[str, tuple[str, list[str], int, dict[str, Any]]] = {
    "letter": (
        "letter_recognition/letter.csv",
        ["examples/tabular_mae", f"data.columns.tabular=[[{LETTER}]]", "evaluation.label=letter",
         "train.lr=log(1e-4,2e-2)", "masks.half.ratio=uniform(0.15,0.85)", "train.steps=[40,160]"],
        12,
        {"limit": 2000, "train_limit": 2000},
    ),
    "speech": (
        "fsdd",
        ["examples/audio_contrastive", "evaluation.label=label",
         "train.lr=log(3e-5,1e-2)", "objectives.simclr.temperature=log(0.05,1.0)", "train.steps=[20,60]"],
        8,
        {},
    ),
    "fashion": (
        "fashion_mnist",
        ["examples/image_mae", "evaluation.label=label", "data.limit=4000", "modalities.image.patch=7",
         "model.towers.image.width=64", "model.towers.image.depth=2",
         "train.lr=log(1e-4,1e-2)", "masks.random.ratio=uniform(0.3,0.9)", "train.steps=[40,160]"],
        8,
        {"limit": 2000, "train_limit": 2000},
    ),
}  # fmt: skip
"""Set -> (data, words of `mmssl tune`, trials, options of the evaluation)."""


def measure(name: str, runs: Path) -> None:
    """Run what is not there yet, and store the result."""
    place, words, trials, options = SETS[name]
    # without --by probe the label judges nothing; with it each trial has all scores
    fixed, space = read_space([f"data.path={DATA / place}", *words[1:], *QUIET])
    wanted = Wanted(words[0], fixed, space, trials, "probe", samples=2000, prune=False)
    found = run_tuning(wanted, output=runs / name, resume="auto")
    rows = []
    for trial in found.trials:
        if trial["state"] != "complete":
            continue
        model = found.folder / TRIALS / f"{trial['trial']:03d}" / "model"
        label = "letter" if name == "letter" else "label"
        report = evaluate(model, str(DATA / place), label=label, tasks=["linear"], **options)
        judged = next(metric for key, metric in report["tasks"]["linear"].items() if key.endswith("/accuracy"))
        tried = [key for key, one in space.items() if len(one.tried) > 1]
        said = {key: trial[key] for key in (*tried, "alpha", *BY) if key in trial}
        rows.append({**said, "accuracy": judged["model"], "untrained": judged["untrained"], "n": judged["n"]})
        print(f"{name} {trial['trial']}: {rows[-1]}", flush=True)
    stored = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    line = ["mmssl", "tune", words[0], f"data.path=../shared/data/{place}", *words[1:]]
    more = ["--trials", str(trials), "--by", "probe", "--samples", "2000", "--no-prune"]
    stored[name] = {"command": shlex.join([*line, *more]), "trials": rows, "lost": len(found.trials) - len(rows)}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def correlation(scores: Sequence[float], judged: Sequence[float]) -> tuple[float, float, float]:
    """(Spearman's rho, low, high): 95 % by Fisher's z with the variance (1 + rho^2 / 2) / (n - 3) of Bonett and Wright
    (Psychometrika 2000)."""
    rho, n = float(spearmanr(scores, judged).statistic), len(scores)
    if n < 4 or rho != rho:
        return rho, float("nan"), float("nan")
    z, half = math.atanh(max(min(rho, 1 - 1e-9), -1 + 1e-9)), 1.959964 * math.sqrt((1 + rho * rho / 2) / (n - 3))
    return rho, math.tanh(z - half), math.tanh(z + half)


def table(stored: Mapping[str, Any]) -> str:
    """The table of the stored results."""
    titles = ["set, trials", "score", "Spearman with the probe (95 %)", "chosen", "best", "median", "untrained"]
    rows = [titles]
    for name, of in stored.items():
        trials = of["trials"]
        judged = [trial["accuracy"] for trial in trials]
        for by in BY:
            scores = [trial[by] for trial in trials]
            rho, low, high = correlation(scores, judged)
            chosen = judged[int(np.argmax(scores))]
            ends = [max(judged), statistics.median(judged), trials[0]["untrained"]]
            rows.append([f"{name}, {len(trials)}", by, f"{rho:+.2f} ({low:+.2f} to {high:+.2f})"])
            rows[-1] += [f"{value:.3f}" for value in (chosen, *ends)]
    return "\n".join(markdown(rows))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*SETS, "table"))
    parser.add_argument("--runs", type=Path, help="where studies are kept")
    args = parser.parse_args()
    if args.what == "table":
        pages.write(pages.TUNING, table(json.loads(RESULTS.read_text())), MARKS)
        return
    prepare_process()
    measure(args.what, args.runs or Path(tempfile.mkdtemp(prefix="tuning-")))


if __name__ == "__main__":
    main()
