"""A tiny image encoder with random weights, saved as a model folder, for the tests of fine-tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import save_model
from mmssl_image import Config, Preprocessor

QUICK = ["few=0", "train.steps=4", "train.batch_size=16", "eval_every=2", "limit=160", "train.log_every=2"]


def image_model(seed: int = 0, width: int = 16) -> tuple[MMSSLModel, MMSSLProcessor]:
    """A model over 8x8 pictures (the built-in digits)."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(256, size=(8, 8), dtype=np.uint8) for _ in range(8)]
    image = Preprocessor(Config(size=8, patch=4, resize="squash", channels=1)).fit(samples)
    tower = TowerConfig(width=width, depth=2, heads=2)
    config = MMSSLConfig(
        modalities={"image": {"type": "image", **image.sizes()}},
        towers={"image": tower_spec(tower)},
        initializer_seed=seed,
    )
    torch.manual_seed(seed)
    return MMSSLModel(config), MMSSLProcessor({"image": image})


def image_base(folder: Path, seed: int = 0, width: int = 16) -> Path:
    """The same as a model folder."""
    save_model(*image_model(seed, width), folder)
    return folder
