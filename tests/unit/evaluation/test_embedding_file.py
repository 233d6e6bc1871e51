"""`mmssl embed`: the file, going on after an interruption, what is left when it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys.points import READERS, ByHand, table
from toys.refusals import refused

from mmssl.errors import RunError, UserError
from mmssl.evaluation.embedding_file import write_embeddings


@pytest.mark.parametrize("streaming", [False, True])
def test_write_embeddings(tmp_path: Path, streaming: bool) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    points = [[1.0, 2.0, 2.0, 4.0], None, [3.0, 0.0], [0.0, 0.0, 0.0, 2.0]]
    data: Any = table(point=points, text=["the one", "two", "three", None], id=["a", "b", "c", "d"])
    data = data.to_iterable_dataset() if streaming else data
    path = tmp_path / "new" / "out.parquet"
    columns = {"point": "point", "text": "text"}
    summary = write_embeddings(ByHand(True), READERS, data, columns, path, batch_size=3)
    assert summary["rows"] == 4 and summary["present"] == {"point": 2, "text": 3} and len(summary["bad"]) == 1
    out = pq.read_table(path)
    assert out.column_names == ["row", "id", "point_embedding", "point_present", "text_embedding", "text_present"]
    assert out.schema.field("point_embedding").type == pa.list_(pa.float32(), 4)
    rows = out.to_pylist()
    assert [r["row"] for r in rows] == [0, 1, 2, 3] and [r["id"] for r in rows] == ["a", "b", "c", "d"]
    assert rows[0]["point_embedding"] == pytest.approx([0.2, 0.4, 0.4, 0.8])
    assert [r["point_present"] for r in rows] == [True, False, False, True] and rows[1]["point_embedding"] is None
    assert rows[3]["point_embedding"] == [0, 0, 0, 1] and rows[3]["text_embedding"] is None
    assert rows[2]["text_embedding"] is not None, "a broken point costs itself"
    whole = write_embeddings(ByHand(True), READERS, data, columns, path, batch_size=3, broken="row")
    assert whole["present"] == {"point": 2, "text": 2} and len(whole["bad"]) == 1
    assert [r["text_present"] for r in pq.read_table(path).to_pylist()] == [True, True, False, False]
    write_embeddings(ByHand(True), READERS, data, {"point": "point"}, path, pooled=True)
    assert pq.read_table(path)["point_embedding"][0].as_py() == points[0]


@pytest.mark.parametrize("streaming", [False, True])
def test_embedding_goes_on_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool
) -> None:
    import pyarrow.parquet as pq

    points = [[float(i), 1.0, 0.0, 0.0] if i % 4 else None for i in range(11)]
    points[5] = [1.0]  # broken
    rows: Any = table(point=points, id=[f"n{i}" for i in range(11)])
    data = rows.to_iterable_dataset() if streaming else rows
    path, columns = tmp_path / "out.parquet", {"point": "point"}
    whole = tmp_path / "whole.parquet"
    model = ByHand(True)
    expected = write_embeddings(model, READERS, data, columns, whole, batch_size=2)
    real, seen = pq.write_table, []

    def full(found: Any, *args: Any, **kwargs: Any) -> None:
        seen.append(found["row"].to_pylist())
        if len(seen) == 3:
            raise OSError(28, "No space left on device")
        real(found, *args, **kwargs)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(RunError, match=r"out.parquet.*No space left.*goes on from there"):
        write_embeddings(model, READERS, data, columns, path, batch_size=2, part_rows=4)
    assert not path.exists()
    seen.clear()
    summary = write_embeddings(model, READERS, data, columns, path, batch_size=2, part_rows=4)
    assert seen == [[8, 9, 10]] and summary.pop("resumed") == 8 and expected.pop("resumed") == 0
    assert summary == expected and pq.read_table(path).equals(pq.read_table(whole))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.parquet", "whole.parquet"]


def test_parts_of_other_data_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    path, columns = tmp_path / "out.parquet", {"point": "point"}
    first, other = (table(point=[[x, 1.0, 0.0, 0.0]] * 4) for x in (1.0, 2.0))
    real = pq.ParquetWriter
    monkeypatch.setattr(pq, "ParquetWriter", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with refused("full", error=RunError):  # while joining: every part is there
        write_embeddings(ByHand(True), READERS, first, columns, path, batch_size=2, part_rows=2)
    monkeypatch.setattr(pq, "ParquetWriter", real)
    summary = write_embeddings(ByHand(True), READERS, other, columns, path, batch_size=2, part_rows=2)
    assert summary["resumed"] == 0
    found = torch.tensor(pq.read_table(path)["point_embedding"].to_pylist())
    torch.testing.assert_close(found, torch.nn.functional.normalize(torch.tensor([[2.0, 1.0, 0.0, 0.0]] * 4), dim=1))


def test_a_failed_embedding_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    data = table(point=[[1.0, 0.0, 0.0, 0.0]] * 6)
    path = tmp_path / "out.parquet"
    path.write_text("old")
    real = pq.ParquetWriter.write_table

    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with refused("out.parquet", "No space left on device", error=RunError):
        write_embeddings(ByHand(True), READERS, data, {"point": "point"}, path, batch_size=2)
    left = sorted(p.name for p in tmp_path.iterdir() if "out" in p.name)
    assert path.read_text() == "old" and left == [".out.parquet.parts", "out.parquet"]
    with pytest.raises(UserError, match="lies below 'out.parquet', which is a file"):
        write_embeddings(ByHand(True), READERS, data, {"point": "point"}, path / "below" / "a.parquet")
    with pytest.raises(UserError, match="is a folder"):
        write_embeddings(ByHand(True), READERS, data, {"point": "point"}, tmp_path)
