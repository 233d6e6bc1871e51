"""Views that readers cut: the same for any number of workers and processes, after a resume, and with rows in memory."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import mmssl_image
from mmssl.data.cuts import Cuts
from mmssl.data.loading import Loaded, training_batches
from mmssl.data.mixing import Mixture, Portion, mixed_batches
from mmssl.draws import Draws, key_of
from mmssl.modality.cutting import cut_of

ROWS, SEED = 12, 3
VIEWS = {"a": {"crop_scale": [0.3, 0.9], "flip": 0.5}, "b": {"crop_scale": [0.1, 0.3], "crop_size": 8}}


def files(broken: int | None = None) -> datasets.Dataset:
    """Pictures of several sizes as PNG, one of them cut off, one absent."""
    rng, rows = np.random.default_rng(0), []
    for number in range(ROWS):
        out = io.BytesIO()
        sides = (70 + 3 * number, 90, 3)
        Image.fromarray(rng.integers(0, 255, sides, dtype=np.uint8)).save(out, "PNG")
        raw = out.getvalue()
        rows.append({"bytes": raw[:90] if number == broken else raw, "path": None})
    source = datasets.Dataset.from_dict({"image": rows, "word": [str(i) for i in range(ROWS)]})
    return source.cast_column("image", datasets.Image(decode=False))


def reader(whole: bool = False) -> tuple[Any, Cuts]:
    config = mmssl_image.Config(size=16, patch=4, channels=3, mean=[0.5], std=[0.25])
    made = mmssl_image.Preprocessor(config).fit([np.zeros((8, 8, 3), np.uint8)])
    cutter = made.cutter(VIEWS)
    assert cutter is not None
    cutter.whole = whole
    return made, Cuts(SEED, {"image": cutter})


def batches(count: int, whole: bool = False, broken: int | None = None, **more: Any) -> list[Loaded]:
    made, cuts = reader(whole)
    settings = {"seed": SEED, "batch_size": 4, "cuts": cuts, **more}
    return list(islice(training_batches(files(broken), {"image": made}, {}, **settings), count))


def equal(one: Loaded, other: Loaded) -> bool:
    same = all(
        torch.equal(value, other.batch[name][key])
        for name, inputs in one.batch.items()
        for key, value in inputs.items()
    )
    return same and one.batch.keys() == other.batch.keys() and torch.equal(one.rows, other.rows)


def test_a_cut_is_drawn_from_seed_epoch_row_and_view() -> None:
    """By hand, of the first row of the second epoch."""
    loaded = batches(4)[3]
    assert loaded.epoch == 1 and set(loaded.batch) == {cut_of("image", "a"), cut_of("image", "b")}
    made, cuts = reader()
    row = int(loaded.rows[0])
    picture = made.whole(files()[row]["image"])
    for view in VIEWS:
        want = cuts.cutters["image"].cut([picture], view, [Draws(key_of(SEED, 1, row, "view", view, "image"), 1)])
        for key, value in loaded.batch[cut_of("image", view)].items():
            assert torch.equal(value[:1], want[key])


def test_the_whole_picture_comes_along_unchanged_where_it_is_wanted() -> None:
    made, _ = reader()
    (loaded,), (plain,) = batches(1, whole=True), batches(1, cuts=None)
    assert torch.equal(loaded.batch["image"]["pixel_values"], plain.batch["image"]["pixel_values"])
    assert len(loaded.batch) == 3 and list(plain.batch) == ["image"]


@pytest.mark.slow
def test_workers_cut_what_the_main_process_does() -> None:
    assert all(equal(one, other) for one, other in zip(batches(5), batches(5, workers=2), strict=True))


def test_processes_parts_resume_and_memory_change_nothing() -> None:
    straight = batches(7)
    for number, later in enumerate(batches(3, start_batch=4)):
        assert equal(later, straight[4 + number])
    assert all(equal(one, other) for one, other in zip(straight, batches(7, memory=1.0), strict=True))
    halves = [batches(7, rank=rank, world=2) for rank in (0, 1)]
    for whole, first, last in zip(straight, *halves, strict=True):
        for name, inputs in whole.batch.items():
            for key, value in inputs.items():
                assert torch.equal(value, torch.cat([first.batch[name][key], last.batch[name][key]]))
    assert not equal(straight[0], straight[3])


def test_a_broken_picture_is_told_of_and_absent() -> None:
    loaded = batches(3, broken=5)
    (fault,) = [fault for one in loaded for fault in one.bad]
    assert (fault.index, fault.modality, fault.column) == (5, "image", "image")
    (hit,) = [one for one in loaded if one.bad]
    for view in VIEWS:
        inputs = hit.batch[cut_of("image", view)]
        absent = ~inputs["present"]
        assert hit.rows[absent].tolist() == [5] and not inputs["cut"][absent].any()


def test_mixtures_cut_too() -> None:
    """Each row by its number over all the data, and by how often it came before."""
    made, cuts = reader()
    portions = {"one": Portion(files(), {"image": "image"}, 8), "two": Portion(files(), {}, 4)}
    mixture = Mixture(portions, SEED)

    def stream(**more: Any) -> Iterator[Loaded]:
        return mixed_batches(mixture, {"image": made}, batch_size=4, cuts=cuts, **more)

    straight = list(islice(stream(), 6))
    assert all(equal(one, other) for one, other in zip(straight[3:], islice(stream(start_batch=3), 3), strict=True))
    assert any("present" in one.batch[cut_of("image", "a")] for one in straight)
