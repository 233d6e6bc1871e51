"""Mixtures: which row of which data is at each place is a function of (seed, place) alone."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from toys.refusals import refused

from mmssl.data import open_source
from mmssl.data.loading import Loaded, training_batches
from mmssl.data.mixing import BITS, Mixture, Portion, Wish, mixed_batches, places
from mmssl.data.origins import note_origins
from mmssl.errors import BadSample
from mmssl.modality import Preprocessor


class Number(Preprocessor):
    """A modality that is one number; -1 is broken."""

    def __init__(self) -> None:
        super().__init__(None)

    def read(self, raw: Any, choice: int = 0) -> Any:
        if raw == -1:
            raise BadSample("it is -1")
        return int(raw), choice + 0  # which is drawn anew every time

    def collate(self, samples: Sequence[Any]) -> dict[str, torch.Tensor]:
        return {
            "value": torch.tensor([0 if s is None else s[0] for s in samples]),
            "choice": torch.tensor([0 if s is None else s[1] for s in samples]),
            "present": torch.tensor([s is not None for s in samples]),
        }


BOTH = {"left": Number(), "right": Number()}


def table(first: int, rows: int, *columns: str) -> Any:
    return open_source(datasets.Dataset.from_dict({c: list(range(first, first + rows)) for c in columns}))


@pytest.fixture
def mixture() -> Mixture:
    """30 rows of both, 13 with the left under another name, 7 with the right alone."""
    return Mixture(
        {
            "data": Portion(table(0, 30, "left", "right"), {"left": "left", "right": "right"}, 24),
            "odd": Portion(table(100, 13, "l", "more"), {"left": "l"}, 20),
            "few": Portion(table(200, 7, "right"), {"right": "right"}, 4),
        },
        seed=3,
    )


def take(mixture: Mixture, n: int, **more: Any) -> list[Loaded]:
    return list(itertools.islice(mixed_batches(mixture, BOTH, **{"batch_size": 8, **more}), n))


def same(a: Sequence[Loaded], b: Sequence[Loaded]) -> bool:
    return len(a) == len(b) and all(
        x.rows.equal(y.rows)
        and x.bad == y.bad
        and all(x.batch[m][k].equal(y.batch[m][k]) for m in BOTH for k in x.batch[m])
        for x, y in zip(a, b, strict=True)
    )


# --- how much of each --------------------------------------------------------------------------------------------


def test_an_epoch_has_what_the_weights_say_to_within_one_sample() -> None:
    wishes = {"a": Wish(1000, weight=5), "b": Wish(77, weight=3), "c": Wish(12, weight=1)}
    for batch in (1, 7, 64):
        found = places(wishes, 1.0, batch)
        total = sum(found.values())
        assert total == 1089 // batch * batch
        assert all(abs(found[name] - total * wish.weight / 9) < 1 for name, wish in wishes.items() if wish.weight)


def test_without_weights_each_has_its_rows_and_temperature_makes_them_more_alike() -> None:
    wishes = {"a": Wish(800), "b": Wish(100, repeat=2), "c": Wish(24)}
    assert places(wishes, 1.0, 8) == {"a": 800, "b": 200, "c": 24}
    roots = places(wishes, 2.0, 8)
    expected = np.sqrt([800, 200, 24]) / np.sqrt([800, 200, 24]).sum() * 1024
    assert np.abs(np.array(list(roots.values())) - expected).max() < 1
    alike = places(wishes, 10_000, 8)
    assert max(alike.values()) - min(alike.values()) <= 1 and sum(alike.values()) == 1024
    with refused("'c'", "none"):
        places({"a": Wish(800, weight=9999), "c": Wish(24, weight=0.001)}, 1.0, 8)
    with refused("12 samples, fewer than one batch"):
        places({"a": Wish(10), "c": Wish(2)}, 1.0, 16)


def test_shares_of_tokens_are_those_of_samples_times_their_tokens() -> None:
    wishes = {
        "a": Wish(5000, weight=5, tokens=196.0),
        "b": Wish(7000, weight=3, tokens=16.0),
        "c": Wish(9000, weight=2),
    }
    found = places(wishes, 1.0, 8)
    assert sum(found.values()) == 21_000
    exact = {"a": 5 / 196, "b": 3 / 16, "c": 2.0}
    for name, share in exact.items():
        assert abs(found[name] - 21_000 * share / sum(exact.values())) < 1
    brought = {name: found[name] * wish.tokens for name, wish in wishes.items()}
    for name, wish in wishes.items():  # each is off by less than one sample
        assert abs(brought[name] - sum(brought.values()) * (wish.weight or 0) / 10) < 400
    # without weights and at temperature 1 all rows come once, however many tokens they have
    plain = {"a": Wish(800, tokens=196.0), "b": Wish(100, repeat=2, tokens=16.0), "c": Wish(24)}
    assert places(plain, 1.0, 8) == {"a": 800, "b": 200, "c": 24}
    alike = places(plain, 1e6, 8)  # as many tokens of each
    exact = {"a": 1 / 196, "b": 1 / 16, "c": 1.0}
    assert all(abs(alike[name] - 1024 * share / sum(exact.values())) < 1 for name, share in exact.items())


def test_all_rows_of_each_come_before_one_comes_again(mixture: Mixture) -> None:
    given = [int(row) for batch in take(mixture, 48 * 5 // 8) for row in batch.rows]
    assert [sum(row >> BITS == n for row in given) for n in range(3)] == [24 * 5, 20 * 5, 4 * 5]
    for n, (size, count) in enumerate(((30, 120), (13, 100), (7, 20))):
        times = collections.Counter(row & 0xFFFF for row in given if row >> BITS == n)
        assert set(times) == set(range(size)) and set(times.values()) <= {count // size, -(-count // size)}
    for first, last in ((0, 48), (5, 61), (100, 240)):
        said = mixture.shares(first, last)
        assert list(said.values()) == [sum(row >> BITS == n for row in given[first:last]) for n in range(3)]


# --- batches -----------------------------------------------------------------------------------------------------


def test_each_is_read_as_its_own_and_what_it_lacks_is_absent(mixture: Mixture) -> None:
    for batch in take(mixture, 12):
        assert not batch.bad
        for at, row in enumerate(batch.rows.tolist()):
            name, number = mixture.place(row)
            left, right = (batch.batch[m]["value"][at].item() for m in BOTH)
            there = tuple(batch.batch[m]["present"][at].item() for m in BOTH)
            assert (left, right, *there) == {
                "data": (number, number, True, True),
                "odd": (100 + number, 0, True, False),
                "few": (0, 200 + number, False, True),
            }[name]
        lacking = {m: int((~batch.batch[m]["present"]).sum()) for m in BOTH}
        assert batch.missing == lacking


def test_going_on_workers_and_processes_change_nothing(mixture: Mixture) -> None:
    straight = take(mixture, 18, memory=0.01)
    for start in (1, 6, 7, 15):
        assert same(take(mixture, 3, start_batch=start), straight[start : start + 3])
    assert same(take(mixture, 9, workers=2), straight[:9])
    halves = [take(mixture, 9, rank=rank, world=2) for rank in range(2)]
    for one, left, right in zip(straight, *halves, strict=False):
        for modality in BOTH:
            for key, value in one.batch[modality].items():
                assert torch.cat([left.batch[modality][key], right.batch[modality][key]]).equal(value)
    parts = take(mixture, 18, accumulation=2)
    assert torch.cat([part.rows for part in parts]).equal(torch.cat([batch.rows for batch in straight[:9]]))
    assert not same(take(Mixture(mixture.portions, seed=4), 9), straight[:9])


def test_one_of_the_data_is_read_as_alone_where_it_is_all_there_is() -> None:
    """The rows of the first of the data have the numbers and draws that they have without a mixture."""
    source = table(0, 32, "left", "right")
    mixture = Mixture({"data": Portion(source, {"left": "left", "right": "right"}, 32)}, seed=3)
    alone = itertools.islice(training_batches(source, BOTH, {}, seed=3, batch_size=32), 2)
    for one, other in zip(take(mixture, 2, batch_size=32), alone, strict=True):
        a, b = (dict(zip(of.rows.tolist(), of.batch["left"]["choice"].tolist(), strict=True)) for of in (one, other))
        assert a == b and len(a) == 32


def test_what_is_broken_is_of_its_data() -> None:
    data = {"data": [1, 2, -1, 4], "more": [5, -1, 7, 8]}
    portions = {
        n: Portion(open_source(datasets.Dataset.from_dict({"left": v})), {"left": "left"}, 4) for n, v in data.items()
    }
    mixture = Mixture(portions, seed=0)
    for workers in (0, 1):
        (batch,) = itertools.islice(mixed_batches(mixture, {"left": Number()}, batch_size=8, workers=workers), 1)
        assert {mixture.place(fault.index) for fault in batch.bad} == {("data", 2), ("more", 1)}
        assert batch.batch["left"]["present"].sum() == 6


def test_files_that_rows_may_name_are_those_of_their_own_data(tmp_path: Path) -> None:
    """Rows from elsewhere name no file here, also beside data whose rows do."""

    class Named(Number):
        def read(self, raw: Any, choice: int = 0) -> Any:
            from mmssl.boundary import regular_file

            return int(regular_file(raw).read_text()), choice

    (tmp_path / "7").write_text("7")
    rows = {"left": [str(tmp_path / "7")] * 4}
    here, elsewhere = (open_source(datasets.Dataset.from_dict(rows)) for _ in range(2))
    note_origins(elsewhere, "https://example.org/x.csv")
    portions = {"data": Portion(here, {"left": "left"}, 4), "there": Portion(elsewhere, {"left": "left"}, 4)}
    mixture = Mixture(portions, seed=0)
    (batch,) = itertools.islice(mixed_batches(mixture, {"left": Named()}, batch_size=8), 1)
    assert {mixture.place(fault.index)[0] for fault in batch.bad} == {"there"} and len(batch.bad) == 4
