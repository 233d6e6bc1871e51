"""`--to stock`: what a tower wraps goes out as its own class again, with the weights that training gave it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs
from toys.export import image_model
from toys.refusals import refused
from toys.stock import bert, clip, open_clip, vit
from transformers import AutoModel, AutoTokenizer, CLIPModel

import mmssl
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.exporting.writing import export_model, export_several
from mmssl.models.saving import load_model

pytestmark = pytest.mark.usefixtures("forked_proofs")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def recipe(image: str, text: str, folder: Path, pooling: str = "mean", **model: Any) -> dict[str, Any]:
    """Three steps of contrastive learning of two pretrained towers."""
    out = runs.image_text()
    out["modalities"]["image"] |= {"channels": 1, "mean": [0.3], "std": [0.4]}
    out["modalities"]["text"] = {"tokenizer": str(folder), "special_tokens": True, "max_length": 16}
    towers = {"image": {"from": image, "convert": False, "pooling": pooling}, "text": {"from": text, "pooling": "cls"}}
    out["model"] = {"towers": towers, "projection": None, **model}
    del out["objectives"]["mae"]
    out["train"] |= {"steps": 3, "lr": 1e-2}
    return out


@pytest.mark.slow
def test_trained_vit_bert_and_clip_go_out_as_their_own_classes(tmp_path, capsys):
    vit(tmp_path / "vit"), bert(tmp_path / "bert"), clip(tmp_path / "clip")
    origins = {"two": ("vit", "bert", "mean"), "pair": ("clip", "clip", "cls")}
    for name, (image, text, pooling) in origins.items():
        content = recipe(str(tmp_path / image), str(tmp_path / text), tmp_path / text, pooling)
        mmssl.pretrain(content, output=tmp_path / name)
    two, pair = tmp_path / "two" / "model", tmp_path / "pair" / "model"
    wanted: list[Any] = [
        (two, "stock", tmp_path / "out-vit", "image"),
        (two, "stock", tmp_path / "out-bert", "text"),
        (pair, "stock", tmp_path / "out-clip", None),
        (pair, "stock", tmp_path / "out-half", "image"),
        (pair, "stock", tmp_path / "out-text", "text"),
    ]
    classes = ["ViTModel", "BertModel", "CLIPModel", "CLIPVisionModelWithProjection", "CLIPTextModelWithProjection"]
    for done, cls in zip(export_several(wanted), classes, strict=True):
        assert done.proof.failures == [] and done.proof.largest("float32") < 1e-5
        assert {row.dtype for row in done.proof.rows} == {"float32", "bfloat16"}
        assert len({row.trial for row in done.proof.rows}) == 2
        assert json.loads((done.folder / "config.json").read_text())["architectures"] == [cls]
        assert f"transformers.{cls}" in (done.folder / "README.md").read_text()
        for file in done.folder.rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
    trained = load_model(two)[0].towers["text"].net["encoder"].state_dict()
    start, written = (AutoModel.from_pretrained(tmp_path / f).state_dict() for f in ("bert", "out-bert"))
    moved = [name for name in start if not torch.equal(start[name], written[name])]
    assert moved and all(torch.equal(trained[name], written[name]) for name in trained)
    assert AutoTokenizer.from_pretrained(tmp_path / "out-bert")("a digit")["input_ids"][0] == 2
    scale = load_model(pair)[0].config.logit_scale
    assert CLIPModel.from_pretrained(tmp_path / "out-clip").logit_scale.item() == pytest.approx(scale)
    assert main(["export", str(two), "--to", "stock", "--output", str(tmp_path / "no")]) == 2
    assert "several towers wrap a stock model: image (ViTModel), text (BertModel); name one with --tower" in (
        capsys.readouterr().err
    )
    assert main(["export", str(two), "--to", "stock", "--tower", "text", "--output", str(tmp_path / "cli")]) == 0
    again = AutoModel.from_pretrained(tmp_path / "cli").state_dict()
    assert all(torch.equal(again[name], value) for name, value in written.items())


def test_what_wraps_nothing_or_half_an_open_clip_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="format stock: no tower of mmssl model wraps a stock model"):
        export_model(image_model(), "stock", tmp_path / "out")
    open_clip(tmp_path / "oc")
    origin = f"open_clip:{tmp_path / 'oc'}"
    content = recipe(origin, origin, tmp_path / "oc")
    content["modalities"]["image"] |= {"channels": 3, "mean": [0.3] * 3, "std": [0.4] * 3}
    mmssl.pretrain(content, output=tmp_path / "run")
    with pytest.raises(UserError, match="it wraps one half of an open_clip model .VisionTransformer., expected a tr"):
        export_model(tmp_path / "run", "stock", tmp_path / "out", "image")
    with refused("VisionTransformer") as caught:
        export_model(tmp_path / "run", "vit", tmp_path / "out", "image")
    assert "format stock" not in str(caught.value) and not (tmp_path / "out").exists()
