"""What losses for rare classes add, on real sets made long-tailed: `python -m benchmarks.tails measure|experts|table`.

The frozen features of `benchmarks.selftraining`; of each class a share of the training rows is kept, falling from the
first to the last class (drawn, by seed), and all test rows, which are equally frequent. Nothing is tuned: tau 1 and a
margin of 0.5 are the defaults of `mmssl finetune`, whose start `logit adjusted` is (no step is taken); what is trained
starts at the probe too and takes 150 full-batch steps. Results: benchmarks/results/tails.json.

`experts` measures `loss=experts`, averaged and with `weigh_experts=true`, without a step, on test rows that are as rare
as the training rows, equally frequent, and turned: what is rare in training is frequent.
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
from mmssl.finetuning.experts import in_view, weighed
from mmssl.finetuning.scores import by_frequency
from mmssl.losses.supervised import Tail, class_weights, ldam, logit_adjusted, row_losses, sade

from . import pages
from .selftraining import Rows, embedded, opened

RESULT = Path(__file__).resolve().parent / "results" / "tails.json"
MARKS = ("<!-- tails: python -m benchmarks.tails table -->", "<!-- /tails -->")
SETS = {"pictures": ("cifar10_mini", 150, 3, (20, 100)), "letter": ("letter_recognition", 60, 2, (10, 30))}
"""Set -> (its data, rows of the first class, of the last one, `shots`)."""
SEEDS, STEPS, RATE, MARGIN = 3, 150, 3e-3, 0.5
EXPERT_MARKS = ("<!-- experts: python -m benchmarks.tails table -->", "<!-- /experts -->")
VIEWS: dict[str, dict[str, Any]] = {
    "pictures": {"image": {"crop_scale": [0.5, 1.0], "flip": 0.5}},
    "letter": {"tabular": {"resample": 0.3}},
}
"""Set -> what two views of a row are: those that its encoder was pretrained with, or usual ones."""
LEAN = 2.0
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


def viewed(name: str, kept: Path) -> list[Array]:
    """Features of the judged rows in two views, which `kept` holds, or will."""
    place = kept / f"{name}-views.npz"
    if not place.is_file():
        job = opened(name, augment=VIEWS[name])
        np.savez(place, **{view: in_view(job, view).numpy() for view in ("a", "b")})
    with np.load(place) as stored:
        return [stored["a"], stored["b"]]


def experts(features: Path) -> dict[str, Any]:
    """Set -> how frequent classes are among the test rows -> way -> accuracy by seed; `shares` of the experts, too."""
    out: dict[str, Any] = {}
    for name, (_, most, least, _) in SETS.items():
        rows = embedded(name, features)
        views = viewed(name, features)
        for seed in range(SEEDS):
            chosen = long_tailed(rows, most, least, seed)
            counts = np.bincount(rows.y[chosen], minlength=rows.classes)
            probe = fit_probe(rows.x[chosen], rows.y[chosen], outputs=rows.classes, seed=seed)
            tails = sade(torch.from_numpy(counts), LEAN).tails
            own, a, b = (
                np.stack([probe(x) - tail.offsets.numpy() for tail in tails], 1) for x in (rows.judged_x, *views)
            )
            rising = np.sort(counts)
            turned = rising[::-1][np.argsort(np.argsort(counts))]
            for test, wanted in (("as trained", counts), ("equal", np.ones(rows.classes)), ("turned", turned)):
                of = [np.flatnonzero(rows.judged_y == c) for c in range(rows.classes)]
                most_of = min(len(rows_of) / share for rows_of, share in zip(of, wanted / wanted.sum(), strict=True))
                judged = np.concatenate(
                    [r[: max(round(s * most_of), 1)] for r, s in zip(of, wanted / wanted.sum(), strict=True)]
                )
                shares = weighed(torch.from_numpy(a[judged]), torch.from_numpy(b[judged])).numpy()
                ways = {
                    "plain": own[:, 0],
                    "balanced": own[:, 1],
                    "averaged": own.mean(1),
                    "weighed": np.einsum("k,nkc->nc", shares, own),
                }
                cell = out.setdefault(name, {}).setdefault(test, {})
                cell.setdefault("shares", []).append(shares.round(3).tolist())
                for way, logits in ways.items():
                    right = logits[judged].argmax(1) == rows.judged_y[judged]
                    cell.setdefault(way, []).append(round(float(right.mean()), 4))
    return out


def expert_table(found: dict[str, Any]) -> str:
    """Means over the seeds, and what weighing gains over the mean in each."""
    head = ["data", "test rows", "plain", "balanced", "three averaged", "weighed", "gain over averaged", "shares"]
    out = [head]
    for name, by_test in found.items():
        for test, cell in by_test.items():
            means = [f"{np.mean(cell[way]):.3f}" for way in ("plain", "balanced", "averaged", "weighed")]
            gain = ", ".join(f"{a - b:+.3f}" for a, b in zip(cell["weighed"], cell["averaged"], strict=True))
            shares = ", ".join(f"{share:.2f}" for share in np.mean(cell["shares"], 0))
            out.append([f"`{SETS[name][0]}`", test, *means, gain, shares])
    return "\n".join(markdown(out, 2))


def table(found: dict[str, Any]) -> str:
    """Means over the seeds, and the least and largest gain in balanced accuracy."""
    out = [["data", "loss", *[score.replace("_", " ") for score in SCORES], "gain in each seed"]]
    for name, ways in ((name, found[name]) for name in SETS):
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
    parser.add_argument("what", choices=("measure", "experts", "table"))
    parser.add_argument("--features", type=Path, default=Path("runs/selftraining"), help="where they are kept")
    args = parser.parse_args()
    known: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if args.what == "table":
        pages.write(pages.FINE_TUNING, table(known), MARKS)
        pages.write(pages.FINE_TUNING, expert_table(known["experts"]), EXPERT_MARKS)
    elif args.what == "experts":
        RESULT.write_text(json.dumps(known | {"experts": experts(args.features)}, indent=1) + "\n")
    else:
        RESULT.write_text(json.dumps(known | measure(args.features), indent=1) + "\n")


if __name__ == "__main__":
    main()
