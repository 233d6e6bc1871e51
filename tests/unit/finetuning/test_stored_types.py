"""Weights that are stored in half precision are trained in float32."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import runs

from mmssl.cli import main
from mmssl.models.opening import open_model
from mmssl.models.running import in_float32
from mmssl.models.saving import save_model

WORDS = ["train.steps=4", "train.batch_size=16", "limit=120", "patience=null", "validation_share=0"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model of digits, stored in three types of number."""
    folder = tmp_path_factory.mktemp("stored")
    assert runs.cli(folder, "train.steps=2") == 0
    found = {}
    for name in ("float32", "bfloat16"):
        model, processor = open_model(folder / "run")
        found[name] = folder / name
        save_model(model.to(getattr(torch, name)), processor, found[name])
        assert load_file(found[name] / "model.safetensors").popitem()[1].dtype == getattr(torch, name)
    return found


def test_whole_models_are_fine_tuned_in_float32(
    stored: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "bfloat16"
    before = {key: value.float() for key, value in load_file(stored[name] / "model.safetensors").items()}
    command = ["finetune", str(stored[name]), "--data", "builtin:digits", "--label", "label", "--peft", "none"]
    assert main([*command, *WORDS, "--output", str(tmp_path / "out")]) == 0
    after = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float32}
    moved = [key for key, value in before.items() if key.endswith("weight") and "trunk" in key]
    equal = [float((after[key] == before[key]).float().mean()) for key in moved]
    assert moved and max(equal) < 0.05, "steps that a half-precision number could not hold are there"
    assert f"stored as {name}" in caplog.text


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_pretraining_goes_on_in_float32(
    stored: dict[str, Path], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert runs.cli(tmp_path, f"model.from={stored[name]}", "train.steps=2") == 0
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {value.dtype for value in after.values()} == {torch.float32}
    assert (f"stored as {name}" in caplog.text) == (name != "float32")


def test_an_adapter_of_a_stored_half_comes_back(stored: dict[str, Path], tmp_path: Path) -> None:
    words = [f"model.from={stored['bfloat16']}", "train.steps=2", "model.towers.image.adapter.type=lora"]
    assert runs.cli(tmp_path, *words) == 0
    weights = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    open_model(tmp_path / "run")


def test_float32_stays_bit_for_bit(caplog: pytest.LogCaptureFixture) -> None:
    net = torch.nn.Linear(3, 3)
    kept = net.weight.detach().clone()
    with caplog.at_level(logging.WARNING, "mmssl"):
        in_float32(net, whole=True)
    assert torch.equal(net.weight, kept) and not caplog.text
    half = torch.nn.Linear(3, 3).bfloat16()
    half.bias.requires_grad_(False)
    in_float32(half, whole=False)
    assert (half.weight.dtype, half.bias.dtype) == (torch.float32, torch.bfloat16)
