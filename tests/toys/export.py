"""Tiny models of every shape that a format takes, with random weights everywhere, for the tests of the export."""

from __future__ import annotations

from typing import Any

import torch

from mmssl.modality import load_modality
from mmssl.models.configuration_mmssl import MMSSLConfig, TowerConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
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
        towers={n: tower_spec(TowerConfig(**{**TOWER, **t})) for n, t in towers.items()},
        projection=projection,
    )
    model = MMSSLModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval(), processor


def image_model(image: dict[str, Any] | None = None, **tower: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return model_of({"image": preprocessor("image", **{**IMAGE, **(image or {})})}, {"image": tower})


CORPUS = ["a handwritten seven", "the digit 7 in grey", "three of them, or 33?", "no picture", "Gr\u00fc\u00dfe"] * 4


def text_preprocessor(**options: Any) -> Any:
    options = {"vocab_size": 330, "max_length": 16, "special_tokens": True, **options}
    return preprocessor("text", **options).fit(CORPUS)


def pair_model(
    image: dict[str, Any], text: dict[str, Any], projection: int | None = 24, words: dict[str, Any] | None = None,
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
FILLED = {"attend_padding": True, "positions": "learned"}


def clip_model(**changes: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return pair_model(CLIP_IMAGE, CLIP_TEXT, **changes)


def siglip_model(length: int = 64, **changes: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return pair_model(SIGLIP_IMAGE, SIGLIP_TEXT, projection=None, words={**FILLED, "max_length": length}, **changes)


def text_model(text: dict[str, Any], **words: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    return model_of({"text": text_preprocessor(**words)}, {"text": text})
