"""What losses for rare classes add, on real sets made long-tailed: `python -m benchmarks.tails measure|table`.

The frozen features of `benchmarks.selftraining`; of each class a share of the training rows is kept, falling from the
first to the last class (drawn, by seed), and all test rows, which are equally frequent. Nothing is tuned: tau 1 and a
margin of 0.5 are the defaults of `mmssl finetune`, whose start `logit adjusted` is (no step is taken); what is trained
starts at the probe too and takes 150 full-batch steps. Results: benchmarks/results/tails.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmssl.evaluation.linear import fit_probe
from mmssl.evaluation.scoring import balanced_accuracy
from mmssl.evaluation.table import markdown
from mmssl.finetuning.scores import by_frequency
from mmssl.losses.supervised import Tail, class_weights, ldam, logit_adjusted, row_losses

from . import pages
from .selftraining import Rows, embedded

RESULT = Path(__file__).resolve().parent / "results" / "tails.json"
MARKS = ("<!-- tails: python -m benchmarks.tails table -->", "<!-- /tails -->")
SETS = {"pictures": ("cifar10_mini", 150, 3, (20, 100)), "letter": ("letter_recognition", 60, 2, (10, 30))}
"""Set -> (its data, rows of the first class, of the last one, `shots`)."""
SEEDS, STEPS, RATE, MARGIN = 3, 150, 3e-3, 0.5
SCORES = ("balanced_accuracy", "recall_few", "recall_medium", "recall_many")
Array = NDArray[Any]


def long_tailed(rows: Rows, most: int, least: int, seed: int) -> Array:
    """Numbers of training rows, of each class fewer by the same factor, the classes in a drawn order."""
    rng = np.random.default_rng(seed)
    ranks = np.arange(rows.classes) / (rows.classes - 1)
    counts = np.round(most * (least / most) ** ranks).astype(int)[rng.permutation(rows.classes)]
    of = [rng.permutation(np.flatnonzero(rows.y == c))[: counts[c]] for c in range(rows.classes)]
    return np.concatenate(of)


def answers(rows: Rows, chosen: Array, seed: int) -> dict[str, Array]:
    """Way -> logits of the judged rows."""
    x, y = rows.x[chosen], rows.y[chosen]
    probe = fit_probe(x, y, outputs=rows.classes, seed=seed)
    balanced = fit_probe(x, y, outputs=rows.classes, seed=seed, balanced=True)
    labels = torch.from_numpy(y)
    counts = torch.bincount(labels, minlength=rows.classes)
    weights = class_weights("classification", labels, rows.classes)
    start = [torch.from_numpy(array).float() for array in (probe.weight, probe.bias, probe.penalty, x, rows.judged_x)]

    def trained(tail: Tail, weights: torch.Tensor | None) -> Array:
        weight, bias, penalty, seen, judged = (tensor.clone() for tensor in start)
        optimizer = torch.optim.AdamW([weight.requires_grad_(), bias.requires_grad_()], RATE, weight_decay=0.0)
        each = torch.ones(len(y)) if weights is None else weights[labels]
        for _ in range(STEPS):
            losses = row_losses("classification", seen @ weight.T + bias, labels, tail=tail)
            optimizer.zero_grad()
            ((losses * each).sum() / each.sum() + (weight.square() * penalty).sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return (judged @ weight.T + bias).detach().numpy()

    plain = probe(rows.judged_x)
    return {
        "cross-entropy": plain,
        "class_weights=balanced": balanced(rows.judged_x),
        "loss=logit_adjusted": plain - logit_adjusted(counts, 1.0).offsets.numpy(),
        "loss=ldam": trained(ldam(counts, MARGIN), None),
        "loss=ldam class_weights=balanced": trained(ldam(counts, MARGIN), weights),
    }


def measure(features: Path) -> dict[str, Any]:
    """Set -> way -> score -> its value by seed."""
    out: dict[str, Any] = {}
    for name, (_, most, least, shots) in SETS.items():
        rows = embedded(name, features)
        for seed in range(SEEDS):
            chosen = long_tailed(rows, most, least, seed)
            counts = np.bincount(rows.y[chosen], minlength=rows.classes)
            functions = {SCORES[0]: balanced_accuracy, **by_frequency(counts, rows.judged_y, shots)}
            for way, logits in answers(rows, chosen, seed).items():
                for score, function in functions.items():
                    values = out.setdefault(name, {}).setdefault(way, {}).setdefault(score, [])
                    values.append(round(function(logits, rows.judged_y), 4))
    return out


def table(found: dict[str, Any]) -> str:
    """Means over the seeds, and the least and largest gain in balanced accuracy."""
    out = [["data", "loss", *[score.replace("_", " ") for score in SCORES], "gain in each seed"]]
    for name, ways in found.items():
        base = ways["cross-entropy"][SCORES[0]]
        for way, scores in ways.items():
            gains = [a - b for a, b in zip(scores[SCORES[0]], base, strict=True)]
            gain = "-" if way == "cross-entropy" else ", ".join(f"{one:+.3f}" for one in gains)
            means = [f"{np.mean(scores[score]):.3f}" for score in SCORES]
            out.append([f"`{SETS[name][0]}`", way if "=" not in way else f"`{way}`", *means, gain])
    return "\n".join(markdown(out, 2))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--features", type=Path, default=Path("runs/selftraining"), help="where they are kept")
    args = parser.parse_args()
    if args.what == "measure":
        RESULT.write_text(json.dumps(measure(args.features), indent=1) + "\n")
    else:
        pages.write(pages.FINE_TUNING, table(json.loads(RESULT.read_text())), MARKS)


if __name__ == "__main__":
    main()
