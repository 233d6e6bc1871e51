"""Three encoders on four sets in one table: `python -m benchmarks.suite [--runs DIR]`, and `table`.

Three short runs of shipped recipes on the pictures of cifar10_mini (contrastive, masked patches, JEPA), then one
`mmssl evaluate` of all of them on the sets of suite.yaml, of which three are others than they learned from. Nothing was
searched or chosen by these rows. An interrupted suite goes on where it was. Results go to
benchmarks/results/suite.json, `table` writes them into docs/benchmarks/suite.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from mmssl.cli import main as mmssl
from mmssl.evaluation.table import markdown
from mmssl.judging.table import tables

from . import pages

HERE = Path(__file__).resolve().parent
RESULTS, SETS = HERE / "results" / "suite.json", HERE / "suite.yaml"
MARKS = ("<!-- suite: python -m benchmarks.suite table -->", "<!-- /suite -->")
SHARED = "../shared/data"
DATA = os.environ.get("MMSSL_SHARED_DATA", str(HERE.parents[1] / "shared" / "data"))
ENCODERS = {"contrastive": "examples/image_contrastive", "mae": "examples/image_mae", "jepa": "examples/image_jepa"}
SET = ["modalities.image.patch=7", "model.towers.image.width=96", "model.towers.image.depth=3", "train.batch_size=64",
       "train.steps=150", "train.trackers=[]", "evaluation.tasks=[]"]  # fmt: skip
KEPT = ("first", "rows", "broken")
TASKS = ("linear", "knn")
"""Of the tables on the page; calibration errors are in the stored results."""


def commands(runs: Path, data: str, sets: str) -> list[list[str]]:
    """The commands, with the data and the file of the sets where they are."""
    start = ["pretrain", "RECIPE", f"data.path={data}/cifar10_mini", *SET, "--resume", "auto", "--output"]
    learned = [[*start[:1], recipe, *start[2:], str(runs / name)] for name, recipe in ENCODERS.items()]
    models = [str(runs / name) for name in ENCODERS]
    return [*learned, ["evaluate", *models, "--data", sets, "--output", str(runs / "suite"), "--resume", "auto"]]


def measure(runs: Path) -> None:
    """Run what is not there yet, and store the result."""
    here = runs / "sets.yaml"
    runs.mkdir(parents=True, exist_ok=True)
    here.write_text(SETS.read_text().replace(SHARED, DATA))
    for words in commands(runs, DATA, str(here)):
        done = (Path(words[words.index("--output") + 1]) / "model").is_dir()
        if not done and mmssl(words):
            raise SystemExit(1)
    report = json.loads((runs / "suite" / "suite.json").read_text())
    said = [" ".join(["mmssl", *words]) for words in commands(Path("runs"), SHARED, "benchmarks/suite.yaml")]
    stored = {"commands": said, **{key: report[key] for key in KEPT}, "notes": []}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


def table(stored: dict) -> str:
    """The tables of the stored results: accuracies, and paired differences."""
    rows = [row for row in stored["rows"] if row["task"] in TASKS and row["metric"].endswith("/accuracy")]
    return "\n\n".join("\n".join(markdown(found, 3)) for found in tables({**stored, "rows": rows}))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("table",))
    parser.add_argument("--runs", type=Path, help="where encoders and the suite are kept")
    args = parser.parse_args()
    if args.what == "table":
        pages.write(pages.SUITE, table(json.loads(RESULTS.read_text())), MARKS)
        return
    measure(args.runs or Path(tempfile.mkdtemp(prefix="suite-")))


if __name__ == "__main__":
    main()
