"""What pretraining is worth with few labels, on real sets: `python -m benchmarks.compare SET [--runs DIR]`.

SET: a key of `SETS`, of which four are tables. The encoder is that of a cell of `benchmarks.matrix` with its first
seed, which is trained where the matrix has not kept it, and is measured by `mmssl finetune --compare`. Rates
and steps are chosen in every draw by folds of its labels; which cell, by the matrix's scores, which come of the same
test rows. Results, with the commands that make them, go to benchmarks/results/compare_SET.json; `table` writes them
into docs/benchmarks/fine-tuning.md. An interrupted comparison goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmssl.cli import main as mmssl
from mmssl.evaluation.table import markdown
from mmssl.finetuning.comparison import difference_rows, score_rows
from mmssl.models.saving import save_model
from mmssl.recipe.loading import load_recipe

from . import pages
from .matrix.cells import HERE as MATRIX
from .matrix.cells import Cell, local, read_cells
from .matrix.run import trained

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MARKS = ("<!-- compared: python -m benchmarks.compare table -->", "<!-- /compared -->")
SHARED = "../shared/data"
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
LETTER = "x_box,y_box,width,high,onpix,x_bar,y_bar,x2bar,y2bar,xybar,x2ybr,xy2br,x_ege,xegvy,y_ege,yegvx"
WINE = "color,fixed_acidity,volatile_acidity,citric_acid,residual_sugar,chlorides,free_sulfur_dioxide"
WINE += ",total_sulfur_dioxide,density,ph,sulphates,alcohol"
SHORT = ["draws=5", "train.steps=40", "folds=3"]  # two thirds of the default's, as it is run on two cores
FEW, ONE = ["labels=[20,100]", *SHORT], ["labels=[100]", *SHORT]
RARE = [*ONE, "eval_every=5"]
SOME = "limit=2000"
SETS: dict[str, tuple[str, str, list[str]]] = {
    "california": (
        "california_housing/mae",
        "california_housing/housing.csv",
        ["--label", "median_house_value", "task=regression", *FEW, SOME],
    ),
    "adult": ("adult/contrastive", "adult/adult.csv", ["--label", "income", "score=auroc", *FEW, SOME]),
    "wine": (
        "wine_quality/mae",
        "wine_quality/wine_quality.csv",
        ["--label", "quality", "task=regression", *ONE, SOME],
    ),
    "letter": ("letter_recognition/mae", "letter_recognition/letter.csv", ["--label", "letter", *ONE, SOME]),
    "beats": ("ecg5000_beats/contrastive", "ecg5000_beats", ["--label", "label", *FEW]),
    "news": ("ag_news_mini/contrastive", "ag_news_mini", ["--label", "label", *ONE, SOME]),
    "speech": ("fsdd/contrastive", "fsdd", ["--label", "label", *ONE]),
    "eeg": ("bonn_eeg/contrastive", "bonn_eeg", ["--label", "label", *RARE]),
    "pictures": ("cifar10_mini/mae", "cifar10_mini", ["--label", "label", *ONE, "limit=1000", "eval_every=5"]),
    "ecg": (
        "ptbxl_500/contrastive",
        "ptbxl_500/*.parquet",  # its own test rows are 66: all rows, 40 % of the patients held out
        ["--label", "norm", "score=auroc", "group=patient_id", "test_share=0.4", *RARE],
    ),
    "molecules": (
        "mutag/contrastive",
        "graph:mutag/mutag.npz",  # 188 molecules: all of them, two fifths held out
        ["--label", "label", "split=all", "test=null", "test_share=0.4", "score=balanced_accuracy", *RARE],
    ),
    "clothes": ("fashion_mnist/contrastive", "fashion_mnist", ["--label", "label", *RARE, SOME]),
}
"""Set -> (cell of the matrix, data, words of `mmssl finetune`), what costs little first."""
TABLES = ("california", "adult", "wine", "letter")
ARMS = ("pretrained", "probe", "scratch", "untrained_probe", "raw_linear", "raw_boosting")
"""What the first table shows, after the arms of `mmssl finetune --compare`."""


def cell_of(name: str) -> Cell:
    """The cell of a set; the one of wine_quality is no part of the matrix."""
    wanted = SETS[name][0]
    for cell in read_cells():
        if cell.name == wanted:
            return cell
    data = {"path": f"{SHARED}/wine_quality/wine_quality.csv", "columns": {"tabular": WINE.split(",")}}
    settings = {"data": data, "train": {"steps": 1300}}
    return Cell("wine_quality", "mae", "tabular", settings, ("train", "test"), "quality", {"kind": "standard"}, "r2")


def path_of(name: str, shared: str) -> str:
    """Where the data of a set are, below `shared`."""
    kind, colon, rest = SETS[name][1].rpartition(":")
    return f"{kind}{colon}{shared}/{rest}"


def words_of(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Nested options as `key=value`, as the command takes them."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from words_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"


def commands(name: str, runs: Path, shared: str) -> list[list[str]]:
    """The two commands of a set: what the encoder is made by, and what measures it."""
    cell = cell_of(name)
    pretrain = ["pretrain", cell.recipe, *words_of(cell.set), "--output", str(runs / name)]
    compare = ["finetune", str(runs / name / "model"), "--data", path_of(name, shared), "--compare", *SETS[name][2]]
    return [pretrain, [*compare, "--output", str(runs / f"{name}-compared")]]


def encoder(name: str, folder: Path) -> None:
    """Put the model of a set into `folder`, from what the matrix keeps, where it is not there yet."""
    if folder.is_dir():
        return
    cell, quiet = cell_of(name), {"seed": 0, "evaluation": {"tasks": []}, "train": {"trackers": []}}
    recipe = load_recipe(local(cell.recipe_data()), quiet)
    model, processor, _ = trained(recipe, MATRIX / "cache" / f"{cell.data}.{cell.objective}.0.{cell.training()}")
    save_model(model, processor, folder)


def measure(name: str, runs: Path) -> None:
    """Run what is not there yet, and store the result."""
    encoder(name, runs / name / "model")
    compare = commands(name, runs, str(DATA))[1]
    folder = runs / f"{name}-compared"
    if mmssl([*compare, "--resume"] if folder.is_dir() else compare):
        raise SystemExit(1)
    report = json.loads((folder / "comparison.json").read_text())
    said = [shlex.join(["mmssl", *words]) for words in commands(name, Path("runs"), SHARED)]
    report = {"commands": said, **report}
    report["options"]["path"] = None  # the commands say it, as this machine has nothing to do with it
    (RESULTS / f"compare_{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def stored() -> dict[str, dict[str, Any]]:
    """Set -> result, in the order of the page."""
    places = {name: RESULTS / f"compare_{name}.json" for name in SETS}
    return {name: json.loads(place.read_text()) for name, place in places.items() if place.is_file()}


def summary(found: Mapping[str, Mapping[str, Any]], labels: str = "100") -> list[list[str]]:
    """A row for every set: mean scores with so many labels, what pretraining adds to scratch; titles first."""
    titles = ["fine-tuned", "its linear probe", "from scratch", "untrained, probe", "raw, linear", "raw, boosting"]
    rows = [["data", "encoder", "score", *titles, "fine-tuned less scratch"]]
    for name, report in found.items():
        score, cell = report["score"], cell_of(name)
        means = [report["scores"][score][arm][labels]["mean"] for arm in ARMS]
        less = report["differences"]["scratch"][labels]
        rows.append(
            [f"`{cell.data}`", cell.objective, score.replace("_", " ")]
            + [f"{mean:.3f}" for mean in means]
            + [f"{less['mean']:+.3f} ({less['low']:+.3f} to {less['high']:+.3f})"]
        )
    return rows


def short_table(found: Mapping[str, Mapping[str, Any]], labels: str = "100") -> str:
    """The table of README: a row for every set, the highest score bold, and what fine-tuning beats by its interval."""
    ways = {"scratch": "scratch", "raw_linear": "linear", "raw_boosting": "boosting"}
    titles = ["pretrained", "from scratch", "raw, linear", "raw, boosting", "beyond chance above"]
    rows = [["data", "score", *titles]]
    for name, report in found.items():
        score, cell = report["score"], cell_of(name)
        means = [f"{report['scores'][score][arm][labels]['mean']:.3f}" for arm in ("pretrained", *ways)]
        beaten = [short for arm, short in ways.items() if report["differences"][arm][labels]["says"] == "better"]
        told = [f"**{mean}**" if float(mean) == max(map(float, means)) else mean for mean in means]
        rows.append([f"{cell.data} ({cell.modality})", score.replace("_", " "), *told, ", ".join(beaten) or "-"])
    return "\n".join(markdown(rows, 2))


def counted(found: Mapping[str, Mapping[str, Any]], labels: str = "100") -> str:
    """In how many of the sets fine-tuning from the pretrained encoder has the higher mean than other ways."""

    def ahead(arm: str, of: Mapping[str, Mapping[str, Any]]) -> str:
        less = [report["differences"][arm][labels] for report in of.values()]
        clear = sum(one["says"] == "better" for one in less)
        return f"{sum(one['mean'] > 0 for one in less)} of {len(less)} ({clear} with an interval above 0)"

    tables = {name: report for name, report in found.items() if name in TABLES}
    kept = [report["differences"]["probe"][labels]["mean"] for report in found.values()]
    return (
        f"With {labels} labels fine-tuning from the pretrained encoder is better on average than training from scratch "
        f"on {ahead('scratch', found)} sets, than its own linear probe on {ahead('probe', found)} (equal on "
        f"{sum(mean == 0 for mean in kept)}), than a linear model of the raw features on "
        f"{ahead('raw_linear', found)}, and than boosting on {ahead('raw_boosting', tables)} tables and "
        f"{ahead('raw_boosting', found)} sets."
    )


def table() -> str:
    """The tables of the stored results."""
    found = stored()
    parts = [counted(found), "\n".join(markdown(summary(found), 3))]
    for name, report in found.items():
        about = f"`{cell_of(name).data}`, {report['n_test']:,} test rows, {report['draws']} draws:"
        parts += [about, *("\n".join(markdown(rows, 1)) for rows in (score_rows(report), difference_rows(report)))]
    return "\n\n".join(parts)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*SETS, "table"))
    parser.add_argument("--runs", type=Path, help="where encoders and comparisons are kept")
    args = parser.parse_args()
    if args.what == "table":
        pages.write(pages.FINE_TUNING, table(), MARKS)
        pages.write(pages.README, short_table(stored()), MARKS)
        return
    measure(args.what, args.runs or Path(tempfile.mkdtemp(prefix="compare-")))


if __name__ == "__main__":
    main()
