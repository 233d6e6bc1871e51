"""`transformers.pipeline` and `peft.AutoPeftModel` on mmssl's folders: the numbers of `encode`, `predict`, `embed`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from PIL import Image
from toys import runs, tuned
from toys.refusals import refused
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForSequenceClassification, pipeline

import mmssl
from mmssl.cli import main
from mmssl.evaluation.zero_shot import class_vectors, zero_shot_predict
from mmssl.models.opening import open_model

RNG = np.random.default_rng(0)
PICTURES = [Image.fromarray(RNG.integers(256, size=(8, 8), dtype=np.uint8)) for _ in range(5)]
BASE, FULL, LORA = "base", "full/model", "lora/model"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, a fine-tuning of all its weights, and one by LoRA, as a user's working directory."""
    folder = tmp_path_factory.mktemp("pipelines")
    tuned.image_base(folder / "base")
    quick = ["--data", "builtin:digits", "--label", "label", "limit=120", "train.steps=2", "train.batch_size=16"]
    quick += ["few=0", "head_start=zero"]  # what is trained shall differ from its start
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for peft_kind, out in (("none", "full"), ("lora", "lora")):
            assert main(["finetune", "base", *quick, "--peft", peft_kind, "--output", out]) == 0
    return folder


@pytest.fixture(autouse=True)
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def made(task: str, folder: str, **options: Any) -> Any:
    return pipeline(task, folder, trust_remote_code=True, **options)


def encoded(folder: str) -> np.ndarray:
    model, processor = open_model(folder)
    found: np.ndarray = model.encode(PICTURES, processor=processor)
    return found


@pytest.mark.parametrize("folder", [BASE, FULL, LORA])
@pytest.mark.parametrize("task", ["feature-extraction", "image-feature-extraction"])
def test_features(task: str, folder: str) -> None:
    pipe = made(task, folder)
    # of an adapter, which `open_model` merges into the weights and transformers does not
    np.testing.assert_allclose(np.concatenate(pipe(PICTURES, pool=True, batch_size=5)), encoded(folder), atol=1e-6)
    model, processor = open_model(folder)
    with torch.no_grad():
        states = model(**processor(image=PICTURES[:1])).last_hidden_state
    torch.testing.assert_close(pipe(PICTURES[0], return_tensors=True), states, atol=1e-5, rtol=1e-5)
    assert np.array(pipe(PICTURES[0])).shape == states.shape
    assert len(list(pipe(picture for picture in PICTURES))) == 5 and len(pipe(images=PICTURES[:2])) == 2


@pytest.mark.parametrize("folder", [FULL, LORA])
def test_classes(folder: str) -> None:
    said = made("image-classification", folder)(PICTURES, top_k=3)
    for answer, wanted in zip(said, mmssl.load_task(folder).predict(image=PICTURES), strict=True):
        best = sorted(wanted["scores"].values(), reverse=True)[:3]
        assert [one["score"] for one in answer] == pytest.approx(best, abs=1e-6)
        assert answer[0]["label"] == wanted["label"] and len(answer) == 3
    assert len(made("image-classification", folder, top_k=2)(PICTURES[0])) == 2


def test_zero_shot(tmp_path: Path) -> None:
    content = runs.image_text()
    content["train"] |= {"steps": 2}
    folder = str(mmssl.pretrain(content, output=tmp_path / "run").model_folder)
    labels, template = ["one", "two", "three"], "the digit {}"
    said = made("zero-shot-image-classification", folder)(
        PICTURES, candidate_labels=labels, hypothesis_template=template
    )
    model, processor = open_model(folder)
    rows = torch.from_numpy(model.encode(PICTURES, "image", processor=processor))
    words = torch.from_numpy(model.encode([template.format(label) for label in labels], "text", processor=processor))
    best = zero_shot_predict(rows, class_vectors(words, 1)).tolist()
    assert [answer[0]["label"] for answer in said] == [labels[i] for i in best]
    scores = (np.exp(model.config.logit_scale) * rows @ words.T).softmax(-1)
    wanted = [dict(zip(labels, of, strict=True)) for of in scores.tolist()]
    for answer, of in zip(said, wanted, strict=True):
        assert {one["label"]: pytest.approx(one["score"], abs=1e-6) for one in answer} == of
    features = made("feature-extraction", folder, modality="text")(["the digit 7"], pool=True)
    np.testing.assert_array_equal(features[0], model.encode(["the digit 7"], "text", processor=processor))
    with refused("image, text", "modality="):
        made("feature-extraction", folder)


def test_what_it_cannot_do_it_says_in_a_line() -> None:
    with refused("base is an encoder without the head of a task", "mmssl finetune base"):
        made("image-classification", BASE)
    with refused("full/model reads image", "text-classification"):
        made("text-classification", FULL)
    with refused("pairs of pictures and texts"):
        made("zero-shot-image-classification", BASE)
    with refused("has no option candidates"):
        made("image-classification", FULL)(PICTURES[0], candidates=["a"])
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        pipeline("image-classification", FULL)
    for auto in (AutoModelForImageClassification, AutoModelForSequenceClassification):
        with refused("full/model", "mmssl.load_task('full/model').predict"):
            auto.from_pretrained(FULL)
    with pytest.raises(RuntimeError, match="Pick one in .*feature-extraction"):
        pipeline(model=BASE, trust_remote_code=True)
    with pytest.raises(AttributeError, match=r"mmssl.load_task\(FOLDER\).predict"):
        _ = AutoModel.from_pretrained(BASE)(**mmssl.MMSSLProcessor.from_pretrained(BASE)(image=PICTURES)).logits


def test_without_trust_by_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """No module of the folder is run; and a folder may name no other pipeline."""
    monkeypatch.setattr("transformers.pipelines.get_class_from_dynamic_module", None)
    pipe = pipeline("feature-extraction", BASE, pipeline_class=mmssl.MMSSLPipeline)
    np.testing.assert_array_equal(np.concatenate(pipe(PICTURES, pool=True)), encoded(BASE))


def test_a_folder_names_no_other_pipeline(home: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(home / "base", tmp_path / "theirs"))
    config = json.loads((folder / "config.json").read_text())
    config["custom_pipelines"]["feature-extraction"]["impl"] = "me/theirs--evil.Pipeline"
    (folder / "config.json").write_text(json.dumps(config))
    with refused("custom_pipelines"):
        made("feature-extraction", str(folder))


OPENED: dict[str, Callable[[str], Any]] = {
    "AutoPeftModel": peft.AutoPeftModel.from_pretrained,
    "AutoPeftModelForFeatureExtraction": peft.AutoPeftModelForFeatureExtraction.from_pretrained,
    "AutoPeftModelForSequenceClassification": peft.AutoPeftModelForSequenceClassification.from_pretrained,
    "PeftModel": lambda folder: peft.PeftModel.from_pretrained(AutoModel.from_pretrained(BASE), folder),
    "AutoModel": AutoModel.from_pretrained,
}


@pytest.mark.parametrize("how", OPENED)
def test_adapters(how: str) -> None:
    model = OPENED[how](LORA).eval()
    with torch.no_grad():
        out = model(**mmssl.MMSSLProcessor.from_pretrained(LORA)(image=PICTURES))
    np.testing.assert_allclose(out.embeddings["image"], encoded(LORA), atol=1e-6)
    assert not np.allclose(encoded(LORA), encoded(BASE), atol=1e-6), "the adapter does something"
    with pytest.raises(AttributeError, match="mmssl finetune"):
        _ = out.logits
