"""Batches of data: the same for any number of workers and processes, and after a resume."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from toys.refusals import refused

from mmssl.data import evaluation_batches, open_source, presence, read_rows, training_batches
from mmssl.data.loading import Loaded
from mmssl.data.sampler import Sampler, in_order, order
from mmssl.errors import BadSample, UserError
from mmssl.modality import Preprocessor


class Pixels(Preprocessor):
    """A tiny image modality: the mean grey level and the choice."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: Any, choice: int = 0) -> Any:
        file = raw if isinstance(raw, str) else io.BytesIO(raw["bytes"]) if raw["bytes"] else raw["path"]
        if str(file).endswith(".npy"):
            return np.load(file, allow_pickle=False).mean(), choice
        with Image.open(file) as picture:
            return np.asarray(picture.convert("L")).mean() / 255, choice

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        there = [s is not None for s in samples]
        values = [(0.0, 0) if s is None else s for s in samples]
        return {
            "grey": torch.tensor([float(v[0]) for v in values]),
            "choice": torch.tensor([v[1] for v in values]),
            "present": torch.tensor(there),
        }


class Words(Preprocessor):
    """A tiny text modality: the text's length, or that of one of several captions."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: Any, choice: int = 0) -> Any:
        text = raw[choice % len(raw)] if isinstance(raw, list) else raw
        if not isinstance(text, str):
            raise BadSample(f"expected a string, found {type(text).__name__}")
        return len(text) or None

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {
            "length": torch.tensor([s or 0 for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }


def both() -> dict[str, Preprocessor]:
    return {"image": Pixels(), "text": Words()}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `datasets` prepares goes into a temporary folder, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def digits() -> datasets.Dataset:
    return open_source("builtin:digits", limit=101)


def take(batches: Iterator[Loaded], n: int) -> list[Loaded]:
    return list(itertools.islice(batches, n))


def same(a: Sequence[Loaded], b: Sequence[Loaded]) -> bool:
    return len(a) == len(b) and all(
        x.rows.equal(y.rows)
        and x.epoch == y.epoch
        and x.bad == y.bad
        and all(x.batch[m][k].equal(y.batch[m][k]) for m in x.batch for k in x.batch[m])
        for x, y in zip(a, b, strict=True)
    )


def glued(parts: Sequence[Loaded], modality: str, key: str) -> torch.Tensor:
    return torch.cat([part.batch[modality][key] for part in parts])


# --- batches -----------------------------------------------------------------------------------------------------


def test_order_is_pinned() -> None:
    """A resumed run may have another numpy: these numbers must never change."""
    assert order(8, 0, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert order(6, 12, 34).tolist() == [0, 1, 3, 2, 5, 4]
    assert len({tuple(order(8, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert sorted(order(1000, 3, 5).tolist()) == list(range(1000))
    assert order(5, -1, 0).tolist() == order(5, 2**64 - 1, 0).tolist()


def test_sampler_epochs_and_resume() -> None:
    straight = list(itertools.islice(Sampler(25, batch_size=8, accumulation=2, seed=3), 20))
    for start in range(15):
        resumed = Sampler(25, batch_size=8, accumulation=2, seed=3, start=start)
        assert list(itertools.islice(resumed, 5)) == straight[start : start + 5]
    epochs = [[i for batch in straight for e, i in batch if e == epoch] for epoch in range(3)]
    assert all(len(seen) == len(set(seen)) == 24 for seen in epochs), "three whole steps of 8 an epoch, no repeats"
    assert epochs[0] != epochs[1]


def test_two_ranks_are_one() -> None:
    def batches(rank: int, world: int, accumulation: int) -> list[list[tuple[int, int]]]:
        sampler = Sampler(50, batch_size=12, accumulation=accumulation, rank=rank, world=world, seed=1)
        return list(itertools.islice(sampler, 10))

    for accumulation in (1, 3):
        runs = [batches(r, w, accumulation) for r, w in ((0, 1), (0, 2), (1, 2))]
        # a step's parts one behind the other
        one, left, right = ([sum(run[i : i + accumulation], []) for i in range(0, 9, accumulation)] for run in runs)
        assert all(a + b == whole for a, b, whole in zip(left, right, one, strict=True))
        assert all(not set(a) & set(b) for a, b in zip(left, right, strict=True))
        assert one == batches(0, 1, 1)[: len(one)], "the steps are those without accumulation"


def test_sampler_faults() -> None:
    with refused("9 or 12"):
        Sampler(100, batch_size=10, accumulation=3)
    with pytest.raises(UserError, match="7 samples, fewer than one batch.*use 6 or less"):
        Sampler(7, batch_size=8, world=2)


def test_in_order() -> None:
    assert [len(b) for b in in_order(10, 4)] == [4, 4, 2]
    both_ranks = [b for rank in range(2) for b in in_order(10, 4, rank=rank, world=2)]
    assert sorted(i for b in both_ranks for _, i in b) == list(range(10))


@pytest.mark.parametrize("streaming", [False, True])
def test_resume_is_exact(digits: datasets.Dataset, streaming: bool) -> None:
    data = open_source(digits, streaming=streaming)

    def batches(start: int = 0, **more: Any) -> Iterator[Loaded]:
        return training_batches(
            data, both(), {}, seed=5, batch_size=20, accumulation=2, shuffle_buffer=16, start_batch=start, **more
        )

    straight = take(batches(), 33)
    assert {b.epoch for b in straight} == {0, 1, 2, 3}
    for start in (1, 9, 10, 23, 30):
        assert same(take(batches(start), 3), straight[start : start + 3])
    for epoch in range(3):
        seen = torch.cat([b.rows for b in straight if b.epoch == epoch])
        assert len(seen) == len(seen.unique()) == 100
    first, second = (torch.cat([b.rows for b in straight if b.epoch == e]) for e in (0, 1))
    assert not first.equal(second)
    assert not same(take(training_batches(data, both(), {}, seed=6, batch_size=20, accumulation=2), 1), straight[:1])


@pytest.mark.parametrize("streaming", [False, True])
def test_processes_share_one_order(digits: datasets.Dataset, streaming: bool) -> None:
    data = open_source(digits, streaming=streaming)
    runs = [
        take(training_batches(data, both(), {}, seed=5, batch_size=24, accumulation=2, rank=r, world=w), 12)
        for r, w in ((0, 1), (0, 2), (1, 2))
    ]
    for start in range(0, 12, 2):  # a step's two parts
        one, left, right = (run[start : start + 2] for run in runs)
        assert torch.cat([b.rows for b in left + right]).equal(torch.cat([b.rows for b in one]))
        texts = [glued(parts, "text", "length") for parts in (left + right, one)]
        assert texts[0].equal(texts[1]), "the captions drawn differ"


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_change_nothing(digits: datasets.Dataset, streaming: bool) -> None:
    data = open_source(digits, streaming=streaming)

    def batches(workers: int) -> list[Loaded]:
        state = torch.get_rng_state()
        out = take(training_batches(data, both(), {}, seed=5, batch_size=30, workers=workers, start_batch=2), 4)
        assert torch.get_rng_state().equal(state), "reading must not draw from the global generator"
        return out

    assert same(batches(0), batches(2))


def test_stream_shards_in_another_order_every_epoch(tmp_path: Path) -> None:
    for part in range(4):
        rows = [f"{part}{i}" for i in range(5)]
        datasets.Dataset.from_dict({"text": rows}).to_parquet(tmp_path / f"{part}.parquet")
    data = open_source(tmp_path, streaming=True)
    assert data.num_shards == 4
    batches = take(training_batches(data, {"text": Words()}, {}, seed=1, batch_size=5, shuffle_buffer=0), 12)
    epochs = [[int(b.rows[0]) >> 32 for b in batches if b.epoch == e] for e in range(3)]
    assert all(sorted(shards) == [0, 1, 2, 3] for shards in epochs) and len({tuple(s) for s in epochs}) > 1
    assert all(b.rows.sort().values.diff().eq(1).all() for b in batches)
    with refused("20 samples"):
        next(training_batches(data, {"text": Words()}, {}, seed=1, batch_size=21))


def test_choices_differ_between_samples_epochs_and_modalities(digits: datasets.Dataset) -> None:
    class Choice(Words):
        def read(self, raw: Any, choice: int = 0) -> Any:
            return choice

    loaded = take(
        training_batches(digits, {"a": Choice(), "b": Choice()}, {"a": "text", "b": "text"}, seed=0, batch_size=101), 2
    )
    drawn = torch.stack([loaded[e].batch[m]["length"][loaded[e].rows.argsort()] for e in (0, 1) for m in ("a", "b")])
    assert len(drawn.unique()) == 404 and 0 <= drawn.min() and drawn.max() < 2**31
    assert 0.4 < (drawn % 2).float().mean() < 0.6
    evaluated = next(evaluation_batches(digits, {"text": Choice()}, {}, batch_size=9))
    assert evaluated.batch["text"]["length"].eq(0).all(), "an evaluation draws nothing"


@pytest.mark.parametrize("streaming", [False, True])
def test_evaluation_reads_every_row_once(digits: datasets.Dataset, streaming: bool) -> None:
    data = open_source(digits, streaming=streaming)
    loaded = list(evaluation_batches(data, both(), {}, batch_size=40, keep=["label", "text"]))
    assert [b.size for b in loaded] == [40, 40, 21]
    assert torch.cat([b.rows for b in loaded]).equal(torch.arange(101))
    assert [v for b in loaded for v in b.kept["label"]] == digits["label"]
    assert loaded[0].kept["text"][0] == digits[0]["text"]
    parts = [list(evaluation_batches(data, both(), {}, batch_size=40, limit=90, rank=r, world=2)) for r in (0, 1)]
    assert [[b.size for b in part] for part in parts] == [[40, 10], [40]]


def test_fitting_rows_and_presence(digits: datasets.Dataset) -> None:
    table = datasets.Dataset.from_dict({"t": ["a", None, "b", None], "n": [1, None, None, 2], "m": [1, None, 3, 4]})
    for data in (table, table.to_iterable_dataset()):
        assert presence(data, {"text": "t", "table": ["n", "m"]}) == {"text": 2, "table": 3}
        assert [row["t"] for row in read_rows(data, ["t"], 9)] == ["a", None, "b", None]
    assert len(read_rows(digits, {"image": "image", "text": "text"}, 10)) == 10
    assert set(read_rows(digits, {"image": "image", "text": "text"}, 1)[0]) == {"image", "text"}
    empty = {"image": [{"bytes": None, "path": None}, {"bytes": b"x", "path": None}]}
    assert [row["image"] is None for row in read_rows(datasets.Dataset.from_dict(empty), ["image"], 2)] == [True, False]
