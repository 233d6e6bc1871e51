"""`from` an Audio Spectrogram Transformer: its hidden states in a tower that drops, from spectra and from sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from toys import runs
from toys.refusals import refused

import mmssl
from mmssl.errors import UserError
from mmssl.exporting.writing import export_model
from mmssl.modality import load_modality
from mmssl.models.foreign import ForeignTower
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl.recipe.loading import load_recipe
from mmssl.training.building import build_model

pytestmark = pytest.mark.usefixtures("forked_proofs")

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 32,
    "intermediate_size": 96,
    "patch_size": 8,
    "num_mel_bins": 32,
    "max_length": 60,
}


def ast(folder: Path, **changes: Any) -> Any:
    """An AST with random weights everywhere, and its feature extractor with statistics of its own."""
    torch.manual_seed(3)
    config = transformers.ASTConfig(**{**SIZES, "frequency_stride": 6, "time_stride": 5, **changes})
    model = transformers.ASTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    transformers.ASTFeatureExtractor(
        num_mel_bins=config.num_mel_bins, max_length=config.max_length, mean=-3.0, std=2.5
    ).save_pretrained(folder)
    return model


def recipe(origin: Path, audio: dict[str, Any] | None = None, **tower: Any) -> dict[str, Any]:
    out = runs.recipe()
    out["modalities"] = {"audio": dict(audio or {})}
    out["model"] = {"towers": {"audio": {"from": str(origin), **tower}}}
    out["objectives"]["mae"]["tower"] = "audio"
    return out


def built(content: dict[str, Any]) -> tuple[MMSSLModel, MMSSLProcessor]:
    settings = load_recipe(content)
    part = load_modality("audio").Preprocessor(settings.modalities["audio"].config)
    processor = MMSSLProcessor({"audio": part})
    return build_model(settings, processor).eval(), processor


def theirs(original: Any, mel: torch.Tensor) -> torch.Tensor:
    """Last hidden states of spectra (B, F, M), time by time, as ours are."""
    bands, times = original.embeddings.get_shape(original.config)
    order = torch.arange(bands * times).view(bands, times).T.flatten()
    with torch.no_grad():
        states = original(mel).last_hidden_state
    return torch.cat([states[:, :2], states[:, 2:][:, order]], 1)


def ours(model: MMSSLModel, mel: torch.Tensor) -> Any:
    with torch.no_grad():
        return model.encode_batch({"audio": {"mel": mel}}).last_hidden_state


@pytest.mark.parametrize("strides", [(6, 5), (8, 8), (4, 7)])
def test_hidden_states_are_those_of_the_stock_class(tmp_path, strides):
    original = ast(tmp_path / "stock", frequency_stride=strides[0], time_stride=strides[1])
    model, processor = built(recipe(tmp_path / "stock"))
    assert not isinstance(model.towers["audio"], ForeignTower) and model.tower("audio").drops
    mel = torch.randn(2, 60, 32)
    # patches that do not overlap reach over the end, which AST's never do
    whole = mel[:, :56] if strides == (8, 8) else mel
    torch.testing.assert_close(ours(model, whole), theirs(original, mel), rtol=0, atol=1e-5)
    save_model(model, processor, tmp_path / "model")  # and without its origin
    (tmp_path / "stock").rename(tmp_path / "gone")
    again, _ = load_model(tmp_path / "model")
    torch.testing.assert_close(ours(again, whole), theirs(original, mel), rtol=0, atol=1e-5)


def test_from_sound_with_the_extractors_statistics(tmp_path):
    original = ast(tmp_path / "stock")
    model, processor = built(recipe(tmp_path / "stock"))
    config: Any = processor.preprocessors["audio"].config
    assert (config.mean, config.std, config.rate, config.mel_bins) == (-3.0, 5.0, 16000, 32)
    assert (config.patch, config.stride, config.positions) == ([8, 8], [5, 6], "learned")
    waves = [np.random.default_rng(i).normal(size=16000).astype(np.float32) * 0.1 for i in range(2)]
    extractor = transformers.ASTFeatureExtractor.from_pretrained(tmp_path / "stock")
    mel = extractor(waves, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        found = model(**processor(audio=[(wave, 16000) for wave in waves])).last_hidden_state
    torch.testing.assert_close(found, theirs(original, mel), rtol=0, atol=2e-4)  # spectra equal to 1e-4
    _, processor = built(recipe(tmp_path / "stock", {"mean": 1.0}))  # what the recipe says holds
    assert processor.preprocessors["audio"].state == {"mean": 1.0, "std": 5.0}


def test_a_shorter_sound_has_the_first_positions_and_other_sizes_are_interpolated(tmp_path):
    original = ast(tmp_path / "stock")
    bands, times = original.embeddings.get_shape(original.config)
    grid = original.embeddings.position_embeddings[0, 2:].view(bands, times, -1).transpose(0, 1)
    for options, sizes in (({"seconds": 0.3}, (5, 5)), ({"seconds": 1.0}, (19, 5)), ({"mel_bins": 50}, (11, 8))):
        model, processor = built(recipe(tmp_path / "stock", options))
        position: Any = model.modality("audio").position
        assert position.sizes == sizes, options
        table = position.table.view(*sizes, -1)
        if options == {"seconds": 0.3}:
            assert torch.equal(table, grid[:5])
        else:
            moved = grid.permute(2, 0, 1)[None]
            expected = torch.nn.functional.interpolate(moved, size=sizes, mode="bicubic")[0].permute(1, 2, 0)
            torch.testing.assert_close(table, expected, rtol=0, atol=1e-6)
        wave = np.random.default_rng(0).normal(size=20000).astype(np.float32)
        assert model(**processor(audio=[(wave, 16000)])).tokens["audio"].shape[1] == sizes[0] * sizes[1]


def test_it_trains_on_real_speech_and_goes_out_as_an_ast_again(tmp_path, shared_data):
    ast(tmp_path / "stock")
    content = recipe(tmp_path / "stock", {"seconds": 0.3}, pooling="cls")
    content["data"] = {"path": str(shared_data / "fsdd"), "limit": 40, "columns": {"audio": "audio"}}
    content["train"] |= {"steps": 3}
    run = mmssl.pretrain(content, output=tmp_path / "run")
    assert all(loss == loss for loss in runs.losses(run.folder).values())
    done = export_model(run.folder, "ast", tmp_path / "out")
    assert done.proof.failures == [] and done.proof.largest("float32") < 1e-5
    again = transformers.ASTConfig.from_pretrained(tmp_path / "out")
    assert (again.time_stride, again.frequency_stride, again.max_length) == (5, 6, 28)
    extractor = transformers.ASTFeatureExtractor.from_pretrained(tmp_path / "out")
    assert (extractor.mean, extractor.std) == (-3.0, 2.5)


def test_what_does_not_fit_is_refused_at_the_start(tmp_path):
    ast(tmp_path / "stock")
    with pytest.raises(UserError) as caught:
        load_recipe(recipe(tmp_path / "stock", {"patch": 16, "positions": "sincos"}))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "modalities.audio.patch: found 16, but" in lines[0] and "positions" in lines[1]
    (tmp_path / "stock" / "preprocessor_config.json").write_text("{")
    with refused("preprocessor_config.json"):
        load_recipe(recipe(tmp_path / "stock"))
