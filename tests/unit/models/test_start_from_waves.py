"""`from` an encoder of raw sound (wav2vec 2.0, HuBERT, WavLM, data2vec): as its class, in float64, at any length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from toys import runs

from mmssl.cli import main
from mmssl.errors import UserError
from mmssl.exporting.writing import export_model
from mmssl.modality import load_modality
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.opening import open_model
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.models.waves import WaveTower
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model, build_pretraining

LAYERS: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
FRONT: dict[str, Any] = {"conv_dim": (8, 8, 8), "conv_kernel": (10, 3, 2), "conv_stride": (5, 2, 2)}
PLACES: dict[str, Any] = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
HOP, REACH = 20, 30
LENGTHS = (400, 30, 513, 400, 10, 409)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-base": ("Wav2Vec2", {"feat_extract_norm": "group"}),
    "wav2vec2-large": ("Wav2Vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert-base": ("Hubert", {"feat_extract_norm": "group"}),
    "hubert-large": ("Hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "wavlm": ("WavLM", {"feat_extract_norm": "layer", "num_buckets": 16, "max_bucket_distance": 32}),
    "data2vec": ("Data2VecAudio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
}


def stock(folder: Path, name: str, normalise: bool = True, rate: int = 8000) -> Any:
    """A saved model with random weights everywhere, and its extractor."""
    cls, options = MODELS[name]
    places = {**PLACES, **options}
    config = getattr(transformers, f"{cls}Config")(**LAYERS, **FRONT, **places)
    torch.manual_seed(3)
    model = getattr(transformers, f"{cls}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=normalise).save_pretrained(folder)
    return model


def recipe(origin: Path, objective: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    out = runs.recipe()
    tower = options.pop("tower", {})
    out["modalities"] = {"audio": options}
    out["model"] = {"towers": {"audio": {"from": str(origin), **tower}}}
    out["objectives"] = {"learn": objective or {"type": "contrastive", "views": ["one", "two"], "towers": ["audio"]}}
    out["views"] = {"one": {"audio": {"gain": 0.5}}, "two": {"audio": {"noise": 0.5}}}
    out["masks"] = {"half": {"type": "random", "ratio": 0.5}}
    return out


def built(content: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    processor = MMSSLProcessor({"audio": load_modality("audio").Preprocessor(settings.modalities["audio"].config)})
    return build_model(settings, processor).eval(), processor


def sounds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=n) * 0.1 + 0.3).astype(np.float32) for n in LENGTHS]


def arrays(waves: list[Any]) -> list[Any]:
    return [None if wave is None else {"array": wave, "sampling_rate": 8000} for wave in waves]


@pytest.mark.parametrize("name", MODELS)
def test_each_sound_is_as_the_stock_class_gives_it(tmp_path: Path, name: str) -> None:
    original = stock(tmp_path / "stock", name).double()
    model, processor = built(recipe(tmp_path / "stock"))
    save_model(model, processor, tmp_path / "model")
    again = load_model(tmp_path / "model")[0]
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    model = again.double()
    tower: Any = model.tower("audio")
    assert isinstance(tower, WaveTower) and (tower.hop, tower.reach) == (HOP, REACH) and not tower.drops
    assert tower.masks == (MODELS[name][1].get("feat_extract_norm") == "layer")
    waves = [*sounds(), None]
    inputs = processor(audio=arrays(waves))
    with torch.no_grad():
        out = model(**inputs)
        extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(tmp_path / "stock")
        patches = model.modality("audio").patchify({k.removeprefix("audio_"): v for k, v in inputs.items()})
        values, lengths = tower.waves(patches)
        for row, wave in enumerate(waves):
            if wave is None:
                assert (out.tokens["audio"][row] == 0).all() and (out.pooled["audio"][row] == 0).all()
                continue
            theirs = extractor(wave, sampling_rate=8000, return_tensors="pt").input_values
            torch.testing.assert_close(values[row, : lengths[row]], theirs[0], rtol=0, atol=2e-5)
            exact = torch.nn.functional.pad(
                values[row : row + 1, : lengths[row]].double(), (0, max(0, REACH - len(wave)))
            )
            expected = original(exact).last_hidden_state[0]
            found = out.tokens["audio"][row]
            assert len(expected) == max((len(wave) - REACH) // HOP, 0) + 1
            torch.testing.assert_close(found[: len(expected)], expected, rtol=0, atol=1e-9)
            assert (found[len(expected) :] == 0).all()
            torch.testing.assert_close(out.pooled["audio"][row].double(), expected.mean(0), rtol=0, atol=1e-5)
        if tower.masks:  # and as it gives them in one batch
            mask = (torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]).long()[: len(waves) - 1]
            whole = original(values[: len(mask)].double(), attention_mask=mask).last_hidden_state
            for row, length in enumerate(LENGTHS):
                n = (length - REACH) // HOP + 1
                if n > 0:
                    torch.testing.assert_close(out.tokens["audio"][row, :n], whole[row, :n], rtol=0, atol=1e-9)


@pytest.mark.usefixtures("forked_proofs")
@pytest.mark.parametrize("name", [pytest.param("wav2vec2-base", marks=pytest.mark.slow), "hubert-large"])
def test_it_goes_out_as_itself(tmp_path: Path, name: str) -> None:
    original = stock(tmp_path / "stock", name)
    opened = open_model(tmp_path / "stock")
    assert opened[1].preprocessors["audio"].config.rate == 8000
    done = export_model(opened, "stock", tmp_path / "out")
    assert (
        done.job.cls == f"{MODELS[name][0]}Model" and not done.proof.failures and done.proof.largest("float32") < 1e-5
    )
    again = type(original).from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in original.state_dict().items())
    assert again.config.layerdrop == original.config.layerdrop and again.config.apply_spec_augment
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "out")
    assert extractor.sampling_rate == 8000 and extractor.do_normalize
    one = opened[0].encode(arrays(sounds()), batch_size=3, processor=opened[1])
    model, processor = open_model(tmp_path / "out")
    two = model.encode(arrays(sounds()), processor=processor)
    np.testing.assert_allclose(one, two, atol=1e-6)  # whatever lies in a batch with it


@pytest.mark.slow
def test_pretrained_on_and_finetuned_through_lora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import datasets

    stock(tmp_path / "stock", "wav2vec2-base")
    rng = np.random.default_rng(1)
    classes = [i % 2 for i in range(40)]
    waves = [rng.normal(size=(300, 431)[i % 3 == 0]) * (0.1 + c) for i, c in enumerate(classes)]
    data = {"audio": [{"array": w.tolist(), "sampling_rate": 8000} for w in waves], "label": classes}
    datasets.Dataset.from_dict(data).to_parquet(tmp_path / "data.parquet")
    content = recipe(tmp_path / "stock", tower={"adapter": {"type": "lora", "r": 2}})
    content["data"] = {"path": str(tmp_path / "data.parquet")}
    content["train"] = {"steps": 2, "batch_size": 8, "trackers": [], "health_every": None}
    content["evaluation"] = {"tasks": []}
    from mmssl.options.plainyaml import dump

    (tmp_path / "r.yaml").write_text(dump(content))
    assert main(["pretrain", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "run")]) == 0
    data_words = ["--data", str(tmp_path / "data.parquet")]
    words = ["--label", "label", "train.steps=2", "train.batch_size=8", "eval_every=1"]
    out = str(tmp_path / "tuned")
    assert main(["finetune", str(tmp_path / "run"), *data_words, *words, "--output", out]) == 0
    assert "audio/accuracy" in capsys.readouterr().out
    e = tmp_path / "e.parquet"
    assert main(["embed", out, *data_words, "--output", str(e)]) == 0
    assert pq.read_metadata(e).num_rows == 40


@pytest.mark.parametrize(
    ("objective", "line"),
    [
        ({"type": "jepa", "tower": "audio", "mask": "half"}, "audio"),
        ({"type": "mae", "tower": "audio", "mask": "half"}, "audio"),
        ({"type": "mae", "tower": "audio", "mask": "half", "mode": "replace"}, "audio"),
        ({"type": "distillation", "tower": "audio", "global_views": ["one", "two"], "masks": ["half"]}, "audio"),
    ],
)
def test_objectives_that_hide_patches_are_refused(tmp_path: Path, objective: dict[str, Any], line: str) -> None:
    stock(tmp_path, "hubert-base")
    settings = load_recipe(recipe(tmp_path, objective))
    processor = MMSSLProcessor({"audio": load_modality("audio").Preprocessor(settings.modalities["audio"].config)})
    with pytest.raises(UserError, match=line) as caught:
        build_pretraining(settings, processor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"rate": 16000}, r"modalities.audio.rate: found 16000, but '.*' has 8000"),
        ({"features": "mel"}, r"modalities.audio.features: found .*mel.*, but '.*' has waveform"),
        ({"patch": 400}, r"modalities.audio.patch: found 400, but '.*' has 20"),
        ({"normalise": "data"}, r"modalities.audio.normalise: found .*data.*, but '.*' has sound"),
        ({"mean": 0.5}, "mean, std: found them beside normalise: sound"),
        ({"tower": {"pooling": "cls"}}, "pooling: found cls"),
        ({"tower": {"convert": True}}, "convert: true takes a tower of audio from ast"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    stock(tmp_path, "hubert-base")
    with pytest.raises(UserError, match=line) as caught:
        built(recipe(tmp_path, **options))
    assert "\n" not in str(caught.value)


def test_what_the_model_draws_by_itself_is_left_out(tmp_path: Path) -> None:
    """Two passes in training mode are equal but for dropout, which torch's generator decides."""
    stock(tmp_path, "wav2vec2-base")
    model, processor = built(recipe(tmp_path))
    encoder: Any = model.train().tower("audio").net["encoder"]  # type: ignore[index]
    assert not encoder.config.apply_spec_augment and encoder.config.layerdrop == 0
    inputs, found = processor(audio=arrays(sounds())), []
    for seed in (0, 1):
        np.random.seed(seed)
        torch.manual_seed(0)
        found.append(model(**inputs).tokens["audio"])
    assert torch.equal(*found)
    found[0].sum().backward()
    assert encoder.feature_extractor.conv_layers[0].conv.weight.grad is not None


def test_an_encoder_with_a_shortening_adapter_is_refused(tmp_path: Path) -> None:
    config = transformers.Wav2Vec2Config(**LAYERS, **FRONT, **PLACES, add_adapter=True, output_hidden_size=24)
    transformers.Wav2Vec2Model(config).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="from a Wav2Vec2Model with add_adapter, which shortens its output"):
        built(recipe(tmp_path))
