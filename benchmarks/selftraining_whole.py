"""What self-training adds where the whole encoder is trained: `python -m benchmarks.selftraining_whole measure|table`.

Encoders of `benchmarks.matrix` (first seed) are fine-tuned whole (`--peft none`), for a number of steps that is the
same in every set and not searched for (`few=0`: nothing is chosen by folds), on few labels alone and with the other
training rows beside them, by every way of `WAYS` with the defaults of `self_training` but for what it is named by. What
is shown is the gain in accuracy on the test rows in each draw of labels. `kept` is another question: SimCLRv2's layers
of the projection head, of a run of its own with a head of three layers and batch norm, which the probe of the same run
is compared with. Results go to benchmarks/results/selftraining_whole.json; what is there is not measured again, and
`table` puts it into docs/benchmarks/fine-tuning.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.evaluation.table import markdown
from mmssl.finetuning.finetune import finetune
from mmssl.models.saving import save_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.pretrain import pretrain
from mmssl.training.process import prepare_process

from . import pages
from .compare import DATA
from .matrix.cells import HERE as MATRIX
from .matrix.cells import local, read_cells
from .matrix.run import trained

RESULT = Path(__file__).resolve().parent / "results" / "selftraining_whole.json"
MARKS = (
    "<!-- self-training of the whole: python -m benchmarks.selftraining_whole table -->",
    "<!-- /self-training of the whole -->",
)
SETS = {
    "beats": ("ecg5000_beats/contrastive", "ecg5000_beats", "label"),
    "speech": ("fsdd/jepa", "fsdd", "label"),
    "letter": ("letter_recognition/contrastive", "letter_recognition/letter.csv", "letter"),
    "news": ("ag_news_mini/mae", "ag_news_mini", "label"),
    "pictures": ("cifar10_mini/mae", "cifar10_mini", "label"),
}
"""Set -> (cell of the matrix, data, label)."""
LABELS, DRAWS = (20, 100), 3
HOW: dict[str, Any] = {
    "peft": "none",
    "few": 0,
    "validation_share": 0,
    "limit": 600,
    "task": "classification",
    "train": {"steps": 40, "batch_size": 32, "lr": 5e-4, "log_every": 40},
}
WAYS: dict[str, dict[str, Any]] = {
    "alone": {},
    "confidence": {"unlabelled": "rest", "rounds": 1},
    "near": {"unlabelled": "rest", "rounds": 1, "self_training": {"near": 5}},
    "reweigh": {"unlabelled": "rest", "rounds": 1, "self_training": {"reweigh": True}},
    "teacher": {"unlabelled": "rest", "self_training": {"by": "teacher"}},
    "teacher, ahead": {"unlabelled": "rest", "self_training": {"by": "teacher", "ahead": 1}},
}
"""Way -> its options."""
KEPT: dict[str, dict[str, Any]] = {
    "no layer": {},
    "one layer": {"keep_head": "simclr"},
    "two layers": {"keep_head": "simclr", "keep_layers": 2},
}
"""How much of the head is kept -> its options."""
HEAD = {"head_layers": 3, "head_norm": "batch"}
"""Of the run whose head is kept."""


def encoder(name: str, folder: Path) -> Path:
    """The model of a set, written there."""
    cell = next(cell for cell in read_cells() if cell.name == SETS[name][0])
    recipe = load_recipe(local(cell.recipe_data()), {"seed": 0, "evaluation": {"tasks": []}, "train": {"trackers": []}})
    kept = MATRIX / "cache" / f"{cell.data}.{cell.objective}.0.{cell.training()}"
    model, processor, _ = trained(recipe, kept)
    save_model(model, processor, folder)
    return folder


def with_head(name: str, folder: Path) -> Path:
    """A run of a set's recipe with a head that layers can be kept of."""
    cell = next(cell for cell in read_cells() if cell.name == SETS[name][0])
    recipe = local(cell.recipe_data())
    recipe["objectives"] = {"simclr": {"type": "contrastive", **next(iter(recipe["objectives"].values())), **HEAD}}
    quiet = {"seed": 0, "evaluation": {"tasks": []}, "train": {"trackers": [], "health_every": None, "report": False}}
    pretrain(recipe, output=folder, **quiet)
    return folder


def measure(chosen: list[str], ways: list[str], place: Path) -> None:
    """Every set, number of labels, draw and way that is not in `place` yet; kept there after each."""
    found: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            model: Path | None = None
            for labels in LABELS:
                for draw in range(DRAWS):
                    for way in ways:
                        kept = way in KEPT
                        cell = found.setdefault(f"{name} kept" if kept else name, {}).setdefault(str(labels), {})
                        if len(cell.get(way, [])) > draw:
                            continue
                        if model is None:
                            model = (with_head if kept else encoder)(name, Path(scratch) / "model")
                        out = Path(scratch) / f"{way}-{labels}-{draw}"
                        _tuned(name, model, labels, draw, way, out, cell)
                        print(name, labels, draw, way, cell[way][-1], flush=True)
                        place.write_text(json.dumps(found, indent=1) + "\n")


def _tuned(name: str, model: Path, labels: int, draw: int, way: str, out: Path, cell: dict[str, Any]) -> None:
    """One fine-tuning; what it reached goes into the cell."""
    data, label = str(DATA / SETS[name][1]), SETS[name][2]
    options = HOW | {**WAYS, **KEPT}[way]
    with contextlib.redirect_stdout(io.StringIO()):
        run = finetune(model, data, label, labels=labels, seed=draw, output=out, **options)
    cell["test"] = run.report["n_test"]
    tuned, probe = (run.report["tasks"][task] for task in ("fine-tuned", "linear probe"))
    key = next(key for key in tuned if key.endswith("/accuracy"))
    cell.setdefault(way, []).append(round(tuned[key]["finetuned"], 4))
    if way in ("alone", "no layer"):
        cell.setdefault("probe", []).append(round(probe[key]["model"], 4))


def table(found: dict[str, Any]) -> str:
    """A row for each set and number of labels, and of each way how often it gained; then the same of layers kept."""
    first = {name: cells for name, cells in found.items() if not name.endswith(" kept")}
    second = {name.removesuffix(" kept"): cells for name, cells in found.items() if name.endswith(" kept")}
    parts = [*_table(first, "alone", [way for way in WAYS if way != "alone"], "by ")]
    if second:
        parts += ["", *_table(second, "no layer", [way for way in KEPT if way != "no layer"], "")]
    return "\n".join(parts)


def _table(found: dict[str, Any], base: str, ways: list[str], word: str) -> list[str]:
    ways = [way for way in ways if any(way in c for cells in found.values() for c in cells.values())]
    start = "fine-tuned alone" if base == "alone" else "fine-tuned, no layer kept"
    rows = [["data", "labels", "test rows", "linear probe", start, *[f"{word}{way}" for way in ways]]]
    gains: dict[str, list[float]] = {}
    for name, by_labels in found.items():
        for labels, cell in by_labels.items():
            shown = []
            for way in ways:
                if way not in cell:
                    shown.append("-")
                    continue
                each = np.array(cell[way]) - np.array(cell[base][: len(cell[way])])
                gains.setdefault(way, []).extend(each.tolist())
                shown.append(f"{each.mean():+.3f} ({', '.join(f'{one:+.3f}' for one in each)})")
            first = [f"{np.mean(cell[way]):.3f}" for way in ("probe", base)]
            rows.append([f"`{SETS[name][0].partition('/')[0]}`", labels, f"{cell['test']:,}", *first, *shown])
    lines = [
        f"- {way}: {np.mean(each):+.3f} on average, more in {sum(one > 0 for one in each)} of {len(each)} draws, less "
        f"in {sum(one < 0 for one in each)}"
        for way, each in gains.items()
    ]
    return [*markdown(rows, 2), "", *lines]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--ways", nargs="+", choices=(*WAYS, *KEPT), default=list(WAYS))
    parser.add_argument("--result", type=Path, default=RESULT, help="where what is measured is kept")
    args = parser.parse_args()
    if args.what == "measure":
        prepare_process()
        measure(args.sets, args.ways, args.result)
    else:
        pages.write(pages.FINE_TUNING, table(json.loads(args.result.read_text())), MARKS)


if __name__ == "__main__":
    main()
