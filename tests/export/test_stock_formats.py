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
    assert 0 < proof.largest("bfloat16") < 0.2


@pytest.mark.parametrize("name", ["vit", "vit-grey", "vit_mae", "ijepa", "dinov2", "dinov2-registers"])
def test_two_sizes_and_the_pipeline(exported, name):
    done = exported[name]
    assert {row.probe for row in done.proof.rows} == {"32 x 32", "40 x 56"}
    assert done.proof.pipeline == "image-feature-extraction"
    assert done.proof.pipeline_difference is not None and done.proof.pipeline_difference < 1e-5
    assert done.proof.auto == CLASSES.get(name, "ViTModel")


def test_images_that_no_pipeline_reads_say_so(exported):
    proof = exported["vit-channels"].proof
    assert proof.pipeline.startswith("no: pipelines read colour pictures") and proof.pipeline_difference is None


@pytest.mark.parametrize("name", CASES)
def test_the_folder_holds_safetensors_a_processor_and_the_card(exported, name):
    folder: Path = exported[name].folder
    names = {p.name for p in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    card = (folder / "README.md").read_text()
    assert "## Proof of equality" in card and "Loads without mmssl: yes." in card and "| float32 |" in card
    assert "library_name: transformers" in card
    assert json.loads((folder / "config.json").read_text())["architectures"] == [exported[name].job.cls]
    for file in folder.glob("*.json"):
        assert str(folder.parent) not in file.read_text()
