"""Every format, written, reloaded by its public class in one process without mmssl, and compared there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toys import export as toys

from mmssl.export.writing import Exported, export_several

CASES = {
    "vit": ("vit", lambda: toys.image_model(activation="quick_gelu")),
    "vit-grey": ("vit", lambda: toys.image_model({"channels": 1}, layer_scale=0.3, pooling="cls")),
    "vit_mae": ("vit_mae", lambda: toys.image_model({"resize": "squash"}, norm_eps=1e-5)),
    "ijepa": ("ijepa", lambda: toys.image_model({"positions": "learned"}, prefix=0, qkv_bias=False)),
    "dinov2": ("dinov2", lambda: toys.image_model(pooling="cls", mlp_ratio=2.0)),
    "dinov2-registers": ("dinov2", lambda: toys.image_model(pooling="cls", prefix=4, layer_scale=0.5)),
    "clip": ("clip", toys.clip_model),
    "clip-vision": ("clip", lambda: toys.image_model({"channels": 1, "resize": "squash"}, **toys.CLIP_IMAGE)),
    "clip-text": ("clip", lambda: toys.text_model(toys.CLIP_TEXT, model_type="unigram", lowercase=True)),
    "siglip": ("siglip", toys.siglip_model),
    "siglip-short": ("siglip", lambda: toys.siglip_model(16)),
    "siglip-vision": ("siglip", lambda: toys.image_model(**toys.SIGLIP_IMAGE)),
    "siglip-text": ("siglip", lambda: toys.text_model(toys.SIGLIP_TEXT, attend_padding=True)),
    "open_clip": ("open_clip", toys.clip_model),
    "open_clip-mean": ("open_clip", lambda: toys.pair_model(
        {"pooling": "mean", "layer_scale": 0.3}, {**toys.CLIP_TEXT, "activation": "gelu_tanh"},
        picture={"channels": 1, "resize": "squash"})),
    "timm": ("timm", lambda: toys.image_model({"resize": "squash"}, layer_scale=0.4)),
    "timm-registers": ("timm", lambda: toys.image_model({"channels": 1}, pooling="cls", prefix=3, embed_norm=True)),
    "vit-channels": ("vit", lambda: toys.image_model({"channels": 5})),
}
CLASSES = {"vit": "ViTModel", "vit_mae": "ViTMAEModel", "ijepa": "IJepaModel", "dinov2": "Dinov2Model",
           "dinov2-registers": "Dinov2WithRegistersModel"}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """All cases; a fresh process costs seconds, so they share one."""
    folder = tmp_path_factory.mktemp("export")
    done = export_several([(make(), to, folder / name, None) for name, (to, make) in CASES.items()])
    return dict(zip(CASES, done, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_stock_class_gives_our_numbers(exported, name):
    proof = exported[name].proof
    assert proof.failures == []
    assert proof.largest("float32") < 2e-5
    assert 0 < proof.largest("bfloat16") < 0.5


FEATURES = "image-feature-extraction"
PIPELINES = {
    **dict.fromkeys(("vit", "vit-grey", "vit_mae", "ijepa", "dinov2", "dinov2-registers", "clip-vision",
                     "siglip-vision"), FEATURES),
    **dict.fromkeys(("clip-text",), "feature-extraction"),
    **dict.fromkeys(("clip", "siglip"), "zero-shot-image-classification"),
}  # fmt: skip


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_gives_our_numbers_from_the_raw_sample(exported, name):
    proof = exported[name].proof
    assert proof.pipeline == PIPELINES[name]
    assert proof.pipeline_difference is not None and proof.pipeline_difference < 1e-5


@pytest.mark.parametrize("name", ["vit", "vit-grey", "vit_mae", "ijepa", "dinov2", "dinov2-registers", "timm"])
def test_two_image_sizes(exported, name):
    assert {row.probe for row in exported[name].proof.rows} == {"32 x 32", "40 x 56"}


@pytest.mark.parametrize("name", CLASSES)
def test_automodel_loads_it(exported, name):
    assert exported[name].proof.auto == CLASSES[name]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vit-channels", "pipelines read colour pictures"),
        ("siglip-text", "AutoModel does not know SiglipTextModel"),
        ("siglip-short", "transformers' zero-shot pipeline fills SigLIP's texts up to 64 tokens, this model takes 16"),
    ],
)
def test_where_no_pipeline_works_it_says_why(exported, name, why):
    proof = exported[name].proof
    assert proof.pipeline.startswith(f"no: {why}") and proof.pipeline_difference is None


@pytest.mark.parametrize("name", CASES)
def test_the_folder_holds_safetensors_a_processor_and_the_card(exported, name):
    folder: Path = exported[name].folder
    names = {p.name for p in folder.iterdir()}
    assert {"config.json", "model.safetensors", "README.md"} <= names or "open_clip_model.safetensors" in names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".py"))]
    if exported[name].job.library == "transformers":
        assert "preprocessor_config.json" in names or name.endswith("-text")
        assert ("tokenizer.json" in names) == (name in ("clip", "siglip", "siglip-short") or name.endswith("-text"))
    card = (folder / "README.md").read_text()
    assert "## Proof of equality" in card and "Loads without mmssl: yes." in card and "| float32 |" in card
    assert f"library_name: {exported[name].job.library}" in card
    if exported[name].job.cls:
        assert json.loads((folder / "config.json").read_text())["architectures"] == [exported[name].job.cls]
    for file in folder.glob("*.json"):
        assert str(folder.parent) not in file.read_text()
