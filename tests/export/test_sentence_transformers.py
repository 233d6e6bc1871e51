"""`sentence-transformers`: a wrapped text encoder, one half of a pair, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import runs
from toys.export import (
    CLIP_IMAGE,
    CLIP_TEXT,
    SIGLIP_TEXT,
    clip_model,
    pair_model,
    preprocessor,
    sentence_model,
    siglip_model,
    text_model,
)
from toys.refusals import refused
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from mmssl.cli import main
from mmssl.errors import RunError, UserError
from mmssl.exporting import writing
from mmssl.exporting.writing import export_model, export_several
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.foreign import load_foreign
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model
from mmssl.models.wrapping import describe_foreign
from mmssl.recipe.loading import load_recipe

pytestmark = pytest.mark.usefixtures("forked_proofs")

NAME = "sentence-transformers"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"a the handwritten digit number figure image of zero one two".split()]


def wrapped_model(folder: Path, pooling: str) -> tuple[MMSSLModel, MMSSLProcessor]:
    """A BERT as the text tower, its word-level tokenizer, and a projection."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(3)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    BertModel(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    ).save_pretrained(folder)
    text = preprocessor("text", tokenizer=str(folder), special_tokens=True, max_length=16).fit(["a digit"])
    spec = tower_spec(TowerConfig(pooling=pooling)) | {"foreign": describe_foreign(str(folder))}
    model = MMSSLModel(
        MMSSLConfig(modalities={"text": {"type": "text", **text.sizes()}}, towers={"text": spec}, projection=12)
    )
    load_foreign(model.towers["text"], str(folder))
    return model.eval(), MMSSLProcessor({"text": text})


def test_a_wrapped_encoder_stays_its_class_and_one_half_of_a_pair_goes_alone(tmp_path):
    wanted: list[Any] = [
        (wrapped_model(tmp_path / "from", pooling), NAME, tmp_path / pooling, None) for pooling in ("cls", "mean")
    ]
    wanted.append((clip_model(), NAME, tmp_path / "half", "text"))
    for done in export_several(wanted):
        assert done.proof.failures == [] and done.proof.largest("float32") < 1e-6
        assert len({row.trial for row in done.proof.rows}) == 2
        for file in done.folder.rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
    for name, cls in (("cls", "BertModel"), ("mean", "BertModel"), ("half", "CLIPTextModel")):
        assert json.loads((tmp_path / name / "config.json").read_text())["architectures"] == [cls]
    assert json.loads((tmp_path / "cls" / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "cls"
    assert json.loads((tmp_path / "half" / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "lasttoken"


@pytest.mark.slow
def test_another_pooling_than_ours_is_found_and_nothing_is_kept(tmp_path, monkeypatch):
    from mmssl.models.stock.formats import sentence_transformers

    monkeypatch.setitem(sentence_transformers.POOLING, "mean", "max")
    with refused("sentence_embedding", error=RunError):
        export_model(sentence_model(pooling="mean"), NAME, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "both ways with another activation": (
        lambda: sentence_model(activation="quick_gelu"),
        "model.towers.text.activation: found quick_gelu",
    ),
    "causal with a norm in front": (
        lambda: sentence_model(causal=True, embed_norm=True),
        "model.towers.text.embed_norm: found true",
    ),
    "learned pooling": (lambda: sentence_model(pooling="attention"), "model.towers.text.pooling: found attention"),
    "tokens in front": (lambda: text_model({"prefix": 1}), "model.towers.text.prefix: found 1"),
    "filled texts": (
        lambda: text_model(SIGLIP_TEXT, attend_padding=True),
        "modalities.text.attend_padding: found true",
    ),
    "siglip": (siglip_model, "model.towers.image.pooling: found attention"),
    "a pair whose texts are averaged": (
        lambda: pair_model(CLIP_IMAGE, {**CLIP_TEXT, "pooling": "mean"}),
        "model.towers.text.pooling: found mean",
    ),
    "a pair that looks both ways": (
        lambda: pair_model(CLIP_IMAGE, {**CLIP_TEXT, "causal": False}),
        "model.towers.text.causal: found false",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_expressed_is_refused_with_the_option(tmp_path, monkeypatch, case):
    monkeypatch.setattr(writing, "prove", lambda *_: pytest.fail("it was written"))
    make, message = REFUSED[case]
    with pytest.raises(UserError) as error:
        export_model(make(), NAME, tmp_path / "out")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrapped_tower_is_refused_by_other_formats_in_words_that_exist(tmp_path):
    with refused("BertModel", "stock"):
        export_model(wrapped_model(tmp_path / "from", "cls"), "clip", tmp_path / "out")


def test_compatible_with_trains_what_encode_gives_again(tmp_path):
    """From the recipe to `SentenceTransformer.encode`, by the commands alone."""
    from sentence_transformers import SentenceTransformer

    content = runs.recipe(train={"steps": 8, "lr": 3e-3})
    content["modalities"] = {"text": {"vocab_size": 300, "max_length": 16}}
    tower = {"width": 16, "depth": 1, "heads": 2, "dropout": 0.1}
    content["model"] = {"towers": {"text": tower}, "compatible_with": NAME}
    content["views"] = {"a": {"text": {"drop": 0.2}}, "b": {"text": {"drop": 0.2}}}
    content["objectives"] = {"simcse": {"type": "contrastive", "towers": ["text"], "views": ["a", "b"]}}
    content["masks"] = {}
    assert runs.cli(tmp_path, content=content) == 0
    assert main(["export", str(tmp_path / "run"), "--to", NAME, "--output", str(tmp_path / "out")]) == 0
    model, processor = load_model(tmp_path / "run" / "model")
    assert model.tower("text").prefix is None and processor.preprocessors["text"].config.special_tokens
    texts = ["a handwritten seven", "the digit nine, in grey", "no"]
    with torch.no_grad():
        ours = model(**processor(text=texts)).embeddings["text"]
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-6)
    assert ours.std(0).max() > 0.01  # not one vector for all
    tower["prefix"], content["modalities"]["text"]["attend_padding"] = 1, True
    with pytest.raises(UserError) as caught:
        load_recipe(content)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and all("model.compatible_with: sentence-transformers expects" in line for line in lines)
    assert "towers.text.prefix: found 1" in str(caught.value) and "attend_padding: found true" in str(caught.value)
