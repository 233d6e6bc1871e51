"""Rows of local parquet files by their numbers: what they are, what of files is decoded, and the order of an epoch."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmssl.data import numbered
from mmssl.data.fingerprint import glance
from mmssl.data.loading import presence, read_rows, training_batches
from mmssl.data.mixing import Mixture, Portion, mixed_batches
from mmssl.data.row_groups import ByGroups, Windows, one_behind_another, windows_of
from mmssl.data.sampler import Sampler
from mmssl.data.sources import open_source
from mmssl.errors import RunError, UserError
from mmssl.modality import Preprocessor
from mmssl.options import strict
from mmssl.reading import Reading

from ...toys.refusals import refused

ROWS, GROUP = 230, 10
COPIED = Reading(copy=True)


@strict
@dataclass
class Nothing:
    """No options."""


class Number(Preprocessor[Any]):
    """The first number of a text."""

    def read(self, raw: object, choice: int = 0) -> object:
        return int(str(raw).split()[0])

    def collate(self, samples: Any) -> Any:
        import torch

        return {"x": torch.tensor([-1 if one is None else one for one in samples])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of 130 and 100 rows in row groups of 10, of some 5 kB each, with nulls and a picture's struct."""
    place = tmp_path_factory.mktemp("parquet")
    for name, first, count in (("a", 0, 130), ("b", 130, 100)):
        numbers = range(first, first + count)
        table = {
            "text": [f"{i} " + "x" * 500 for i in numbers],
            "label": pa.array([None if i % 7 == 0 else i % 3 for i in numbers], pa.int32()),
            "image": [None if i % 5 == 0 else {"bytes": bytes([i % 256]) * 50, "path": None} for i in numbers],
        }
        pq.write_table(pa.table(table), place / f"{name}.parquet", row_group_size=GROUP)
    return place


def groups_of(source: Any) -> Any:
    return source._data.groups


def test_rows_are_those_of_the_copy(folder: Path) -> None:
    one, two = open_source(folder), open_source(folder, reading=COPIED)
    assert one.features == two.features and one.column_names == two.column_names and len(one) == ROWS
    some = [3, 200, 3, 129, 130, 0, 229]
    for a, b in (
        (one, two),
        (one.select(some), two.select(some)),
        (one.select(range(9, 140)), two.select(range(9, 140))),
        (one.select_columns(["label"]), two),
    ):
        b = b.select_columns(a.column_names)
        assert list(a) == list(b) and a[:] == b[:]
    assert one[-1] == two[-1] and one[125:135] == two[125:135] and one.__getitems__(some) == two.__getitems__(some)
    assert list(one["label"]) == list(two["label"])
    assert one.with_format("arrow")["text"].to_pylist() == two.with_format("arrow")["text"].to_pylist()
    renamed = one.rename_column("label", "class").cast_column("class", datasets.Value("float64"))
    assert renamed[8]["class"] == 2.0 and renamed.features["class"].dtype == "float64"
    assert one.filter(lambda row: row["label"] == 2).num_rows == two.filter(lambda row: row["label"] == 2).num_rows
    again = pickle.loads(pickle.dumps(one))
    assert again[7] == two[7] and not groups_of(again)._held.keys() - {(0, again._data.told)}


def test_parts_of_splits_are_those_of_the_copy(tmp_path: Path) -> None:
    for split, count in (("train", 100), ("test", 40)):
        pq.write_table(pa.table({"x": [f"{split}{i}" for i in range(count)]}), tmp_path / f"{split}.parquet", 7)
    for split in ("test", "train[:10%]", "train[30:50]+train[-5:]", "test[50%:]"):
        one, two = open_source(tmp_path, split=split), open_source(tmp_path, split=split, reading=COPIED)
        assert list(one["x"]) == list(two["x"]) and str(one.split) == str(two.split)
        assert {k: v.num_examples for k, v in one.info.splits.items()} == {"train": 100, "test": 40}
    with refused("data.split", "dev"):
        open_source(tmp_path, split="dev")


def test_rows_of_several_data_become_one(folder: Path) -> None:
    source, whole = open_source(folder), open_source(folder, reading=COPIED)
    parts = [source.select([3, 200, 5]), source.select(range(4, 7)), whole.select([9])]
    found = one_behind_another([part.select_columns(["image", "label"]) for part in parts])
    assert found[:] == whole.select([3, 200, 5, 4, 5, 6, 9]).select_columns(["image", "label"])[:]


def test_no_copy_is_made(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    source = open_source(folder)
    list(source)
    assert source.cache_files == [] and not any(path.stat().st_size > 10_000 for path in tmp_path.rglob("*"))


def test_columns_of_files_are_put_together(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": pa.array([1, 2], pa.int32()), "y": ["a", None]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1.5], "z": [b"3"]}), tmp_path / "b.parquet")
    assert list(open_source(tmp_path)) == list(open_source(tmp_path, reading=COPIED))
    assert open_source(tmp_path)[2] == {"x": 1.5, "y": None, "z": b"3"}


def test_only_columns_that_are_asked_for_are_decoded_and_so_much_is_kept(folder: Path) -> None:
    source = open_source(folder)
    known, texts = groups_of(source), source.select_columns(["text"])
    known.begin()
    known.limit, before = 12_000, known.decoded
    texts.__getitems__([5, 101, 7, 103])
    assert known.decoded == before + 2  # each row group once, whatever the order of the rows
    assert {key[1] for key in known._held} == {texts._data.told}
    list(texts)
    assert known._bytes <= 12_000 and len(known._held) == 2
    known.keep(0, 5)
    list(texts)
    assert len(known._held) == 5


def test_what_is_there_is_counted_without_the_bytes(folder: Path) -> None:
    source = open_source(folder)
    before = groups_of(source).decoded
    counts = presence(source.select(range(100)), {"image": "image", "any": ["image", "label"]})
    assert counts == {"image": 80, "any": 97}
    assert counts == presence(
        open_source(folder, reading=COPIED).select(range(100)), {"image": "image", "any": ["image", "label"]}
    )
    assert groups_of(source).decoded == before


def test_a_file_that_changes_ends_the_run(tmp_path: Path) -> None:
    place = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": range(10)}), place)
    source = open_source(place)
    pq.write_table(pa.table({"x": range(20)}), place)
    with pytest.raises(RunError, match=r"a\.parquet' was changed"):
        source[0]


def test_a_broken_row_group_costs_its_rows(tmp_path: Path) -> None:
    place = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{i} {'y' * (i % 90)}" for i in range(200)]}), place, row_group_size=20)
    start = pq.read_metadata(place).row_group(4).column(0).dictionary_page_offset
    content = bytearray(place.read_bytes())
    content[start + 40 : start + 200] = bytes(160)
    place.write_bytes(bytes(content))
    source = open_source(place)
    batches = training_batches(source, {"text": Number(Nothing())}, {}, seed=0, batch_size=20)
    bad = [one.index for loaded in itertools.islice(batches, 10) for one in loaded.bad]
    assert sorted(bad) == list(range(80, 100))
    with pytest.raises(UserError, match="^data.path: cannot read [^\n]*$"):
        list(source)


# --- the order ---------------------------------------------------------------------------------------------------


def windows(groups: int = 23, each: int = GROUP, window: int = 40, seed: int = 5) -> Windows:
    return Windows(seed, np.repeat(np.arange(groups), each), np.full(groups, 10), window)


def test_an_epoch_has_every_row_once_and_every_row_group_in_one_window_or_two() -> None:
    by = ByGroups(5, 16, ROWS // 16, ROWS, windows())
    for epoch in range(3):
        rows, numbers = by.epoch(epoch)
        assert len(np.unique(rows)) == len(rows) == 224 and set(numbers.tolist()) == {epoch}
        group = rows.reshape(-1, 16) // GROUP
        for one in range(23):
            batches = np.flatnonzero((group == one).any(1))
            assert batches.max() - batches.min() < 6  # windows of 4 row groups are 2 or 3 batches, of 14
    first, second = by.epoch(0)[0], by.epoch(1)[0]
    assert not np.array_equal(first, second) and np.array_equal(first, by.epoch(0)[0])
    assert not np.array_equal(first, ByGroups(6, 16, 14, ROWS, windows(seed=6)).epoch(0)[0])


def test_which_batch_a_row_is_in_is_drawn_anew() -> None:
    by = ByGroups(5, 10, 4, 40, windows(4))  # one window: 4 batches, each row in each as often
    met = np.zeros((40, 4))
    for epoch in range(400):
        met[by.epoch(epoch)[0], np.repeat(np.arange(4), 10)] += 1
    assert (met.sum(1) == 400).all() and np.abs(met - 100).max() < 45  # 5 sigma


def test_processes_share_the_row_groups_of_a_window() -> None:
    by = ByGroups(5, 16, ROWS // 16, ROWS, windows(window=80))
    alone = list(itertools.islice(Sampler(ROWS, batch_size=16, seed=5, by=by), 30))
    read = []
    for rank in range(4):
        own = list(itertools.islice(Sampler(ROWS, batch_size=16, rank=rank, world=4, seed=5, by=by), 30))
        assert own == [batch[4 * rank : 4 * rank + 4] for batch in alone]
        read.append({(epoch, row // GROUP) for batch in own[:14] for epoch, row in batch})
    assert sum(len(one) for one in read) <= 23 + 4 * 3  # one more at each edge of a slice and a window; not 4 x 23


@pytest.mark.parametrize("gigabytes", [3e-5, 1.0])
def test_batches_are_the_same_by_any_way(folder: Path, gigabytes: float) -> None:
    def batches(**more: Any) -> list[list[int]]:
        source = open_source(folder).select(range(1, ROWS)).select(np.flatnonzero(np.arange(1, ROWS) % 4))
        given = {"seed": 3, "batch_size": 12, "gigabytes": gigabytes, **more}
        found = training_batches(source, {"text": Number(Nothing())}, {}, **given)
        return [loaded.batch["text"]["x"].tolist() for loaded in itertools.islice(found, 40)]

    straight = batches()
    assert all(row % 4 for batch in straight for row in batch) and len(straight[0]) == 12
    assert len({row for batch in straight[:14] for row in batch}) == 168  # of 172, whole batches
    assert batches(start_batch=17)[:20] == straight[17:37]
    assert batches(workers=2) == straight
    halves = zip(batches(rank=0, world=2), batches(rank=1, world=2), strict=True)
    assert [a + b for a, b in halves] == straight
    parts = batches(accumulation=2)
    assert [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)] == straight[:20]
    copied = open_source(folder, reading=COPIED).select(np.flatnonzero(np.arange(ROWS) % 4))
    plain = training_batches(copied, {"text": Number(Nothing())}, {}, seed=3, batch_size=12)
    same = [next(plain).batch["text"]["x"].tolist() for _ in range(20)] == straight[:20]
    assert same == (gigabytes == 1.0)  # where all row groups are kept the order is that of any other data


def test_a_row_group_is_decoded_once_in_an_epoch(folder: Path) -> None:
    source = open_source(folder)
    known = groups_of(source)
    known.begin()
    known.limit = 0
    found = training_batches(source, {"text": Number(Nothing())}, {}, seed=3, batch_size=10, gigabytes=3e-5)
    list(itertools.islice(found, ROWS // 10))
    assert known.decoded == 23
    plain = windows_of(source.select_columns(["text"]), 3, 1.0)
    assert plain is None and known.most == 23
    assert windows_of(source.select_columns(["text"]), 3, 3e-5, world=2) is not None
    assert known.limit < 4e4 and 3 < known.most < 8


def test_an_order_that_goes_anywhere_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mmssl.data.orders import Balanced

    by = Balanced.of(0, 10, np.arange(ROWS) % 3)
    next(
        training_batches(
            open_source(folder), {"text": Number(Nothing())}, {}, seed=0, batch_size=10, by=by, gigabytes=3e-5
        )
    )
    assert "data.copy=true" in caplog.text


def test_a_mixture_reads_row_groups_one_after_the_other(folder: Path) -> None:
    def mixture() -> Mixture:
        other = datasets.Dataset.from_dict({"text": [str(1000 + i) for i in range(50)]})
        parts = {
            "first": Portion(open_source(folder), {"text": "text"}, 230),
            "other": Portion(other, {"text": "text"}, 70),
        }
        return Mixture(parts, 3)

    def batches(mixed: Mixture, count: int, **more: Any) -> list[list[int]]:
        found = mixed_batches(mixed, {"text": Number(Nothing())}, batch_size=20, gigabytes=3e-5, **more)
        return [loaded.batch["text"]["x"].tolist() for loaded in itertools.islice(found, count)]

    mixed = mixture()
    known = groups_of(mixed.portions["first"].source)
    known.begin()
    known.limit = 0
    straight = batches(mixed, 15)
    assert known.decoded <= 23 + 6 and sorted(r for batch in straight for r in batch if r < 1000) == list(range(ROWS))
    assert batches(mixture(), 5, start_batch=7) == straight[7:12]
    halves = zip(batches(mixture(), 9, world=2), batches(mixture(), 9, rank=1, world=2), strict=True)
    assert [a + b for a, b in halves] == straight[:9]


def test_rows_that_are_looked_at_are_of_few_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "HELD", 1000)
    place = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": [str(i) * 20 for i in range(8000)]}), place, row_group_size=20)
    for source in (open_source(place), open_source(place).select(range(1, 8000, 2))):
        known = groups_of(source)
        known.begin()
        assert len(read_rows(source, ["x"], 500, seed=1)) == 500 and known.decoded <= 64
        before = known.decoded
        said = glance(source, ["x"])
        assert len(said["seen"]) == 1024 and known.decoded <= before + 3 * 64
        again = open_source(place) if len(source) == 8000 else open_source(place).select(range(1, 8000, 2))
        assert glance(again, ["x"]) == said
