"""`tokens`: what the tokens of EEG, ECG and series are made of, against numpy in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import mmssl_ecg
import mmssl_eeg
import mmssl_series
from mmssl.errors import UserError
from mmssl.modality.biosignals.patching import SignalModality
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.opening import open_model
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor

MOMENTS = {"mean": [0.5 * k for k in range(9)], "std": [1.0 + 0.25 * k for k in range(9)]}
"""Of the 9 bins of 16 samples."""


def made(kind: str, tokens: str) -> SignalModality:
    torch.manual_seed(0)
    if kind == "eeg":
        return mmssl_eeg.Modality(8, 16.0, 16, 2, MOMENTS, tokens=tokens)
    if kind == "ecg":
        return mmssl_ecg.Modality(8, ["I", "II"], 16.0, 16, "time", MOMENTS, tokens=tokens)
    return mmssl_series.Modality(8, ["a", "b"], 16.0, 16, "channel", MOMENTS, tokens=tokens)


def given(signal: Tensor) -> dict[str, Tensor]:
    return {"signal": signal, "electrodes": torch.zeros(len(signal), 2, 3), "holes": signal.isnan().any()[None]}


def spectrum_by_hand(window: np.ndarray) -> np.ndarray:
    """(9,) of 16 samples in float64: what was not measured is the mean of what was, whose power stands for all."""
    window = window.astype(np.float64)
    there = ~np.isnan(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(16) / 16)
    centred = np.where(there, window - np.nanmean(window), 0.0) * hann / np.sqrt(np.mean(hann**2))
    waves = np.exp(-2j * np.pi * np.outer(np.arange(9), np.arange(16)) / 16)
    power = np.abs(waves @ centred) ** 2 / there.sum()
    return (np.log(power + 1e-4) - MOMENTS["mean"]) / MOMENTS["std"]


@pytest.mark.parametrize("kind", ["eeg", "ecg", "series"])
def test_tokens_are_maps_of_the_values_of_the_spectra_or_of_both(kind: str) -> None:
    signal = torch.randn(1, 2, 48, generator=torch.Generator().manual_seed(1))
    signal[0, 1, :5] = torch.nan  # less than half of a window
    windows = signal.numpy().reshape(2, 3, 16)
    together = kind == "ecg"  # both channels of a window in one patch
    for tokens in ("values", "spectrum", "both"):
        net = made(kind, tokens)
        seen = {"values": np.nan_to_num(windows), "spectrum": np.apply_along_axis(spectrum_by_hand, 2, windows)}
        described = [seen[key] for key in ("values", "spectrum") if tokens in (key, "both")]
        if together:
            numbers = np.concatenate([part.transpose(1, 0, 2).reshape(3, -1) for part in described], 1)
        else:
            numbers = np.concatenate([part.reshape(6, -1) for part in described], 1)
        patches = net.patchify(given(signal))
        proj = net.proj
        wanted = numbers @ proj.weight.detach().double().numpy().T + proj.bias.detach().double().numpy()
        wanted = wanted + net.position(patches.coords)[0].detach().double().numpy()
        np.testing.assert_allclose(net.embed(patches)[0].detach().double(), wanted, atol=2e-5)


def test_a_channel_that_was_hardly_measured_counts_as_the_mean_of_the_data() -> None:
    net = made("ecg", "spectrum")
    signal = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(2))
    signal[0, 1, 6:] = torch.nan
    described = net.described(net.patchify(given(signal)).values)
    assert not described[..., :9].isnan().any()
    assert described[..., 9:].isnan().all()  # which `embed` takes for 0
    assert not net.embed(net.patchify(given(signal))).isnan().any()


def test_targets_know_nothing_of_it() -> None:
    signal = torch.randn(2, 2, 48, generator=torch.Generator().manual_seed(3))
    values, both = made("eeg", "values"), made("eeg", "both")
    for kind in values.targets:
        found = [net.target(given(signal), net.patchify(given(signal)), kind) for net in (values, both)]
        assert torch.equal(*found)


def test_a_trunk_that_looks_at_samples_refuses_it() -> None:
    for trunk, tokens, fine in (("resnet", "values", True), ("resnet", "both", False), ("transformer", "both", True)):
        tower = tower_spec(TowerConfig(width=8, depth=1, heads=2, trunk=trunk))
        sizes = {"rate": 16.0, "window": 16, "channels": 2, "tokens": tokens}
        config = MMSSLConfig(modalities={"eeg": {"type": "eeg", **sizes}}, towers={"eeg": tower})
        if fine:
            MMSSLModel(config)
            continue
        with pytest.raises(UserError) as error:
            MMSSLModel(config)
        for part in ("model.towers", "'eeg'", "trunk: resnet", "tokens: values"):
            assert part in str(error.value)


def test_it_is_saved_with_the_model(tmp_path: Path) -> None:
    signal = np.random.default_rng(0).normal(size=(2, 256)) * 30
    sample = {"signal": signal, "channels": ["Cz", "O2"], "rate": 128.0}
    pre = mmssl_eeg.Preprocessor(mmssl_eeg.Config(tokens="spectrum")).fit([sample])
    torch.manual_seed(0)
    tower = tower_spec(TowerConfig(width=8, depth=1, heads=2))
    model = MMSSLModel(MMSSLConfig(modalities={"eeg": {"type": "eeg", **pre.sizes()}}, towers={"eeg": tower})).eval()
    model.save_pretrained(tmp_path)
    MMSSLProcessor({"eeg": pre}).save_pretrained(tmp_path)
    again, processor = open_model(tmp_path)
    batch = {"eeg": processor.preprocessors["eeg"]([sample])}
    found = [net.encode_batch(batch).pooled["eeg"] for net in (again.eval(), model)]
    assert torch.equal(*found)
    assert not torch.equal(model.encode_batch({"eeg": pre([{**sample, "signal": signal * 3}])}).pooled["eeg"], found[0])
