"""A run of a convolutional tower on small pictures: in parts, broken off and resumed, then used by every verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toys import runs

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.recipe.loading import load_recipe

VIEW = {"image": {"crop_scale": [0.5, 1.0], "brightness": 0.3}}
TOWER: dict[str, Any] = {"trunk": "resnet", "width": 16, "depth": 2, "dropout": 0.1, "drop_path": 0.1, "heads": 2}


def recipe(tower: dict[str, Any] | None = None, **train: Any) -> dict[str, Any]:
    """SimCLR, and masked autoencoding beside it, which drops patches."""
    out = runs.recipe(train=train)
    out["model"]["towers"]["image"] = TOWER | (tower or {})
    out["views"] = {"a": VIEW, "b": VIEW}
    out["objectives"]["simclr"] = {"type": "contrastive", "towers": ["image"], "views": ["a", "b"], "loss": "nt_xent"}
    return out


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert runs.cli(folder, content=recipe()) == 0
    return folder / "run"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def test_a_run_that_was_broken_off_goes_on_exactly(straight: Path, tmp_path: Path) -> None:
    with runs.killed_at(4):
        runs.cli(tmp_path, content=recipe())
    assert runs.cli(tmp_path, "--resume", content=recipe()) == 0
    found, expected = weights(tmp_path / "run"), weights(straight)
    assert list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in found)


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    content = recipe({"dropout": 0.0, "drop_path": 0.0}, eps=1e-3, steps=3, save_every=3, log_every=3)
    for parts, output in ((1, "one"), (4, "four")):
        train = content["train"] | {"accumulation": parts}
        assert runs.cli(tmp_path, content=content | {"train": train}, output=output) == 0
    one, four = weights(tmp_path / "one"), weights(tmp_path / "four")
    for name in one:
        torch.testing.assert_close(four[name], one[name], rtol=1e-5, atol=1e-6, msg=name)


def test_blocks_that_are_computed_again_and_half_precision(tmp_path: Path) -> None:
    short = {"steps": 2, "save_every": 2, "log_every": 2}
    for output, train in {
        "plain": {},
        "again": {"gradient_checkpointing": True},
        "half": {"mixed_precision": "bf16"},
    }.items():
        assert runs.cli(tmp_path, content=recipe(**short, **train), output=output) == 0
    plain, again, half = (weights(tmp_path / output) for output in ("plain", "again", "half"))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert all(bool(torch.isfinite(half[name]).all()) for name in half)


@pytest.mark.slow
def test_every_verb_takes_it(straight: Path, tmp_path: Path) -> None:
    data = ["--data", "builtin:digits", "limit=96"]
    assert main(["embed", str(straight), "--data", "builtin:digits", "--output", str(tmp_path / "e.parquet")]) == 0
    found = np.stack(pq.read_table(tmp_path / "e.parquet")["image_embedding"].to_pylist())
    assert found.shape[1] == 5 * 16  # grid+std
    assert main(["evaluate", str(straight), "--data", "builtin:digits", "--label", "label", "split=test"]) == 0
    config = json.loads((straight / "model" / "config.json").read_text())
    assert config["towers"]["image"]["trunk"] == "resnet"
    words = ["finetune", str(straight), *data, "--label", "label", "--output", str(tmp_path / "tuned")]
    assert main([*words, "train.steps=2", "train.batch_size=8"]) == 0
    lora = [
        "finetune",
        str(straight),
        *data,
        "--label",
        "label",
        "--output",
        str(tmp_path / "lora"),
        "peft=lora",
        "adapter.r=2",
    ]
    assert main([*lora, "train.steps=2", "train.batch_size=8"]) == 0


def test_stock_classes_are_refused_and_idle_options_too(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(straight), "--to", "vit", "--output", str(tmp_path / "vit")]) == 2
    assert (
        "trunk: found resnet, expected transformer (its blocks are those of a transformer)" in capsys.readouterr().err
    )
    for option, value in {"prefix": 2, "mlp_ratio": 2.0, "readout_layers": 2, "positions": "rotary"}.items():
        with pytest.raises(UserError, match=f"image.{option}: found .*, which has no effect with trunk: resnet"):
            load_recipe(recipe({option: value}))


@pytest.mark.slow
def test_it_exports_to_onnx(straight: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    # refused unless the file gives what the model gives
    assert main(["export", str(straight), "--to", "onnx", "--output", str(tmp_path / "onnx")]) == 0
