"""Models of timm as towers: compared with timm's own, saved without their origin, trained, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toys import runs

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality import load_modality
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model, build_pretraining

NAME = "resnet10t"
"""The smallest net with batch norms that timm builds quickly."""


def written(folder: Path, **pretrained: Any) -> Any:
    """A net of timm's in a folder as timm writes one for the Hub, its classifier included."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model(NAME, num_classes=5, in_chans=1, stem_width=8, channels=(8, 8, 8, 16)).eval()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):  # statistics that tell eval mode from training
            part.running_mean.uniform_(-0.1, 0.1)
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    config = {
        "architecture": NAME,
        "num_classes": 5,
        "model_args": {"stem_width": 8, "channels": [8, 8, 8, 16], "in_chans": 1, "num_classes": 5},
        "pretrained_cfg": {"input_size": [1, 64, 64], "mean": [0.3], "std": [0.4], "interpolation": "bicubic"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return net


def recipe(origin: str, **options: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["modalities"]["image"] = {"type": "image"}
    out["model"] = {"towers": {"image": {"from": origin, **options}}}
    out["views"] = {"a": {"image": {"flip": 0.5}}, "b": {"image": {"flip": 0.5}}}
    out["masks"] = {}
    out["objectives"] = {"byol": {"type": "bootstrap", "towers": ["image"], "views": ["a", "b"]}}
    return out


def built(content: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    processor = fitted(settings)
    return build_model(settings, processor).eval(), processor


def fitted(settings: Any) -> MMSSLProcessor:
    part = settings.modalities["image"]
    reader = load_modality("image").Preprocessor(part.config)
    if not reader.state:
        reader.fit([np.zeros((8, 8), np.uint8)])
    return MMSSLProcessor({"image": reader}, {"image": "image"})


def test_a_folder_gives_the_map_of_timms_own_model_and_its_preprocessing(tmp_path):
    net = written(tmp_path / "from")
    model, processor = built(recipe(f"timm:{tmp_path / 'from'}", frozen=True))
    reader = processor.preprocessors["image"]
    assert (reader.size, reader.config.patch, reader.config.interpolation) == ((64, 64), [32, 32], "bicubic")
    assert reader.state["mean"] == [0.3] and reader.state["std"] == [0.4]
    pixels = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        out = model(image_pixel_values=pixels)
        holed = model(image_pixel_values=pixels, image_present=torch.tensor([True, False, True]))
        theirs = net.forward_features(pixels)
    torch.testing.assert_close(out.tokens["image"], theirs.flatten(2).mT, rtol=0, atol=1e-6)
    torch.testing.assert_close(out.pooled["image"], theirs.mean((2, 3)), rtol=0, atol=1e-6)
    torch.testing.assert_close(holed.pooled["image"][[0, 2]], out.pooled["image"][[0, 2]], rtol=0, atol=1e-6)
    assert (holed.pooled["image"][1] == 0).all()

    save_model(model, processor, tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file
    again = load_model(tmp_path / "model")[0]
    with torch.no_grad():
        same = again(image_pixel_values=pixels)
    torch.testing.assert_close(same.pooled["image"], out.pooled["image"], rtol=0, atol=0)


def test_a_name_is_a_random_trunk_that_learns_and_whose_teacher_has_its_statistics(tmp_path):
    content = recipe(f"timm:{NAME}")
    content["modalities"]["image"] = {"size": 32, "patch": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
    settings = load_recipe(content)
    processor = fitted(settings)
    work = build_pretraining(settings, processor).train()
    tower: Any = work.model.tower("image")
    drawn = {name: p.detach().clone() for name, p in tower.net.named_parameters()}
    assert float(drawn["layer1.0.conv1.weight"].std()) > 0.04  # as timm draws it; a layer of ours would have 0.024
    loss = work({"image": {"pixel_values": torch.randn(4, 1, 32, 32)}}, Draws(1, 4)).total
    loss.backward()
    assert all(p.grad is not None for p in tower.net.parameters())
    assert float(tower.net.bn1.running_mean.abs().max()) > 0
    work.begin(10)
    work.after_step(0.1)
    teachers = [m for m in work.objectives.modules() if type(m) is type(tower)]
    assert teachers and all(torch.equal(t.net.bn1.running_mean, tower.net.bn1.running_mean) for t in teachers)
    assert not any(m.training for t in teachers for m in t.net.modules())


def test_a_frozen_trunk_keeps_its_statistics(tmp_path):
    net = written(tmp_path / "from")
    model, _ = built(recipe(f"timm:{tmp_path / 'from'}", frozen=True))
    model.train()
    model(image_pixel_values=torch.randn(4, 1, 64, 64))
    assert torch.equal(model.tower("image").net.bn1.running_mean, net.bn1.running_mean)
    assert not model.tower("image").mixes_rows


def refused(content: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        settings = load_recipe(content)
        build_pretraining(settings, fitted(settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def small(origin: str, **objective: Any) -> dict[str, Any]:
    content = recipe(origin)
    content["modalities"]["image"] = {"size": 32, "patch": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
    if objective:
        content["objectives"] = {"it": objective}
        content["masks"] = {"half": {"type": "random", "ratio": {"image": 0.5}}}
    return content


def test_what_cannot_be_is_refused_in_one_line(tmp_path):
    assert "resnet18" in refused(small("timm:resnet8888"))
    assert "expected timm: and a folder" in refused(small("timm:./nothing"))
    said = refused(small(f"timm:{NAME}", type="mae", tower="image", mask="half"))
    assert "drop" in said and "image" in said
    said = refused(small(f"timm:{NAME}", type="jepa", tower="image", mask="half"))
    assert "image" in said and ("drop" in said or "all its patches" in said)
    said = refused(small(f"timm:{NAME}", type="contrastive", towers=["image"], views=["a", "b"], cache_rows=2))
    assert "batch norm" in said


def test_a_strangers_description_builds_nothing_but_a_model_of_timms():
    from mmssl.models.timm_tower import make_net

    for config in (
        {"architecture": "hf-hub:somebody/model"},
        {"architecture": "local-dir:/tmp"},
        {"architecture": NAME, "model_args": {"checkpoint_path": "/tmp/x.pth"}},
        {"architecture": NAME, "model_args": {"pretrained_cfg": {"url": "http://127.0.0.1"}}},
        {"architecture": NAME, "model_args": {"no_such_argument": 1}},
    ):
        with pytest.raises(UserError):
            make_net(config, 1)
