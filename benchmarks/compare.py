"""What pretraining is worth with few labels, on real sets: `python -m benchmarks.compare SET [--runs DIR]`.

SET: letter (letter_recognition, tables), adult (tables), ecg (ptbxl_500, by patient), speech (fsdd), eeg (bonn_eeg).
These last three are the cells `contrastive` of `benchmarks.matrix` with its first seed. The encoder is pretrained by
a shipped recipe, where DIR has none yet, and measured by `mmssl finetune --compare`; nothing is chosen on test rows:
the rate and the step at which a fine-tuned arm stops are chosen in every draw on rows taken from its labels. Results,
with the commands that made them, go to benchmarks/results/compare_SET.json; `table` writes them into
docs/benchmarks/fine-tuning.md. An interrupted comparison goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import tempfile
from pathlib import Path

from mmssl.cli import main as mmssl
from mmssl.evaluation.table import markdown
from mmssl.finetuning.comparison import difference_rows, score_rows

from . import pages

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
MARKS = ("<!-- compared: python -m benchmarks.compare table -->", "<!-- /compared -->")
DATA = Path(os.environ.get("MMSSL_SHARED_DATA", HERE.parents[1] / "shared" / "data"))
LETTER = "x_box,y_box,width,high,onpix,x_bar,y_bar,x2bar,y2bar,xybar,x2ybr,xy2br,x_ege,xegvy,y_ege,yegvx"
FEW = ["labels=[20,100,1000]", "draws=5", "limit=2000", "train.steps=200"]
FEWER = ["labels=[20,100]", "draws=5", "train.steps=200"]
SETS: dict[str, tuple[str, list[str], list[str]]] = {
    "letter": (
        "letter_recognition/letter.csv",
        ["examples/tabular_mae", f"data.columns.tabular=[{LETTER}]", "evaluation.label=letter", "train.steps=1500"],
        ["--label", "letter", *FEW],
    ),
    "adult": (
        "adult/adult.csv",
        ["examples/tabular_mae", "train.steps=1500"],
        ["--label", "income", "score=auroc", *FEW],
    ),
    "ecg": (
        "ptbxl_500/*.parquet",  # its own test rows are 66: all rows, 40 % of the patients held out
        ["examples/ecg_contrastive", "train.steps=360"],
        ["--label", "norm", "score=auroc", "group=patient_id", "test_share=0.4", *FEWER],
    ),
    "speech": (
        "fsdd",
        ["examples/audio_contrastive", "train.steps=320"],
        ["--label", "label", *FEWER],
    ),
    "eeg": (
        "bonn_eeg",
        ["examples/eeg_contrastive", "data.name=null", "modalities.eeg.rate=128", "modalities.eeg.seconds=23",
         "modalities.eeg.reference=null", "modalities.eeg.highpass=null", "modalities.eeg.lowpass=null",
         "modalities.eeg.source_rate=173.61", "modalities.eeg.source_channels=[scalp]", "modalities.eeg.unknown=keep",
         "train.steps=360", "train.batch_size=48"],
        ["--label", "label", *FEWER],
    ),
}  # fmt: skip
"""Set -> (data, words of `mmssl pretrain`, words of `mmssl finetune`)."""


def commands(name: str, runs: Path) -> list[list[str]]:
    """The two commands of a set."""
    place, recipe, words = SETS[name]
    data, run = str(DATA / place), str(runs / name)
    quiet = ["train.trackers=[]", "evaluation.tasks=[linear]"]
    compared = ["--compare", *words, "--output", str(runs / f"{name}-compared")]
    return [
        ["pretrain", recipe[0], f"data.path={data}", *recipe[1:], *quiet, "--output", run],
        ["finetune", run, "--data", data, *compared],
    ]


def measure(name: str, runs: Path) -> None:
    """Run what is not there yet, and store the result."""
    pretrain, compare = commands(name, runs)
    if not (runs / name / "model").is_dir() and mmssl(pretrain):
        raise SystemExit(1)
    folder = runs / f"{name}-compared"
    if mmssl([*compare, "--resume"] if folder.is_dir() else compare):
        raise SystemExit(1)
    report = json.loads((folder / "comparison.json").read_text())
    said = [shlex.join(["mmssl", *words]) for words in commands(name, Path("runs"))]
    report = {"commands": [line.replace(str(DATA), "../shared/data") for line in said], **report}
    report["options"]["path"] = None  # the commands say it, as this machine has nothing to do with it
    (RESULTS / f"compare_{name}.json").write_text(json.dumps(report, indent=1) + "\n")


def table() -> str:
    """The tables of the stored results."""
    parts = []
    for name, (place, _, _) in SETS.items():
        stored = RESULTS / f"compare_{name}.json"
        if stored.is_file():
            report = json.loads(stored.read_text())
            about = f"`{place.partition('/')[0]}`, {report['n_test']:,} test rows, {report['draws']} draws:"
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
        return
    measure(args.what, args.runs or Path(tempfile.mkdtemp(prefix="compare-")))


if __name__ == "__main__":
    main()
