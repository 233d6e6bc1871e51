"""Constant-Q spectra as targets: against their formula, and where they are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.refusals import refused

import mmssl_audio
from mmssl_audio.constant_q import ConstantQ

RATE = 2000
"""Half of it is 1,000 Hz: 237 bins, of which the longest window is 2.1 s."""


def by_formula(wave: np.ndarray, seconds: float) -> np.ndarray:
    """Bin by bin, in float64."""
    middle, out = round(seconds * RATE), []
    for k in range(336):
        frequency = 32.70 * 2 ** (k / 48)
        if frequency >= RATE / 2:
            break
        length = int(np.ceil(RATE / frequency / (2 ** (1 / 48) - 1)))
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
        m = np.arange(length) - length // 2
        there = (middle + m >= 0) & (middle + m < len(wave))
        turning = np.exp(-2j * np.pi * frequency * m[there] / RATE)
        total = (hann[there] / hann.sum() * wave[middle + m[there]] * turning).sum()
        out.append(abs(total) * np.sqrt(length))
    return np.array(out)


def test_a_spectrum_is_that_of_its_formula(monkeypatch):
    monkeypatch.setattr("mmssl_audio.constant_q.AT_A_TIME", 5000)  # a window or two at a time
    wave = 0.3 * np.random.default_rng(0).normal(size=(2, 900))
    times = torch.tensor([[0.0, 0.2], [0.449, 0.1]])
    found = ConstantQ(RATE)(torch.from_numpy(wave).float(), times)
    assert found.shape == (2, 2, 237)
    for row in range(2):
        for column in range(2):
            expected = by_formula(wave[row].astype(np.float32).astype(float), float(times[row, column]))
            np.testing.assert_allclose(found[row, column], expected, atol=1e-6)


def test_a_tone_is_in_its_bin():
    at = np.arange(2 * RATE) / RATE
    spectrum = ConstantQ(RATE)
    for k in (100, 180):
        tone = torch.from_numpy(np.sin(2 * np.pi * spectrum.frequencies[k] * at)).float()[None]
        assert int(spectrum(tone, torch.tensor([[1.0]]))[0, 0].argmax()) == k


@pytest.mark.parametrize("features", ["mel", "waveform"])
def test_it_is_of_the_middle_of_each_patch_and_padding_changes_nothing(features):
    patch = {"patch": [4, 8], "mel_bins": 32} if features == "mel" else {"patch": 200}
    config = {"rate": RATE, "source_rate": float(RATE), "mean": 0.0, "std": 1.0, "features": features, **patch}
    reader = mmssl_audio.Preprocessor(mmssl_audio.Config(**config))
    rng = np.random.default_rng(1)
    sounds = [(0.1 * rng.normal(size=n)).astype(np.float32) for n in (900, 1500)]
    modality = mmssl_audio.Modality(8, **reader.sizes())
    inputs = reader([sounds[0], None, sounds[1]])
    patches = modality.patchify(inputs)
    target = modality.target(inputs, patches, "cqt")
    assert target.shape == (3, patches.count, modality.pred_width("cqt")) and modality.pred_width("cqt") == 237
    assert not target[1].any()
    alone = reader([sounds[0]])
    own = modality.target(alone, modality.patchify(alone), "cqt")
    torch.testing.assert_close(target[:1][patches.valid[:1]], own[0], rtol=0, atol=1e-6)
    number = 1
    start = float(patches.coords[0, number, 0])
    samples = 200 if features == "waveform" else 3 * 20 + 50
    np.testing.assert_allclose(
        target[0, number], by_formula(sounds[0].astype(float), start + samples / 2 / RATE), atol=1e-6
    )
    with refused("cqt", "waveform"):
        modality.target({"mel": torch.zeros(1, 8, 32)}, patches, "cqt")
