"""A stream of 64 shards and four real processes, whole copies and shares of the model: in an epoch every row is read by
one of them and once, and a run that was killed goes on in its place, from wherever, at the same small cost."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.distributed as dist
from toys import runs
from toys.processes import free_ports, processes

from mmssl.cli import main
from mmssl.data import open_source, shards
from mmssl.data.streams import READERS

pytestmark = pytest.mark.slow

SHARDS, ROWS, WORLD, BATCH = 64, 8, 4, 16
EPOCH = SHARDS * ROWS // BATCH
"""Steps: 32."""
BUFFER = 4
PLACES = (7, 26)
"""Where runs are killed: early and late in the epoch."""
EVERY = 5
"""Steps between checkpoints."""


def content(data: Path, parallel: str | None) -> dict[str, Any]:
    train = {"steps": EPOCH, "save_every": EVERY, "log_every": 1, "health_every": None, "guard": None}
    out = runs.recipe(train={**train, "batch_size": BATCH, "parallel": parallel, "keep": 1})
    out["data"] = {"path": str(data), "streaming": True, "shuffle_buffer": BUFFER}
    out["model"] = {"towers": {"image": {"width": 16, "depth": 1, "heads": 2}}}
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    source = open_source("builtin:digits", limit=SHARDS * ROWS).select_columns(["image"])
    assert isinstance(source, datasets.Dataset)
    for shard in range(SHARDS):
        source.shard(SHARDS, shard).to_parquet(folder / f"{shard:02}.parquet", batch_size=5)
    return folder


def worker(rank: int, ports: list[int], folder: Path, data: Path, parallel: str | None, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
    own = folder / f"recipe-{rank}"
    own.mkdir()
    path = str(runs.write(own, content(data, parallel)))
    read: list[bytes] = []
    real = shards.stream_rows

    def counted(source: Any) -> Any:
        for row in real(source):
            read.append(row["image"]["bytes"])
            yield row

    shards.stream_rows = counted

    def run(*words: str) -> list[bytes]:
        os.environ["MASTER_PORT"] = str(ports.pop(0))
        del read[:]
        assert main(["pretrain", path, "--output", *words]) == 0
        return list(read)

    results["straight", rank] = run(str(folder / "straight"))
    for place in PLACES:
        with runs.killed_at(place):
            run(str(folder / f"cut-{place}"))
        dist.destroy_process_group()
        results[place, rank] = run(str(folder / f"cut-{place}"), "--resume")


@pytest.mark.parametrize("parallel", [None, "fsdp2"])
def test_each_row_once_and_on_from_two_places(tmp_path: Path, pictures: Path, parallel: str | None) -> None:
    found = processes(worker, free_ports(1 + 2 * len(PLACES)), tmp_path, pictures, parallel, count=WORLD)
    counts = Counter(row for rank in range(WORLD) for row in found["straight", rank])
    assert len(counts) == SHARDS * ROWS, "each row is read"
    # a reader's buffer is full when its first row goes out, so at the end the first rows of the next epoch are in it
    ahead = WORLD * READERS * (BUFFER + 1)
    assert SHARDS * ROWS <= sum(counts.values()) <= SHARDS * ROWS + ahead and max(counts.values()) <= 2, (
        "and, but for these, once"
    )
    again = {}
    for place in PLACES:
        saved = place // EVERY * EVERY
        left = (EPOCH - saved) * BATCH // WORLD
        again[place] = [len(found[place, rank]) - left for rank in range(WORLD)]
        straight, cut = runs.losses(tmp_path / "straight"), runs.losses(tmp_path / f"cut-{place}")
        assert cut == straight
        runs.assert_same_weights(tmp_path / f"cut-{place}", tmp_path / "straight")
    print(f"read in all {sum(counts.values())} of {SHARDS * ROWS} rows")
    print(f"rows read again, by process: {again}")
    for place in PLACES:
        assert max(again[place]) <= READERS * (BUFFER + ROWS), (place, again)
