"""What lies near to what, against cosines in float64; and embeddings out of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toys.refusals import refused

from mmssl.demonstrating.index import Index


def test_the_nearest_rows_are_those_of_the_largest_cosines() -> None:
    drawn = np.random.default_rng(0)
    x, query = drawn.normal(size=(40, 6)) * drawn.uniform(0.1, 9, (40, 1)), drawn.normal(size=6)
    rows = torch.arange(40) * 3
    index = Index({"a": torch.from_numpy(x)}, {"a": rows})
    cosines = (x @ query) / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosines)[:7]
    hits = index.nearest(torch.from_numpy(query), "a", 7)
    assert [hit.row for hit in hits] == (3 * best).tolist()
    assert [hit.cosine for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-6)
    without = index.nearest(torch.from_numpy(query), "a", 7, without=int(3 * best[2]))
    assert [hit.row for hit in without] == [3 * b for b in np.argsort(-cosines)[:8].tolist() if b != best[2]]
    assert len(index.nearest(torch.from_numpy(query), "a", 100)) == 40
    own = index.vector("a", 9)
    assert own is not None and own.norm() == pytest.approx(1, abs=1e-6) and index.vector("a", 10) is None


def test_equal_rows_come_in_their_order() -> None:
    index = Index({"a": torch.ones(5, 3)}, {"a": torch.tensor([2, 4, 5, 8, 9])})
    assert [hit.row for hit in index.nearest(torch.ones(3), "a", 3)] == [2, 4, 5]


def test_another_width_is_refused() -> None:
    with refused("a", "3", "4"):
        Index({"a": torch.ones(5, 3)}, {"a": torch.arange(5)}).nearest(torch.ones(4), "a", 3)


def test_rows_without_an_embedding_are_not_found(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    pq.write_table(pa.table({"row": [0, 1, 2], "a_embedding": [[3.0, 4.0], None, [0.0, 2.0]]}), path)
    index = Index.of_file(path, ["a", "b"])
    assert index.names == ["a"] and index.rows["a"].tolist() == [0, 2]
    assert index.vectors["a"].tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 1.0]]
    with refused("b_embedding", "a_embedding"):
        Index.of_file(path, ["b"])
    pq.write_table(pa.table({"a_embedding": pa.array([None, None], pa.list_(pa.float32()))}), path)
    with refused("no row"):
        Index.of_file(path, ["a"])
