"""Towers converted from stock checkpoints: the stock class's hidden states, at its size and interpolated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from toys import runs
from transformers import CLIPImageProcessor, ViTImageProcessor

import mmssl
from mmssl.errors import UserError
from mmssl.modality import load_modality
from mmssl.models.foreign import ForeignTower
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
FLAT = {**LAYERS, "intermediate_size": 96, "image_size": 32, "patch_size": 8}
STOCK: dict[str, dict[str, Any]] = {
    "ViT": {**FLAT, "hidden_act": "gelu_pytorch_tanh"},
    "ViTMAE": {**FLAT, "mask_ratio": 0.0},
    "IJepa": {**FLAT, "qkv_bias": False},
    "Dinov2": {**LAYERS, "mlp_ratio": 3, "image_size": 32, "patch_size": 8, "layerscale_value": 0.5},
    "Dinov2WithRegisters": {**LAYERS, "mlp_ratio": 3, "image_size": 32, "patch_size": 8, "num_register_tokens": 3},
}


def stock(name: str, folder: Path, **changes: Any) -> Any:
    """A stock model with random weights everywhere, biases, norms and positions among them, saved."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**{**STOCK[name], **changes})
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def recipe(origin: Path, image: dict[str, Any] | None = None, **tower: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["modalities"] = {"image": dict(image or {})}
    out["model"] = {"towers": {"image": {"from": str(origin), **tower}}}
    return out


def built(content: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    part = settings.modalities["image"]
    fitted = load_modality("image").Preprocessor(part.config).fit([np.zeros((40, 40, 3), np.uint8)])
    processor = MMSSLProcessor({"image": fitted})
    return build_model(settings, processor).eval(), processor


def states(model: MMSSLModel, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(image_pixel_values=pixels).last_hidden_state


def theirs(name: str, model: Any, pixels: torch.Tensor) -> torch.Tensor:
    extra: dict[str, Any] = {} if name.startswith("Dino") else {"interpolate_pos_encoding": True}
    if name == "ViTMAE":
        count = pixels.shape[2] * pixels.shape[3] // 64
        extra["noise"] = torch.arange(count).repeat(len(pixels), 1)
    with torch.no_grad():
        return model(pixels, **extra).last_hidden_state


@pytest.mark.parametrize("name", STOCK)
def test_hidden_states_are_those_of_the_stock_class(tmp_path, name):
    original = stock(name, tmp_path / "stock")
    model, processor = built(recipe(tmp_path / "stock"))
    assert not isinstance(model.towers["image"], ForeignTower) and model.tower("image").drops
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(states(model, pixels), theirs(name, original, pixels), rtol=0, atol=1e-5)
    save_model(model, processor, tmp_path / "model")  # and without its origin
    (tmp_path / "stock").rename(tmp_path / "gone")
    again, _ = load_model(tmp_path / "model")
    torch.testing.assert_close(states(again, pixels), theirs(name, original, pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["ViT", "ViTMAE", "IJepa", "Dinov2"])
def test_positions_are_interpolated_as_the_stock_class_does(tmp_path, name):
    original = stock(name, tmp_path / "stock")
    model, _ = built(recipe(tmp_path / "stock", {"size": [48, 40]}))
    pixels = torch.randn(2, 3, 48, 40)
    torch.testing.assert_close(states(model, pixels), theirs(name, original, pixels), rtol=0, atol=1e-5)


def test_any_objective_starts_from_it_and_drops(tmp_path):
    stock("ViT", tmp_path / "stock")
    content = recipe(tmp_path / "stock", {"size": 16})
    content["train"] |= {"steps": 3}
    run = mmssl.pretrain(content, output=tmp_path / "run")
    assert run.model.tower("image").drops and len(runs.losses(run.folder)) > 0


def test_preprocessing_is_the_checkpoints_where_the_recipe_says_nothing(tmp_path):
    stock("ViT", tmp_path / "stock")
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=mean, image_std=std, resample=2).save_pretrained(
        tmp_path / "stock"
    )
    _, processor = built(recipe(tmp_path / "stock"))
    config: Any = processor.preprocessors["image"].config
    assert (config.size, config.patch, config.channels) == (32, 8, 3)
    assert (config.mean, config.std, config.resize, config.interpolation) == (mean, std, "squash", "bilinear")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    theirs = ViTImageProcessor.from_pretrained(tmp_path / "stock")(picture, return_tensors="pt").pixel_values
    torch.testing.assert_close(processor(image=[picture])["image_pixel_values"], theirs, rtol=0, atol=1e-5)
    _, processor = built(recipe(tmp_path / "stock", {"mean": [0.5] * 3, "size": 16}))
    config = processor.preprocessors["image"].config
    assert (config.mean, config.std, config.size) == ([0.5] * 3, std, 16)
    crop = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(tmp_path / "stock")
    assert load_recipe(recipe(tmp_path / "stock")).modalities["image"].config.resize == "crop"


@pytest.mark.parametrize("content", ['{"image_mean": [0.5', '["image_mean"]'])
def test_damaged_preprocessing_is_refused_and_not_measured_anew(tmp_path, content):
    stock("ViT", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match="its preprocessor_config.json cannot be read") as caught:
        load_recipe(recipe(tmp_path))
    assert str(caught.value).count("\n") == 0


def test_what_does_not_fit_is_refused_at_the_start(tmp_path):
    stock("ViT", tmp_path / "stock")
    with pytest.raises(UserError) as caught:
        load_recipe(recipe(tmp_path / "stock", {"patch": 16, "channels": 1, "positions": "sincos"}))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "modalities.image.patch: found 16, but" in lines[0] and "has 8" in lines[0]
    assert "modalities.image.channels: found 1" in lines[1] and "positions: found 'sincos'" in lines[2]


def test_convert_chooses_the_kind(tmp_path):
    stock("ViT", tmp_path / "stock")
    model, _ = built(recipe(tmp_path / "stock", convert=False))
    assert isinstance(model.towers["image"], ForeignTower)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BeitConfig(image_size=32, patch_size=8, **sizes)
    transformers.BeitModel(config).save_pretrained(tmp_path / "beit")
    assert load_recipe(recipe(tmp_path / "beit")).modalities["image"].config.patch == 8
    with pytest.raises(UserError, match=r"found beit, convert: true takes a tower of image from .*vit"):
        load_recipe(recipe(tmp_path / "beit", convert=True))


def test_an_activation_that_we_do_not_have(tmp_path):
    stock("ViT", tmp_path / "stock", hidden_act="relu")
    with pytest.raises(UserError, match="its activation 'relu' is none of mmssl's; convert: false wraps"):
        load_recipe(recipe(tmp_path / "stock"))
    stock("Dinov2", tmp_path / "swiglu", use_swiglu_ffn=True)
    model, _ = built(recipe(tmp_path / "swiglu"))
    assert isinstance(model.towers["image"], ForeignTower)


def test_a_checkpoint_without_weights(tmp_path):
    stock("ViT", tmp_path / "stock")
    (tmp_path / "stock" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="its weights cannot be read"):
        built(recipe(tmp_path / "stock"))


def test_the_image_encoder_of_a_pair_is_converted_on_request(tmp_path):
    for name, extra in (("CLIPVision", {}), ("SiglipVision", {})):
        config = getattr(transformers, f"{name}Config")(**{**FLAT, **extra})
        original = getattr(transformers, f"{name}Model")(config).eval()
        with torch.no_grad():
            for parameter in original.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        original.save_pretrained(tmp_path / name)
        wrapped, _ = built(recipe(tmp_path / name))
        assert isinstance(wrapped.towers["image"], ForeignTower)  # its projection belongs to its embedding
        pooling = "cls" if name == "CLIPVision" else "attention"
        model, _ = built(recipe(tmp_path / name, convert=True, pooling=pooling))
        pixels = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected, found = original(pixels), model(image_pixel_values=pixels)
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=1e-5)
        if name == "SiglipVision":  # CLIP's states are those before its last norm
            torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)
        larger, _ = built(recipe(tmp_path / name, {"size": [48, 40]}, convert=True, pooling=pooling))
        pixels = torch.randn(1, 3, 48, 40)
        with torch.no_grad():
            expected = original(pixels, interpolate_pos_encoding=True).pooler_output
            found = larger(image_pixel_values=pixels).pooler_output
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "args",
    [
        {"class_token": True, "reg_tokens": 2, "init_values": 0.3},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"class_token": True, "reg_tokens": 1, "no_embed_class": True, "pre_norm": True, "act_layer": "quick_gelu"},
    ],
)
def test_timm(tmp_path, args):
    import timm

    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, **args}
    original = timm.create_model("vit_base_patch16_224", num_classes=0, **args).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    timm.models.save_for_hf(original, tmp_path / "timm", model_args=args, safe_serialization=True)
    model, _ = built(recipe(Path("x"), **{"from": f"timm:{tmp_path / 'timm'}"}))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = original.forward_features(pixels)
    torch.testing.assert_close(states(model, pixels), expected, rtol=0, atol=1e-5)


def test_a_timm_folder_that_does_not_fit(tmp_path):
    with pytest.raises(UserError, match="expected timm: and a folder"):
        load_recipe(recipe(Path("x"), **{"from": f"timm:{tmp_path / 'none'}"}))


@pytest.mark.parametrize("mean_pooling", [True, False])
def test_videomae(tmp_path, mean_pooling):
    torch.manual_seed(3)
    sizes = {"image_size": 16, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, "use_mean_pooling": mean_pooling}
    original = transformers.VideoMAEModel(transformers.VideoMAEConfig(**LAYERS, intermediate_size=96, **sizes)).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    original.save_pretrained(tmp_path / "stock")
    content = recipe(tmp_path / "stock")
    content["modalities"] = {"video": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    content["model"]["towers"] = {"video": content["model"]["towers"]["image"]}
    content["objectives"]["mae"]["tower"] = "video"
    settings = load_recipe(content)
    part = load_modality("video").Preprocessor(settings.modalities["video"].config)
    model = build_model(settings, MMSSLProcessor({"video": part})).eval()
    pixels = torch.randn(2, 4, 3, 16, 16)
    times = (torch.arange(4) / model.modality("video").fps).expand(2, -1)
    with torch.no_grad():
        expected = original(pixels).last_hidden_state
        found = model(video_pixel_values=pixels, video_times=times).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert model.tower("video").drops


SMALL_VJEPA2 = {
    **LAYERS,
    "mlp_ratio": 2.5,
    "crop_size": 24,
    "patch_size": 8,
    "frames_per_clip": 4,
    "tubelet_size": 2,
    "pred_hidden_size": 12,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
}


def vjepa2(folder: Path) -> Any:
    torch.manual_seed(3)
    original = transformers.VJEPA2Model(transformers.VJEPA2Config(**SMALL_VJEPA2)).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    original.save_pretrained(folder)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    transformers.VJEPA2VideoProcessor(crop_size=24, image_mean=mean, image_std=std).save_pretrained(folder)
    return original


def video_recipe(origin: Path, **video: Any) -> dict[str, Any]:
    content = recipe(origin)
    content["modalities"] = {"video": video}
    content["model"]["towers"] = {"video": content["model"]["towers"]["image"]}
    content["objectives"]["mae"]["tower"] = "video"
    return content


@pytest.mark.parametrize(("frames", "side"), [(4, 24), (10, 24), (4, 40)])
def test_vjepa2(tmp_path, frames, side):
    vjepa2(tmp_path / "stock")
    settings = load_recipe(video_recipe(tmp_path / "stock", frames=frames, size=side))
    config: Any = settings.modalities["video"].config
    assert (config.patch, config.tubelet, config.channels, config.mean) == (8, 2, 3, [0.1, 0.2, 0.3])
    part = load_modality("video").Preprocessor(config)
    model = build_model(settings, MMSSLProcessor({"video": part})).eval()
    assert model.tower("video").drops and model.config.towers["video"]["positions"] == "vjepa2"
    pixels = torch.randn(2, frames, 3, side, side)
    times = (torch.arange(frames) / model.modality("video").fps).expand(2, -1)
    stock = transformers.VJEPA2Model.from_pretrained(tmp_path / "stock", crop_size=side)  # it counts places by that
    with torch.no_grad():
        expected = stock(pixels, skip_predictor=True).last_hidden_state
        found = model(video_pixel_values=pixels, video_times=times).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    save_model(model, MMSSLProcessor({"video": part}), tmp_path / "model")
    (tmp_path / "stock").rename(tmp_path / "gone")
    again, _ = load_model(tmp_path / "model")
    with torch.no_grad():
        found = again(video_pixel_values=pixels, video_times=times).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_preprocessing_of_vjepa2_is_kept(tmp_path):
    vjepa2(tmp_path / "stock")
    settings = load_recipe(video_recipe(tmp_path / "stock"))
    part = load_modality("video").Preprocessor(settings.modalities["video"].config)
    assert settings.modalities["video"].config.margin == 256 / 224
    # frames of the size that both resize to: what is compared is the cut, not two ways to resize
    clip = np.random.default_rng(0).integers(0, 256, (4, 27, 27, 3), dtype=np.uint8)
    processor = transformers.VJEPA2VideoProcessor.from_pretrained(tmp_path / "stock")
    theirs = processor(clip, return_tensors="pt")["pixel_values_videos"]
    ours = part([{"frames": clip, "fps": 8.0}])["pixel_values"]
    assert theirs.shape == ours.shape == (1, 4, 3, 24, 24)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
