"""mmssl_audio: files and arrays to waveforms, mel patches equal to stock features, padding that leaks nowhere."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from toys.refusals import refused

import mmssl_audio
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl.models.saving import load_model, save_model
from mmssl_audio.decode import read_sound

RNG = np.random.default_rng(0)
SMALL = {"rate": 8000, "mel_bins": 32, "patch": [4, 8], "mean": -6.0, "std": 4.0}


def noise(*lengths: int, scale: float = 0.1) -> list[np.ndarray]:
    return [(scale * RNG.normal(size=n)).astype(np.float32) for n in lengths]


def preprocessor(**options: object) -> mmssl_audio.Preprocessor:
    rate = float({**SMALL, **options}["rate"])  # type: ignore[arg-type]
    return mmssl_audio.Preprocessor(mmssl_audio.Config(**{**SMALL, "source_rate": rate, **options}))  # type: ignore[arg-type]


def modality(p: mmssl_audio.Preprocessor, width: int = 16) -> mmssl_audio.Modality:
    return mmssl_audio.Modality(width, **p.sizes())


def model_of(p: mmssl_audio.Preprocessor) -> MMSSLModel:
    torch.manual_seed(0)
    towers = {"audio": {"width": 16, "depth": 2, "heads": 2}}
    return MMSSLModel(MMSSLConfig(modalities={"audio": {"type": "audio", **p.sizes()}}, towers=towers)).eval()


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    """16-bit PCM by the standard library, (S,) or (S, C) of int16."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def peak(x: torch.Tensor, rate: int) -> float:
    x = x * torch.hann_window(len(x))
    return float(torch.fft.rfft(x).abs().argmax()) * rate / len(x)


# ------------------------------------------------------------------------------------------------------------ features


@pytest.mark.parametrize("length", [400, 559, 560, 9001, 16000])
def test_mel_equals_the_stock_feature_extractor(length: int) -> None:
    from transformers import ASTFeatureExtractor

    p = mmssl_audio.Preprocessor(mmssl_audio.Config(source_rate=16000.0, mean=-4.2677393, std=2 * 4.5689974))
    own, longer = noise(length, 16000)
    mel, frames = modality(p).spectrum(p([own, longer]))
    assert frames is not None or length == 16000
    count = 98 if frames is None else int(frames[0])
    stock = torch.tensor(ASTFeatureExtractor()(own, sampling_rate=16000)["input_values"][0])[:count]
    assert count == 1 + (length - 400) // 160
    assert (mel[0, :count] - stock).abs().max() < 1e-4


@pytest.mark.parametrize(("rate", "bins"), [(8000, 64), (22050, 80), (44100, 40)])
def test_mel_equals_torchaudio_at_other_rates(rate: int, bins: int) -> None:
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi", reason="torchaudio is not installed")
    p = preprocessor(rate=rate, mel_bins=bins, patch=[4, bins], mean=0.0, std=1.0)
    x = noise(rate // 3)[0]
    stock = kaldi.fbank(torch.tensor(x)[None], sample_frequency=rate, window_type="hanning", num_mel_bins=bins)
    mel, _ = modality(p).spectrum(p([x]))
    assert mel.shape[1:] == stock.shape and (mel[0] - stock).abs().max() < 1e-4


def test_patches_by_hand() -> None:
    p = preprocessor()  # at 8 kHz a frame is 200 samples, every 80
    inputs = p([noise(200 + 9 * 80)[0], noise(200 + 3 * 80)[0], None])
    assert inputs["length"].tolist() == [920, 440, 0]
    m = modality(p)
    patches = m.patchify(inputs)
    # 10 frames are 3 patches of 4 in time, 32 bins are 4 patches of 8
    assert patches.values.shape == (3, 12, 32) and patches.valid.sum(1).tolist() == [12, 4, 0]
    assert patches.coords[0, :5].tolist() == [[0, 0], [0, 8], [0, 16], [0, 24], [pytest.approx(0.04), 0]]
    assert patches.coords[0, 8].tolist() == [pytest.approx(0.08), 0]
    mel, _ = m.spectrum(inputs)
    assert torch.equal(patches.values[0, 6].view(8, 4), mel[0, 4:8, 16:24].T)
    # the last patch has two frames of four
    assert patches.values[0, 8].view(8, 4).isnan().any(0).tolist() == [False, False, True, True]


def test_waveform_patches_by_hand() -> None:
    p = preprocessor(features="waveform", patch=100, mean=0.0, std=0.5)
    a, b = noise(250, 100)
    inputs = p([a, b])
    m = modality(p)
    patches = m.patchify(inputs)
    assert patches.values.shape == (2, 3, 100) and patches.valid.tolist() == [[True] * 3, [True, False, False]]
    assert patches.coords[0, :, 0].tolist() == [0.0, pytest.approx(0.0125), pytest.approx(0.025)]
    assert torch.allclose(patches.values[0, 1], torch.tensor(a[100:200]) * 2)
    assert patches.values[0, 2].isnan().sum() == 50
    back = m.unpatchify(patches.values, inputs)
    assert torch.allclose(back["waveform"], inputs["waveform"], atol=1e-7)
    target = m.target(inputs, patches, "normalised")
    score = m.score(torch.zeros_like(target), target, patches)
    assert score[0, :2].tolist() == [pytest.approx(0.99, abs=1e-3)] * 2  # unbiased: 99 / 100


def test_overlapping_patches_are_those_of_a_convolution() -> None:
    p = preprocessor(stride=[3, 5])
    m = modality(p)
    inputs = p([*noise(200 + 16 * 80, 200 + 9 * 80, 250), None])
    mel, frames = m.spectrum(inputs)
    assert frames is not None and frames.tolist() == [17, 10, 1, 0]
    patches = m.patchify(inputs)
    kernel = torch.randn(7, 1, 8, 4)
    conv = torch.nn.functional.conv2d(mel[:1, None].transpose(2, 3), kernel, stride=(5, 3))  # (1, 7, bands, times)
    assert conv.shape[2:] == (5, 5) and patches.count == 25
    torch.testing.assert_close(
        patches.values[0] @ kernel.flatten(1).T, conv[0].permute(2, 1, 0).flatten(0, 1), rtol=0, atol=1e-4
    )
    # whole patches only, but of a sound shorter than one the beginning
    assert patches.valid.sum(1).tolist() == [25, 15, 5, 0]
    assert patches.coords[0, 6].tolist() == [pytest.approx(0.03), 5] and not patches.values[1, :15].isnan().any()
    back = m.unpatchify(patches.values, inputs)["mel"]
    torch.testing.assert_close(back[0, :16, :28], mel[0, :16, :28])
    assert back.shape == mel.shape and not back[0, 16:].any() and not back[0, :, 28:].any()


def test_learned_positions_are_a_table_over_the_patches() -> None:
    p = preprocessor(seconds=0.5, positions="learned", stride=[2, 8])
    m = modality(p)
    assert m.position.sizes == (23, 4)  # 48 frames
    coords = m.patchify(p(noise(4000))).coords
    assert torch.equal(m.position(coords)[0], m.position.table)
    with pytest.raises(UserError, match="positions: found learned, expected sincos where seconds is null"):
        preprocessor(positions="learned", seconds=None)
    with pytest.raises(UserError, match=r"stride: found \[5, 8\], expected at most the patch, \[4, 8\]"):
        preprocessor(stride=[5, 8])
    with pytest.raises(UserError, match="stride: found 3, expected null with features: waveform"):
        preprocessor(features="waveform", patch=4, stride=3)


def test_round_trip_through_patches() -> None:
    p = preprocessor()
    inputs = p([*noise(920, 440), None])
    m = modality(p)
    patches = m.patchify(inputs)
    back = m.unpatchify(patches.values, inputs)
    mel, frames = m.spectrum(inputs)
    assert frames is not None
    inside = torch.arange(mel.shape[1]) < frames[:, None]
    assert torch.equal(back["mel"], mel * inside[..., None])
    again = m.patchify(back)
    assert torch.equal(again.valid, patches.valid) and torch.equal(again.coords, patches.coords)
    assert torch.equal(again.values.nan_to_num(9.0), patches.values.nan_to_num(9.0))


def test_equal_lengths_are_known_to_be_full() -> None:
    p = preprocessor()
    assert "length" not in p(noise(800, 800)) and modality(p).patchify(p(noise(800, 800))).full
    assert not modality(p).patchify(p(noise(800, 640))).full


# ------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("features", ["mel", "waveform"])
def test_padding_and_absent_rows_change_nothing_elsewhere(features: str) -> None:
    p = preprocessor(features=features, **({} if features == "mel" else {"patch": 80}))
    model = model_of(p)
    a, b = noise(1300, 5000)
    with torch.no_grad():
        alone = model.encode_batch({"audio": p([a])})
        mixed = model.encode_batch({"audio": p([b, a, None])})
    n = int(alone.valid["audio"].sum())
    assert (mixed.tokens["audio"][1, :n] - alone.tokens["audio"][0, :n]).abs().max() < 1e-6
    assert (mixed.pooled["audio"][1] - alone.pooled["audio"][0]).abs().max() < 1e-6
    assert mixed.present["audio"].tolist() == [True, True, False] and not mixed.pooled["audio"][2].any()


def test_permuted_patches_give_permuted_outputs() -> None:
    p = preprocessor()
    model = model_of(p)
    patches = model.modality("audio").patchify(p(noise(2000)))
    order = torch.randperm(patches.count)
    with torch.no_grad():
        straight = model.towers["audio"]({"audio": patches}).tokens["audio"]
        turned = model.towers["audio"]({"audio": patches.take(order[None], full=True)}).tokens["audio"]
    assert (straight[:, order] - turned).abs().max() < 1e-5


def test_saved_and_reloaded(tmp_path: Path) -> None:
    p = mmssl_audio.Preprocessor(mmssl_audio.Config(rate=8000, source_rate=8000.0, mel_bins=32, patch=[4, 8])).fit(
        noise(1600, 900)
    )
    model = model_of(p)
    samples = [*noise(1700, 800), None]
    save_model(model, MMSSLProcessor({"audio": p}), tmp_path)
    again, processor = load_model(tmp_path)
    first = model.encode_batch({"audio": p(samples)}).pooled["audio"]
    second = again.eval()(**processor(audio=samples)).pooled["audio"]
    assert torch.equal(first, second) and first.abs().sum() > 0


def test_hidden_patches_do_not_show_through() -> None:
    p = preprocessor()
    m = modality(p)
    patches = m.patchify(p(noise(2000)))
    hidden = torch.zeros(1, patches.count, dtype=torch.bool)
    hidden[0, 3] = True
    other = patches.replace(values=patches.values.clone().index_fill_(1, torch.tensor([3]), 5.0))
    assert torch.equal(m.embed(patches, hidden), m.embed(other, hidden))
    assert not torch.equal(m.embed(patches), m.embed(other))


def test_half_precision_takes_the_spectrum_in_float32() -> None:
    p = preprocessor()
    inputs = p(noise(2000))
    m = modality(p)
    exact = m.patchify(inputs)
    assert torch.equal(m.to(torch.bfloat16).patchify(inputs).values.nan_to_num(9), exact.values.nan_to_num(9))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(m.patchify(inputs).values.nan_to_num(9), exact.values.nan_to_num(9))


# ----------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_files_of_every_kind(kind: str, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    x = tone(440, 16000)
    path = tmp_path / f"tone.{kind.lower()}"
    soundfile.write(path, np.stack([x, -0.5 * x], 1), 16000, format=kind)
    read = [read_sound(v, 8000) for v in (str(path), path.read_bytes(), {"bytes": None, "path": str(path)})]
    assert all(np.array_equal(r, read[0]) for r in read) and read[0] is not None
    assert abs(len(read[0]) - 8000) <= (0 if kind != "MP3" else 800)
    inner = torch.tensor(read[0][1000:7000])
    assert peak(inner, 8000) == pytest.approx(440, abs=2)
    assert float(inner.abs().max()) == pytest.approx(0.125, abs=0.01)  # the mean of both channels


def test_pcm_is_read_exactly() -> None:
    pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    x = RNG.integers(-32768, 32767, 1000)
    assert np.array_equal(read_sound(wav(x), 8000), (x / 32768).astype(np.float32))


def test_arrays_with_and_without_a_rate() -> None:
    x = tone(300, 16000)
    for raw in ({"array": x, "sampling_rate": 16000}, (x, 16000), (torch.tensor(x), 16000.0)):
        out = read_sound(raw, 8000)
        assert out is not None and len(out) == 8000
        assert peak(torch.tensor(out[1000:7000]), 8000) == pytest.approx(300, abs=2)
    assert np.array_equal(read_sound((x, 16000), 16000), x)
    stereo = np.stack([x, 0 * x])
    assert all(np.allclose(read_sound((s, 16000), 16000), x / 2) for s in (stereo, stereo.T))
    assert np.allclose(read_sound(((x * 32768).astype(np.int16), 16000), 16000), x, atol=1e-4)
    assert np.allclose(read_sound((np.full(10, 128, np.uint8), 8000), 8000), 0)
    assert read_sound(None, 8000) is None and read_sound({"bytes": None, "path": None}, 8000) is None


def npy(x: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def test_the_rate_of_an_array_is_asked_for_and_not_taken_for_the_models() -> None:
    x = tone(300, 16000)
    without = (x, x.tolist(), torch.tensor(x), npy(x), {"array": x}, {"array": x, "sampling_rate": None}, (x, None))
    for raw in without:
        with pytest.raises(BadSample, match=r"sampling rate of an array.*source_rate"):
            read_sound(raw, 8000)
        out = read_sound(raw, 8000, source_rate=16000)
        assert out is not None and len(out) == 8000
    p = preprocessor(source_rate=16000.0)
    for raw in (
        {"array": x, "sampling_rate": 8000},
        {"array": x, "sr": 8000},
        (x, 8000),
        wav((x * 32767).astype("<i2")),
    ):
        assert len(p.read(raw)) == 16000  # type: ignore[arg-type]


def test_resampling_removes_what_the_rate_cannot_hold() -> None:
    out = read_sound((tone(3000, 16000) + tone(500, 16000), 16000), 4000)
    assert out is not None
    spectrum = np.abs(np.fft.rfft(out[500:3500]))
    assert spectrum.argmax() == 375 and spectrum[725:775].max() < 0.01 * spectrum.max()  # no image of 3 kHz at 1 kHz
    odd = read_sound((tone(500, 44101), 44101), 8000)
    assert odd is not None and abs(len(odd) - 8000) <= 2 and peak(torch.tensor(odd[1000:7000]), 8000) == 500


def test_the_stretch_of_a_long_sound() -> None:
    pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    x = np.arange(8000) - 4000
    p = preprocessor(seconds=0.5)
    for raw in (wav(x), {"array": x.astype(np.int16), "sampling_rate": 8000}):
        first, later = p.read(raw), p.read(raw, 1234567)
        assert first is not None and later is not None and len(first) == len(later) == 4000
        assert np.array_equal(first, (x[:4000] / 32768).astype(np.float32))
        start = round(float(later[0]) * 32768) + 4000
        assert start > 0 and np.array_equal(later, (x[start : start + 4000] / 32768).astype(np.float32))
    assert len(p.read(wav(x[:3000]), 77)) == 3000  # type: ignore[arg-type]


def test_broken_sounds_are_named(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    x = (tone(440, 8000) * 32767).astype(np.int16)
    out = {}
    for kind in ("FLAC", "OGG"):
        buffer = io.BytesIO()
        soundfile.write(buffer, x, 8000, format=kind)
        out[kind] = buffer.getvalue()
    cases = {
        "empty": b"",
        "cannot decode": b"this is no sound at all, but a text" * 5,
        "truncated": wav(x)[:9000],
        "zero samples": wav(x[:0]),
        "shorter than one frame": wav(x[:150]),
        "No such file": str(tmp_path / "nothing.wav"),
        "NaN": (np.array([0.0, np.nan] * 200, np.float32), 8000),
        "dtype": np.array(["a"] * 10),
        "sampling rate": (np.zeros(500, np.float32), 0),
        "nothing says the sampling rate": {"array": np.zeros(500), "sampling_rate": None},
        "full scale": list(range(500)),
        "shape": np.zeros((2, 3, 4), np.float32),
    }
    p = preprocessor(source_rate=None)
    for reason, raw in cases.items():
        with pytest.raises(BadSample, match=reason):
            p.read(raw)
    for kind, data in out.items():
        assert p.read(data) is not None
        with pytest.raises(BadSample, match="truncated|cannot decode"):
            p.read(data[: len(data) * 2 // 3])
            pytest.fail(kind)
    with refused("2 samples", "sound"):
        mmssl_audio.Preprocessor(mmssl_audio.Config()).fit([b"", b"xy"])


def test_silence_is_a_sample() -> None:
    config = mmssl_audio.Config(rate=8000, source_rate=8000.0, mel_bins=32, patch=[4, 8])
    p = mmssl_audio.Preprocessor(config).fit([np.zeros(2000, "f4")])
    m = modality(p)
    inputs = p([np.zeros(2000, np.float32), noise(1500)[0]])
    patches = m.patchify(inputs)
    assert patches.values[patches.valid].nan_to_num(0).isfinite().all()
    assert m.target(inputs, patches)[patches.valid].nan_to_num(0).isfinite().all()
    every = dict.fromkeys(("mix", "polarity", "noise", "gain", "filter", "delay", "pitch", "reverb"), 1.0)
    for view in (every, {**every, "time_masks": 2, "mel_masks": 2}):
        values = m.patchify(m.augment(inputs, Draws(0, 2), **view)).values
        assert values.nan_to_num(0).isfinite().all()


def test_options_that_do_not_fit() -> None:
    with refused("mel_bins", "30", "16"):
        mmssl_audio.Config(mel_bins=30)
    with refused("at least 2 and 1"):
        mmssl_audio.Config(rate=100, shift_ms=1.0)
    with refused("seconds"):
        mmssl_audio.Config(seconds=0.001)
    with pytest.raises(UserError, match="not fitted"):
        mmssl_audio.Preprocessor(mmssl_audio.Config()).sizes()
    m = modality(preprocessor(features="waveform", patch=80))
    with refused("SpecAugment"):
        m.augment({"waveform": torch.zeros(1, 800)}, Draws(0, 1), time_masks=1)


# --------------------------------------------------------------------------------------------------------- real data


def rows(path: Path, column: str, count: int) -> list[object]:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    return parquet.read_table(path, columns=[column]).slice(0, count)[column].to_pylist()


@pytest.mark.parametrize("name", ["fsdd", "spoken_written_digits"])
def test_spoken_digits(shared_data: Path, name: str) -> None:
    pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    raw = rows(shared_data / name / "train.parquet", "audio", 30)
    p = mmssl_audio.Preprocessor(mmssl_audio.Config(rate=8000, mel_bins=64, patch=[4, 16])).fit(raw)
    inputs = p(raw)
    m = modality(p)
    patches = m.patchify(inputs)
    seconds = inputs["length"] / 8000
    assert 0.1 < float(seconds.min()) and float(seconds.max()) < 2.4
    frames = (inputs["length"] - 200) // 80 + 1
    assert torch.equal(patches.valid.sum(1), -(-frames // 4) * 4)
    present = patches.values[patches.valid]
    assert abs(float(present.nanmean())) < 0.05 and abs(float(present[~present.isnan()].std()) - 1) < 0.05
    features = m.raw_features(inputs)
    assert features.shape == (30, 24 * 16) and features.isfinite().all()


def test_the_sound_of_videos(shared_data: Path) -> None:
    pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    clips = sorted((shared_data / "grid_s1_av" / "train").glob("*.mp4"))[:2]
    p = preprocessor(rate=16000, seconds=None)
    for clip in clips:
        sound = p.read(str(clip))
        assert sound is not None and np.array_equal(sound, p.read({"bytes": clip.read_bytes(), "path": None}))
        assert len(sound) / 16000 == pytest.approx(3.0, abs=0.15) and 0.001 < sound.std() < 0.5
    silent = next((shared_data / "weizmann4" / "test").glob("*.mp4"))
    assert p.read(str(silent)) is None, "a video without a sound track lacks it, it is not broken"
