"""The recipe continue_lora from a DINOv3, then finetune, export, and the stock class again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import runs
from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel, SiglipVisionConfig, SiglipVisionModel

from mmssl.cli import main
from mmssl.models.opening import open_model
from mmssl.recipe.loading import load_recipe

pytestmark = pytest.mark.usefixtures("forked_proofs")

SMALL = (
    "train.steps=2",
    "train.batch_size=8",
    "train.trackers=[]",
    "train.health_every=null",
    "data.limit=64",
    "evaluation.tasks=[]",
)
MAE = "objectives.learn={type: mae, tower: image, mask: random, decoder: {width: 24, depth: 1, heads: 2}}"
DINO = (
    "objectives.learn={type: distillation, tower: image, global_views: [g1, g2], masks: [third], "
    "head: {prototypes: 16, hidden: 16, bottleneck: 8}}"
)
JEPA = "objectives.learn.predictor={width: 24, depth: 1, heads: 2}"


@pytest.fixture(scope="module")
def dinov3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv3 of random weights for pictures of 32 pixels."""
    folder = tmp_path_factory.mktemp("starts") / "dinov3"
    torch.manual_seed(3)
    layers = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = DINOv3ViTConfig(image_size=32, patch_size=4, num_register_tokens=4, use_gated_mlp=True, **layers)
    DINOv3ViTModel(config).save_pretrained(folder)
    DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def continued(start: Path, run: Path, *words: str) -> int:
    data = ["data.path=builtin:digits", f"model.from={start}"]
    return main(["pretrain", "continue_lora", *data, *SMALL, *words, "--output", str(run)])


def test_it_asks_for_the_encoder_in_one_line(tmp_path: Path, capsys: Any) -> None:
    words = ["pretrain", "continue_lora", "data.path=builtin:digits", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    (line,) = runs.errors(capsys.readouterr().err)
    assert "model.from: found none, expected the encoder to go on from" in line and not (tmp_path / "run").exists()


def test_the_other_objectives_are_one_override(dinov3: Path) -> None:
    for word, kind in ((MAE, "mae"), (DINO, "distillation"), (JEPA, "jepa")):
        recipe = load_recipe("continue_lora", [f"model.from={dinov3}", "data.path=builtin:digits", word])
        assert recipe.objectives["learn"].type == kind
        assert recipe.modalities["image"].config.size == 32 and recipe.model.towers["image"].positions == "dinov3"
        assert recipe.model.towers["image"].adapter is not None


def test_the_image_half_of_a_pair(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    SiglipVisionModel(SiglipVisionConfig(image_size=16, patch_size=4, **sizes)).save_pretrained(tmp_path)
    start = ["model.from=null", f"model.towers.image.from={tmp_path}", "model.towers.image.convert=true"]
    recipe = load_recipe("continue_lora", [*start, "data.path=builtin:digits"])
    assert recipe.modalities["image"].config.size == 16 and recipe.model.towers["image"].adapter is not None


@pytest.mark.slow
@pytest.mark.parametrize("word", [MAE, DINO], ids=["mae", "dino"])
def test_they_train(dinov3: Path, tmp_path: Path, word: str) -> None:
    assert continued(dinov3, tmp_path / "run", word) == 0
    assert len(runs.losses(tmp_path / "run")) > 0


def test_jepa_then_finetune_then_the_stock_class(dinov3: Path, tmp_path: Path) -> None:
    run, tuned, out = tmp_path / "run", tmp_path / "tuned", tmp_path / "out"
    assert continued(dinov3, run, JEPA, "train.lr=0.05") == 0
    assert {p.name for p in (run / "model").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    # a regression: the probes of its report are solved, those of ten classes searched for
    words = [
        "task=regression",
        "head_start=zero",
        "limit=60",
        "labels=30",
        "train.steps=2",
        "train.batch_size=8",
        "train.trackers=[]",
    ]
    code = main(["finetune", str(run), "--data", "builtin:digits", "--label", "label", *words, "--output", str(tuned)])
    assert code == 0
    assert main(["export", str(tuned), "--to", "dinov3_vit", "--output", str(out)]) == 0
    model, processor = open_model(tuned)
    pictures = [np.zeros((32, 32, 3), np.uint8)]
    np.testing.assert_array_equal(model.encode(pictures), model.encode(pictures, processor=processor))
    stock = DINOv3ViTModel.from_pretrained(out)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = processor(image=[picture])["image_pixel_values"]
    theirs = DINOv3ViTImageProcessor.from_pretrained(out)(picture, return_tensors="pt").pixel_values
    torch.testing.assert_close(theirs, pixels, rtol=0, atol=1e-5)
    with torch.no_grad():
        found, start = stock(theirs), DINOv3ViTModel.from_pretrained(dinov3)(theirs)
        expected = model(image_pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(found.last_hidden_state, expected, rtol=0, atol=1e-5)
    assert (found.last_hidden_state - start.last_hidden_state).abs().max() > 1e-4  # it has learned something
