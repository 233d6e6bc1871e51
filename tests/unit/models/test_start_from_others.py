"""`from` a SigLIP 2 of any picture shape, converted; a ModernBERT, wrapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from toys import runs, stock
from transformers import (
    ModernBertConfig,
    ModernBertModel,
    Siglip2Config,
    Siglip2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from mmssl.errors import UserError
from mmssl.exporting.writing import export_model
from mmssl.modality import load_modality
from mmssl.models.foreign import ForeignTower
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.opening import open_model
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model

LAYERS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}


def recipe(origin: Path, kind: str, options: dict[str, Any] | None = None, **tower: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["modalities"] = {kind: dict(options or {})}
    out["model"] = {"towers": {kind: {"from": str(origin), **tower}}}
    out["objectives"]["mae"]["tower"] = kind
    return out


def built(content: dict[str, Any], kind: str) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    processor = MMSSLProcessor({kind: load_modality(kind).Preprocessor(settings.modalities[kind].config)})
    return build_model(settings, processor).eval(), processor


def moved(model: Any, folder: Path) -> Any:
    """Saved with random weights everywhere, then in float64."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    return model.double()


# ------------------------------------------------------------------------------------------------------------ SigLIP 2


def siglip2(folder: Path) -> Any:
    torch.manual_seed(3)
    return moved(Siglip2VisionModel(Siglip2VisionConfig(patch_size=8, num_patches=16, **LAYERS)), folder)


def naflex(pixels: torch.Tensor, patch: int) -> dict[str, torch.Tensor]:
    """Pictures (B, C, H, W) as the class takes them: numbers of a patch by row, column and channel."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    cut = pixels.view(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": cut.reshape(batch, rows * columns, -1),
        "pixel_attention_mask": torch.ones(batch, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * batch),
    }


@pytest.mark.parametrize("size", [[32, 32], [48, 40], [16, 24]])
def test_siglip2_of_any_shape(tmp_path, size):
    original = siglip2(tmp_path)
    options = {"size": size, "mean": [0.5] * 3, "std": [0.5] * 3}
    model = built(recipe(tmp_path, "image", options, convert=True, pooling="attention"), "image")[0]
    assert model.tower("image").drops and model.modality("image").patch == (8, 8)
    exact = size == [32, 32]  # elsewhere the table is interpolated in float32
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = original(**naflex(pixels.double(), 8))
        found = model.double()(image_pixel_values=pixels)
    atol = 1e-10 if exact else 1e-6
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=atol)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output.float(), rtol=0, atol=1e-5)


def test_a_whole_siglip2_is_opened(tmp_path):
    torch.manual_seed(3)
    text = {**LAYERS, "vocab_size": stock.VOCABULARY + 8, "max_position_embeddings": 16}  # its tokenizer adds some
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": stock.END}
    vision = {**LAYERS, "patch_size": 8, "num_patches": 16}
    original = moved(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)), tmp_path).float()
    transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path)
    stock.tokenizer(tmp_path)
    model, processor = open_model(tmp_path)
    assert isinstance(model.towers["text"], ForeignTower) and model.tower("image").drops
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    theirs = transformers.Siglip2ImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")
    inputs = processor(image=[picture], text=["the digit seven"])
    with torch.no_grad():
        expected = original.vision_model(**theirs).pooler_output
        texts = {key: inputs[f"text_{key}"] for key in ("input_ids", "attention_mask")}
        words = original.text_model(**texts).pooler_output
        found = model(**inputs)
    torch.testing.assert_close(found.pooled["image"], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled["text"], words, rtol=0, atol=1e-5)


def test_siglip2_cannot_be_wrapped(tmp_path):
    siglip2(tmp_path)
    line = "from a Siglip2VisionModel, which asks for pixel_attention_mask, spatial_shapes beside pixel_values"
    with pytest.raises(UserError, match=f"{line} and cannot be wrapped; set convert: true"):
        built(recipe(tmp_path, "image", {"size": 32, "patch": 8, "channels": 3, "mean": [0.5], "std": [0.5]}), "image")


# ---------------------------------------------------------------------------------------------------------- ModernBERT


def modernbert(folder: Path) -> Any:
    """One of every kind of layer: without a norm in front, of local and of global attention."""
    torch.manual_seed(3)
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": stock.END, "cls_token_id": 2, "sep_token_id": 3}
    config = ModernBertConfig(
        vocab_size=stock.VOCABULARY, max_position_embeddings=32, local_attention=4, **LAYERS, **special
    )
    model = moved(ModernBertModel(config), folder)
    stock.tokenizer(folder)
    return model


def test_modernbert_is_wrapped_as_it_is(tmp_path):
    original = modernbert(tmp_path)
    model, processor = built(recipe(tmp_path, "text", {"max_length": 32}), "text")
    tower: Any = model.double().tower("text")
    assert isinstance(tower, ForeignTower) and tower.replaces
    inputs = processor(text=["the digit seven", "a handwritten number zero of one two three four five six"])
    ids, mask = inputs["text_input_ids"], inputs["text_attention_mask"].bool()
    assert not mask.all()  # rows of unequal length
    with torch.no_grad():
        expected = original(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found = model(**inputs)
        torch.testing.assert_close(found.tokens["text"][mask], expected[mask], rtol=0, atol=1e-10)
        hidden = torch.zeros_like(mask)
        hidden[:, 2] = True
        embedded = original.get_input_embeddings()(ids)
        embedded[:, 2] = tower.mask.token
        expected = original(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
        patches = model.modality("text").patchify({"input_ids": ids, "attention_mask": mask})
        masked = tower({"text": patches}, {"text": hidden}).tokens["text"]
    torch.testing.assert_close(masked[mask], expected[mask], rtol=0, atol=1e-10)


@pytest.mark.usefixtures("forked_proofs")
def test_modernbert_goes_out_as_itself(tmp_path):
    modernbert(tmp_path / "stock")
    opened = open_model(tmp_path / "stock")
    done = export_model(opened, "stock", tmp_path / "out")
    assert done.job.cls == "ModernBertModel" and done.proof.failures == [] and done.proof.largest("float32") < 1e-5
