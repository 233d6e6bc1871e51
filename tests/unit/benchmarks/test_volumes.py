"""benchmarks/volumes.py: which boxes are tested on, and what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import volumes
from benchmarks.volumes import SLAB, Source, boxes, label_of, part_of


@pytest.mark.parametrize("choose", [False, True])
def test_no_box_that_is_tested_on_touches_one_that_is_learned_from(choose):
    for kind, reach, side, last in (("lobe", 233, 24, 0), ("depth", 256, 32, 167), ("wall", 135, 12, 77)):
        seen: dict[str, set[int]] = {"train": set(), "test": set()}
        for first in range(reach - side + 1):
            part = part_of(kind, first, first + side - 1, choose)
            if part is not None:
                seen[part] |= set(range(first, first + side))
        assert seen["train"] and seen["test"] and not seen["train"] & seen["test"], kind
        reported = [n for n in range(reach) if (n // SLAB % 3 == 2 if kind == "lobe" else n > last)]
        assert not choose or not (seen["train"] | seen["test"]) & set(reported), kind


def test_boxes_are_of_what_is_marked_and_are_called_by_it(monkeypatch):
    monkeypatch.setattr(volumes, "COUNT", {"train": 5, "test": 3})
    marks = np.zeros((24, 180, 40), np.int64)
    marks[:, :90], marks[:, 90:] = 1, 3
    made = Source(np.full(marks.shape, 100.0), marks, 1, (8, 24, 8))
    cut = boxes("lobe", made, np.random.default_rng(0), False)
    assert {split: len(own) for split, own in cut.items()} == {"train": 5, "test": 3}
    box = (slice(0, 8), slice(100, 124), slice(0, 8))
    assert label_of("lobe", made, box) == 3 and label_of("depth", made, (slice(4, 12), *box[1:])) == 4


def test_as_many_boxes_hold_none_a_little_and_much_of_a_wall(monkeypatch):
    monkeypatch.setattr(volumes, "COUNT", {"train": 6, "test": 3})
    marks = np.zeros((14, 14, 135), np.int64)
    marks[0, 0, ::12], marks[13, 13, ::3] = 1, 20
    made = Source(np.zeros(marks.shape), marks, 2, (12, 12, 12))
    cut = boxes("wall", made, np.random.default_rng(0), False)
    told = {split: sorted(label_of("wall", made, box) for box in own) for split, own in cut.items()}
    assert told == {"train": [0, 0, 1, 1, 2, 2], "test": [0, 1, 2]}
