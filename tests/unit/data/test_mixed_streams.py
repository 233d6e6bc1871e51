"""Mixtures of streams: each has its share, its rows come in turn, and its place is found by arithmetic."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from typing import Any

import datasets
import pytest
import torch

from mmssl.data.loading import Loaded
from mmssl.data.mixed_streams import MixedStreams, StreamPortion, mixed_stream_batches
from mmssl.data.mixing import BITS
from mmssl.data.shards import Lengths
from mmssl.data.streams import Plan
from mmssl.modality import Preprocessor

SIZES = {"data": (4, 9), "odd": (3, 5), "few": (1, 7)}
"""Shards, and rows of each."""


class Number(Preprocessor):
    """A modality that is one number."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: Any, choice: int = 0) -> Any:
        return int(raw)

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {
            "value": torch.tensor([-1 if s is None else s for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }


def rows_of(shards: list[int], size: int, column: str) -> Any:
    for shard in shards:
        for place in range(size):
            yield {column: (shard << 32) + place}


@pytest.fixture(scope="module")
def mixture() -> MixedStreams:
    columns = {"data": "left", "odd": "l", "few": "right"}
    streams = {
        name: datasets.IterableDataset.from_generator(
            rows_of, gen_kwargs={"shards": list(range(shards)), "size": size, "column": columns[name]}
        )
        for name, (shards, size) in SIZES.items()
    }
    weights = {"data": 3.0, "odd": 1.0, "few": 2.0}
    modality = {"data": "left", "odd": "left", "few": "right"}
    portions = {n: StreamPortion(of, {modality[n]: columns[n]}, weights[n]) for n, of in streams.items()}
    return MixedStreams(portions, seed=3)


def take(
    mixture: MixedStreams, n: int, *, rank: int = 0, world: int = 1, accumulation: int = 1, start: int = 0, **more: Any
) -> list[Loaded]:
    plan = Plan(3, more.pop("buffer", 4), 8, accumulation, rank, world, 1)
    lengths = more.pop("lengths", None) or {name: Lengths() for name in SIZES}
    both = {"left": Number(), "right": Number()}
    return list(itertools.islice(mixed_stream_batches(mixture, both, lengths, plan, start_batch=start, **more), n))


def same(a: Sequence[Loaded], b: Sequence[Loaded]) -> bool:
    return len(a) == len(b) and all(
        x.rows.equal(y.rows) and x.batch["left"]["value"].equal(y.batch["left"]["value"])
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("world", [1, 2])
def test_each_has_its_share_and_its_rows_in_turn(mixture: MixedStreams, world: int) -> None:
    """With two processes the last of them has fewer shards than there are processes."""
    runs = [take(mixture, 30, rank=rank, world=world, buffer=1) for rank in range(world)]
    given = [int(row) for run in runs for batch in run for row in batch.rows]
    counts = [sum(row >> BITS == n for row in given) for n in range(3)]
    assert sum(counts) == 240 and all(abs(c - 240 * w / 6) <= world for c, w in zip(counts, (3, 1, 2), strict=True))
    assert mixture.shares(0, 240, world) == dict(zip(SIZES, counts, strict=True))
    parts = mixture.shares(0, 16, world), mixture.shares(16, 240, world)
    assert [a + b for a, b in zip(*(part.values() for part in parts), strict=True)] == counts
    for n, (shards, size) in enumerate(SIZES.values()):
        times = collections.Counter(row for row in given if row >> BITS == n)
        assert len(times) == shards * size
        assert max(times.values()) - min(times.values()) <= world, "readers have begun equally many shards"
    for batch in runs[0]:
        values = batch.batch["left"]["value"] + batch.batch["right"]["value"] + 1  # -1 of the one that is absent
        assert values.equal(batch.rows & ((1 << BITS) - 1))
        assert (batch.batch["left"]["present"] ^ batch.batch["right"]["present"]).all()


@pytest.mark.parametrize("world", [1, 2])
def test_going_on_parts_and_workers_change_nothing(mixture: MixedStreams, world: int) -> None:
    lengths = {name: Lengths() for name in SIZES}
    more: dict[str, Any] = {"world": world, "rank": world - 1}
    straight = take(mixture, 40, lengths=lengths, **more)
    for start in (1, 17, 37):
        assert same(take(mixture, 3, start=start, lengths=lengths, **more), straight[start : start + 3])
        assert same(take(mixture, 3, start=start, **more), straight[start : start + 3])
    assert same(take(mixture, 5, workers=2, **more), straight[:5])
    parts = take(mixture, 9, accumulation=2, start=1, **more)
    whole = torch.cat([batch.rows for batch in straight[:5]])
    assert torch.cat([part.rows for part in parts]).equal(whole[len(straight[0].rows) // 2 :])
