"""Exports: what is refused and how. What is written is proven in tests/export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import export as toys
from toys import runs
from toys.refusals import refused

from mmssl.cli import main
from mmssl.errors import RunError, UserError
from mmssl.exporting import proof
from mmssl.exporting.writing import export_model
from mmssl.models.saving import save_model
from mmssl.models.stock.formats import format_names, load_format
from mmssl.recipe import listing
from mmssl.recipe.loading import load_recipe, to_yaml

pytestmark = pytest.mark.usefixtures("forked_proofs")


def test_every_format_is_listed_with_its_class():
    listed = dict(listing.formats())
    assert {"vit", "vit_mae", "ijepa", "dinov2"} <= set(listed) == set(format_names())
    assert listed["vit"].startswith("transformers.ViTModel: ViT (Dosovitskiy et al. 2021)")
    for name in format_names():
        chosen = load_format(name)
        assert set(chosen.required) <= set(chosen.needs) and callable(chosen.write)


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_all_obstacles_in_one_line(tmp_path):
    model = toys.image_model({"size": [32, 16], "resize": "pad"}, prefix=3, causal=True, pooling="attention")
    with pytest.raises(UserError) as caught:
        export_model(model, "vit", tmp_path / "out")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("format vit cannot express mmssl model: ")
    for clause in (
        "model.towers.image.causal: found true, expected false",
        "modalities.image.size: found [32, 16], expected a square",
        "modalities.image.resize: found pad, expected crop or squash",
        "model.towers.image.prefix: found 3, expected 1 (ViT has one class token and no registers)",
        "model.towers.image.pooling: found attention, expected mean or cls",
    ):
        assert clause in line
    assert left(tmp_path) == []


def test_wrong_words_on_the_command_line(tmp_path, capsys):
    save_model(*toys.image_model(), tmp_path / "model")
    there = tmp_path / "there"
    there.mkdir()

    def said(*words: str) -> str:
        assert main(["export", *words]) == 2
        return capsys.readouterr().err

    model, out = str(tmp_path / "model"), str(tmp_path / "out")
    assert "unknown format 'vitmae'" in (text := said(model, "--to", "vitmae", "--output", out))
    assert "did you mean 'vit_mae'" in text
    assert "is there already" in said(model, "--to", "vit", "--output", str(there))
    assert "no config.json, expected the folder of a model" in said(str(there), "--to", "vit", "--output", out)
    line = said(model, "--to", "vit", "--output", out, "--tower", "imag")
    assert "--tower: found 'imag', expected one of image; did you mean 'image'" in line
    assert "prefix: found 1, expected 0" in said(model, "--to", "ijepa", "--output", out)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert "cannot be loaded" in said(model, "--to", "vit", "--output", out)
    assert left(tmp_path) == ["model", "there"] and left(there) == []


def test_a_checkpoint_of_another_architecture(tmp_path, capsys):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path / "bert")
    assert main(["export", str(tmp_path / "bert"), "--to", "vit", "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]  # transformers drew its bar before
    assert said.startswith("error: ") and str(tmp_path / "bert") in said and "tokenizer" in said


def test_what_is_not_the_model_is_not_kept(tmp_path, monkeypatch):
    """A weight that went wrong on the way: the proof has to see it, and the folder must not appear."""
    from mmssl.models.stock.formats import vit

    fill = vit.fill

    def wrong(part: Any, stock: Any, out: bool) -> None:
        fill(part, stock, out)
        with torch.no_grad():
            stock.layers[1].mlp.fc2.bias[0] += 1e-3

    monkeypatch.setattr(vit, "fill", wrong)
    with pytest.raises(RunError, match=r"what was written is not the model: last_hidden_state at 32 x 32 in float32"):
        export_model(toys.image_model(), "vit", tmp_path / "out")
    assert left(tmp_path) == []


def test_bfloat16_is_compared_with_what_rounding_loses():
    row = proof.Row("x", "bfloat16", "y", difference=0.03, largest=1.0, rounding=0.02)
    assert row.difference <= row.allowed
    assert proof.Proof([proof.Row("x", "bfloat16", "y", 0.5, 1.0, 0.02)], "no", None, None).failures
    assert proof.Proof([proof.Row("x", "float32", "y", float("nan"), 1.0, 0.0)], "no", None, None).failures


# ---------------------------------------------------------------------------------------------------- compatible_with


def recipe(compatible_with: str, **tower: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["model"]["compatible_with"] = compatible_with
    out["model"]["towers"]["image"] |= tower
    return out


def test_compatible_with_sets_what_the_format_asks_for():
    settings = load_recipe(recipe("ijepa"))
    assert settings.model.towers["image"].prefix == 0
    assert load_recipe(to_yaml_dict(settings)).model.towers["image"].prefix == 0
    assert load_recipe(recipe("dinov2")).model.towers["image"].pooling == "mean"


def test_compatible_with_vjepa2():
    content = runs.recipe()
    content["modalities"] = {"video": {"size": 16, "patch": 8, "frames": 4}}
    content["model"] = {"towers": {"video": {}}, "compatible_with": "vjepa2"}
    content["objectives"]["mae"]["tower"] = "video"
    settings = load_recipe(content)
    tower, video = settings.model.towers["video"], settings.modalities["video"].config
    assert (tower.positions, tower.prefix, video.margin) == ("vjepa2", 0, 256 / 224)
    assert load_recipe(to_yaml_dict(settings)).model.towers["video"].positions == "vjepa2"
    content["model"]["towers"]["video"]["positions"] = "rotary"
    content["modalities"]["video"] |= {"margin": 1.0, "resize": "squash"}
    with pytest.raises(UserError) as caught:
        load_recipe(content)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and "positions: found rotary, but model.compatible_with: vjepa2 expects vjepa2" in lines[0]
    assert "margin: found 1.0, but" in str(caught.value) and "resize: found squash, but" in str(caught.value)


def test_rotary_positions_are_refused_by_formats_that_add_theirs(tmp_path):
    for to in ("vit", "clip", "timm"):
        with refused(to, "towers.image.positions", "rotary", "additive"):
            export_model(toys.image_model(positions="rotary"), to, tmp_path / "out")
    for to in ("clip", "sentence-transformers"):
        with refused("towers.text.positions", "rotary", "additive"):
            export_model(toys.text_model({"positions": "rotary", "prefix": 0}), to, tmp_path / "out")
    with refused("towers.video.positions", "additive", "vjepa2"):
        export_model(toys.video_model(), "vjepa2", tmp_path / "out")


def to_yaml_dict(settings: Any) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(to_yaml(settings)))


def test_contradictions_are_refused_all_at_once():
    content = recipe("ijepa", prefix=1, pooling="cls")
    content["modalities"]["image"] |= {"size": [8, 16], "resize": "pad"}
    with pytest.raises(UserError) as caught:
        load_recipe(content)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert any(
        re.fullmatch(
            r"model\.towers\.image\.prefix: found 1, but model\.compatible_with: ijepa expects 0 "
            r"\(I-JEPA has neither .*\)",
            line,
        )
        for line in lines
    )


def test_a_format_that_takes_none_of_the_towers():
    content = recipe("vitmae")
    with refused("model.compatible_with", "'vitmae'", meant="vit_mae"):
        load_recipe(content)
    content = runs.recipe(data={"columns": {"text": "text"}})
    content["modalities"] = {"text": {}}
    content["model"] = {"towers": {"text": {}}, "compatible_with": "vit"}
    content["objectives"] = {"mae": {"tower": "text", "mask": "half", "mode": "replace", "decoder": {"depth": 0}}}
    with pytest.raises(UserError, match="found vit, which takes a tower of image; this recipe has none"):
        load_recipe(content)


def test_a_checkpoint_that_contradicts_is_refused_before_training(tmp_path):
    from transformers import IJepaConfig, IJepaModel

    import mmssl

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    IJepaModel(IJepaConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "from")
    content = runs.recipe()
    content["modalities"] = {"image": {"resize": "squash"}}
    content["model"] = {"towers": {"image": {"from": str(tmp_path / "from")}}, "compatible_with": "vit"}
    with pytest.raises(UserError, match="format vit cannot express this recipe: .*prefix: found 0, expected 1"):
        mmssl.pretrain(content, output=tmp_path / "run")
