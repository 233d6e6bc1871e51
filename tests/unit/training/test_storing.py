"""Outputs of frozen towers are computed once: the same training, without the towers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import runs

from mmssl import pretrain
from mmssl.errors import UserError
from mmssl.models.tower import Tower


def content(**train: Any) -> dict[str, Any]:
    """A frozen image tower beside a text tower that learns, compared across."""
    out = runs.image_text()
    del out["objectives"]["mae"]
    out["masks"] = {}
    out["model"]["towers"]["image"] |= {"frozen": True, "dropout": 0.2}
    out["model"] |= {"projection_hidden": 12, "projection_dropout": 0.1}
    out["train"] |= {"health_every": None, **train}
    return out


def table(folder: Path) -> Path:
    """40 pictures with one to three captions; a broken picture, and one that is not there."""
    import datasets

    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
        picture: Any = {7: b"no picture", 9: None}.get(i, buffer.getvalue())
        rows.append({"image": picture, "text": [f"caption {i} of {k}" for k in range(i % 3 + 1)]})
    path = folder / "rows.parquet"
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    return path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Tower's first modality -> how many rows it has seen."""
    counted: dict[str, int] = {}
    forward = Tower.forward

    def counting(self: Tower, patches: Any, *args: Any, **kwargs: Any) -> Any:
        name = next(iter(patches))
        counted[name] = counted.get(name, 0) + patches[name].batch
        return forward(self, patches, *args, **kwargs)

    monkeypatch.setattr(Tower, "forward", counting)
    return counted


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_losses_are_those_of_a_run_that_computes_them_anew(tmp_path, seen, capsys, accumulation):
    path = str(table(tmp_path))
    both = {}
    for stored in (True, False):
        settings = content(steps=6, batch_size=8, store_frozen=stored, log_every=1, accumulation=accumulation)
        settings["data"] = {"path": path, "max_bad": 0.5}
        settings["model"]["towers"]["text"]["frozen"] = True
        seen.clear()
        run = pretrain(settings, output=tmp_path / str(stored))
        both[stored] = runs.losses(run.folder), dict(seen), (run.folder / "quarantine.jsonl").exists()
    assert both[True][0] == pytest.approx(both[False][0], abs=1e-6)
    assert both[True][2] == both[False][2]  # what is broken is still told of
    assert both[True][1] == {"image": 40, "text": 79}  # each caption once
    assert both[False][1] == {"image": 48, "text": 48}
    assert "tower 'image' is frozen" in capsys.readouterr().out


def test_a_resumed_run_finds_them_and_another_tower_does_not(tmp_path, seen):
    settings = content(steps=2, save_every=1)
    run = pretrain(settings, output=tmp_path / "run")
    about = run.folder / "stored" / "image.about.json"
    before, rows = about.stat().st_mtime_ns, seen["image"]
    settings["train"]["steps"] = 4
    pretrain(settings, output=tmp_path / "run", resume=True)
    assert about.stat().st_mtime_ns == before and seen["image"] == rows
    of = json.loads(about.read_text())
    of["of"]["weights"] = "others"
    about.write_text(json.dumps(of))
    settings["train"]["steps"] = 5
    pretrain(settings, output=tmp_path / "run", resume=True)
    assert seen["image"] == 2 * rows


def test_projections_standardise_by_what_is_stored(tmp_path):
    settings = content(steps=1)
    settings["model"] |= {"projection_standard": True, "projection_hidden": None}
    settings["model"]["towers"]["text"]["frozen"] = True
    run = pretrain(settings, output=tmp_path / "run")
    pooled = np.load(run.folder / "stored" / "image.pooled.npy")
    norm: Any = run.model.projections["image"].norm  # of the folder that was saved
    np.testing.assert_allclose(norm(torch.from_numpy(pooled)).mean(0).numpy(), 0, atol=1e-4)
    np.testing.assert_allclose(norm.deviation.numpy(), pooled.std(0), rtol=1e-4)
    settings["model"]["towers"]["text"]["frozen"] = False
    with pytest.raises(UserError, match="outputs of tower 'text' are not stored"):
        pretrain(settings, output=tmp_path / "other")


@pytest.mark.parametrize("what", ["view", "objective", "trained"])
def test_nothing_is_stored_of_what_changes(tmp_path, what):
    settings = content(steps=1)
    if what == "view":
        settings["views"] = {"crop": {"image": {"crop_scale": [0.5, 1.0]}}}
        settings["objectives"]["clip"]["views"] = ["crop"]
    elif what == "objective":
        settings["masks"] = {"half": {"type": "random", "ratio": 0.5}}
        settings["objectives"]["mae"] = {
            "tower": "image",
            "mask": "half",
            "decoder": {"width": 16, "depth": 1, "heads": 2},
        }
    else:
        settings["model"]["towers"]["image"]["frozen"] = False
    run = pretrain(settings, output=tmp_path / "run")
    assert not (run.folder / "stored").exists()
