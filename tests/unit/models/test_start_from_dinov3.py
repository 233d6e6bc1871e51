"""`from` a DINOv3: the stock class's hidden states in float64, at any size, dropped, masked, and exported back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from toys import export, runs
from transformers import DINOv3ViTConfig, DINOv3ViTModel
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from mmssl.errors import UserError
from mmssl.exporting.writing import export_model
from mmssl.modality import load_modality
from mmssl.models.foreign import ForeignTower
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.rotary import Rotary
from mmssl.models.saving import load_model, save_model
from mmssl.models.tower import Tower
from mmssl.patches import Patches
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model

SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 24,
    "intermediate_size": 52,
    "image_size": 32,
    "patch_size": 8,
    "layerscale_value": 0.5,
    "num_register_tokens": 4,
}
KINDS: dict[str, dict[str, Any]] = {
    "as released": {},
    "no registers": {"num_register_tokens": 0, "hidden_act": "gelu_pytorch_tanh"},
    "gated": {"use_gated_mlp": True, "hidden_act": "silu"},
    "gated, gelu, all biases": {"use_gated_mlp": True, "key_bias": True, "rope_theta": 50.0},
    "no biases": {"query_bias": False, "value_bias": False, "proj_bias": False, "mlp_bias": False},
    "some biases": {"query_bias": False, "key_bias": True, "value_bias": False, "hidden_act": "silu"},
}


def dinov3(folder: Path, **changes: Any) -> DINOv3ViTModel:
    """A DINOv3 with random weights everywhere, and its image processor."""
    torch.manual_seed(3)
    model = DINOv3ViTModel(DINOv3ViTConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    transformers.DINOv3ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    ).save_pretrained(folder)
    return model


def doubled(model: DINOv3ViTModel) -> DINOv3ViTModel:
    """In float64 but for the angles: they are float32 whatever the class computes in."""
    model = model.double()
    rope: Any = model.rope_embeddings
    rope.inv_freq = 1 / rope.base ** torch.arange(0, 1, 4 / rope.head_dim, dtype=torch.float32)
    return model


def recipe(origin: Path, image: dict[str, Any] | None = None, **tower: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["modalities"] = {"image": dict(image or {})}
    out["model"] = {"towers": {"image": {"from": str(origin), **tower}}}
    return out


def built(content: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    processor = MMSSLProcessor({"image": load_modality("image").Preprocessor(settings.modalities["image"].config)})
    return build_model(settings, processor).eval(), processor


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_the_stock_class_in_float64(tmp_path, kind):
    original = doubled(dinov3(tmp_path, **KINDS[kind]))
    model = built(recipe(tmp_path))[0].double()
    assert not isinstance(model.towers["image"], ForeignTower) and model.tower("image").drops
    for height, width in ((32, 32), (48, 24), (8, 80), (64, 64)):
        pixels = torch.randn(2, 3, height, width)
        with torch.no_grad():
            expected = original(pixels.double())
            found = model(image_pixel_values=pixels)
        torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-10)
        torch.testing.assert_close(found.pooler_output, masked_mean(original, expected), rtol=0, atol=1e-5)


def masked_mean(original: DINOv3ViTModel, output: Any) -> torch.Tensor:
    return output.last_hidden_state[:, 1 + original.config.num_register_tokens :].mean(1).float()


def test_another_size_a_saved_model_and_one_without_its_origin(tmp_path):
    original = dinov3(tmp_path / "stock")
    model, processor = built(recipe(tmp_path / "stock", {"size": [48, 40]}, pooling="cls"))
    pixels = torch.randn(2, 3, 48, 40)
    save_model(model, processor, tmp_path / "model")
    (tmp_path / "stock").rename(tmp_path / "gone")
    again, _ = load_model(tmp_path / "model")
    with torch.no_grad():
        expected, found = original(pixels), again(image_pixel_values=pixels)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)


def test_hidden_patches_are_its_mask_token(tmp_path):
    original = doubled(dinov3(tmp_path))
    model = built(recipe(tmp_path))[0].double()
    pixels, hidden = torch.randn(2, 3, 32, 32), torch.rand(2, 16) < 0.4
    with torch.no_grad():
        expected = original(pixels.double(), bool_masked_pos=hidden).last_hidden_state
        patches = model.modality("image").patchify({"pixel_values": pixels})
        found = model.tower("image")({"image": patches}, {"image": hidden})
    torch.testing.assert_close(torch.cat([found.prefix, found.tokens["image"]], 1), expected, rtol=0, atol=1e-10)


def test_dropped_patches_keep_their_place_in_the_whole_picture(tmp_path):
    """What is left of a picture is turned as in it: a tower that measured what is left would see another picture."""
    dinov3(tmp_path)
    model = built(recipe(tmp_path))[0]
    tower, patches = model.tower("image"), model.modality("image").patchify({"pixel_values": torch.randn(2, 3, 32, 48)})
    index = torch.tensor([[1, 4, 6, 15], [0, 2, 9, -1]])
    there = patches.hidden_by(index)
    with torch.no_grad():
        dropped = tower({"image": patches.take(index)})
        blind = tower({"image": patches.replace(valid=there, full=False)})
        whole = tower({"image": patches.repeated(2).rows(slice(1, 3))})
    for row, chosen in enumerate(index):
        kept = chosen[chosen >= 0]
        torch.testing.assert_close(dropped.tokens["image"][row, : len(kept)], blind.tokens["image"][row, kept])
    torch.testing.assert_close(dropped.prefix, blind.prefix)
    torch.testing.assert_close(whole.tokens["image"], tower({"image": patches}).tokens["image"])


@pytest.mark.parametrize("head", [4, 12, 16, 64, 80])
def test_the_angles_are_the_stock_classs_bit_for_bit(head):
    config = DINOv3ViTConfig(hidden_size=head, num_attention_heads=1, patch_size=8)
    stock = DINOv3ViTRopePositionEmbedding(config).eval()  # else it moves places at random
    for rows, columns in ((2, 3), (14, 14), (37, 5)):
        cosine, sine = stock(torch.zeros(1, 3, rows * 8, columns * 8))
        grid = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        coords = grid.flatten(0, 1)[None].float()
        valid = torch.ones(coords.shape[:2], dtype=torch.bool)
        extent = torch.tensor([[float(rows), float(columns)]])
        found = Rotary(head, (1.0, 1.0), "dinov3")(Patches(coords, coords, valid, extent=extent))
        assert found.halves and torch.equal(found.cosine[0, 0], cosine) and torch.equal(found.sine[0, 0], sine)


def test_preprocessing_and_architecture_are_the_checkpoints(tmp_path):
    dinov3(tmp_path, **KINDS["gated"])
    model, processor = built(recipe(tmp_path))
    config: Any = processor.preprocessors["image"].config
    assert (config.size, config.patch, config.channels) == (32, 8, 3)
    assert (config.mean, config.std, config.resize) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], "squash")
    spec = model.config.towers["image"]
    assert (spec["prefix"], spec["positions"], spec["rotary_base"], spec["activation"]) == (5, "dinov3", 100, "swiglu")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    theirs = transformers.DINOv3ViTImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt").pixel_values
    torch.testing.assert_close(processor(image=[picture])["image_pixel_values"], theirs, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("forked_proofs")
@pytest.mark.parametrize("kind", ["as released", "gated, gelu, all biases"])
def test_exported_back_it_is_the_same_file(tmp_path, kind):
    original = dinov3(tmp_path / "stock", **KINDS[kind])
    model, processor = built(recipe(tmp_path / "stock", pooling="cls"))
    done = export_model((model, processor), "dinov3_vit", tmp_path / "out")
    assert done.proof.failures == [] and {row.trial for row in done.proof.rows} == {"32 x 32", "40 x 56"}
    assert done.proof.pipeline == "image-feature-extraction"
    again = DINOv3ViTModel.from_pretrained(tmp_path / "out")
    theirs = original.state_dict()
    assert set(again.state_dict()) == set(theirs)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    for field in ("key_bias", "query_bias", "value_bias", "use_gated_mlp", "num_register_tokens", "rope_theta"):
        assert getattr(again.config, field) == getattr(original.config, field)


@pytest.mark.parametrize(
    ("tower", "line"),
    [
        ({"heads": 16}, r"positions: dinov3 needs heads of a multiple of 4 channels for 2 coordinates, found 2"),
        ({"heads": 3, "width": 18}, r"needs heads of a multiple of 4 channels for 2 coordinates, found 6"),
    ],
)
def test_heads_that_cannot_be_turned(tower, line):
    with pytest.raises(UserError, match=line):
        export.image_model(positions="dinov3", **{"width": 32, **tower})


def test_patches_that_do_not_say_how_far_they_reach():
    model, _ = export.video_model()
    with pytest.raises(UserError, match="the patches of modality 'video' do not say how far the input reaches"):
        Tower(TowerConfig(positions="dinov3", width=24, heads=2), {"video": model.modality("video")})


def test_an_activation_that_is_none_of_ours(tmp_path):
    dinov3(tmp_path, use_gated_mlp=True, hidden_act="relu")
    with pytest.raises(UserError, match="its activation 'relu' is none of mmssl's; convert: false wraps the model"):
        load_recipe(recipe(tmp_path))
    model, _ = built(recipe(tmp_path, convert=False))
    assert isinstance(model.towers["image"], ForeignTower)
