"""The model folder: loads through the Auto classes, with and without `import mmssl`, exactly as it was trained."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import forking, runs
from transformers import AutoConfig, AutoModel, AutoProcessor

import mmssl
from mmssl.data.sources import open_source
from mmssl.errors import UserError
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.training.pretrain import Run

FILES = {"config.json", "model.safetensors", "processor_config.json", "README.md", "mmssl_loader.py"}
FILES |= {"text/spiece.model", "reproduction.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished image-text run; images of any size are cropped to 8 x 8."""
    folder = tmp_path_factory.mktemp("folder")
    content = runs.image_text()
    content["modalities"]["image"] |= {"resize": "crop"}
    content["train"] |= {"steps": 2}
    return mmssl.pretrain(content, output=folder / "run")


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Any]]:
    rows = open_source("builtin:digits", split="test", limit=5)
    return {"image": [row["image"]["bytes"] for row in rows], "text": [row["text"][0] for row in rows]}


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, in a folder from which nothing of this repository is importable by accident."""
    return forking.run(["-c", code, *words], level="transformers", cwd="/", timeout=120)


def test_the_folder_holds_safetensors_and_no_pickle(run):
    assert files(run.model_folder) == FILES
    config = json.loads((run.model_folder / "config.json").read_text())
    assert config["model_type"] == "mmssl" and config["architectures"] == ["MMSSLModel"]
    assert "/" not in json.dumps(config["auto_map"])


def test_round_trip_through_the_auto_classes(run, samples, tmp_path):
    model, processor = run.model, run.processor
    inputs = processor(**samples)
    with torch.no_grad():
        before = model(**inputs)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reprocessor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert (type(again), type(reprocessor)) == (MMSSLModel, MMSSLProcessor)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MMSSLConfig
    assert not again.training
    assert again.config.to_diff_dict() == model.config.to_diff_dict()
    assert reprocessor.to_dict() == processor.to_dict()
    for name, value in inputs.items():
        assert torch.equal(reprocessor(**samples)[name], value)
    with torch.no_grad():
        after = again(**inputs)
    for name in ("image", "text"):
        assert torch.equal(before.embeddings[name], after.embeddings[name])
        assert torch.equal(before.tokens[name], after.tokens[name])


def test_the_saved_model_is_the_trained_one(run):
    from safetensors.torch import load_file

    (checkpoint,) = (run.folder / "checkpoints").glob("step-*")
    trained = load_file(checkpoint / "weights.safetensors")
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, trained[f"model.{name}"]), name


TRUST = """
import sys, json
from transformers import AutoConfig, AutoModel, AutoProcessor
assert "mmssl" not in sys.modules
folder, target = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
import mmssl
assert type(model) is mmssl.MMSSLModel and type(processor) is mmssl.MMSSLProcessor, (type(model), type(processor))
assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)) is mmssl.MMSSLConfig
embedding = model(**processor(text=["the digit 7"])).embeddings["text"]
from pathlib import Path
from mmssl.models.saving import save_model
save_model(model, processor, Path(target))
print(json.dumps(embedding.tolist()))
"""


def test_trust_remote_code_where_mmssl_is_installed_but_not_imported(run, tmp_path):
    done = python(TRUST, str(run.model_folder), str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    found = torch.tensor(json.loads(done.stdout.splitlines()[-1]))
    expected = run.model(**run.processor(text=["the digit 7"])).embeddings["text"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # saved again, it has its loader and no copy of mmssl's sources
    assert files(tmp_path / "again") == FILES - {"README.md", "reproduction.json"}
    auto_map = json.loads((tmp_path / "again" / "config.json").read_text())["auto_map"]
    assert auto_map == {"AutoConfig": "mmssl_loader.MMSSLConfig", "AutoModel": "mmssl_loader.MMSSLModel"}


def test_without_mmssl_the_error_says_what_to_install(run):
    code = (
        "import sys; sys.modules['mmssl'] = None\n"
        "from transformers import AutoModel\n"
        "AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)"
    )
    done = python(code, str(run.model_folder))
    assert done.returncode == 1
    assert "this checkpoint needs the package mmssl, which is not installed here" in done.stderr.splitlines()[-1]


def test_saving_again_in_this_process_copies_no_sources(run, tmp_path, monkeypatch):
    """As after loading with trust_remote_code, which makes transformers copy the defining module."""
    monkeypatch.setattr(MMSSLModel, "_auto_class", "AutoModel")
    monkeypatch.setattr(MMSSLConfig, "_auto_class", "AutoConfig")
    save_model(run.model, run.processor, tmp_path / "again")
    assert files(tmp_path / "again") == FILES - {"README.md", "reproduction.json"}


def test_the_plain_save_pretrained_copies_no_sources_either(run, tmp_path, monkeypatch):
    for cls in (MMSSLModel, MMSSLConfig):
        monkeypatch.setattr(cls, "_auto_class", None)
        cls.register_for_auto_class()  # what loading with trust_remote_code does
    run.model.save_pretrained(tmp_path)
    assert files(tmp_path) == {"config.json", "model.safetensors", "mmssl_loader.py"}


# -------------------------------------------------------------------------------------------------------- processor


def test_absent_samples_are_none(run, samples):
    image, text = samples["image"], samples["text"]
    inputs = run.processor(image=[image[0], None, image[2]], text=[None, text[1], text[2]], return_tensors="pt")
    with torch.no_grad():
        out, full = run.model(**inputs), run.model(**run.processor(image=image[:3], text=text[:3]))
    assert out.present["image"].tolist() == [True, False, True]
    assert out.present["text"].tolist() == [False, True, True]
    for name, absent in (("image", 1), ("text", 0)):
        assert (out.embeddings[name][absent] == 0).all()
        kept = [i for i in range(3) if i != absent]
        torch.testing.assert_close(out.embeddings[name][kept], full.embeddings[name][kept], rtol=0, atol=1e-6)


def test_one_modality_one_sample_and_none_at_all(run, samples):
    inputs = run.processor(image=samples["image"][0], text=None)
    assert set(inputs) == {"image_pixel_values"} and len(inputs["image_pixel_values"]) == 1
    assert set(run.model(**inputs).embeddings) == {"image"}
    with pytest.raises(ValueError, match="nothing to process: pass some of image, text"):
        run.processor(image=None)
    with pytest.raises(ValueError, match="no inputs"):
        run.model()


def test_what_is_unknown_is_named(run, samples):
    with pytest.raises(ValueError, match="unknown modality 'imag', this model has image, text; did you mean 'image'"):
        run.processor(imag=samples["image"])
    with pytest.raises(ValueError, match="differ in the number of samples"):
        run.processor(image=samples["image"][:2], text=samples["text"][:3])
    with pytest.raises(ValueError, match="return_tensors must be 'pt', got 'np'"):
        run.processor(image=samples["image"], return_tensors="np")
    with pytest.raises(ValueError, match="unexpected input 'pixel_values'"):
        run.model(pixel_values=torch.zeros(1, 1, 8, 8))


def test_resize_and_normalisation_are_those_of_training(run):
    """A 16 x 32 image by hand: the shorter side to 8, the middle, then the training data's mean and deviation."""
    rows = open_source("builtin:digits")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]) / 255.0
    picture = np.zeros((16, 32), np.uint8)
    picture[:, 8:24] = 200  # the middle square
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    found = run.processor(image=[buffer.getvalue()])["image_pixel_values"]
    assert found.shape == (1, 1, 8, 8)
    expected = (200 / 255 - pixels.mean()) / pixels.std()
    assert found[0, 0, :, 2:6].numpy() == pytest.approx(np.full((8, 4), expected), abs=0.02)  # fitted on 1437 of 1437
    config, state = run.processor.preprocessors["image"].config, run.processor.preprocessors["image"].state
    assert config.resize == "crop" and state
    stored = json.loads((run.model_folder / "processor_config.json").read_text())["modalities"]["image"]
    assert stored["state"] == state and stored["config"]["resize"] == "crop"


def test_bfloat16_loading(run, samples):
    model = AutoModel.from_pretrained(run.model_folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    inputs = run.processor(**samples)
    with torch.no_grad():
        half, full = model(**inputs), run.model(**inputs)
    for name in ("image", "text"):
        assert torch.isfinite(half.embeddings[name]).all()
        torch.testing.assert_close(half.embeddings[name].float(), full.embeddings[name], rtol=0, atol=0.05)


# ------------------------------------------------------------------------------------------------------------ faults


def test_faults_of_loading_are_one_line(run, tmp_path):
    with pytest.raises(mmssl.errors.UserError, match="did you mean .*run/model"):
        load_model(run.folder)
    with pytest.raises(mmssl.errors.UserError, match="no config.json"):
        load_model(tmp_path)
    for text in ("{}", "[]", '{"model_type": "nonsense"}', '{"model_type": "mmssl", "towers": {"a": {"widht": 3}}}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(mmssl.errors.UserError) as caught:
            load_model(tmp_path)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value), text


def test_a_stock_model_is_named(tmp_path):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(mmssl.errors.UserError, match="holds a model of type 'bert', expected a model trained by mmssl"):
        load_model(tmp_path)


@pytest.mark.parametrize(("key", "refused"), [("unit_range", False), ("mean", True)])
def test_a_model_from_before_an_option_was_there_loads_and_one_without_what_it_needs_does_not(
    run, tmp_path, key, refused
):
    """`unit_range` has a default, and it is what the processor says; `mean` has none."""
    shutil.copytree(run.model_folder, tmp_path / "older")
    path = tmp_path / "older" / "config.json"
    config = json.loads(path.read_text())
    del config["modalities"]["image"][key]
    path.write_text(json.dumps(config))
    if refused:
        with pytest.raises(UserError, match=r"modalities.image.mean None, .* they are not of one model"):
            load_model(tmp_path / "older")
    else:
        load_model(tmp_path / "older")


def test_what_a_model_leaves_out_must_be_what_its_processor_says(run, tmp_path):
    shutil.copytree(run.model_folder, tmp_path / "other")
    path = tmp_path / "other" / "config.json"
    config = json.loads(path.read_text())
    assert config["modalities"]["text"].pop("positions") == "sincos"
    config["modalities"]["image"]["positions"] = "learned"
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="modalities.image.positions 'learned'"):
        load_model(tmp_path / "other")
