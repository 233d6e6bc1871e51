"""Columns of parquet and Arrow files of types that `datasets` has no word for, beside those that are read."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from toys.refusals import refused

from mmssl.data.sources import open_source
from mmssl.errors import UserError

PAIRS = pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))
ODD = {
    "map": PAIRS,
    "struct of a map": pa.array([{"q": [("a", 1)]}] * 3, pa.struct([("q", pa.map_(pa.string(), pa.int64()))])),
    "list view": pa.array([[1]] * 3, pa.list_view(pa.int64())),
}


def write(folder: Path, kind: str, table: pa.Table) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as sink:
            sink.write_table(table)
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("name", ODD)
def test_a_column_that_nobody_reads_refuses_no_file(
    name: str, kind: str, streaming: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Maps are what Spark and DuckDB write."""
    odd = f"{name} {kind} {streaming}"  # what is said of a column is said once in a process
    path = write(tmp_path, kind, pa.table({"text": ["a", "b", None], odd: ODD[name], "n": [1, 2, 3]}))
    for columns in (None, {"text": "text"}):
        rows = list(open_source(path, columns=columns, streaming=streaming))
        assert [(row["text"], row["n"]) for row in rows] == [("a", 1), ("b", 2), (None, 3)]
        assert odd not in rows[0]
    assert f"column '{odd}' is left out" in caplog.text
    with refused(f"column '{odd}'", path.name, "no row can hold"):
        open_source(path, columns={"text": odd}, streaming=streaming)


@pytest.mark.parametrize(
    "whole", [{"a": {"0": 1, "1": 2}, "b": {"0": "x", "1": None}}, {"a": [1, 2], "b": ["x", None]}]
)
def test_json_by_columns(whole: dict[str, object], tmp_path: Path) -> None:
    """As pandas writes it where nobody says otherwise; it was one row of objects."""
    (tmp_path / "t.json").write_text(json.dumps(whole))
    assert open_source(str(tmp_path / "t.json"), split="train").to_list() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_json_of_several_lists_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"people": [{"a": 1}], "towns": [{"b": 2}, {"b": 3}]}))
    with refused("t.json", "people (1)", "towns (2)"):
        open_source(str(tmp_path / "t.json"), split="train")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_without_a_column_in_common_are_no_parts_of_one(
    ending: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Edges and nodes of a graph became rows of one table, half of them empty."""

    def save(name: str, /, **columns: list[object]) -> None:
        table = pa.table(columns)
        if ending == "csv":
            pacsv.write_csv(table, tmp_path / f"{name}.csv")
        else:
            pq.write_table(table, tmp_path / f"{name}.parquet")

    save("edges", source=[1, 2], target=[2, 1])
    save("nodes", name=["a", "b"], x=[0.5, 1.5])
    with refused(f"edges.{ending}", "source", f"nodes.{ending}", "name", "graph:FOLDER"):
        open_source(str(tmp_path), split="train")
    save("nodes", source=[3], weight=[0.5])
    found = open_source(str(tmp_path), split="train")
    assert list(found["weight"]) == [None, None, 0.5] and "not all have target, weight" in caplog.text


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("a.zip", "unpack it"),
        ("a.pkl", "pickles are never opened"),
        ("a.sqlite", "sqlite3.connect('a.sqlite')"),
        ("a.h5", "numpy.save('a.npy'"),
        ("a.rds", "write.csv(readRDS('a.rds')"),
        ("a.xlsx", "pandas.read_excel('a.xlsx')"),
    ],
)
def test_what_is_not_read_says_what_to_do(name: str, fact: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=re.escape(fact)):
        open_source(str(tmp_path / name), split="train")


def test_an_archive_of_a_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for name in ("a.txt", "b.png", "a.png"):
        (tmp_path / "f" / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(tmp_path / "f", "f")
    with pytest.raises(UserError, match="unpack it"):
        open_source(str(tmp_path / "t.tar"), split="train")
