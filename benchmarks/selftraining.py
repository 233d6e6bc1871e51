"""What self-training adds to few labels, on real sets: `python -m benchmarks.selftraining embed|choose|measure|table`.

Five encoders of `benchmarks.matrix` (first seed) are frozen and their sets embedded once, so that a run is a few linear
probes: what `mmssl finetune --peft linear --unlabelled rest` does, to the same answers (the unit tests compare them).
`choose` tries settings on rows that are kept out of all that is reported: a part of the training rows is judged, with
labels drawn by other seeds. `measure` reports on the test rows, for every way with the one setting that did best over
all sets and numbers of labels: the difference to the probe of the same labels alone, paired by draw and by test row.
Results go to benchmarks/results/selftraining.json, and `table` puts them into docs/benchmarks/fine-tuning.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmssl.data.splits import nested, strata
from mmssl.evaluation.differences import paired_difference, resampled_scores
from mmssl.evaluation.linear import fit_probe
from mmssl.evaluation.scoring import balanced_accuracy
from mmssl.evaluation.table import markdown
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.options import WAYS as EVERY
from mmssl.finetuning.options import FinetuneConfig, SelfTrainingConfig
from mmssl.finetuning.partition import Partition, open_pool
from mmssl.finetuning.pseudo import Guess, Known
from mmssl.finetuning.self_training import answered, weights_of
from mmssl.finetuning.supervised_job import SupervisedJob
from mmssl.recipe.loading import load_recipe

from . import pages
from .compare import DATA
from .matrix.cells import HERE as MATRIX
from .matrix.cells import local, read_cells
from .matrix.run import trained

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "selftraining.json"
MARKS = ("<!-- self-training: python -m benchmarks.selftraining table -->", "<!-- /self-training -->")
SETS = {
    "adult": ("adult/contrastive", "adult/adult.csv", "income"),
    "beats": ("ecg5000_beats/contrastive", "ecg5000_beats", "label"),
    "letter": ("letter_recognition/contrastive", "letter_recognition/letter.csv", "letter"),
    "news": ("ag_news_mini/mae", "ag_news_mini", "label"),
    "pictures": ("cifar10_mini/mae", "cifar10_mini", "label"),
}
"""Set -> (cell of the matrix, data, label)."""
WAYS = tuple(way for way in EVERY if way != "teacher")
"""Those that a frozen encoder's features are enough for."""
LIMIT, LABELS, DRAWS, RESAMPLES = 2000, (20, 100), 5, 200
ASIDE, OTHER_SEEDS = 0.3, 1000
"""Share of the training rows that settings are judged on, and the first seed of the labels that they are tried with."""
TRIED_DRAWS, TRIED_ROWS = 2, 1000
"""Draws of labels, and unlabelled rows at most, that settings are tried with."""
GRID = {"keep": (0.3, 1.0), "weight": (0.3, 1.0), "rounds": (1, 3)}
NEIGHBOURS = (5, 20)
Array = NDArray[Any]


@dataclass
class Rows:
    """Frozen features: x, y of the rows that labels are drawn from, and of those that are judged."""

    x: Array
    y: Array
    judged_x: Array
    judged_y: Array
    classes: int

    def aside(self) -> Rows:
        """The same with a part of the first rows judged in place of the test rows, which are not there."""
        order = np.random.default_rng(OTHER_SEEDS).permutation(len(self.y))
        judged, rest = np.split(order, [round(ASIDE * len(order))])
        return Rows(self.x[rest], self.y[rest], self.x[judged], self.y[judged], self.classes)


def opened(name: str, **more: object) -> SupervisedJob:
    """The encoder of a set with its rows; more: options."""
    wanted, data, label = SETS[name]
    cell = next(cell for cell in read_cells() if cell.name == wanted)
    quiet = {"seed": 0, "evaluation": {"tasks": []}, "train": {"trackers": []}}
    recipe = load_recipe(local(cell.recipe_data()), quiet)
    encoder, processor, _ = trained(recipe, MATRIX / "cache" / f"{cell.data}.{cell.objective}.0.{cell.training()}")
    asked = {"limit": LIMIT, "task": "classification", **more}
    options = load_options(asked, {"path": str(DATA / data), "label": label})
    pool = open_pool([label], processor.preprocessors, options)
    assert pool.target is not None
    everything = np.arange(len(pool.train))
    whole = Partition(pool.train, None, pool.test, pool.train, everything, 0, pool.columns, pool.target, {})
    return SupervisedJob(encoder, processor, options, whole)


def embedded(name: str, kept: Path) -> Rows:
    """The features of a set by its encoder, which `kept` holds, or will."""
    place = kept / f"{name}.npz"
    if not place.is_file():
        job = opened(name)
        found: dict[str, Array] = {"classes": np.array(job.target.outputs)}
        for prefix, part in (("", job.rows.train), ("judged_", job.rows.test)):
            features = job.features(part, {"model": job.encoder})
            assert part.labels is not None
            there = features.present
            found |= {f"{prefix}x": features.of["model"][there].numpy(), f"{prefix}y": part.labels[there].numpy()}
        kept.mkdir(parents=True, exist_ok=True)
        np.savez(place, **found)
    with np.load(place) as stored:
        arrays = {name: stored[name] for name in stored.files}
    return Rows(**{**arrays, "classes": int(arrays["classes"])})  # type: ignore[arg-type]


def drawn(rows: Rows, labels: int, seed: int) -> tuple[Array, Array]:
    """(numbers of the rows whose labels are known, of the others): those of 20 labels are among those of 100."""
    known = np.sort(nested(strata("classification", rows.y, rows.classes), labels, seed))
    return known, np.setdiff1d(np.arange(len(rows.y)), known)


class Draw:
    """One draw of labels: the probe of them alone, and what may be learned from the other rows.

    Attributes:
        alone: logits of the judged rows by the probe of the labels alone.
    """

    def __init__(self, rows: Rows, labels: int, seed: int, most: int | None = None) -> None:
        """most: unlabelled rows."""
        known, others = drawn(rows, labels, seed)
        self.rows, self.seed = rows, seed
        self.x, self.y, self.u = rows.x[known], rows.y[known], rows.x[others][:most]
        self.told = Known(self.x, self.y, rows.classes)
        self.probe = fit_probe(self.x, self.y, outputs=rows.classes, seed=seed)
        self.alone = self.probe(rows.judged_x)
        self._first: dict[tuple[str, int], Guess] = {}

    def first(self, said: SelfTrainingConfig) -> Guess:
        """What is said of the unlabelled rows in the first round, which keeps and counts nothing yet."""
        key = (said.by, said.neighbours)
        if key not in self._first:
            self._first[key] = self.said(said, self.probe(self.u))
        return self._first[key]

    def said(self, said: SelfTrainingConfig, logits: Array) -> Guess:
        """Of all unlabelled rows."""
        return answered(said, self.told, self.u, logits, np.ones(len(self.u), bool), self.seed)

    def answers(self, options: FinetuneConfig) -> Array:
        """Logits of the judged rows behind all rounds."""
        said, probe = options.self_training, self.probe
        for number in range(options.rounds):
            own = said.by in ("propagation", "label_model")  # which do not ask the probe, and say the same again
            found = self.first(said) if own or not number else self.said(said, probe(self.u))
            weights = weights_of(said, found, self.told, number, options.rounds)
            chosen = np.flatnonzero(weights)
            probe = fit_probe(
                np.concatenate([self.x, self.u[chosen]]),
                np.concatenate([self.y, found.labels[chosen]]),
                outputs=self.rows.classes,
                strength=self.probe.strength,
                weights=np.concatenate([np.ones(len(self.y)), weights[chosen]]),
            )
        return probe(self.rows.judged_x)


def settings(by: str) -> Iterator[FinetuneConfig]:
    """All that are tried of one way."""
    several = {**GRID, "neighbours": NEIGHBOURS} if by in ("neighbours", "propagation") else GRID
    for values in itertools.product(*several.values()):
        chosen = dict(zip(several, values, strict=True))
        rounds = int(chosen.pop("rounds"))
        if by in ("propagation", "label_model") and rounds > 1:
            continue  # the model so far is not asked, so that a second round with more rows is the first one
        yield FinetuneConfig(rounds=rounds, self_training=SelfTrainingConfig(by=by, **chosen))


def told(options: FinetuneConfig) -> dict[str, Any]:
    said = options.self_training
    names = ["keep", "weight", *(["neighbours"] if said.by in ("neighbours", "propagation") else [])]
    return {"rounds": options.rounds, **{name: getattr(said, name) for name in names}}


def choose(sets: dict[str, Rows]) -> dict[str, Any]:
    """Way -> its setting with the best mean accuracy gained over the probe, over sets and numbers of labels."""
    places = itertools.product([rows.aside() for rows in sets.values()], LABELS, range(TRIED_DRAWS))
    cells = [Draw(rows, labels, OTHER_SEEDS + draw, TRIED_ROWS) for rows, labels, draw in places]
    out = {}
    for by in WAYS:
        gains = []
        for options in settings(by):
            found = [accuracy(c.answers(options), c.rows.judged_y) - accuracy(c.alone, c.rows.judged_y) for c in cells]
            gains.append((float(np.mean(found)), told(options)))
            print(by, f"{gains[-1][0]:+.4f}", gains[-1][1], flush=True)
        best = max(gains, key=lambda one: one[0])
        out[by] = {"gain": round(best[0], 4), "tried": len(gains), **best[1]}
    return out


def accuracy(logits: Array, truth: Array) -> float:
    return float((logits.argmax(1) == truth).mean())


def measure(sets: dict[str, Rows], chosen: dict[str, Any], draws: int) -> dict[str, Any]:
    """Set -> labels -> way -> mean accuracy, its difference to the probe and the interval of that."""
    out: dict[str, Any] = {}
    for name, rows in sets.items():
        for labels in LABELS:
            scores: dict[str, list[tuple[float, Array, float]]] = {}
            for seed in range(draws):
                draw = Draw(rows, labels, seed)
                for by in ("alone", *WAYS):
                    logits = draw.alone if by == "alone" else draw.answers(configured(by, chosen[by]))
                    each = resampled_scores(_accuracy, logits, rows.judged_y, None, 0, RESAMPLES)
                    both = (accuracy(logits, rows.judged_y), each, balanced_accuracy(logits, rows.judged_y))
                    scores.setdefault(by, []).append(both)
            cell = out.setdefault(name, {}).setdefault(str(labels), {"test": len(rows.judged_y)})
            base = scores["alone"]
            for by, found in scores.items():
                cell[by] = {"accuracy": round(float(np.mean([a for a, _, _ in found])), 4)}
                cell[by]["balanced_accuracy"] = round(float(np.mean([b for _, _, b in found])), 4)
                if by == "alone":
                    continue
                ours, theirs = (np.array([a for a, _, _ in part]) for part in (found, base))
                less = paired_difference(ours, theirs, *(np.stack([e for _, e, _ in part]) for part in (found, base)))
                cell[by] |= {k: round(getattr(less, k), 4) for k in ("mean", "low", "high")}
            print(name, labels, json.dumps(cell), flush=True)
    return out


def _accuracy(logits: Array, truth: Array) -> float:
    return accuracy(logits, truth)


def configured(by: str, chosen: dict[str, Any]) -> FinetuneConfig:
    """The options of a stored choice."""
    plain = {key: value for key, value in chosen.items() if key not in ("gain", "tried", "rounds")}
    return FinetuneConfig(rounds=chosen["rounds"], self_training=SelfTrainingConfig(by=by, **plain))


def table(found: dict[str, Any]) -> str:
    """What was measured: a row for each set and number of labels."""
    rows = [["data", "labels", "test rows", "probe alone", *[f"by {way.replace('_', ' ')}" for way in WAYS]]]
    for name, by_labels in found["sets"].items():
        for labels, cell in by_labels.items():
            less = [cell[way] for way in WAYS]
            shown = [f"{one['mean']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})" for one in less]
            data = SETS[name][0].partition("/")[0]
            rows.append([f"`{data}`", labels, f"{cell['test']:,}", f"{cell['alone']['accuracy']:.3f}", *shown])
    lines = []
    for way in WAYS:
        cells = [cell[way] for by_labels in found["sets"].values() for cell in by_labels.values()]
        counts = [sum(one["low"] > 0 for one in cells), sum(one["high"] < 0 for one in cells)]
        gain, chosen = found["settings"][way]["gain"], configured(way, found["settings"][way])
        said = ", ".join(f"{key} {value}" for key, value in told(chosen).items())
        mean = np.mean([cell["mean"] for cell in cells])
        lines.append(
            f"- {way.replace('_', ' ')} ({said}; {gain:+.3f} where that was chosen): {mean:+.3f} on average, better in "
            f"{counts[0]} of {len(cells)}, worse in {counts[1]}, by intervals that exclude 0"
        )
    return "\n".join([*markdown(rows, 2), "", *lines])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("embed", "choose", "measure", "table"), default="measure")
    parser.add_argument("--features", type=Path, default=Path("runs/selftraining"), help="where they are kept")
    args = parser.parse_args()
    if args.what == "table":
        pages.write(pages.FINE_TUNING, table(json.loads(RESULT.read_text())), MARKS)
        return
    sets = {name: embedded(name, args.features) for name in SETS}
    if args.what == "embed":
        return
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if args.what == "choose" or "settings" not in result:
        result = {"settings": choose(sets)}
    else:
        result |= {"draws": DRAWS, "sets": measure(sets, result["settings"], DRAWS)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
