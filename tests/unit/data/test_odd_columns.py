"""Columns of parquet and Arrow files of types that `datasets` has no word for, beside those that are read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys.refusals import refused

from mmssl.data.sources import open_source

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
