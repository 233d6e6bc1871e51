"""`mmssl select`: the file, the order of its steps, what it is refused for, and who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import runs, tuned
from toys.refusals import refused

import mmssl
from mmssl.cli import main
from mmssl.curation import selecting
from mmssl.curation.kmeans import unit
from mmssl.data.row_files import kept_rows
from mmssl.errors import UserError
from mmssl.finetuning.asking import load_options
from mmssl.finetuning.partition import open_split
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import open_training_data

N = 40


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rows.parquet (x, kind, score; row 9 is a copy of row 4), its embeddings, and target.parquet near to kind b."""
    rng = np.random.default_rng(0)
    kind = np.array(["a"] * 10 + ["b"] * 20 + ["c"] * 10)
    x = unit(np.eye(3)[np.searchsorted(["a", "b", "c"], kind)] + 0.1 * rng.normal(size=(N, 3))).astype(np.float32)
    x[9] = x[4]
    columns = {
        "x": [f"{v[0]:.6f}" for v in x],
        "kind": kind.tolist(),
        "score": rng.permutation(N).tolist(),
        "several": [[1]] * N,
    }
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(N)], **columns}), tmp_path / "rows.parquet")
    pq.write_table(pa.table({"x_embedding": x.tolist()}), tmp_path / "e.parquet")
    pq.write_table(pa.table({"x_embedding": x[10:14].tolist()}), tmp_path / "target.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chosen(*words: str) -> Any:
    """The file that the command writes of rows.parquet."""
    assert main(["select", "rows.parquet", *words, "--output", "s.parquet"]) == 0
    return pq.read_table("s.parquet").to_pandas()


def test_every_step_says_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = chosen("--drop-duplicates", "--column", "x=x")
    assert list(found) == ["row", "id", "reason", "of", "value"] and found["row"].tolist() == list(range(N))
    assert found["reason"].tolist() == ["kept"] * 9 + ["copy"] + ["kept"] * 30 and found["of"][9] == 4
    assert "39 of 40 rows are kept\n  1 copy\n" in capsys.readouterr().out
    near = chosen("--drop-duplicates", "0.9999", "--embeddings", "e.parquet", "--column", "kind=kind,id")
    assert near["reason"][9] == "near copy" and near["of"][9] == 4 and near["value"][9] == pytest.approx(1)
    far = chosen("--near", "target.parquet", "--embeddings", "e.parquet", "near_stop=0.8", "near_reference=1")
    assert set(far["reason"][10:30]) == {"kept"} and set(far["reason"][:10]) == {"far"} == set(far["reason"][30:])
    assert far["value"][10:30].min() > far["value"][:10].max()
    some = chosen("--near", "target.parquet", "--embeddings", "e.parquet", "near_rows=7")
    assert (some["reason"] == "kept").sum() == 7
    table = pq.read_table("rows.parquet").to_pandas()
    low = chosen("--keep", "0.25", "--by", "score")
    assert set(low["reason"][table["score"] >= 30]) == {"kept"} and (low["reason"] == "low score").sum() == 30
    high = chosen("--keep", "0.25", "--by", "score", "order=lowest")
    assert set(high["reason"][table["score"] < 10]) == {"kept"}
    each = chosen("--keep", "0.5", "--by", "random", "each=kind")
    assert each[each["reason"] == "kept"].groupby(table["kind"]).size().to_dict() == {"a": 5, "b": 10, "c": 5}
    even = chosen("--balance", "kind")
    assert even[even["reason"] == "kept"].groupby(table["kind"]).size().to_dict() == {"a": 10, "b": 10, "c": 10}
    assert (even["reason"] == "surplus").sum() == 10
    hit = chosen("--near", "target.parquet", "--embeddings", "e.parquet", "near_classes=kind", "near_share=0.3")
    assert [*hit["reason"][[0, 10, 30]]] == ["far", "kept", "far"]


def test_classes_are_kept_that_a_model_takes_the_target_for(place: Path) -> None:
    pq.write_table(pa.table({"taken_for": ["c", "b", "c", None, "b", "c", "z"]}), "predicted.parquet")
    words = ("--near", "predicted.parquet", "near_predicted=taken_for", "near_classes=kind")
    kinds = pq.read_table("rows.parquet")["kind"].to_pylist()
    for share, expected in (("0.3", {"c"}), ("0.7", {"b", "c"})):
        found = chosen(*words, f"near_share={share}")
        assert {kinds[row] for row in np.flatnonzero(found["reason"] == "kept")} == expected
        assert found["value"][[0, 10, 30]].tolist() == [0, 2, 3] and found["reason"][0] == "far"


def test_steps_come_in_one_order_and_an_earlier_selection_before_them(place: Path) -> None:
    chosen("--near", "target.parquet", "--embeddings", "e.parquet", "near_stop=0.8", "near_reference=1")
    (place / "s.parquet").rename(place / "first.parquet")
    found = chosen("--balance", "kind", "--keep", "0.9", "--by", "random", "--drop-duplicates", "select=first.parquet")
    counts = found["reason"].value_counts().to_dict()
    assert counts == {"before": 20, "kept": 18, "low score": 2}
    all_of_them = chosen("--balance", "kind", "--keep", "0.5", "--by", "score", "--drop-duplicates", "--column", "x=x")
    table = pq.read_table("rows.parquet").to_pandas()
    counts = all_of_them["reason"].value_counts().to_dict()
    assert counts["copy"] == 1 and counts["low score"] == 19, "the copy is gone when half are kept"
    kept = all_of_them[all_of_them["reason"] == "kept"]
    assert len({*kept.groupby(table["kind"]).size()}) == 1


def test_columns_come_from_clusters_too(place: Path) -> None:
    assert main(["cluster", "e.parquet", "--output", "c.parquet", "clusters=3"]) == 0
    clusters = pq.read_table("c.parquet").to_pandas()
    found = chosen("--balance", "cluster", "--beside", "c.parquet")
    kept = found["reason"] == "kept"
    assert clusters[kept].groupby("cluster").size().tolist() == [10, 10, 10]
    found = chosen("--keep", "0.5", "--by", "distance", "--beside", "c.parquet", "order=lowest")
    kept = found["reason"] == "kept"
    assert clusters["distance"][kept].max() <= clusters["distance"][~kept].min()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "found no step, expected one of --drop-duplicates"),
        (["--keep", "0.5"], "keep: found 0.5 without a score"),
        (["--keep", "1.5", "--by", "score"], "keep: found 1.5, expected > 0"),
        (["--by", "score"], "by: found score, which has no effect with keep: null"),
        (["--keep", "0.5", "--by", "kind"], "by: column 'kind' holds str in row 0, expected numbers"),
        (["--keep", "0.5", "--by", "skore"], "did you mean 'score'?"),
        (["--keep", "0.5", "--by", "typicalty"], "did you mean 'typicality'?"),
        (["--keep", "0.5", "--by", "target"], "by: found target, but no target is named"),
        (["--keep", "0.5", "--by", "pair"], "by: found pair without embeddings"),
        (["--keep", "0.5", "--by", "pair", "--embeddings", "e.parquet"], "has embeddings of x_embedding, expected two"),
        (["--balance", "kinds"], "balance: found no column 'kinds'"),
        (["--drop-duplicates", "0.9"], "drop_duplicates: found 0.9 without embeddings"),
        (["--near", "target.parquet"], "near: found target.parquet without embeddings"),
        (["--near", "there", "--embeddings", "e.parquet"], "near: found 'there', which is no file of embeddings"),
        (["--near", "there", "near_classes=kind", "near_predicted=p"], "near: found 'there', expected a parquet"),
        (
            ["--near", "e.parquet", "near_classes=kind", "near_predicted=p"],
            "near_predicted: 'e.parquet' has no column 'p'",
        ),
        (["--near", "rows.parquet", "near_classes=kind", "near_predicted=id"], "is taken for a class of 'kind'"),
        (["--near", "wide.parquet", "--embeddings", "e.parquet"], "has embeddings of 2 values"),
        (["--balance", "kind", "--embeddings", "target.parquet"], "is about 4 rows, the data have 40"),
        (["--balance", "kind", "--beside", "target.parquet"], "is about 4 rows, the data have 40"),
        (["--balance", "kind", "limit=3"], "limit: found 3, but a selection is about all rows"),
        (["--balance", "kind", "balance=x"], "balance: found it as an override beside --balance"),
        (["--balance", "kind", "select=rows.parquet"], "is no selection: found the columns"),
        (["--balance", "kind", "group=kind"], "group: found a column, but"),
        (["--balance", "several"], "balance: column 'several' holds list in row 0, expected words or numbers"),
        (["--keep", "0.5", "--by", "random", "each=several"], "each: column 'several' holds list"),
        (["--drop-duplicates", "within=several"], "within: column 'several' holds list"),
        (["--balance", "kind", "--output", "s.csv"], "output: 's.csv' ends in .csv"),
        (["--balance", "kind", "--output", "rows.parquet"], "output: 'rows.parquet' is what is read"),
        (["--balance", "kind", "--output", "rows.parquet/s.parquet"], "lies below 'rows.parquet', which is a file"),
        (["--near", "near.csv", "--embeddings", "e.parquet"], "near: found 'near.csv', which is no file of embeddings"),
    ],
)
def test_refused_in_one_line(words: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"x_embedding": [[1.0, 0.0]]}), "wide.parquet")
    Path("near.csv").write_text("x\n0.5\n")
    before = Path("rows.parquet").read_bytes()
    assert main(["select", "rows.parquet", "--output", "s.parquet", *words]) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert said in line and Path("rows.parquet").read_bytes() == before and not (place / "s.parquet").exists()


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_leaves_what_was_there(place: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    if before:
        chosen("--balance", "kind")
    files = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}

    def half(table: pa.Table, where: Any, **rest: Any) -> None:
        Path(where).write_bytes(b"PAR1")
        raise runs.Killed

    with monkeypatch.context() as patch, pytest.raises(runs.Killed):
        patch.setattr(pq, "write_table", half)
        main(["select", "rows.parquet", "--keep", "0.5", "--by", "random", "--output", "s.parquet"])
    assert {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()} == files
    assert (chosen("--keep", "0.5", "--by", "random")["reason"] == "kept").sum() == N // 2


def test_what_a_killed_selection_had_embedded_is_not_embedded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tuned.image_base(tmp_path / "base")
    words = ["select", "builtin:digits", "split=test", "--embeddings", str(base), "--keep", "0.5", "--by", "typicality"]
    assert main([*words, "--output", str(tmp_path / "straight.parquet")]) == 0

    def killed(*rest: Any) -> None:
        raise runs.Killed

    with monkeypatch.context() as patch, pytest.raises(runs.Killed):
        patch.setattr(selecting, "typicality", killed)
        main([*words, "--output", str(tmp_path / "s.parquet")])
    assert not (tmp_path / "s.parquet").exists() and (tmp_path / "s.embeddings.parquet").is_file()
    monkeypatch.setattr("mmssl.evaluation.embedding_file.evaluation_batches", killed)
    capsys.readouterr()
    assert main([*words, "--output", str(tmp_path / "s.parquet")]) == 0
    ours, theirs = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("s", "straight"))
    assert ours.equals(theirs)


def test_a_selection_of_other_data_is_refused(place: Path) -> None:
    chosen("--balance", "kind")
    rows = datasets.Dataset.from_parquet("rows.parquet", cache_dir="cache")
    assert len(kept_rows("s.parquet", rows, "data.select")) == 30
    as_text = rows.map(lambda row: {"score": str(row["score"])})
    assert len(kept_rows("s.parquet", as_text, "data.select")) == 30, "numbers are the same however they are read"
    for other, said in (
        (rows.select(range(39)), "is about 40 rows, the data have 39: it belongs to other data"),
        (rows.remove_columns("kind"), "belongs to other data: these have no column 'kind'"),
        (rows.select([1, 0, *range(2, N)]), "their rows hold something else in id, kind, score, several, x"),
        (rows.to_iterable_dataset(), "rows of a stream have no numbers, expected streaming=false"),
    ):
        with pytest.raises(UserError, match=f"data.select: .*{said}"):
            kept_rows("s.parquet", other, "data.select")


def digits(place: Path, *words: str) -> Path:
    """A selection of the digits' training rows: a tenth of each."""
    path = place / "digits.parquet"
    words = ("--keep", "0.1", "--by", "random", "each=label", *words)
    assert main(["select", "builtin:digits", *words, "--output", str(path)]) == 0
    return path


def test_a_recipe_trains_on_the_rows_that_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = digits(tmp_path)
    kept = np.flatnonzero([reason == "kept" for reason in pq.read_table(path)["reason"].to_pylist()])
    recipe = load_recipe("image_mae", ["data.path=builtin:digits", f"data.select={path}"])
    opened = open_training_data(recipe)
    assert opened.numbers is not None and opened.numbers.tolist() == kept.tolist()
    assert len(opened.source) == len(kept) and f"{len(kept):,} rows are trained on" in opened.said[-1]
    whole = open_training_data(load_recipe("image_mae", ["data.path=builtin:digits"]))
    assert whole.numbers is None
    assert opened.source["label"][:] == [whole.source["label"][i] for i in kept.tolist()]
    limited = open_training_data(
        load_recipe("image_mae", ["data.path=builtin:digits", "data.limit=9", f"data.select={path}"])
    )
    assert limited.numbers is not None and len(limited.numbers) == 9 and set(limited.numbers) <= set(kept)
    content = runs.recipe(data={"path": "builtin:digits", "select": str(path)})
    capsys.readouterr()
    assert runs.cli(tmp_path, "data.split=test", content=content, output="other") == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "data.select" in line and "is about 1,437 rows, the data have 360" in line


def test_held_out_rows_stay_held_out(place: Path) -> None:
    rows = pq.read_table("rows.parquet")
    more = pa.concat_tables([rows] * 3).set_column(0, "id", pa.array([f"r{i}" for i in range(3 * N)]))
    pq.write_table(more, "more.parquet")
    assert main(["select", "more.parquet", "--keep", "0.5", "--by", "random", "--output", "s.parquet"]) == 0
    words = ["data.path=more.parquet", "evaluation.label=kind", "data.columns.tabular=[x,score]"]
    plain = open_training_data(load_recipe("tabular_mae", words))
    some = open_training_data(load_recipe("tabular_mae", [*words, "data.select=s.parquet"]))
    assert plain.held is not None and some.held is not None and some.numbers is not None
    assert plain.held.held.tolist() == some.held.held.tolist()
    kept = pq.read_table("s.parquet")["reason"].to_pylist()
    assert some.numbers.tolist() == [i for i in plain.held.rest.tolist() if kept[i] == "kept"]


def test_other_commands_read_the_rows_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, base = digits(tmp_path), tuned.image_base(tmp_path / "base")
    found = mmssl.embed(base, "builtin:digits", tmp_path / "e.parquet", select=str(path))
    assert found["rows"] == len(pq.read_table(path).filter(pa.compute.field("reason") == "kept"))
    test = tmp_path / "test.parquet"
    assert (
        main(["select", "builtin:digits", "--keep", "0.2", "--by", "random", "split=test", "--output", str(test)]) == 0
    )
    scores = mmssl.evaluate(base, "builtin:digits", label="label", tasks=["knn"], select=str(test), train_limit=60)
    assert scores["n_test"] == 72 and scores["n_train"] == 60
    options = load_options([f"select={path}"], {"path": "builtin:digits", "label": "label"})
    readers = MMSSLProcessor.from_pretrained(base).preprocessors
    assert [len(open_split(options, split, readers)) for split in ("train", "test")] == [found["rows"], 360]
    with refused("data.select", 360, "1,437"):
        open_split(load_options([f"select={test}"], {"path": "builtin:digits", "label": "label"}), "train", readers)


def test_a_model_makes_the_embeddings_of_rows_and_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = tuned.image_base(tmp_path / "base")
    words = ["--embeddings", str(base), "--near", "builtin:digits", "near_split=test", "near_rows=50"]
    place = tmp_path / "s.parquet"
    assert main(["select", "builtin:digits", *words, "near_clusters=10", "--output", str(place)]) == 0
    assert "50 of 1,437 rows are kept" in capsys.readouterr().out
    assert {"s.embeddings.parquet", "s.target.parquet"} <= {p.name for p in tmp_path.iterdir()}
    other = tuned.image_base(tmp_path / "other", seed=1)
    files = ["--embeddings", str(tmp_path / "s.embeddings.parquet"), "--near", str(tmp_path / "o.parquet")]
    mmssl.embed(other, "builtin:digits", tmp_path / "o.parquet", limit=20)
    assert main(["select", "builtin:digits", *files, "--output", str(place)]) == 2
    assert "was made by another model than" in capsys.readouterr().err
