"""Decoded samples that are kept: the same batches, less decoding, and never more memory than was allowed."""

from __future__ import annotations

from itertools import islice
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from toys.samples import TINY, made, modality_of

from mmssl.data.loading import training_batches
from mmssl.data.memory import Memory, Watched, size_of
from mmssl.modality import load_modality


def opened(case: str) -> tuple[Any, Any]:
    name = modality_of(case)
    package = load_modality(name)
    fitted = package.Preprocessor(package.Config(**TINY[case])).fit(made(case))
    return {name: fitted}, Rows(name, made(case))


class Rows:
    """Five rows as they are, without a copy of theirs."""

    features = None

    def __init__(self, name: str, values: list[Any]) -> None:
        self.name, self.values, self.column_names = name, values, [name]

    def __len__(self) -> int:
        return len(self.values)

    def select_columns(self, names: list[str]) -> Rows:
        return self

    def __getitems__(self, index: list[int]) -> list[dict[str, Any]]:
        return [{self.name: self.values[i]} for i in index]


def counted(preprocessors: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    (preprocessor,) = preprocessors.values()
    calls, own = [], type(preprocessor).read

    def read(self: Any, raw: Any, choice: int = 0) -> Any:
        calls.append(1)
        return own(self, raw, choice)

    monkeypatch.setattr(type(preprocessor), "read", read)
    return calls


def batches(preprocessors: Any, source: Any, memory: float) -> list[Any]:
    stream = training_batches(source, preprocessors, {}, seed=3, batch_size=2, memory=memory)
    return list(islice(stream, 10))


@pytest.mark.parametrize("case", TINY)
def test_batches_are_the_same_and_what_was_not_drawn_is_decoded_once(case, monkeypatch):
    preprocessors, source = opened(case)
    without = batches(preprocessors, source, 0.0)
    calls = counted(preprocessors, monkeypatch)
    kept = batches(preprocessors, source, 1.0)
    for a, b in zip(without, kept, strict=True):
        assert a.rows.tolist() == b.rows.tolist() and a.missing == b.missing
        for name, inputs in a.batch.items():
            for key, value in inputs.items():
                torch.testing.assert_close(value, b.batch[name][key], rtol=0, atol=0, equal_nan=True)
    if case in ("audio", "audio-waveform", "video"):  # some are longer than a sample: a stretch of them is drawn
        assert 5 < len(calls) < 20
    else:
        assert len(calls) == 5


def test_what_is_drawn_is_read_anew():
    preprocessors, _ = opened("text")
    source = datasets.Dataset.from_dict({"text": [["one", "two", "three", "four"]] * 4})
    found = {tuple(b.batch["text"]["input_ids"][0].tolist()) for b in batches(preprocessors, source, 1.0)}
    assert len(found) > 1


def test_a_broken_row_is_read_and_told_of_in_every_epoch():
    preprocessors, source = opened("image")
    source.values[0] = b"no picture"
    told = [bad for b in batches(preprocessors, source, 1.0) for bad in b.bad]
    assert len(told) == sum(0 in b.rows.tolist() for b in batches(preprocessors, source, 0.0)) > 1


def test_there_is_an_end_to_what_is_kept():
    memory = Memory(3 * size_of({"x": np.zeros(1000)}))
    for row in range(10):
        memory.put(row, {"x": np.zeros(1000)})
    assert len(memory.rows) == 3 and memory.used <= memory.limit
    assert memory.get(2) is not None and memory.get(5) is None


@pytest.mark.parametrize(
    "use", [lambda n: n % 3, lambda n: n == 0, int, lambda n: range(9)[n % 9], np.random.default_rng, hash, bool, float]
)
def test_a_number_knows_that_its_value_was_used(use):
    number = Watched(12)
    assert not number.used
    use(number)
    assert number.used and Watched(12) + 0 == 12
