"""Views of sounds: CLMR's chain, SpecAugment, mixing; each sample by itself, padding untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys.refusals import refused

import mmssl_audio
from mmssl.draws import Draws
from mmssl_audio.effects import delay, first_order, pitch_shift, reverb

RNG = np.random.default_rng(0)
SMALL = {"rate": 8000, "mel_bins": 32, "patch": [4, 8], "mean": -6.0, "std": 4.0}


def noise(*lengths: int, scale: float = 0.1) -> list[np.ndarray]:
    return [(scale * RNG.normal(size=n)).astype(np.float32) for n in lengths]


def preprocessor(**options: object) -> mmssl_audio.Preprocessor:
    rate = float({**SMALL, **options}["rate"])  # type: ignore[arg-type]
    return mmssl_audio.Preprocessor(mmssl_audio.Config(**{**SMALL, "source_rate": rate, **options}))  # type: ignore[arg-type]


def modality(p: mmssl_audio.Preprocessor, width: int = 16) -> mmssl_audio.Modality:
    return mmssl_audio.Modality(width, **p.sizes())


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def peak(x: torch.Tensor, rate: int) -> float:
    x = x * torch.hann_window(len(x))
    return float(torch.fft.rfft(x).abs().argmax()) * rate / len(x)


CHAIN = {
    "crop": [0.5, 1.0],
    "polarity": 0.8,
    "noise": 0.5,
    "gain": 0.3,
    "filter": 0.8,
    "delay": 0.3,
    "pitch": 0.6,
    "reverb": 0.6,
    "time_masks": 2,
    "mel_masks": 2,
}


def test_views_depend_on_the_sample_alone() -> None:
    """Not on the batch's padding, nor on the process that holds the sample."""
    p = preprocessor()
    m = modality(p)
    samples = noise(1500, 2100, 900, 3000)
    whole = m.augment(p(samples), Draws(5, 4, 0, 4), **CHAIN)
    parts = [m.augment(p(samples[i : i + 2]), Draws(5, 2, i, 4), **CHAIN) for i in (0, 2)]
    for row in range(4):
        own = parts[row // 2]
        count = int(whole["frames"][row])
        assert count == int(own["frames"][row % 2])
        assert (whole["mel"][row, :count] - own["mel"][row % 2, :count]).abs().max() < 1e-3
    assert not torch.equal(whole["frames"], m.spectrum(p(samples))[1])


def test_padding_stays_zero_and_lengths_hold() -> None:
    p = preprocessor()
    m = modality(p)
    inputs = p(noise(1500, 4000))
    view = {k: v for k, v in CHAIN.items() if not k.endswith("masks")} | {"mix": 1.0}
    out = m.augment(inputs, Draws(3, 2), **view)
    for row, length in zip(out["waveform"], out["length"].tolist(), strict=True):
        assert not row[length:].any() and row[:length].abs().sum() > 0
    assert (out["length"] <= inputs["length"]).all() and (out["length"] >= inputs["length"] * 0.49).all()
    same = m.augment(inputs, Draws(3, 2), polarity=1.0)
    assert torch.equal(same["waveform"], -inputs["waveform"]) and torch.equal(same["length"], inputs["length"])


def test_filters_by_hand() -> None:
    """Against the recursion that the impulse response stands for, and its gain at the cut-off: -3 dB."""
    from scipy.signal import lfilter

    x = noise(4000)[0]
    hertz, high = torch.tensor([300.0, 3000.0]), torch.tensor([True, False])
    ours = first_order(torch.tensor(np.stack([x, x])), hertz, high, 16000)
    for row, (f, is_high) in enumerate([(300.0, True), (3000.0, False)]):
        c = (np.tan(np.pi * f / 16000) - 1) / (np.tan(np.pi * f / 16000) + 1)
        b = [(1 - c) / 2, (c - 1) / 2] if is_high else [(1 + c) / 2, (1 + c) / 2]
        assert np.abs(lfilter(b, [1, c], x) - ours[row].numpy()).max() < 1e-5
        gain = first_order(torch.tensor(tone(f, 16000))[None], hertz[row : row + 1], high[row : row + 1], 16000)
        assert float(gain[0, 4000:].abs().max()) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


def test_delay_pitch_and_reverb() -> None:
    x = torch.zeros(1, 1000)
    x[0, 10] = 1.0
    late = delay(x, torch.tensor([200]), 0.5)
    assert late[0, 10] == 0.5 and late[0, 210] == 0.25 and late.count_nonzero() == 2
    sound = torch.tensor(tone(440, 16000))
    for semitones in (-7.0, -1.5, 0.0, 4.0, 7.0):
        out = pitch_shift(sound[None], torch.tensor([semitones]), 16000, 7.0)[0]
        assert out.shape == sound.shape
        assert peak(out[2000:14000], 16000) == pytest.approx(440 * 2 ** (semitones / 12), abs=2)
        assert float(out[2000:14000].std()) == pytest.approx(float(sound.std()), rel=0.15)  # a vocoder's loss
    above = pitch_shift(torch.tensor(tone(7000, 16000))[None], torch.tensor([7.0]), 16000, 7.0)[0]
    assert above[2000:14000].abs().max() < 0.02  # 10.5 kHz cannot be held, and does not fold back
    echo = reverb(x.expand(2, -1), torch.tensor([0.2, 0.2]), torch.tensor([0.0, 0.5]), torch.randn(2, 4000), 8000)
    assert torch.allclose(echo[0], x[0], atol=1e-6)
    assert not echo[1, :9].abs().max() > 1e-6 and echo[1, 11:].abs().sum() > 0.1


def test_spec_augment_masks_whole_times_and_bins() -> None:
    p = preprocessor()
    m = modality(p)
    inputs = p(noise(4000, 2000))
    mel, frames = m.spectrum(inputs)
    out = m.augment(inputs, Draws(2, 2), time_masks=1, time_width=0.5)
    changed = out["mel"] != mel
    assert torch.equal(changed.any(2), changed.all(2)) and changed.any()
    assert not changed[1, int(frames[1]) :].any()  # type: ignore[index]
    widths = changed.any(2).sum(1)
    assert (widths <= frames * 0.5 + 1).all() and (out["mel"][changed] == 0).all()
    bands = m.augment(inputs, Draws(2, 2), mel_masks=1, mel_width=0.5)["mel"] != mel
    assert torch.equal(bands.any(1), bands.all(1)) and bands.any()


def test_mixing_is_by_the_global_permutation_and_refused_across_processes() -> None:
    p = preprocessor()
    m = modality(p)
    inputs = p(noise(1000, 1000, 1000))
    draws = Draws(4, 3)
    out = m.augment(inputs, draws, mix=1.0, mix_db=[-20.0, -20.0])["waveform"] - inputs["waveform"]
    other = draws("mix").permutation()
    for row in range(3):
        partner = inputs["waveform"][other[row]]
        assert torch.allclose(out[row] / out[row].norm(), partner / partner.norm(), atol=1e-4)
        assert float(out[row].norm() / inputs["waveform"][row].norm()) == pytest.approx(0.1, rel=1e-3)
    with refused("one process"):
        m.augment(inputs, Draws(4, 3, 0, 6), mix=1.0)


def test_a_stretch_of_another_sound_lies_somewhere_under_it() -> None:
    """Found again as some stretch of the partner, of a length that was asked for, at the level that was asked for."""
    p = preprocessor()
    m = modality(p)
    inputs = p(noise(1000, 600, 800, 900))
    lengths = [1000, 600, 800, 900]
    draws = Draws(4, 4)
    spec = {"mix": 1.0, "mix_db": [-6.0, -6.0], "mix_length": [0.2, 0.5]}
    wave = inputs["waveform"]
    added = m.augment({"waveform": wave.double(), "length": inputs["length"]}, draws, **spec)["waveform"] - wave
    other = draws("mix").permutation()
    places = set()
    for row in range(4):
        partner, shorter = wave[other[row]], min(lengths[row], lengths[int(other[row])])
        at = added[row].abs().gt(1e-6).nonzero()[:, 0]
        first, count = int(at[0]), int(at[-1] - at[0] + 1)
        assert 0.2 * shorter - 2 <= count <= 0.5 * shorter + 2 and int(at[-1]) < lengths[row]
        piece = added[row, first : first + count]
        windows = partner[: lengths[int(other[row])]].unfold(0, count, 1)
        alike = (windows @ piece) / (windows.norm(dim=1) * piece.norm())
        assert float(alike.max()) > 0.9999
        powers = piece.square().mean() / wave[row, : lengths[row]].square().mean()
        assert float(10 * powers.log10()) == pytest.approx(-6.0, abs=0.1)
        places.add((first, int(alike.argmax())))
    assert len(places) == 4
    with refused("mix_length", "mix"):
        mmssl_audio.View.build({"mix_length": [0.2, 0.5]})


@pytest.mark.parametrize("name", ["examples/audio_mae", "examples/audio_contrastive"])
def test_recipes_are_valid(name: str) -> None:
    from mmssl.recipe.loading import load_recipe

    recipe = load_recipe(name)
    config = recipe.modalities["audio"].config
    m = mmssl_audio.Modality(
        16, **mmssl_audio.Preprocessor(config).fit([(x, config.rate) for x in noise(4000)]).sizes()
    )
    for view in recipe.views.values():
        assert "mel" in m.augment({"waveform": torch.tensor(noise(4000)[0])[None]}, Draws(0, 1), **view["audio"])
