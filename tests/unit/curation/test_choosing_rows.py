"""The parts of `mmssl select`: SimCore's rounds, classes that a target hits, copies, scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmssl.curation.duplicates import alike_rows, same_contents
from mmssl.curation.embeddings import Embeddings, open_embeddings, standardise
from mmssl.curation.kmeans import unit
from mmssl.curation.near import hits, simcore, similarities, target_centres
from mmssl.curation.scores import best_rows, pair_cosines, typicality
from mmssl.data.sampler import order
from mmssl.errors import UserError


def kept_at(path: Path, **columns: Any) -> Embeddings:
    """A file of embeddings (None: absent), opened at its first column."""
    pq.write_table(pa.table({name: pa.array(list(x), pa.list_(pa.float32())) for name, x in columns.items()}), path)
    return open_embeddings(path, next(iter(columns)), "embeddings")


def by_hand(alike: Any, stop: float, reference: int) -> list[int]:
    """SimCore's rounds, centre by centre."""
    used: set[int] = set()
    means: list[float] = []
    while len(used) < len(alike):
        wanted = {}
        for centre in range(alike.shape[1]):
            free = [row for row in range(len(alike)) if row not in used]
            wanted[centre] = max(free, key=lambda row: alike[row, centre])
        mean = np.mean([alike[row, centre] for centre, row in wanted.items()])
        if len(means) >= reference and mean < stop * means[reference - 1]:
            break
        means.append(mean)
        used |= set(wanted.values())
    return sorted(used)


@pytest.mark.parametrize(("stop", "reference"), [(0.95, 1), (0.9, 3), (0.0, 1)])
def test_simcore_takes_what_each_centre_is_nearest_to_until_a_round_is_worse(stop: float, reference: int) -> None:
    rng = np.random.default_rng(0)
    alike = (unit(rng.normal(size=(60, 5))) @ unit(rng.normal(size=(4, 5))).T).astype(np.float32)
    rows, means = simcore(alike, stop, reference)
    assert sorted(rows.tolist()) == by_hand(alike, stop, reference) and len({*rows.tolist()}) == len(rows)
    assert all(mean >= stop * means[reference - 1] for mean in means[reference:])


def test_simcore_takes_no_more_than_is_asked_for_and_nothing_without_an_embedding() -> None:
    alike = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.7], [-np.inf, -np.inf]], np.float32)
    assert simcore(alike, 0.0, 1, most=1)[0].tolist() == [0]
    assert simcore(alike, 0.0, 1)[0].tolist() == [0, 2, 1]


def test_near_is_near_to_the_target(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    axes = np.repeat(np.eye(4), 30, 0) + 0.1 * rng.normal(size=(120, 4))
    rows = kept_at(tmp_path / "rows.parquet", v=[None, *axes.tolist()])
    target = kept_at(tmp_path / "target.parquet", v=(np.eye(4)[[1] * 9] * 3 + 0.1 * rng.normal(size=(9, 4))).tolist())
    alike = similarities(rows, target_centres(target, 3, 0))
    assert np.isneginf(alike[0]).all() and alike[31:61].min() > alike[61:].max()
    assert {*simcore(alike, 0.8, 1)[0].tolist()} == set(range(31, 61))


def test_standardised_embeddings_are_told_apart_where_cosines_are_all_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    spread = np.repeat(np.eye(3), 20, 0) + 0.1 * rng.normal(size=(60, 3))
    x = 100 + spread * [1, 5, 0.2]
    rows, target = kept_at(tmp_path / "r.parquet", v=x.tolist()), kept_at(tmp_path / "t.parquet", v=x[20:24].tolist())
    assert len(simcore(similarities(rows, target_centres(target, 2, 0)), 0.8, 1)[0]) == 60
    standardise(rows, target)
    found = np.concatenate(list(rows.vectors()))
    held = x.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(found, (held - held.mean(0)) / held.std(0), rtol=1e-4, atol=1e-4)
    assert {*simcore(similarities(rows, target_centres(target, 2, 0)), 0.8, 1)[0].tolist()} == set(range(20, 40))


def test_classes_are_hit_by_the_rows_of_the_target(tmp_path: Path) -> None:
    rows = kept_at(tmp_path / "rows.parquet", v=[[1, 0], [9, 1], [0, 2], [0, 1], [-1, 0], None])
    target = kept_at(tmp_path / "target.parquet", v=[[1, 0.1], [5, 0], [0, 1], None, [-1, 0]])
    there = np.array([True, True, True, True, False, True])
    assert hits(rows, ["a", "a", "b", "b", "c", "a"], there, target) == {"a": 2, "b": 2}
    assert hits(rows, ["a", "a", None, "b", "c", ""], np.ones(6, bool), target) == {"a": 2, "b": 1, "c": 1}


def test_copies_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"one")
    (tmp_path / "y").write_bytes(b"one")
    table = datasets.Dataset.from_dict(
        {"f": [str(tmp_path / "x"), "one", str(tmp_path / "y"), "two"], "n": [1, 1, 1, 1], "id": list("abcd")}
    )
    assert same_contents(table, ["f", "n"], range(4)) == {1: 0, 2: 0}, "files count by their bytes"
    assert same_contents(table, ["f", "id"], range(4)) == {} and same_contents(table, ["n"], [1, 3]) == {3: 1}


@pytest.mark.parametrize("block", [3, 2048])
def test_of_rows_that_are_alike_the_first_stays(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.curation.duplicates.BLOCK", block)
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(12, 6)))
    x[[4, 7, 9]] = x[[0, 0, 3]] + 0.02 * rng.normal(size=(3, 6))
    x[11] = x[5]
    x = unit(x).astype(np.float32)
    numbers = np.arange(12) * 10
    found = alike_rows(numbers, x, 0.95)
    assert {row: first for row, (first, _) in found.items()} == {40: 0, 70: 0, 90: 30, 110: 50}
    assert found[40][1] == pytest.approx(float(x[4] @ x[0])) and found[110][1] == pytest.approx(1)
    assert set(alike_rows(numbers, x, 1.0)) == {110}
    apart = alike_rows(numbers, x, 0.95, ["a"] * 6 + ["b"] * 6)
    assert set(apart) == {40}, "only within a group"


def test_a_chain_of_likenesses_leaves_what_is_alike_to_nothing_kept() -> None:
    angles = np.radians([0, 20, 40, 60])
    x = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = alike_rows(np.arange(4), x, np.cos(np.radians(25)))
    assert set(found) == {1, 3}, "row 2 is alike to row 1 alone, which is gone"


def test_typicality_and_pairs_are_their_formulas(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = unit(rng.normal(size=(9, 3))).astype(np.float32)
    numbers = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9])
    found = typicality(numbers, x, 10, 2)
    apart = np.sort(np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=2), 1)[:, 1:3].mean(1)
    np.testing.assert_allclose(found[numbers], 1 / apart, rtol=1e-4)
    assert np.isnan(found[8])
    one = kept_at(tmp_path / "e.parquet", a=[[1, 0], None, [3, 4]], b=[[1, 1], [1, 0], [4, 3]])
    cosines = pair_cosines(one, open_embeddings(tmp_path / "e.parquet", "b", "embeddings"))
    assert np.isnan(cosines[1]) and cosines[[0, 2]] == pytest.approx([0.5**0.5, 24 / 25])
    with pytest.raises(UserError, match="'a' has 2 values and 'b' 1"):
        wide = kept_at(tmp_path / "w.parquet", a=[[1, 0]], b=[[1]])
        pair_cosines(wide, open_embeddings(tmp_path / "w.parquet", "b", "embeddings"))


def test_the_best_stay_and_equal_ones_are_drawn() -> None:
    scores = np.array([0.0, 2, 1, 2, 2, 1])
    rows, drawn = np.array([0, 1, 2, 3, 5]), order(6, 0, 0)
    assert best_rows(scores, rows, 2, False, drawn).tolist() == [1, 3]
    assert best_rows(scores, rows, 2, True, drawn)[0] == 0
    ones = np.ones(200)
    first, other = (best_rows(ones, np.arange(200), 20, False, order(200, seed, 0)) for seed in (0, 1))
    assert len(first) == 20 and set(first) != set(other) and set(first) != set(range(20))
