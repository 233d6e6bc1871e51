"""Tables and texts as somebody brings them: only the path is changed, and the rest is found and said."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mmssl.cli import main
from mmssl.data.explained import _told
from mmssl.options.plainyaml import read

SMALL = {
    "tabular": "model.towers.tabular={width: 16, depth: 1, heads: 2}",
    "text": "model.towers.text={width: 16, depth: 1, heads: 2, prefix: 0}",
}
TRAIN = ["train.steps=3", "train.batch_size=32", "train.trackers=[]", "train.health_every=null", "data.fit_samples=500"]

Pretrain = Callable[..., str]


@pytest.fixture
def pretrain(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Pretrain:
    """Pretrain in `tmp_path`/run with only the path changed; what was said."""
    monkeypatch.chdir(tmp_path)

    def run(recipe: str, path: Path, *words: str, output: str = "run", rc: int = 0) -> str:
        _told.clear()
        size = SMALL[recipe.partition("_")[0]]
        command = ["pretrain", recipe, f"data.path={path}", size, *TRAIN, *words, "--preset", "demo"]
        assert main([*command, "--output", output]) == rc
        said = capsys.readouterr()
        return said.out + said.err

    return run


def some_rows(source: Path, target: Path, rows: int = 400, header: bool = True, **changes: Any) -> Path:
    """The first rows of a csv file, without its column `split`; header: with the names."""
    with source.open(newline="") as file, target.open("w", newline="") as out:
        reader, writer = csv.reader(file), csv.writer(out, **changes)
        names = next(reader)
        keep = [i for i, name in enumerate(names) if name != "split"]
        for row in [*([names] if header else []), *islice(reader, rows)]:
            writer.writerow([row[i] for i in keep])
    return target


def columns_of(run: Path) -> list[str]:
    """The columns of the table, as the run's config.yaml keeps them."""
    found: list[str] = read(run / "config.yaml")["data"]["columns"]["tabular"]
    return found


def test_a_csv_without_a_header(tmp_path: Path, shared_data: Path, pretrain: Pretrain, caplog: Any) -> None:
    data = some_rows(shared_data / "letter_recognition" / "letter.csv", tmp_path / "letter.csv", 600, header=False)
    said = pretrain("tabular_mae", data, "evaluation.label=column_1", "evaluation.tasks=[knn]")
    assert "the columns are called column_1 to column_17" in caplog.text
    assert "tabular leaves out column_1: label" in said and columns_of(tmp_path / "run") == [
        f"column_{i}" for i in range(2, 18)
    ]
    assert "120 rows are held out (20% of the rows, by column_1)" in said and "knn" in said


@pytest.mark.parametrize(
    ("name", "label", "without"),
    [
        ("adult/adult.csv", "income", {"income"}),
        ("wine_quality/wine_quality.csv", "quality", {"quality"}),
        ("california_housing/housing.csv", "ocean_proximity", {"ocean_proximity"}),
        ("clothing_reviews/reviews.csv", "recommended", {"recommended", "row_id", "clothing_id", "title", "review"}),
    ],
)
def test_tables_by_their_path_alone(
    tmp_path: Path, shared_data: Path, pretrain: Pretrain, name: str, label: str, without: set[str]
) -> None:
    data = some_rows(shared_data / name, tmp_path / "t.csv")
    with data.open(newline="") as file:
        names = next(csv.reader(file))
    said = pretrain("tabular_mae", data, f"evaluation.label={label}", "evaluation.tasks=[]")
    assert columns_of(tmp_path / "run") == [name for name in names if name not in without]
    assert f"tabular leaves out {label}: label" in said
    if "review" in without:
        assert "tabular leaves out title, review: running text" in said
        assert "tabular leaves out row_id, clothing_id: identifier, by its name" in said


def test_text_beside_a_table(tmp_path: Path, shared_data: Path, pretrain: Pretrain) -> None:
    data = some_rows(shared_data / "clothing_reviews" / "reviews.csv", tmp_path / "t.csv", 200)
    assert "text is read from the column 'review'" in pretrain("text_mae", data, "evaluation.tasks=[]")
    news = some_rows(shared_data / "ag_news_mini" / "train.csv", tmp_path / "news.csv", 200)
    said = pretrain("text_mae", news, "evaluation.tasks=[]", output="news")
    assert "text is read from the column 'description'" in said
    assert main(["embed", "news", "--data", str(news), "--output", "e.parquet"]) == 0  # the model's own column
    assert pq.read_metadata("e.parquet").num_rows == 200
    alike = tmp_path / "alike.csv"
    alike.write_text(
        "left,right\n" + "a few words are here now,and some more of them\n" * 3 + "x y z a b c,q w e r t\n"
    )
    said = pretrain("text_mae", alike, output="alike", rc=2)
    assert "several columns may hold text: left, right; say which with data.columns.text=COLUMN" in said


@pytest.mark.parametrize("lines", [20, 60])
def test_a_corpus_of_any_size(tmp_path: Path, shared_data: Path, pretrain: Pretrain, lines: int) -> None:
    corpus = tmp_path / "corpus.txt"
    with (shared_data / "prose_republic" / "train.txt").open() as file:
        corpus.write_text("".join(islice((line for line in file if line.strip()), lines)))
    said = pretrain("text_mae", corpus, "modalities.text.vocab_size=null", "train.batch_size=8")
    assert f"{lines // 5} rows are held out" in said and "rankme" in said


def test_one_file_is_measured_on_the_same_rows_by_every_command(
    tmp_path: Path, shared_data: Path, pretrain: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_rows(shared_data / "wine_quality" / "wine_quality.csv", tmp_path / "t.csv", 300)
    pretrain("tabular_mae", data, "evaluation.label=quality", "evaluation.tasks=[knn]")
    trained = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert main(["evaluate", "run", "--data", str(data), "--label", "quality", "--task", "knn"]) == 0
    shown = capsys.readouterr().out
    knn = trained["tasks"]["knn"]["tabular/accuracy"]
    assert f"{knn['model']:.3f}"[:5] in shown or f"{100 * knn['model']:.1f}" in shown
    words = ["finetune", "run", "--data", str(data), "--label", "quality", "--peft", "linear", "train.steps=2"]
    assert main([*words, "--output", "tuned"]) == 0
    tuned = json.loads((tmp_path / "tuned" / "evaluation.json").read_text())
    assert tuned["n_test"] == trained["n_test"] == knn["n"] == 60
    assert tuned["n_train"] + tuned["n_validation"] == trained["n_train"] == 240


def test_a_label_that_is_an_input_is_refused(
    tmp_path: Path, shared_data: Path, pretrain: Pretrain, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_rows(shared_data / "wine_quality" / "wine_quality.csv", tmp_path / "t.csv", 100)
    lines = data.read_text().splitlines()  # all red: every second one is called white, so that there are classes
    data.write_text("\n".join(line.replace("red", "white") if n % 2 else line for n, line in enumerate(lines)) + "\n")
    pretrain("tabular_mae", data, "evaluation.tasks=[]")
    assert main(["finetune", "run", "--data", str(data), "--label", "color", "--output", "tuned"]) == 2
    assert "--label: found 'color', which the modality 'tabular' reads" in capsys.readouterr().err
    assert main(["evaluate", "run", "label=color"]) == 2  # of the run's own rows
    (error,) = capsys.readouterr().err.splitlines()[-1:]
    assert "found 'color', which the modality 'tabular' reads as an input" in error
    words = shlex.split(error.partition("pretrain without it: ")[2])
    assert words[:3] == ["mmssl", "pretrain", "run/config.yaml"] and words[-1] == "evaluation.label=color"
    assert main([*words[1:], "evaluation.tasks=[knn]", "--output", "again"]) == 0
    knn = capsys.readouterr().out
    assert columns_of(tmp_path / "again") == [name for name in columns_of(tmp_path / "run") if name != "color"]
    assert main(["evaluate", "again", "label=color", "--task", "knn"]) == 0
    assert capsys.readouterr().out.strip() in knn, "the same rows, the same numbers, without a word about the data"
    said = pretrain("tabular_mae", data, "evaluation.label=color", "data.columns.tabular=[color,ph]", output="x", rc=2)
    assert "evaluation.label: found 'color', which the modality 'tabular' reads" in said


@pytest.mark.parametrize(("called", "values"), [("class", "xyz"), ("outcome", "ab")])
def test_what_may_be_the_label_is_said(tmp_path: Path, pretrain: Pretrain, called: str, values: str) -> None:
    data = tmp_path / "t.csv"
    rows = [f"{i * 7 % 50},{i * 13 % 91 / 10},{values[i % len(values)]}" for i in range(100)]
    data.write_text("\n".join([f"one,two,{called}", *rows]) + "\n")
    said = pretrain("tabular_mae", data)
    if called == "class":
        assert columns_of(tmp_path / "run") == ["one", "two"] and f"tabular leaves out {called}: label" in said
        assert f"chosen: evaluation.label={called}" in said and f"by {called})" in said and "knn " in said
        assert "if that is what you want to predict" not in said
        assert main(["evaluate", "run", "--task", "knn"]) == 0, "it is the label for every command"
        return
    assert "tabular reads 'outcome' as an input; if that is what you want to predict (by its name)" in said
    assert "evaluation.label=outcome leaves it out" in said


def test_odd_names_of_columns_go_through_the_printed_command(tmp_path: Path, pretrain: Pretrain) -> None:

    data = tmp_path / "odd names.csv"
    names = ["2019", "a, b", "it's", "no", "Größe (m)"]
    with data.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([names, *([i, f"{i},5", f"$ {i % 7}", "yn"[i % 2], f"1.{i:03d},25"] for i in range(60))])
    said = pretrain("tabular_mae", data, "evaluation.label='2019'")
    (command,) = [line.strip() for line in said.splitlines() if line.startswith("  mmssl embed")]
    assert main(shlex.split(command)[1:]) == 0
    assert pq.read_metadata("run/embeddings.parquet").num_rows == 60
    (command,) = [line.strip() for line in said.splitlines() if line.startswith("  mmssl evaluate")]
    assert main(shlex.split(command)[1:]) == 0
    chosen = 'data.columns.tabular=["a, b", "it\'s"]'
    said = pretrain("tabular_mae", data, chosen, "evaluation.tasks=[]", output="chosen")
    (command,) = [line.strip() for line in said.splitlines() if line.startswith("  mmssl embed")]
    assert main(shlex.split(command)[1:]) == 0


def test_ids_and_file_names_are_kept(tmp_path: Path, pretrain: Pretrain) -> None:
    data = tmp_path / "t.csv"
    rows = "".join(f"P{i:04d},scan_{i}.png,{i % 5},{i * i % 17}\n" for i in range(50))
    data.write_text("PatientId,file,a,b\n" + rows)
    said = pretrain("tabular_mae", data, "evaluation.tasks=[]")
    assert "tabular leaves out PatientId, file: identifier, by its name" in said
    assert main(["embed", "run", "--data", str(data), "--output", "e.parquet"]) == 0
    table = pq.read_table("e.parquet")
    assert table["PatientId"][3].as_py() == "P0003" and table["file"][3].as_py() == "scan_3.png"
    assert table["row"][3].as_py() == 3
