"""`mmssl evaluate` and `mmssl embed` on stock folders: the embeddings are those of the mmssl folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from toys import export as toys
from toys import runs
from toys.stock import VOCABULARY, bert, clip
from transformers import BertConfig, BertModel, SiglipConfig, SiglipModel, T5Config

import mmssl
from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.models.locating import locate
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import save_model
from mmssl.models.stock.exportable import Exportable
from mmssl.models.stock.formats import load_format
from mmssl.models.stock.opening import _modules, _projection, open_stock
from mmssl.models.stock.record import write_record

pytestmark = pytest.mark.usefixtures("forked_proofs")

RNG = np.random.default_rng(2)
PICTURES = [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 50), (32, 32), (90, 33))]
TEXTS = ["a handwritten seven", "no picture of three", "grey"]
SAMPLES: dict[str, list[Any]] = {
    "image": PICTURES,
    "text": TEXTS,
    "video": [RNG.integers(0, 256, (n, 20, 24, 3), dtype=np.uint8) for n in (4, 9, 6)],
    "audio": [(RNG.normal(0, 0.1, n).astype(np.float32), 16000) for n in (5000, 7000, 6200)],
}
CASES: dict[str, Any] = {
    **{
        name: (toys.CASES[name][0], toys.CASES[name][1])
        for name in (
            "vit",
            "vit_mae",
            "dinov2",
            "ijepa",
            "clip",
            "siglip",
            "siglip-short",
            "clip-text",
            "videomae",
            "vjepa2",
            "ast",
            "sentence-transformers",
            "sentence-transformers-last",
            "sentence-transformers-causal",
            "sentence-transformers-pair",
            "stock",
            "vision-text-dual-encoder",
        )
    },
    "vit-cls": ("vit", lambda: toys.image_model(pooling="cls")),
    "ast-mean": ("ast", lambda: toys.audio_model(pooling="mean")),
    "clip-half": ("clip", lambda: toys.image_model(**toys.CLIP_IMAGE)),
    "siglip-half": ("siglip", lambda: toys.image_model(**toys.SIGLIP_IMAGE)),
}


def written(case: str, folder: Path) -> tuple[MMSSLModel, MMSSLProcessor]:
    """The folder as an export writes it, without its proof; the mmssl model that it was."""
    import copy

    to, make = CASES[case]
    model, processor = make()
    ours = copy.deepcopy(model)
    folder.mkdir()
    chosen = load_format(to)
    source = Exportable(model, processor, folder.parent)
    chosen.write(source, folder)
    write_record(source, to, list(chosen.needs), folder)
    return ours, processor


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_the_mmssl_folder(tmp_path, case):
    ours, processor = written(case, tmp_path / "out")
    save_model(ours, processor, tmp_path / "model")
    assert (
        locate(tmp_path / "out").kind in ("stock", "sentence-transformers")
        and locate(tmp_path / "model").kind == "mmssl"
    )
    theirs, prepare = open_stock(str(tmp_path / "out"))
    assert set(prepare.preprocessors) == set(processor.preprocessors)
    samples = {name: SAMPLES[name] for name in processor.preprocessors}
    with torch.no_grad():
        expected, found = ours(**processor(**samples)), theirs(**prepare(**samples))
    for name in samples:
        torch.testing.assert_close(found.embeddings[name], expected.embeddings[name], rtol=0, atol=1e-5)
        if ours.config.projection is None or case in ("clip", "sentence-transformers", "sentence-transformers-pair"):
            torch.testing.assert_close(found.pooled[name], expected.pooled[name], rtol=0, atol=2e-5)


def test_the_commands_on_an_export_give_what_they_give_on_the_model(tmp_path, capsys):
    content = runs.image_text()
    del content["objectives"]["mae"]
    content["model"] |= {
        "compatible_with": "clip",
        "towers": {"image": {"width": 16, "depth": 1, "heads": 2}, "text": {"width": 16, "depth": 1, "heads": 2}},
    }
    run = mmssl.pretrain(content, output=tmp_path / "run")
    assert main(["export", str(run.folder), "--to", "clip", "--output", str(tmp_path / "clip")]) == 0
    reports, tables = [], []
    for folder in (run.folder, tmp_path / "clip"):
        tasks = [word for task in ("knn", "linear", "zero-shot", "retrieval") for word in ("--task", task)]
        capsys.readouterr()
        assert main(["evaluate", str(folder), "--data", "builtin:digits", *tasks, "limit=60", "train_limit=120"]) == 0
        lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
        wanted = [words for words in lines if "/R@" in words[1] or "accuracy" in words[1]]
        reports.append({" ".join(words[:2]): words[2:4] for words in wanted})
        assert all(len(words) >= 6 for words in lines)  # the interval and three baselines
        file = tmp_path / f"{folder.name}.parquet"
        assert main(["embed", str(folder), "--data", "builtin:digits", "split=test", "--output", str(file)]) == 0
        tables.append(pq.read_table(file))
    assert reports[0] == reports[1] and len(reports[0]) >= 10
    for name in ("image_embedding", "text_embedding"):
        ours, theirs = (np.stack(table[name].to_pylist()) for table in tables)
        assert np.abs(ours - theirs).max() < 1e-5
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"junk")
    assert main(["evaluate", str(tmp_path / "clip"), "--data", "builtin:digits"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_folders_of_others(tmp_path):
    """Pooled as is usual for their class; what is missing is said."""
    original = clip(tmp_path / "clip")
    with pytest.raises(UserError, match="no file that says how its images are prepared .preprocessor_config.json"):
        open_stock(str(tmp_path / "clip"))
    (tmp_path / "clip" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5], "image_std": [0.25], "size": {"height": 8, "width": 8}, "resample": 2}'
    )
    model, processor = open_stock(str(tmp_path / "clip"))
    inputs = processor(image=[RNG.integers(0, 256, (8, 8), dtype=np.uint8)], text=["a digit"])
    with torch.no_grad():
        found, expected = (
            model(**inputs),
            original(inputs["text_input_ids"], inputs["image_pixel_values"], inputs["text_attention_mask"]),
        )
    torch.testing.assert_close(found.embeddings["image"], expected.image_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.embeddings["text"], expected.text_embeds, rtol=0, atol=1e-5)
    original = bert(tmp_path / "bert")
    model, processor = open_stock(str(tmp_path / "bert"))
    inputs = processor(text=["a digit"])
    with torch.no_grad():
        states = original(inputs["text_input_ids"], inputs["text_attention_mask"]).last_hidden_state
    mask = inputs["text_attention_mask"][..., None]
    torch.testing.assert_close(model(**inputs).pooled["text"], (states * mask).sum(1) / mask.sum(1), rtol=0, atol=1e-5)


def test_an_id_of_sentence_transformers_is_read_as_its_folder(tmp_path, monkeypatch):
    """Pooling and the map behind it lie in files of their own, on the Hub as in a folder."""
    written("sentence-transformers", tmp_path / "st")
    folder = str(tmp_path / "st")
    expected = _modules(folder)
    assert [m["name"] for m in expected] == ["Transformer", "Pooling", "Dense", "Normalize"]

    def fetch(repo: str, name: str, **_: Any) -> str:
        assert repo == "me/st"
        file = tmp_path / "st" / name
        if not file.is_file():
            raise EntryNotFoundError(name)
        return str(file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    assert _modules("me/st") == expected
    torch.testing.assert_close(_projection("me/st", "", None, expected), _projection(folder, "", None, expected))


def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path):
    T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="t5: found a model of type 't5', expected an encoder of pictures"):
        open_stock(str(tmp_path / "t5"))
    BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(tmp_path / "b")
    with pytest.raises(UserError, match="b: it has no tokenizer") as caught:
        open_stock(str(tmp_path / "b"))
    assert "\n" not in str(caught.value)
    written("sentence-transformers", tmp_path / "st")
    (tmp_path / "st" / "mmssl_export.json").write_text("[]")
    with pytest.raises(UserError, match="its mmssl_export.json is damaged"):
        open_stock(str(tmp_path / "st"))
    (tmp_path / "st" / "modules.json").write_text('[{"type": "x.LSTM", "path": ""}]')
    with pytest.raises(UserError, match="found a module LSTM , expected Transformer, Pooling, Dense"):
        open_stock(str(tmp_path / "st"))


def test_the_pooled_half_of_a_siglip(tmp_path):
    """A wrapped SigLIP embeds as it was trained to: by its attention pooling, and the last token of its texts."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    words = {**sizes, "vocab_size": VOCABULARY, "max_position_embeddings": 16}
    picture = {**sizes, "image_size": 8, "patch_size": 4, "num_channels": 1}
    original = SiglipModel(SiglipConfig(text_config=words, vision_config=picture)).eval()
    clip(tmp_path)  # for its tokenizer
    original.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.25]}')
    model, processor = open_stock(str(tmp_path))
    inputs = processor(image=[RNG.integers(0, 256, (8, 8), dtype=np.uint8)], text=["a digit"])
    with torch.no_grad():
        image = original.get_image_features(inputs["image_pixel_values"]).pooler_output
        text = original.get_text_features(inputs["text_input_ids"], inputs["text_attention_mask"]).pooler_output
    found = model(**inputs)
    torch.testing.assert_close(found.pooled["image"], image, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled["text"], text, rtol=0, atol=1e-5)
