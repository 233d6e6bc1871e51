"""Streams that are read by several: every row once an epoch, the same rows for any number of workers, and the place in
the data without reading what was read."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from toys.refusals import refused

from mmssl.data import arrow_files, open_source, shards, training_batches
from mmssl.data.loading import Loaded
from mmssl.data.shards import Lengths, Shards
from mmssl.data.shuffling import held_after, shuffled
from mmssl.data.streams import Plan, micro_batches
from mmssl.modality import Preprocessor

SHARDS, BUFFER, BATCH = 64, 8, 32


class Place(Preprocessor):
    """A modality that is the number of a row, as its text says it."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: Any, choice: int = 0) -> Any:
        return int(raw)

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {"place": torch.tensor(samples)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 parquet files of 6 to 10 rows, in row groups of 4."""
    folder = tmp_path_factory.mktemp("files")
    for shard in range(SHARDS):
        rows = [str((shard << 32) + place) for place in range(6 + shard % 5)]
        datasets.Dataset.from_dict({"text": rows}).to_parquet(folder / f"{shard:02}.parquet", batch_size=4)
    return folder


def opened(path: Path, shards: str = "*") -> datasets.IterableDataset:
    source = open_source(str(path / f"{shards}.parquet"), streaming=True)
    assert isinstance(source, datasets.IterableDataset)
    return source


@pytest.fixture(scope="module")
def every(files: Path) -> datasets.IterableDataset:
    return opened(files)


@pytest.fixture(scope="module")
def few(files: Path) -> datasets.IterableDataset:
    """Ten of the files, of 80 rows together."""
    return opened(files, "0*")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were read in this process, from now on."""
    out: list[int] = []
    real = shards.stream_rows

    def counted(source: Any) -> Iterator[dict[str, Any]]:
        for row in real(source):
            out.append(int(row["text"]))
            yield row

    monkeypatch.setattr(shards, "stream_rows", counted)
    return out


def batches(source: Any, rank: int = 0, world: int = 4, **more: Any) -> Iterator[Loaded]:
    given = {"seed": 5, "batch_size": BATCH, "shuffle_buffer": BUFFER, "rank": rank, "world": world, **more}
    return training_batches(source, {"text": Place()}, {}, **given)


def take(source: Any, n: int, **more: Any) -> list[Loaded]:
    return list(itertools.islice(batches(source, **more), n))


def same(a: Sequence[Loaded], b: Sequence[Loaded]) -> bool:
    return len(a) == len(b) and all(
        x.rows.equal(y.rows) and x.epoch == y.epoch and x.batch["text"]["place"].equal(y.batch["text"]["place"])
        for x, y in zip(a, b, strict=True)
    )


def seen(loaded: Sequence[Loaded]) -> list[int]:
    return [int(row) for batch in loaded for row in batch.rows]


# --- every row once ----------------------------------------------------------------------------------------------


def test_four_processes_read_64_shards_once(every: datasets.IterableDataset, read: list[int]) -> None:
    rows = sum(6 + shard % 5 for shard in range(SHARDS))
    steps = rows // BATCH
    table = [Lengths() for _ in range(4)]
    runs = [take(every, steps, rank=rank, lengths=table[rank]) for rank in range(4)]
    assert all(batch.size == BATCH // 4 for run in runs for batch in run), "batches are whole"
    assert all(batch.rows.equal(batch.batch["text"]["place"]) for run in runs for batch in run)
    # 4 processes of 4 readers have read what they gave, what is in their buffers, and a row to see that there is one
    assert len(read) <= steps * BATCH + 16 * (BUFFER + 1)
    assert len(set(read)) > rows - 16 * 10, "a reader that has longer shards has not come to its last one yet"
    twice = len(read) - len(set(read))
    assert twice <= 16 * 10, "one that has shorter ones has begun the next epoch"
    given = [int(row) for run in runs for batch in run if batch.epoch == 0 for row in batch.rows]
    assert len(set(given)) > 0.9 * len(given)
    assert len({shard for lengths in table for shard in lengths.known}) >= SHARDS - 16


@pytest.mark.parametrize(("world", "readers"), [(1, 2), (2, 1), (2, 3), (4, 2)])
def test_another_world_reads_the_same_rows_once_in_every_epoch(
    few: datasets.IterableDataset, world: int, readers: int
) -> None:
    given: list[tuple[int, int]] = []
    for rank in range(world):
        plan = Plan(5, BUFFER, 24, 1, rank, world, readers)
        for items in itertools.islice(micro_batches(plan, Shards(few, ["text"]), Lengths(), 0), 15):
            assert all(row is not None and int(row["text"]) == number for _, number, row in items)
            given += [(epoch, number) for epoch, number, _ in items]
    assert len(given) == 15 * 24 == len(set(given)), "none twice in an epoch"
    every = {(shard << 32) + place for shard in range(10) for place in range(6 + shard % 5)}
    assert {number for epoch, number in given if epoch == 0} == every, "none left out"
    assert {number for epoch, number in given if epoch == 1} == every
    assert sum(epoch > 1 for epoch, _ in given) == 15 * 24 - 2 * len(every)


def test_the_order_is_of_seed_and_world(few: datasets.IterableDataset) -> None:
    assert same(take(few, 4, world=2), take(few, 4, world=2))
    assert seen(take(few, 4, world=2)) != seen(take(few, 4, world=2, seed=6)) != seen(take(few, 4, world=1, seed=6))
    parts = [take(few, 8, world=2, accumulation=2), take(few, 4, world=2)]
    assert seen(parts[0]) == seen(parts[1]), "micro-batches are parts of the same steps"


def test_the_order_of_one_process_is_pinned(few: datasets.IterableDataset) -> None:
    """A run of an earlier version goes on with these rows."""
    given = take(few, 20, world=1, batch_size=6)
    assert [[(row >> 32) * 100 + (row & 0xFF) for row in seen([given[n]])] for n in (0, 12, 13)] == PINNED
    assert [batch.epoch for batch in given[12:14]] == [0, 1]


PINNED = [[901, 900, 903, 906, 201, 907], [807, 704, 806, 803, 703, 801], [705, 707, 704, 700, 701, 400]]


# --- workers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("readers", [2, 3])
def test_workers_that_read_change_nothing(few: datasets.IterableDataset, readers: int | None) -> None:
    """Of three readers two workers cannot have the same number: one reads."""
    state = torch.get_rng_state()
    learned = [Lengths(), Lengths()]
    runs = [
        take(few, 9, world=2, workers=workers, readers=readers, accumulation=2, start_batch=3, lengths=learned[n])
        for n, workers in enumerate((0, 2))
    ]
    assert same(*runs) and torch.get_rng_state().equal(state)
    assert learned[1].known and learned[1].known.items() <= {s: 6 + s % 5 for s in range(SHARDS)}.items()


def test_what_goes_wrong_in_a_worker_is_said_in_one_line(tmp_path: Path) -> None:
    for shard in range(4):
        datasets.Dataset.from_dict({"text": [str(n) for n in range(9)]}).to_parquet(tmp_path / f"{shard}.parquet")
    source = open_source(tmp_path, streaming=True)
    for shard in range(4):
        path = tmp_path / f"{shard}.parquet"
        path.write_bytes(path.read_bytes()[:40] + b"\0" * 40 + path.read_bytes()[80:])
    for workers in (0, 2):
        with refused("the stream"):
            take(source, 9, world=2, readers=2, workers=workers)


# --- going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world", "readers", "workers"), [(1, None, 0), (1, None, 2), (2, 1, 0), (2, 2, 2)])
def test_going_on_reads_the_buffer_again_and_no_more(
    few: datasets.IterableDataset, read: list[int], world: int, readers: int | None, workers: int
) -> None:
    lengths, steps = Lengths(), 40  # of 8 samples: four epochs of ten whole batches where the rest is left out
    more = {"world": world, "rank": world - 1, "readers": readers, "workers": workers, "batch_size": 8}
    straight = take(few, steps, lengths=lengths, **more)
    for start in (2, 8, 10, 37):  # early and late in an epoch, at its end, and late in the last
        del read[:]
        assert same(take(few, 2, start_batch=start, lengths=lengths, **more), straight[start : start + 2])
        # of the rows in a buffer of 8 the oldest came some 8 (ln 8 + 0.6) before; workers read ahead
        if not workers:
            assert len(read) <= 6 * BUFFER + 2 * 8
    assert same(take(few, 2, start_batch=23, **more), straight[23:25]), (
        "without the lengths it reads, to the same place"
    )
    lengths.known = {shard: rows for shard, rows in lengths.known.items() if shard % 3}
    assert same(take(few, 2, start_batch=36, lengths=lengths, **more), straight[36:38])


def test_row_groups_before_the_place_are_not_read(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[str] = []
    real = arrow_files.check_group
    monkeypatch.setattr(arrow_files, "check_group", lambda *given: (groups.append(given[-1]), real(*given))[1])
    source = opened(files)
    shard = 4  # of 10 rows, in groups of 4, 4 and 2
    for offset, expected in ((0, 3), (3, 3), (4, 2), (7, 2), (9, 1), (10, 0)):
        del groups[:]
        rows = list(Shards(source, ["text"]).rows(shard, offset))
        assert [int(row["text"]) & 0xFFFF for _, row in rows] == [place for place, _ in rows] == list(range(offset, 10))
        assert len(groups) == expected


@pytest.mark.parametrize("kind", ["tar", "csv", "split", "files"])
def test_a_shard_can_begin_anywhere(tmp_path: Path, kind: str) -> None:
    """Of archives, text, rows that a filter leaves, and rows whose names of files were made full paths."""
    column = "txt" if kind == "tar" else "text"
    for shard in range(3):
        texts = [f"{shard}-{n}" for n in range(9)]
        if kind == "tar":
            with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
                for n, text in enumerate(texts):
                    entry = tarfile.TarInfo(f"{n}.txt")
                    entry.size = len(text)
                    tar.addfile(entry, BytesIO(text.encode()))
        elif kind == "csv":
            (tmp_path / f"{shard}.csv").write_text("text\n" + "\n".join(texts) + "\n")
        elif kind == "files":
            for text in texts:
                (tmp_path / text).write_text(text)
            datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / f"{shard}.parquet", batch_size=2)
        else:
            rows = {"text": texts, "split": [("train", "test", "train")[n % 3] for n in range(9)]}
            datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{shard}.parquet", batch_size=2)
    path = tmp_path / "*.parquet" if kind in ("split", "files") else tmp_path
    source = open_source(str(path), streaming=True)
    assert isinstance(source, datasets.IterableDataset)
    of = Shards(source, [column])
    whole = list(of.rows(1))
    assert len(whole) == (6 if kind == "split" else 9)
    for offset in range(1, 10):
        assert list(of.rows(1, offset)) == whole[offset:]


@pytest.mark.parametrize("buffer", [1, 2, 7, 40])
@pytest.mark.parametrize("total", [0, 1, 30, 60])
def test_a_shuffle_can_begin_anywhere(buffer: int, total: int) -> None:
    def rows(number: int) -> Iterator[int]:
        return iter(range(number, total))

    straight = list(shuffled(rows, (3, 1), buffer))
    assert sorted(straight) == list(range(total))
    for gone in range(total + 1):
        rest = list(shuffled(rows, (3, 1), buffer, gone, total))
        assert rest == straight[gone:]
        if total - gone >= buffer:
            assert list(shuffled(rows, (3, 1), buffer, gone)) == rest, "without the total, while rows come in"


def test_the_buffer_is_known_at_once_wherever_it_is() -> None:
    assert np.abs(held_after((3, 1), 7, 10**12) - 10**12).max() < 200


# --- too few shards ----------------------------------------------------------------------------------------------


def test_too_few_shards_are_read_together(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for shard in range(3):
        (tmp_path / f"{shard}.csv").write_text("text\n" + "\n".join(str(9 * shard + n) for n in range(9)) + "\n")
    source = open_source(tmp_path, streaming=True)
    one = take(source, 5, world=1, batch_size=8)
    four = [take(source, 5, rank=rank, batch_size=8) for rank in range(4)]
    assert [seen(parts) for parts in zip(*four, strict=True)] == [seen([batch]) for batch in one]
    assert "3 shards (files), fewer than 4 processes" in caplog.text


def test_one_parquet_file_is_read_by_row_groups(tmp_path: Path) -> None:
    rows = [str(n) for n in range(96)]
    datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / "one.parquet", batch_size=8)
    source = open_source(tmp_path / "one.parquet", streaming=True)
    runs = [take(source, 6, rank=rank, world=2, batch_size=16, shuffle_buffer=1, readers=2) for rank in range(2)]
    placed = torch.cat([batch.batch["text"]["place"] for run in runs for batch in run])
    assert sorted(placed.tolist()) == list(range(96))
    learned = Lengths()  # of the row groups; one process reads the file
    take(source, 6, world=2, batch_size=16, lengths=learned)
    assert learned.known and same(
        take(source, 2, world=1, start_batch=2, lengths=learned), take(source, 4, world=1)[2:]
    )
    limited = open_source(tmp_path / "one.parquet", streaming=True, limit=20)
    halves = [take(limited, 2, rank=rank, world=2, batch_size=10) for rank in range(2)]
    assert sorted(seen(halves[0]) + seen(halves[1])) == list(range(20)), "the first rows, for any number of processes"


def test_data_smaller_than_a_batch_are_refused(files: Path) -> None:
    source = opened(files, "0[0-3]")
    with refused("30 samples, fewer than one batch"):
        take(source, 9, world=2, batch_size=64)


# --- behind a URL ------------------------------------------------------------------------------------------------


@pytest.fixture
def memory(files: Path) -> Iterator[str]:
    """The first of the files in fsspec's memory, and its URL."""
    import fsspec

    system = fsspec.filesystem("memory")
    for path in files.glob("0[0-3].parquet"):
        system.pipe(f"/streams/{path.name}", path.read_bytes())
    yield "memory://streams"
    system.rm("/streams", recursive=True)


def test_files_behind_a_url_are_streamed_as_those_here(memory: str, files: Path) -> None:
    there, here = open_source(f"{memory}/*.parquet", streaming=True), opened(files, "0[0-3]")
    for workers in (0, 2):
        more = {"world": 2, "readers": 2, "batch_size": 8, "workers": workers}
        assert same(take(there, 5, **more), take(here, 5, **more))
    assert list(open_source(f"file://{files}/00.parquet", streaming=True)) == list(opened(files, "00"))
    with refused("memory://streams", "ends in parquet, csv"):
        open_source(memory)
    with refused("memory://streams/none.csv"):
        open_source(f"{memory}/none.csv")


def test_a_signed_address_is_of_what_it_names(files: Path) -> None:
    import threading
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(files)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        signed = f"http://127.0.0.1:{server.server_port}/00.parquet?for=test&signature=0a.b"
        assert list(open_source(signed, streaming=True)) == list(opened(files, "00"))
    finally:
        server.shutdown()
        server.server_close()


def test_rows_behind_a_url_name_no_files_here(memory: str, tmp_path: Path) -> None:
    from mmssl.data.origins import origins, places

    source = open_source(f"{memory}/00.parquet", streaming=True)
    assert origins(source) == {"memory://streams"}
    within = places(source)
    assert within is not None and not any(tmp_path.is_relative_to(place) for place in within)
