"""`mmssl cluster`: the file, nesting, rows without an embedding, a kill, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import runs, tuned
from toys.points import READERS, ByHand, table

from mmssl import cluster
from mmssl.cli import main
from mmssl.curation import clustering, kmeans
from mmssl.curation.kmeans import unit
from mmssl.data.row_files import about_of
from mmssl.errors import UserError
from mmssl.evaluation.embedding_file import write_embeddings

N = 60


def embedded(path: Path, n: int = N, lists: bool = False, **columns: Any) -> Any:
    """(n, 6) embeddings around 6 axes, sorted, every tenth one absent; written to `path`."""
    rng = np.random.default_rng(0)
    x = unit(np.eye(6)[np.arange(n) * 6 // n] + 0.1 * rng.normal(size=(n, 6))).astype(np.float32)
    absent = np.arange(n) % 10 == 9
    values: Any = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 6, mask=pa.array(absent))
    values = values.cast(pa.list_(pa.float32())) if lists else values
    names = pa.array([f"r{i}" for i in range(n)])
    columns = {"id": names, "image_embedding": values, "image_present": pa.array(~absent)} | columns
    pq.write_table(pa.table({"row": pa.array(range(n), pa.int64()), **columns}), path, row_group_size=7)
    return x, ~absent


@pytest.mark.parametrize("lists", [False, True])
def test_the_file_has_a_cluster_and_a_distance_for_each_row(tmp_path: Path, lists: bool) -> None:
    x, there = embedded(tmp_path / "e.parquet", lists=lists)
    done = cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", clusters=[6])
    found = pq.read_table(tmp_path / "c.parquet")
    assert found.column_names == ["row", "id", "cluster", "distance"]
    assert found["row"].to_pylist() == list(range(N)) and found["id"][3].as_py() == "r3"
    labels = found["cluster"].to_pylist()
    assert [label is None for label in labels] == list(~there)
    axes = np.arange(N) * 6 // N
    assert len({(labels[i], axes[i]) for i in np.flatnonzero(there)}) == 6, "the clusters are the axes"
    own = [i for i in np.flatnonzero(there) if labels[i] == labels[0]]
    centre = unit(x[own].astype(np.float64).mean(0, keepdims=True))[0]
    assert found["distance"][0].as_py() == pytest.approx(1 - float(x[0] @ centre), abs=1e-6)
    assert done == {"rows": N, "clustered": 54, "levels": [done["levels"][0]]}
    assert done["levels"][0]["least"] == done["levels"][0]["most"] == 9


@pytest.mark.parametrize("kind", ["spherical", "plain"])
def test_levels_nest_and_a_sample_and_the_seed_change_no_more_than_they_say(tmp_path: Path, kind: str) -> None:
    embedded(tmp_path / "e.parquet", 240)
    tables = []
    for seed in (0, 0, 1):
        cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", clusters=[24, 6, 2], kind=kind, seed=seed, sample=100)
        tables.append(pq.read_table(tmp_path / "c.parquet"))
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])
    fine, middle, coarse = (tables[0].drop_null()[name].to_numpy() for name in ("cluster", "cluster_2", "cluster_3"))
    for below, above, count in ((fine, middle, 6), (middle, coarse, 2)):
        pairs = {*zip(below.tolist(), above.tolist(), strict=True)}
        assert len(pairs) == len({*below.tolist()}), "no cluster lies in two"
        assert len({*above.tolist()}) == count


def test_balanced_clusters_of_many_passes_have_one_size(tmp_path: Path) -> None:
    embedded(tmp_path / "e.parquet", 250)
    done = cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", clusters=8, balanced=True, sample=60)
    assert (done["levels"][0]["least"], done["levels"][0]["most"]) == (28, 29) and done["clustered"] == 225


def test_the_file_says_which_data_it_is_about(tmp_path: Path) -> None:
    rows = table(point=[[float(i), 1.0, 0.0, 0.0] for i in range(9)], id=[f"n{i}" for i in range(9)])
    write_embeddings(ByHand(True), READERS, rows, {"point": "point"}, tmp_path / "e.parquet")
    cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", clusters=[3])
    mine, theirs = (about_of(tmp_path / f"{name}.parquet", "x") for name in "ce")
    assert mine["rows"] == 9 and mine["columns"] == ["point"]
    assert mine["sha256"] == theirs["sha256"] and len(mine["sha256"]) == 64


def test_what_is_stopped_leaves_the_old_file_and_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded(tmp_path / "e.parquet")
    (tmp_path / "c.parquet").write_text("old")
    real = pq.ParquetWriter.write_table

    def stopped(self: Any, found: Any) -> None:
        real(self, found)
        raise KeyboardInterrupt

    monkeypatch.setattr(pq.ParquetWriter, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", clusters=[3])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.parquet", "e.parquet"]
    assert (tmp_path / "c.parquet").read_text() == "old"
    monkeypatch.undo()
    assert cluster(tmp_path / "e.parquet", tmp_path / "c.parquet", clusters=[3])["clustered"] == 54


def test_a_model_embeds_first_and_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tuned.image_base(tmp_path / "base")
    words = ["cluster", str(base), "--data", "builtin:digits", "limit=50", "--output", str(tmp_path / "c.parquet")]
    assert main([*words, "clusters=[4]"]) == 0
    assert "c.parquet: 50 rows\n4 clusters of" in capsys.readouterr().out
    assert (tmp_path / "c.embeddings.parquet").is_file()
    before = (tmp_path / "c.embeddings.parquet").stat().st_mtime_ns
    assert main([*words, "clusters=[5]"]) == 0 and "embedded already" in capsys.readouterr().out
    assert (tmp_path / "c.embeddings.parquet").stat().st_mtime_ns == before
    assert main([*words[:3], "builtin:digits", "limit=40", *words[5:], "clusters=[4]"]) == 0
    assert "c.parquet: 40 rows\n" in capsys.readouterr().out
    monkeypatch.setattr(clustering, "write_clusters", None)
    assert main([*words, "clusters=[4]", "column=text_embedding"]) == 2
    assert "column: found 'text_embedding', expected one of image_embedding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clusters=[3,4]"], "clusters: found 4 behind 3, expected fewer"),
        (["clusters=[]"], "clusters: found none, expected a number of clusters"),
        (["clusters=[55]"], "clusters: found 55, but 54 rows have an embedding"),
        (["clusters=[30]", "sample=20"], "clusters: found 30, but sample is 20"),
        (["--data", "builtin:digits"], "--data: found it beside"),
        (["split=test"], "split: found it beside"),
        (["column=text"], "has no embeddings 'text', it has image_embedding"),
        (["kind=plane"], "did you mean 'plain'?"),
        (["search=faiss", "balanced=true"], "search"),
        (["search=faiss"], "search: found faiss, which is not installed: pip install 'mmssl[faiss]'"),
        (["label=x"], "label: found a column, but clusters are of embeddings"),
    ],
)
def test_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "find_spec", lambda name: None)
    embedded(tmp_path / "e.parquet")
    assert main(["cluster", str(tmp_path / "e.parquet"), "--output", str(tmp_path / "c.parquet"), *words]) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert said in line and not (tmp_path / "c.parquet").exists()


def test_files_that_hold_no_embeddings_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "t.parquet")
    (tmp_path / "n.parquet").write_bytes(b"PAR1 no")
    odd = pa.array([[1.0, 2.0], None, [1.0]])
    pq.write_table(pa.table({"v": odd}), tmp_path / "odd.parquet")
    pq.write_table(pa.table({"v": pa.array([[1.0, 2.0], [float("nan"), 1.0]])}), tmp_path / "nan.parquet")
    pq.write_table(pa.table({"v": pa.array([None, None], pa.list_(pa.float32()))}), tmp_path / "none.parquet")
    pq.write_table(pa.table({"v": odd, "w": odd}), tmp_path / "two.parquet")
    for name, said in {
        "t": "found no embeddings among a, b",
        "n": "is no whole parquet file",
        "m": "no such file",
        "odd": "row 2: found 1 values in 'v', expected 2",
        "nan": "row 1: 'v' holds what is no number",
        "none": "has no row with a 'v'",
        "two": "found the embeddings v, w, expected column=NAME",
    }.items():
        with pytest.raises(UserError, match=said):
            cluster(tmp_path / f"{name}.parquet", tmp_path / "c.parquet", clusters=[1])
    capsys.readouterr()
