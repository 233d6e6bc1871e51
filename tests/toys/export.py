"""Tiny models of every shape that a format takes, with random weights everywhere, for the tests of the export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mmssl.modality import load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor

IMAGE: dict[str, Any] = {"size": 32, "patch": 8, "channels": 3, "mean": [0.4], "std": [0.3]}
TOWER: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4}


def preprocessor(name: str, **options: Any) -> Any:
    package = load_modality(name)
    return package.Preprocessor(package.Config(**options))


def model_of(
    preprocessors: dict[str, Any], towers: dict[str, dict[str, Any]], projection: int | None = None
) -> tuple[MMSSLModel, MMSSLProcessor]:
    """A model of fitted preprocessors; every parameter is moved off its initial value."""
    torch.manual_seed(11)
    processor = MMSSLProcessor(preprocessors)
    config = MMSSLConfig(
        modalities={n: {"type": n, **p.sizes()} for n, p in preprocessors.items()},
        towers={n: _spec(t) for n, t in towers.items()},
        projection=projection,
    )
    model = MMSSLModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval(), processor


def _spec(tower: dict[str, Any]) -> dict[str, Any]:
    options = {**TOWER, **tower}
    foreign = options.pop("foreign", None)
    spec = tower_spec(TowerConfig(**options))
    return spec if foreign is None else spec | {"foreign": foreign}


def image_model(image: dict[str, Any] | None = None, **tower: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return model_of({"image": preprocessor("image", **{**IMAGE, **(image or {})})}, {"image": tower})


CORPUS = ["a handwritten seven", "the digit 7 in grey", "three of them, or 33?", "no picture", "Gr\u00fc\u00dfe"] * 4


def text_preprocessor(**options: Any) -> Any:
    options = {"vocab_size": 330, "max_length": 16, "special_tokens": True, **options}
    return preprocessor("text", **options).fit(CORPUS)


def pair_model(
    image: dict[str, Any],
    text: dict[str, Any],
    projection: int | None = 24,
    words: dict[str, Any] | None = None,
    picture: dict[str, Any] | None = None,
) -> tuple[MMSSLModel, MMSSLProcessor]:
    """An image tower and a text tower, as contrastive training leaves them."""
    parts = {"image": preprocessor("image", **{**IMAGE, **(picture or {})}), "text": text_preprocessor(**(words or {}))}
    model, processor = model_of(parts, {"image": image, "text": text}, projection)
    model.config.logit_scale = 3.1
    return model, processor


CLIP_IMAGE = {"embed_norm": True, "pooling": "cls", "activation": "quick_gelu", "width": 48}
CLIP_TEXT = {"prefix": 0, "causal": True, "pooling": "last", "activation": "quick_gelu"}
SIGLIP_IMAGE = {"prefix": 0, "pooling": "attention", "activation": "gelu_tanh"}
SIGLIP_TEXT = {"prefix": 0, "pooling": "last", "activation": "gelu_tanh"}
LEARNED = {"positions": "learned"}
FILLED = {"attend_padding": True, "positions": "learned"}


def clip_model(**changes: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return pair_model(CLIP_IMAGE, CLIP_TEXT, **changes)


def siglip_model(length: int = 64, **changes: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return pair_model(SIGLIP_IMAGE, SIGLIP_TEXT, projection=None, words={**FILLED, "max_length": length}, **changes)


def text_model(text: dict[str, Any], **words: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return model_of({"text": text_preprocessor(**words)}, {"text": text})


def video_model(final_norm: bool = True, **video: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    options = {"size": 16, "patch": 8, "frames": 4, "tubelet": 2, "channels": 3, "mean": [0.4], "std": [0.3]}
    part = preprocessor("video", **{**options, "positions": "index", **video})
    return model_of({"video": part}, {"video": {"prefix": 0, "final_norm": final_norm}})


def vjepa2_model(video: dict[str, Any] | None = None, **tower: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    options = {"size": 24, "patch": 8, "frames": 4, "tubelet": 2, "channels": 3, "mean": [0.4], "std": [0.3]}
    part = preprocessor("video", **{**options, "margin": 256 / 224, **(video or {})})
    return model_of({"video": part}, {"video": {"prefix": 0, "positions": "vjepa2", "heads": 2, **tower}})


def audio_model(**tower: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    part = preprocessor("audio", source_rate=16000.0, seconds=0.5, mel_bins=32, mean=-4.0, std=4.0)
    return model_of({"audio": part}, {"audio": {"prefix": 2, **tower}})


def sentence_model(projection: int | None = 24, **text: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return model_of({"text": text_preprocessor(positions="learned")}, {"text": {"prefix": 0, **text}}, projection)


def wrapped_model() -> tuple[MMSSLModel, MMSSLProcessor]:
    """A ViT as the image tower, its weights moved off those of its class."""
    from transformers import ViTConfig

    layers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig(image_size=32, patch_size=8, **layers).to_dict()
    tower = {"pooling": "cls", "foreign": {"library": "transformers", "config": config}}
    return model_of({"image": preprocessor("image", **IMAGE)}, {"image": tower})


Models = Callable[[], tuple[MMSSLModel, MMSSLProcessor]]

CASES: dict[str, tuple[str, Models]] = {
    "vit": ("vit", lambda: image_model(activation="quick_gelu")),
    "vit-grey": ("vit", lambda: image_model({"channels": 1}, layer_scale=0.3, pooling="cls")),
    "vit_mae": ("vit_mae", lambda: image_model({"resize": "squash"}, norm_eps=1e-5)),
    "ijepa": ("ijepa", lambda: image_model({"positions": "learned"}, prefix=0, qkv_bias=False)),
    "dinov2": ("dinov2", lambda: image_model(pooling="cls", mlp_ratio=2.0)),
    "dinov2-registers": ("dinov2", lambda: image_model(pooling="cls", prefix=4, layer_scale=0.5)),
    "dinov3_vit": ("dinov3_vit", lambda: image_model(positions="dinov3", pooling="cls", prefix=5, layer_scale=0.5)),
    "dinov3_vit-gated": (
        "dinov3_vit",
        lambda: image_model({"channels": 1}, positions="dinov3", activation="swiglu", rotary_base=50.0, mlp_ratio=2.7),
    ),
    "clip": ("clip", clip_model),
    "clip-vision": ("clip", lambda: image_model({"channels": 1, "resize": "squash"}, **CLIP_IMAGE)),
    "clip-text": ("clip", lambda: text_model(CLIP_TEXT, model_type="unigram", lowercase=True)),
    "siglip": ("siglip", siglip_model),
    "siglip-short": ("siglip", lambda: siglip_model(16)),
    "siglip-vision": ("siglip", lambda: image_model(**SIGLIP_IMAGE)),
    "siglip-text": ("siglip", lambda: text_model(SIGLIP_TEXT, attend_padding=True)),
    "vision-text-dual-encoder": ("vision-text-dual-encoder", lambda: pair_model({"pooling": "cls"}, CLIP_TEXT)),
    "vision-text-dual-encoder-grey": (
        "vision-text-dual-encoder",
        lambda: pair_model({"pooling": "cls", "layer_scale": 0.3}, CLIP_TEXT, projection=None, picture={"channels": 1}),
    ),
    "open_clip": ("open_clip", clip_model),
    "open_clip-mean": (
        "open_clip",
        lambda: pair_model(
            {"pooling": "mean", "layer_scale": 0.3},
            {**CLIP_TEXT, "activation": "gelu_tanh"},
            picture={"channels": 1, "resize": "squash"},
        ),
    ),
    "timm": ("timm", lambda: image_model({"resize": "squash"}, layer_scale=0.4)),
    "timm-registers": ("timm", lambda: image_model({"channels": 1}, pooling="cls", prefix=3, embed_norm=True)),
    "videomae": ("videomae", video_model),
    "videomae-pretraining": ("videomae", lambda: video_model(final_norm=False, resize="squash")),
    "vjepa2": ("vjepa2", vjepa2_model),
    "vjepa2-grey": (
        "vjepa2",
        lambda: vjepa2_model(
            {"channels": 1, "tubelet": 1}, layer_scale=0.3, mlp_ratio=2.7, qkv_bias=False, activation="gelu_tanh"
        ),
    ),
    "ast": ("ast", lambda: audio_model(pooling="cls")),
    "onnx": ("onnx", lambda: image_model({"channels": 1}, pooling="cls", layer_scale=0.3, embed_norm=True)),
    "onnx-pool": ("onnx", lambda: pair_model(SIGLIP_IMAGE, CLIP_TEXT, picture=LEARNED, words=LEARNED)),
    "sentence-transformers": ("sentence-transformers", lambda: sentence_model(pooling="mean")),
    "sentence-transformers-last": (
        "sentence-transformers",
        lambda: sentence_model(projection=None, pooling="last", embed_norm=True, qkv_bias=False, layer_scale=0.3),
    ),
    "sentence-transformers-causal": (
        "sentence-transformers",
        lambda: sentence_model(causal=True, pooling="mean", activation="gelu_tanh"),
    ),
    "sentence-transformers-pair": ("sentence-transformers", clip_model),
    "stock": ("stock", wrapped_model),
    "vit-channels": ("vit", lambda: image_model({"channels": 5})),
}
"""Name of a case -> format and model."""
