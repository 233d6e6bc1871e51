"""What is chosen for data and device: what the user sets stays, all else is said, kept and the same when resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.options import plainyaml
from mmssl.training.choosing import Asked, Choice, choose, fitting_batch, kept_choice, told
from mmssl.training.device import Device
from mmssl.training.pace import duration

CPU = Device("cpu")
H200 = Device("cuda", memory=139 << 30, bf16=True)


def pictures(count: int, side: int, **more: Any) -> datasets.Dataset:
    """So many grey pictures of `side` pixels as arrays: one that is looked up again and again."""
    one = np.zeros((side, side), np.uint8).tolist()
    return datasets.Dataset.from_dict({"image": [one], **{k: [v] for k, v in more.items()}}).select([0] * count)


def chosen(source: datasets.Dataset, device: Device, *words: str, preset: str | None = None) -> Choice:
    asked = Asked("image_mae", ["data.path=x", *words], preset)
    return choose(asked, source, {"image": "image"}, device)


def test_preset_by_device_and_number_of_samples() -> None:
    few, some = pictures(100, 80), pictures(3000, 80)
    assert [chosen(s, d).preset for s, d in ((some, CPU), (few, H200), (some, H200))] == ["demo", "demo", "small"]
    many = chosen(pictures(100_000, 8), H200)
    assert many.preset == "base" and "100,000 samples on a GPU of 139 GiB" in many.reasons[0]
    assert chosen(pictures(100_000, 8), Device("cuda", memory=8 << 30)).preset == "small"
    assert chosen(few, CPU, preset="base").preset == "base"
    assert "larger: --preset small, base" in chosen(few, CPU).reasons[0]


def test_small_pictures_are_not_enlarged() -> None:
    found = {side: chosen(pictures(8, side), CPU).values for side in (8, 28, 50, 64, 300)}
    size, patch = "modalities.image.size", "modalities.image.patch"
    assert [(v.get(size), v.get(patch)) for v in found.values()] == [(8, 2), (28, 4), (48, 8), (None, None)] + [
        (None, None)
    ]
    assert chosen(pictures(8, 300), CPU, preset="small").values.get(size) is None
    dino = choose(Asked("image_dino", ["data.path=x"]), pictures(8, 28), {"image": "image"}, CPU)
    assert dino.values["views.l1.image.crop_size"] == 16, "local crops shrink with the pictures, in whole patches"
    assert Asked("image_dino", ["data.path=x"]).recipe(dino).views["l4"]["image"]["crop_size"] == 16


def test_what_the_user_sets_stays() -> None:
    words = ["modalities.image.patch=4", "train.batch_size=64", "evaluation.label=null"]
    source = pictures(100, 28, label=1)
    free, fixed = chosen(source, H200), chosen(source, H200, *words)
    assert fixed.values == {} and len(fixed.reasons) == 1
    assert free.values == {
        "train.batch_size": 16,
        "evaluation.label": "label",
        "modalities.image.size": 28,
        "modalities.image.patch": 4,
    }
    assert len(free.reasons) == 4, "one line each, size and patch together"


@pytest.mark.parametrize(
    ("wanted", "count", "parts", "batch"),
    [(128, 512, 1, 128), (128, 511, 1, 64), (128, 44, 1, 8), (64, 3, 1, 2), (64, 1, 1, 1), (256, 100, 6, 24)]
    + [(256, 40, 8, 16), (256, 7, 6, 6), (100, 399, 1, 64)],
)
def test_batches_that_fit(wanted: int, count: int, parts: int, batch: int) -> None:
    assert fitting_batch(wanted, count, parts) == batch


def test_how_often_samples_are_seen_is_said() -> None:
    choice = chosen(pictures(6000, 80), CPU, "train.steps=10")
    lines = list(told(choice, Asked("image_mae", ["data.path=x", "train.steps=10"]).recipe(choice), 6000))
    assert lines[-1].startswith("10 steps of 128 see each sample 0.213 times; train.epochs=10")
    assert all(line.startswith("chosen: ") for line in lines[:-1])


def test_a_rate_that_nothing_says_is_asked_for() -> None:
    rows = datasets.Dataset.from_dict({"eeg": [np.zeros((2, 400)).tolist()] * 8})
    words = ["data.path=x", "modalities.eeg.source_channels=[C3, C4]"]
    with pytest.raises(
        UserError, match="eeg: none of 8 samples could be read as an EEG: nothing says the sampling rate.*source_rate"
    ):
        choose(Asked("eeg_mae", words), rows, {"eeg": "eeg"}, CPU)
    said = choose(Asked("eeg_mae", [*words, "modalities.eeg.source_rate=100"]), rows, {"eeg": "eeg"}, CPU)
    assert said.values["modalities.eeg.rate"] == 100
    same = choose(Asked("eeg_mae", [*words, "modalities.eeg.source_rate=500"]), rows, {"eeg": "eeg"}, CPU)
    assert "modalities.eeg.rate" not in same.values


def test_durations() -> None:
    assert [duration(s) for s in (3, 89, 100, 7200, 1e6)] == ["3 s", "89 s", "1.7 min", "2 h", "12 days"]


def test_a_run_says_what_it_chose_and_goes_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "pictures" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(folder / f"{number}.png")
    tiny = ["model.towers.image.width=16", "model.towers.image.depth=1", "objectives.mae.decoder.width=16"]
    words = [f"data.path={tmp_path / 'pictures'}", *tiny, "evaluation.tasks=[]", "train.trackers=[]"]
    out = ["--output", str(tmp_path / "run")]
    assert main(["pretrain", "image_mae", *words, "train.steps=2", *out]) == 0
    said = capsys.readouterr().out
    assert "chosen: preset demo" in said and "size=28, patch=4: these pictures have 30 pixels a side" in said
    config = plainyaml.read(tmp_path / "run" / "config.yaml")
    assert config["modalities"]["image"]["size"] == 28 and config["evaluation"]["label"] == "label"
    assert "presets" not in config
    kept = json.loads((tmp_path / "run" / "chosen.json").read_text())
    kept["values"]["modalities.image.patch"] = 4
    assert kept_choice(tmp_path / "run") == Choice(**kept)
    assert main(["pretrain", "image_mae", *words, "train.steps=3", "--resume", *out]) == 0
    assert "going on after step 2 of 3" in capsys.readouterr().out
    assert (
        main(
            [
                "pretrain",
                "image_mae",
                *words,
                "model.towers.image.heads=2",
                "objectives.mae.decoder.heads=2",
                "--resume",
                "--preset",
                "small",
                *out,
            ]
        )
        == 2
    )
    assert "--preset: found small, but the run was started with demo" in capsys.readouterr().err
    (tmp_path / "run" / "chosen.json").write_text("{")
    with pytest.raises(UserError, match="chosen.json is damaged"):
        kept_choice(tmp_path / "run")
