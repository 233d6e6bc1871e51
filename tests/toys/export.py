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
