"""`mmssl cluster kind=neighbours`: pairs that are mined, and what goes over from one to the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toys import runs

from mmssl import cluster
from mmssl.cli import main
from mmssl.curation.kmeans import unit
from mmssl.curation.pairing import joined, mined, mutual, nearest_of_others


def by_hand(x: np.ndarray, own: np.ndarray, k: int, least: float) -> list[tuple[int, int]]:
    """Pairs of rows that are each among the other's k nearest of other instances, the most alike first."""
    cosine = x.astype(np.float64) @ x.T.astype(np.float64)

    def near(i: int) -> list[int]:
        others = [j for j in range(len(x)) if own[j] != own[i]]
        return sorted(others, key=lambda j: -cosine[i, j])[:k]

    pairs = [(i, j) for i in range(len(x)) for j in near(i) if i < j and i in near(j) and cosine[i, j] >= least]
    return sorted(pairs, key=lambda pair: -cosine[pair])


@pytest.mark.parametrize(("k", "least"), [(1, -1.0), (3, -1.0), (4, 0.3)])
def test_pairs_are_each_others_nearest_of_other_instances(k: int, least: float) -> None:
    rng = np.random.default_rng(k)
    x = unit(rng.normal(size=(40, 5))).astype(np.float32)
    own = rng.integers(0, 12, size=40)
    pairs, cosines = mutual(*nearest_of_others(x, own, k), least)
    assert [tuple(pair) for pair in pairs.tolist()] == by_hand(x, own, k, least)
    assert np.allclose(cosines, (x[pairs[:, 0]] * x[pairs[:, 1]]).sum(1), atol=1e-6)


def test_what_is_joined_goes_over() -> None:
    x = unit(np.array([[1, 0.02, 0], [0, 1, 0], [1, 0, 0.02], [0, 0, 1], [-1, 0, 0]])).astype(np.float32)
    groups, apart = mined(x, ["a", "a", "b", "b", None], nearest=1, least=0.9, most=2)
    assert groups.tolist() == [0, 0, 0, 0, -1], "A' and B' belong together, and are at right angles"
    assert apart[0] == apart[2] == pytest.approx(1 - float(x[0] @ x[2]), abs=1e-6) and np.isnan(apart[[1, 3, 4]]).all()
    alone, _ = mined(x, None, nearest=1, least=0.9, most=2)
    assert alone.tolist() == [0, -1, 0, -1, -1]


def test_groups_have_no_more_instances_than_they_may() -> None:
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    for most, expected in ((2, [0, 0, 1, 1]), (3, [0, 0, 0, -1]), (4, [0, 0, 0, 0])):
        assert joined(pairs, np.arange(4), most)[0].tolist() == expected


def test_the_file_is_about_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = unit(np.random.default_rng(0).normal(size=(30, 4))).astype(np.float32)
    x[1], x[7], x[20] = x[0], x[5], x[4]
    there = np.arange(30) != 4
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 4, mask=pa.array(~there))
    columns = {"track": [row // 5 for row in range(30)], "image_embedding": lists}
    pq.write_table(pa.table(columns), tmp_path / "e.parquet")
    words = ["cluster", str(tmp_path / "e.parquet"), "--output", str(tmp_path / "p.parquet"), "kind=neighbours"]
    assert main([*words, "least=0.999", "nearest=1"]) == 0
    found = pq.read_table(tmp_path / "p.parquet")
    told = found["cluster"].to_pylist()
    assert found.column_names == ["row", "track", "cluster", "distance"] and len(told) == 30
    assert [row for row in range(30) if told[row] is not None] == [0, 1, 5, 7] and told[0] == told[1] != told[
        5
    ] == told[7]
    assert "26 more are alone" in capsys.readouterr().out
    assert cluster(
        tmp_path / "e.parquet", tmp_path / "p.parquet", kind="neighbours", instance="track", least=0.999
    ) == {"rows": 30, "clustered": 0, "levels": [{"clusters": 0, "least": 0, "most": 0, "distance": 0.0}]}, (
        "within a track they belong together already"
    )
    for more, facts in ((["instance=tracks"], ("instance", "tracks", "track")), (["clusters=5"], ("clusters", "kind"))):
        capsys.readouterr()
        assert main([*words, *more]) == 2
        (line,) = runs.errors(capsys.readouterr().err)
        assert all(fact in line for fact in facts)
    assert main([*words[:-1], "most=3"]) == 2
