"""Towers from pretrained models: built here with random weights, compared with the originals, saved without them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import runs
from toys.stock import VOCABULARY, bert, clip, open_clip, vit
from transformers import AutoModel, PreTrainedTokenizerFast

import mmssl
from mmssl.errors import UserError
from mmssl.modality import load_modality
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.recipe.config import Recipe
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model, build_pretraining
from mmssl.training.loop import Loop


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


def recipe(image: str, text: str, folder: Path, channels: int = 1, **tower: Any) -> dict[str, Any]:
    """CLIP shape with both towers from pretrained models; `tower` goes into both."""
    out = runs.image_text()
    normal = {"mean": [0.3] * channels, "std": [0.4] * channels}
    out["modalities"]["image"] |= {"channels": channels, **normal}
    out["modalities"]["text"] = {"tokenizer": str(folder), "special_tokens": True, "max_length": 16}
    options = {"pooling": "cls", "convert": False, **tower}
    out["model"] = {"towers": {"image": {"from": image, **options}, "text": {"from": text, **options}}}
    out["objectives"] = {"clip": {"type": "contrastive", "towers": ["image", "text"]}}
    return out


def built(content: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    processor = fitted(settings)
    return build_model(settings, processor).eval(), processor


def fitted(settings: Recipe) -> MMSSLProcessor:
    raw: dict[str, Any] = {"image": np.zeros((8, 8), np.uint8), "text": "a digit"}
    parts = settings.modalities.items()
    return MMSSLProcessor({n: load_modality(p.type).Preprocessor(p.config).fit([raw[n]]) for n, p in parts})


def samples(processor: MMSSLProcessor, channels: int = 1) -> Any:
    pixels = torch.rand(3, channels, 8, 8).numpy()
    text = ["a handwritten seven", "the digit", "a figure of the number nine"]
    return processor(image=list(pixels), text=text)


def saved_without_origin(model: MMSSLModel, processor: MMSSLProcessor, origin: Path, target: Path) -> MMSSLModel:
    save_model(model, processor, target)
    shutil.rmtree(origin)
    for file in target.rglob("*.json"):
        assert str(origin) not in file.read_text(), file
    again = load_model(target)[0]
    return again


# ----------------------------------------------------------------------------------------------------- the same model


def expect(model: MMSSLModel, inputs: Any, image: Tensor, text: Tensor) -> None:
    with torch.no_grad():
        out = model(**inputs)
    torch.testing.assert_close(out.pooled["image"], image, rtol=0, atol=1e-5)
    torch.testing.assert_close(out.pooled["text"], text, rtol=0, atol=1e-5)


def test_vit_and_bert(tmp_path):
    picture, words = vit(tmp_path / "from" / "vit"), bert(tmp_path / "from" / "bert")
    content = recipe(str(tmp_path / "from" / "vit"), str(tmp_path / "from" / "bert"), tmp_path / "from" / "bert")
    model, processor = built(content)
    inputs = samples(processor)
    with torch.no_grad():
        image = picture(pixel_values=inputs["image_pixel_values"]).last_hidden_state
        text = words(input_ids=inputs["text_input_ids"], attention_mask=inputs["text_attention_mask"]).last_hidden_state
        out = model(**inputs)
    expect(model, inputs, image[:, 0], text[:, 0])
    torch.testing.assert_close(out.tokens["image"], image[:, 1:], rtol=0, atol=1e-5)
    mask = inputs["text_attention_mask"].bool()
    torch.testing.assert_close(out.tokens["text"][mask], text[mask], rtol=0, atol=1e-5)
    assert (out.tokens["text"][~mask] == 0).all()
    again = saved_without_origin(model, processor, tmp_path / "from", tmp_path / "model")
    expect(again, inputs, image[:, 0], text[:, 0])


def test_both_halves_of_clip(tmp_path):
    original = clip(tmp_path / "from")
    model, processor = built(recipe(str(tmp_path / "from"), str(tmp_path / "from"), tmp_path / "from"))
    inputs = samples(processor)
    with torch.no_grad():
        image = original.get_image_features(pixel_values=inputs["image_pixel_values"]).pooler_output
        text = original.get_text_features(inputs["text_input_ids"], inputs["text_attention_mask"]).pooler_output
    assert image.shape == text.shape == (3, 12)
    expect(model, inputs, image, text)
    again = saved_without_origin(model, processor, tmp_path / "from", tmp_path / "model")
    expect(again, inputs, image, text)


TEXTS: dict[str, dict[str, Any]] = {
    "clip": {},
    "siglip": {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    "bidirectional": {"no_causal_mask": True},
    "coca": {"embed_cls": True, "output_tokens": True},
}


@pytest.mark.parametrize("kind", TEXTS)
def test_both_halves_of_open_clip(tmp_path, kind):
    original = open_clip(tmp_path / "from", **TEXTS[kind])
    origin = f"open_clip:{tmp_path / 'from'}"
    model, processor = built(recipe(origin, origin, tmp_path / "from", channels=3))
    inputs = samples(processor, channels=3)
    ids = inputs["text_input_ids"]
    assert ids.shape[1] == 8
    padded = torch.nn.functional.pad(ids, (0, 16 - ids.shape[1]))  # open_clip's tokenizers pad to the whole context
    original.text.output_tokens = False
    with torch.no_grad():
        image, text = original.encode_image(inputs["image_pixel_values"]), original.encode_text(padded)
    expect(model, inputs, image, text)
    assert model(**inputs).tokens["text"].shape == (3, 8, 12)
    again = saved_without_origin(model, processor, tmp_path / "from", tmp_path / "model")
    expect(again, inputs, image, text)


def test_absent_samples_are_zero_and_change_nothing(tmp_path):
    clip(tmp_path / "from")
    model, processor = built(recipe(str(tmp_path / "from"), str(tmp_path / "from"), tmp_path / "from"))
    pixels = list(torch.rand(3, 1, 8, 8).numpy())
    with torch.no_grad():
        whole = model(**processor(image=pixels, text=["the digit", "a", "nine"]))
        holed = model(**processor(image=[None, *pixels[1:]], text=["the digit", None, "nine"]))
    for name, absent in (("image", 0), ("text", 1)):
        kept = [i for i in range(3) if i != absent]
        torch.testing.assert_close(holed.pooled[name][kept], whole.pooled[name][kept], rtol=0, atol=1e-6)
        assert not holed.present[name][absent] and (holed.pooled[name][absent] == 0).all()


# --------------------------------------------------------------------------------------------------------- training


def test_end_to_end_with_a_frozen_text_tower(tmp_path):
    """LiT: the image tower learns what a frozen, pretrained text tower says."""
    original = clip(tmp_path / "from")
    content = runs.image_text()
    content["modalities"]["text"] = {"tokenizer": str(tmp_path / "from"), "special_tokens": True, "max_length": 16}
    content["model"]["towers"]["text"] = {"from": str(tmp_path / "from"), "frozen": True, "pooling": "cls"}
    content["train"] |= {"steps": 4}
    content["evaluation"] = {"tasks": ["rankme"]}
    modes = []
    real = Loop._gradients

    def gradients(self: Loop, *rest: Any) -> None:
        real(self, *rest)
        towers = self.pretraining.model.towers
        modes.append((towers["image"].training, towers["text"].training, towers["text"].net.training))
        assert all(p.grad is None for p in towers["text"].parameters())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "_gradients", gradients)
        run = mmssl.pretrain(content, output=tmp_path / "run")
    assert modes == [(True, False, False)] * 4
    trained = run.model.towers["text"].net
    for name, parameter in original.text_model.named_parameters():
        assert torch.equal(trained["encoder"].get_parameter(name), parameter), name
    assert torch.equal(trained["projection"].weight, original.text_projection.weight)
    total = sum(p.numel() for p in run.model.parameters())
    frozen = sum(p.numel() for p in run.model.towers["text"].parameters())
    card = (run.model_folder / "README.md").read_text()
    assert f"{total:,}, of which {total - frozen:,} were trained" in card
    assert str(tmp_path) not in card
    shutil.rmtree(tmp_path / "from")
    model, processor = load_model(run.model_folder)
    assert model(**processor(text=["a digit"])).embeddings["text"].shape == (1, 8)


def test_a_tower_that_is_not_frozen_learns(tmp_path):
    original = vit(tmp_path / "vit")
    content = runs.recipe(train={"steps": 3})
    content["model"]["towers"]["image"] = {"from": str(tmp_path / "vit"), "convert": False}
    content["objectives"]["mae"] |= {"mode": "replace", "decoder": {"depth": 0}}
    run = mmssl.pretrain(content, output=tmp_path / "run")
    now = dict(run.model.towers["image"].net["encoder"].named_parameters())
    changed = {name for name, p in original.named_parameters() if not torch.equal(now[name], p)}
    unused = {name for name in now if name.startswith("pooler.")}  # of ViTModel; nothing of ours reads it
    assert changed == set(now) - unused
    assert all(loss == loss for loss in runs.losses(run.folder).values())


@pytest.mark.parametrize("decoder", [{"depth": 0}, {"depth": 1, "width": 16, "heads": 2}])
@pytest.mark.parametrize("make", [vit, clip, open_clip])
def test_replacing_mae_hides_the_pixels_from_a_foreign_tower(tmp_path, make: Callable[[Path], Any], decoder):
    from mmssl.draws import Draws
    from mmssl.objectives.step import Step

    make(tmp_path / "from")
    channels = 3 if make is open_clip else 1
    origin = f"open_clip:{tmp_path / 'from'}" if make is open_clip else str(tmp_path / "from")
    content = runs.recipe()
    content["modalities"]["image"] |= {"channels": channels, "mean": [0.5] * channels, "std": [0.2] * channels}
    content["model"]["towers"]["image"] = {"from": origin, "convert": False}
    content["objectives"]["mae"] |= {"mode": "replace", "decoder": decoder}
    settings = load_recipe(content)
    work = build_pretraining(settings, fitted(settings)).eval()
    batch = {"image": {"pixel_values": torch.randn(4, channels, 8, 8)}}
    loss = work(batch, Draws(1, 4)).total
    loss.backward()
    assert torch.isfinite(loss)

    def encoded(pixels: Tensor) -> tuple[Tensor, Tensor]:
        step = Step({"image": {"pixel_values": pixels}}, work.model, {}, work.masks, Draws(1, 4))
        return step.encode("image", mask="half", mode="replace").tokens["image"], step.split("image", "half").hide

    pixels = batch["image"]["pixel_values"]
    with torch.no_grad():
        before, hide = encoded(pixels)
        modality = work.model.modality("image")
        patches = modality.patchify({"pixel_values": pixels})
        values = patches.values.clone()
        values[patches.hidden_by(hide)] += 1.0
        after, _ = encoded(modality.unpatchify(values, {"pixel_values": pixels})["pixel_values"])
        changed, _ = encoded(pixels + 1.0)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert (changed - before).abs().max() > 1e-4


# ----------------------------------------------------------------------------------------------------------- refused


def refused(content: dict[str, Any]) -> str:
    """The one line that a recipe is refused with."""
    with pytest.raises(UserError) as caught:
        settings = load_recipe(content)
        build_pretraining(settings, fitted(settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def image_only(origin: str, **image: Any) -> dict[str, Any]:
    content = runs.recipe()
    content["modalities"]["image"] |= {"channels": 1, "mean": [0.5], "std": [0.2], **image}
    content["model"]["towers"]["image"] = {"from": origin, "convert": False}
    content["objectives"]["mae"] |= {"mode": "replace", "decoder": {"depth": 0}}
    return content


def test_sizes_that_do_not_fit_are_refused(tmp_path):
    vit(tmp_path / "vit")
    open_clip(tmp_path / "oc")
    rgb = {"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3}
    for origin, fitting in ((str(tmp_path / "vit"), {}), (f"open_clip:{tmp_path / 'oc'}", rgb)):
        assert "modalities.image.size: found [16, 16], but the pretrained tower takes [8, 8]" in refused(
            image_only(origin, **{**fitting, "size": 16})
        )
        assert "modalities.image.patch: found [2, 2], but the pretrained tower takes [4, 4]" in refused(
            image_only(origin, **{**fitting, "patch": 2})
        )
    assert "modalities.image.channels: found 3, but the pretrained tower takes 1" in refused(
        image_only(str(tmp_path / "vit"), **rgb)
    )


@pytest.mark.parametrize("make", [bert, clip, open_clip])
def test_texts_that_do_not_fit_are_refused(tmp_path, make):
    make(tmp_path / "from")
    origin = f"open_clip:{tmp_path / 'from'}" if make is open_clip else str(tmp_path / "from")
    content = runs.image_text()
    content["modalities"]["image"] |= {"channels": 1, "mean": [0.5], "std": [0.2]}
    content["modalities"]["text"] = {"tokenizer": str(tmp_path / "from"), "special_tokens": True, "max_length": 17}
    content["model"]["towers"]["text"] = {"from": origin}
    assert "modalities.text.max_length: found 17, but the pretrained tower takes at most 16" in refused(content)
    content["modalities"]["text"]["max_length"] = 16
    larger = tmp_path / "larger"
    shutil.copytree(tmp_path / "from", larger)
    PreTrainedTokenizerFast.from_pretrained(larger).add_tokens(["extra"])
    words = PreTrainedTokenizerFast.from_pretrained(larger)
    words.add_tokens(["extra"])
    words.save_pretrained(larger)
    content["modalities"]["text"]["tokenizer"] = str(larger)
    assert f"has {VOCABULARY + 1} tokens, but the pretrained tower knows {VOCABULARY}" in refused(content)


def test_dropping_is_refused_with_the_reason(tmp_path):
    vit(tmp_path / "vit")
    content = image_only(str(tmp_path / "vit"))
    content["objectives"]["mae"] |= {"mode": "drop", "decoder": {"depth": 1}}
    assert "must see all patches" in refused(content)


@pytest.mark.parametrize("make", [clip, open_clip])
def test_a_text_half_that_takes_no_mask_token_is_refused(tmp_path, make):
    make(tmp_path / "from")
    origin = f"open_clip:{tmp_path / 'from'}" if make is open_clip else str(tmp_path / "from")
    content = runs.recipe()
    content["modalities"] = {"text": {"tokenizer": str(tmp_path / "from"), "special_tokens": True, "max_length": 16}}
    content["model"] = {"towers": {"text": {"from": origin}}}
    content["objectives"] = {"mae": {"tower": "text", "mask": "half", "mode": "replace", "decoder": {"depth": 0}}}
    assert "takes no mask token" in refused(content)


def test_masked_language_modelling_on_bert(tmp_path):
    bert(tmp_path / "bert")
    content = runs.recipe(train={"steps": 3})
    content["modalities"] = {"text": {"tokenizer": str(tmp_path / "bert"), "special_tokens": True, "max_length": 16}}
    content["model"] = {"towers": {"text": {"from": str(tmp_path / "bert")}}}
    content["objectives"] = {"mae": {"tower": "text", "mask": "half", "mode": "replace", "decoder": {"depth": 0}}}
    run = mmssl.pretrain(content, output=tmp_path / "run")
    assert all(0 < loss < 10 for loss in runs.losses(run.folder).values())
    assert isinstance(AutoModel.from_pretrained(run.model_folder), MMSSLModel)


@pytest.mark.parametrize("kind", ["", "open_clip:"])
@pytest.mark.parametrize("what", ["missing", "empty", "garbage", "no weights", "torn weights"])
def test_a_path_that_is_no_model(tmp_path, kind, what):
    folder = tmp_path / "from"
    (open_clip if kind else vit)(folder)
    config = folder / ("open_clip_config.json" if kind else "config.json")
    weights = folder / ("open_clip_model.safetensors" if kind else "model.safetensors")
    if what == "missing":
        shutil.rmtree(folder)
    elif what == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif what == "garbage":
        config.write_text("[3]")
    elif what == "no weights":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:500])
    rgb = {"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3} if kind else {}
    line = refused(image_only(f"{kind}{folder}", **rgb))
    assert "model.towers" in line and str(folder) in line


def test_an_open_clip_name_that_does_not_exist():
    assert "open_clip has no model 'ViT-B-33'; did you mean 'ViT-B-32" in refused(image_only("open_clip:ViT-B-33"))
