"""`vision-text-dual-encoder`: wrapped and own halves mixed, what stands in the way, going on from what was written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from toys import runs
from toys.export import CLIP_TEXT, IMAGE, model_of, pair_model, preprocessor
from toys.refusals import refused
from toys.stock import LAYERS, bert, vit

import mmssl
from mmssl.errors import UserError
from mmssl.exporting.writing import export_model, export_several
from mmssl.modality import load_modality
from mmssl.models.foreign import ForeignTower
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model
from mmssl.models.stock.formats.vision_text_dual_encoder import SHRINK
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model

pytestmark = pytest.mark.usefixtures("forked_proofs")

FORMAT = "vision-text-dual-encoder"
FLAT = {**LAYERS, "hidden_size": 16}
PICTURE = {"image_size": 32, "patch_size": 8}
BERT = transformers.BertConfig(vocab_size=330, max_position_embeddings=16, **FLAT)
VIT = transformers.ViTConfig(**PICTURE, **FLAT)
DINO = transformers.Dinov2Config(num_hidden_layers=2, num_attention_heads=2, hidden_size=16, mlp_ratio=2, **PICTURE)
PAIR = transformers.CLIPConfig(
    text_config={"vocab_size": 330, "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2, **FLAT},
    vision_config={**PICTURE, **LAYERS, "hidden_size": 24},
    projection_dim=12,
)
OWN_IMAGE = {"pooling": "cls"}


def wrapped(config: Any) -> dict[str, Any]:
    return {"pooling": "cls", "foreign": {"library": "transformers", "config": config.to_dict()}}


MIXES: dict[str, tuple[dict[str, Any], dict[str, Any], int | None, str, str]] = {
    "vit-bert": (wrapped(VIT), wrapped(BERT), None, "ViTModel", "BertModel"),
    "own-bert": (OWN_IMAGE, wrapped(BERT), 20, "ViTModel", "BertModel"),
    "clip-bert": (wrapped(PAIR), wrapped(BERT), 20, "CLIPVisionModel", "BertModel"),
    "single-halves": (wrapped(PAIR.vision_config), wrapped(PAIR.text_config), 20, "CLIPVisionModel", "CLIPTextModel"),
    "dinov2-own": (wrapped(DINO), CLIP_TEXT, 20, "Dinov2Model", "CLIPTextModel"),
    "own-clip": (OWN_IMAGE, wrapped(PAIR), 20, "ViTModel", "CLIPTextModel"),
}
"""Image half, text half, width of the projection, and the classes that they become."""


def test_wrapped_and_own_halves(tmp_path):
    """In a process without mmssl, at two lengths of texts (and, where the image half is ours, two sizes)."""
    wanted: list[Any] = [
        (pair_model(image, text, width), FORMAT, tmp_path / name, None)
        for name, (image, text, width, *_) in MIXES.items()
    ]
    sharp = pair_model(OWN_IMAGE, CLIP_TEXT, 20)
    sharp[0].config.logit_scale = math.log(100)  # a rounded norm then moves logits by more than their own rounding
    *several, last = export_several([*wanted, (sharp, FORMAT, tmp_path / "sharp", None)])
    assert last.proof.failures == []
    for name, done in zip(MIXES, several, strict=True):
        image, _, _, *classes = MIXES[name]
        assert done.proof.failures == [] and done.proof.largest("float32") < 1e-5, name
        assert {row.dtype for row in done.proof.rows} == {"float32", "bfloat16"}
        trials = {row.trial for row in done.proof.rows}
        assert len(trials) == (3 if image is OWN_IMAGE else 2) and "32 x 32 and long texts, 16 tokens" in trials
        assert {row.output for row in done.proof.rows} >= {"image_embeds", "text_embeds", "logits_per_image"}
        assert done.proof.pipeline_difference is not None and done.proof.pipeline_difference < 1e-5
        model = transformers.AutoModel.from_pretrained(done.folder)
        assert type(model).__name__ == "VisionTextDualEncoderModel"
        assert [type(m).__name__ for m in (model.vision_model, model.text_model)] == classes
        assert ("has a tanh" in (done.folder / "README.md").read_text()) == ("BertModel" in classes)
        assert "is not supported" in (done.folder / "README.md").read_text()


def test_the_tanh_is_straight_where_states_are_large():
    """Of a state of 10, in float32: what goes through the shrunken pooler and back is off by less than 3e-6 of it."""
    states = torch.linspace(-10, 10, 1001)
    back = torch.tanh(states * SHRINK) / SHRINK
    assert ((back - states).abs() / states.abs().clamp(min=1e-3)).max() < 3e-6


def test_what_stands_in_the_way(tmp_path):
    cases = [
        (pair_model({}, CLIP_TEXT), "towers.image.pooling: found mean, expected cls (it takes the pooled output"),
        (pair_model(OWN_IMAGE, {**CLIP_TEXT, "causal": False}), "towers.text.causal: found false, expected true"),
        (pair_model({**OWN_IMAGE, "embed_norm": True}, CLIP_TEXT), "towers.image.embed_norm: found true"),
        (pair_model(OWN_IMAGE, {**wrapped(BERT), "pooling": "mean"}), "towers.text.pooling: found mean, expected cls"),
        (
            pair_model(wrapped(transformers.IJepaConfig(**PICTURE, **FLAT)), CLIP_TEXT),
            "model.towers.image.from: it wraps a IJepaModel, expected a transformers model that pools its first token",
        ),
        (
            pair_model(OWN_IMAGE, wrapped(BERT), words={"attend_padding": True}),
            "modalities.text.attend_padding: found true, expected false (its encoders do not look at padding)",
        ),
        (
            model_of({"image": preprocessor("image", **IMAGE)}, {"image": OWN_IMAGE}),
            "it takes a tower of image and text, the model has image",
        ),
    ]
    for model, why in cases:
        with pytest.raises(UserError) as caught:
            export_model(model, FORMAT, tmp_path / "out")
        assert why in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_compatible_with_sets_both_halves_and_refuses_contradictions():
    content = runs.image_text()
    for tower in content["model"]["towers"].values():
        for key in ("pooling", "causal", "prefix"):
            tower.pop(key, None)
    content["model"]["compatible_with"] = FORMAT
    settings = load_recipe(content)
    image, text = (settings.model.towers[n] for n in ("image", "text"))
    assert (image.pooling, image.prefix, image.embed_norm) == ("cls", 1, False)
    assert (text.pooling, text.prefix, text.causal) == ("last", 0, True)
    assert settings.modalities["text"].config.special_tokens
    content["model"]["towers"]["image"]["pooling"] = "mean"
    content["model"]["towers"]["text"]["causal"] = False
    with pytest.raises(UserError) as caught:
        load_recipe(content)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert any(f"image.pooling: found mean, but model.compatible_with: {FORMAT} expects cls" in x for x in lines)
    assert any(f"text.causal: found false, but model.compatible_with: {FORMAT} expects true" in x for x in lines)


def test_trained_from_vit_and_bert_written_and_gone_on_from(tmp_path):
    """Both towers wrapped, trained, written; wrapped again they embed alike; the image half also converts."""
    for make, name in ((vit, "vit"), (bert, "bert")):
        make(tmp_path / name)
    content = recipe(tmp_path / "vit", tmp_path / "bert")
    with refused("modalities.image.channels", "found 1", "expected 3"):
        mmssl.pretrain(content, output=tmp_path / "grey")
    colour = transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **FLAT))
    colour.save_pretrained(tmp_path / "colour")
    content = recipe(tmp_path / "colour", tmp_path / "bert", channels=3)
    run = mmssl.pretrain(content, output=tmp_path / "run")
    done = export_model(run.folder, FORMAT, tmp_path / "out")
    stock = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "out").eval()
    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(tmp_path / "out")
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    inputs = processor(
        text=["a digit", "the number seven of nine"],
        images=[picture],
        padding=True,
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = stock(**inputs)
    trained, ours = load_model(run.folder / "model")
    assert done.proof.failures == [] and stock.logit_scale.item() == pytest.approx(trained.config.logit_scale)
    for file in done.folder.rglob("*.json"):
        assert str(tmp_path) not in file.read_text(), file

    again = recipe(tmp_path / "out", tmp_path / "out", channels=3)
    del again["modalities"]["image"]["mean"], again["modalities"]["image"]["std"]
    settings = load_recipe(again)
    assert settings.modalities["image"].config.mean == pytest.approx([0.3] * 3)
    for model in (trained, build_model(settings, ours).eval()):
        with torch.no_grad():
            found = model(**ours(image=[picture], text=["a digit"])).embeddings
        torch.testing.assert_close(found["image"], expected.image_embeds, rtol=0, atol=1e-5)
        torch.testing.assert_close(found["text"], expected.text_embeds[:1], rtol=0, atol=1e-5)
    again["model"]["towers"]["image"]["convert"] = True
    settings = load_recipe(again)
    part = load_modality("image").Preprocessor(settings.modalities["image"].config)
    converted = build_model(settings, MMSSLProcessor({"image": part, "text": ours.preprocessors["text"]})).eval()
    assert not isinstance(converted.towers["image"], ForeignTower) and converted.tower("image").drops
    pixels = inputs["pixel_values"]
    with torch.no_grad():
        theirs = stock.vision_model(pixels).last_hidden_state
        found = converted.tower("image")({"image": converted.modality("image").patchify({"pixel_values": pixels})})
    torch.testing.assert_close(found.tokens["image"], theirs[:, 1:], rtol=0, atol=1e-5)
    again["model"]["towers"]["text"]["convert"] = True
    with pytest.raises(UserError, match="convert: true takes a tower of text from no format: it can be wrapped"):
        load_recipe(again)


def recipe(image: Path, text: Path, channels: int = 1) -> dict[str, Any]:
    out = runs.image_text()
    out["modalities"]["image"] |= {"channels": channels, "mean": [0.3] * channels, "std": [0.4] * channels}
    out["modalities"]["text"] = {"tokenizer": str(text), "special_tokens": True, "max_length": 16}
    towers = {
        "image": {"from": str(image), "convert": False, "pooling": "cls"},
        "text": {"from": str(text), "convert": False, "pooling": "cls"},
    }
    out["model"] = {"towers": towers, "projection": None, "compatible_with": FORMAT}
    del out["objectives"]["mae"]
    out["train"] |= {"steps": 3, "lr": 1e-2}
    return out
