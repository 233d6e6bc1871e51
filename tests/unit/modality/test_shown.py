"""What each shipped modality shows of a sample, of what a mask hid, and of what was predicted there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from toys import samples

from mmssl.modality import Inputs, Modality, Preprocessor, load_modality
from mmssl.modality.shown import Cells, Curves, Frames, Nodes, Spectrum, Words
from mmssl.reporting.painting import large, small

KINDS = {
    "image": Frames,
    "video": Frames,
    "volume": Frames,
    "audio": Spectrum,
    "audio-waveform": Curves,
    "ecg": Curves,
    "ecg-lead": Curves,
    "eeg": Curves,
    "series": Curves,
    "text": Words,
    "tabular": Cells,
    "graph": Nodes,
}


@dataclass
class Case:
    name: str
    reader: Preprocessor
    modality: Modality
    inputs: Inputs


@pytest.fixture(scope="module", params=samples.TINY)
def case(request: pytest.FixtureRequest) -> Case:
    name = request.param
    package, raw = load_modality(samples.modality_of(name)), samples.made(name)
    reader = package.Preprocessor(package.Config(**samples.TINY[name])).fit(raw)
    torch.manual_seed(0)
    return Case(name, reader, package.Modality(8, **reader.sizes()), reader([*raw, None]))


def hidden(case: Case) -> Inputs:
    """Which values a mask hid that takes the first patch of every sample."""
    patches = case.modality.patchify(case.inputs)
    mark, first = torch.zeros_like(patches.values), patches.valid.long().argmax(1)
    mark[torch.arange(len(mark)), first] = 1
    ones, none = (case.modality.unpatchify(v, case.inputs) for v in (mark, torch.zeros_like(mark)))
    return {k: ones[k] != none[k] for k in ones if ones[k].shape == none[k].shape}


def test_every_shipped_modality_is_here() -> None:
    assert set(KINDS) == set(samples.TINY)


def test_a_sample_is_shown_and_one_that_is_not_there_is_none(case: Case) -> None:
    shown = case.modality.show(case.inputs, case.reader)
    assert [type(one) for one in shown[:5]] == [KINDS[case.name]] * 5 and shown[5] is None


def test_what_a_mask_hid_is_told_in_its_place(case: Case) -> None:
    for one in case.modality.show(case.inputs, case.reader, hidden(case))[:5]:
        marks = np.asarray(one.hidden)
        assert 0 < marks.sum() < marks.size or marks.size == 1
        if isinstance(one, Frames):
            side = case.reader.config.patch
            assert marks[0, :side, :side].all() and not marks[0, side:].any() and not marks[0, :, side:].any()


def test_everything_that_is_shown_is_painted(case: Case) -> None:
    was = case.modality.show(case.inputs, case.reader, hidden(case))[1]
    pictures = large(was, was, "salt", "the sample")
    assert pictures and all(p.alt and (p.uri or p.svg or p.words or p.cells) for p in pictures)
    little = small(was, "the sample")
    assert little.alt and (little.uri or little.words)


def test_a_perfect_prediction_is_the_patch(case: Case) -> None:
    modality = case.modality
    patches = modality.patchify(case.inputs)
    for kind in modality.targets:
        target = modality.target(case.inputs, patches, kind)
        guess = modality.guess(perfect(case, target), patches, kind)
        if kind in ("spectrum", "cqt", "differences", "edges"):
            assert guess is None
            continue
        there = patches.valid if guess.ndim == 2 else patches.valid[..., None] & ~patches.values.isnan()
        size = float(patches.values[there].abs().max())
        torch.testing.assert_close(guess[there], patches.values[there], rtol=0, atol=2e-6 * max(size, 1.0))


def perfect(case: Case, target: torch.Tensor) -> torch.Tensor:
    """The prediction that says the target."""
    if case.name == "text":
        return torch.nn.functional.one_hot(target, case.modality.pred_width()).float()
    if case.name != "tabular":
        return target
    table: Any = case.modality.columns
    pred = torch.full((*target.shape[:2], table.width), -1.0)
    for column in range(table.count):
        first = int(table.offset[column])
        for row, cell in enumerate(target[:, column]):
            if table.is_category[column]:
                pred[row, column, first + (0 if cell[0].isnan() else int(cell[0]) + 1)] = 1.0
            else:
                elements = cell[: int(table.slots[column]) - 1]
                pred[row, column, first] = 1.0 if cell.isnan().all() else -1.0
                pred[row, column, first + 1 : first + 1 + len(elements)] = elements.nan_to_num(0.0)
    return pred


def test_a_table_is_told_in_the_words_of_its_columns() -> None:
    package = load_modality("tabular")
    rows = [
        {"age": 20 + i, "town": ["Bern", "Basel"][i % 2], "size": ["s", "m", "l"][i % 3], "day": f"2024-05-{i + 1:02}"}
        for i in range(12)
    ]
    rows[3]["town"] = None
    config = package.Config(orders={"size": ["s", "m", "l"]})
    reader = package.Preprocessor(config).fit(rows)
    modality = package.Modality(8, **reader.sizes())
    other = {"age": 31, "town": "Chur", "size": "l", "day": "2024-05-09"}
    shown = modality.show(reader([*rows, other]), reader)
    for row, one in zip(rows, shown, strict=False):
        said = {**row, "age": str(row["age"]), "town": row["town"] or "(empty)"}
        assert dict(zip(one.names, one.values, strict=True)) == said
    assert dict(zip(shown[-1].names, shown[-1].values, strict=True)) == {**other, "age": "31", "town": "(other)"}


def test_pixels_come_back_as_they_were() -> None:
    package = load_modality("image")
    raw = [np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8) for i in range(3)]
    reader = package.Preprocessor(package.Config(size=8, patch=4)).fit(raw)
    shown = package.Modality(8, **reader.sizes()).show(reader(raw), reader)
    for one, was in zip(shown, raw, strict=True):
        assert np.abs(one.pixels[0] * 255 - was).max() < 1e-3
