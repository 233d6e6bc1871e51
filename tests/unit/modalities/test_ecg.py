"""The ECG modality: leads by name, files as wfdb reads them, coordinates in seconds, gaps that touch nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.refusals import refused

import mmssl_ecg
from mmssl.data.loading import evaluation_batches
from mmssl.data.sources import open_source
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl.modality.biosignals.spectrum import band_powers
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl_ecg.leads import LEADS, TWELVE, lead_of

RNG = np.random.default_rng(0)


def wave(leads: int = 12, samples: int = 1000, rate: float = 100.0) -> np.ndarray:
    """Smooth signals of about 1 mV."""
    time = np.arange(samples) / rate
    return np.stack([np.sin(2 * np.pi * (1 + 0.3 * i) * time + i) for i in range(leads)])


def prepared(**options: Any) -> mmssl_ecg.Preprocessor:
    options = {"source_rate": 100.0} | options
    return mmssl_ecg.Preprocessor(mmssl_ecg.Config(**options)).fit([wave()])


def modality(pre: mmssl_ecg.Preprocessor, width: int = 16) -> mmssl_ecg.Modality:
    torch.manual_seed(0)
    return mmssl_ecg.Modality(width, **pre.sizes())


def network(pre: mmssl_ecg.Preprocessor) -> MMSSLModel:
    torch.manual_seed(0)
    tower = tower_spec(TowerConfig(width=24, depth=2, heads=2))
    return MMSSLModel(MMSSLConfig(modalities={"ecg": {"type": "ecg", **pre.sizes()}}, towers={"ecg": tower})).eval()


# ------------------------------------------------------------------------------------------------------------ patches


@pytest.mark.parametrize("patch", ["time", "lead"])
def test_unpatchify_inverts_patchify(patch: str) -> None:
    pre = prepared(patch=patch)
    holed = wave()
    holed[2, 100:333] = np.nan
    inputs = pre([wave(), holed, None, wave(samples=530)])
    net = modality(pre)
    patches = net.patchify(inputs)
    back = net.unpatchify(patches.values, inputs)
    for key, value in inputs.items():
        torch.testing.assert_close(back[key], value, rtol=0, atol=0, equal_nan=True)


def test_coordinates_are_seconds_and_leads_of_the_standard_order() -> None:
    recording = {"signal": wave(3, 400), "leads": ["V1", "II", "aVR"], "rate": 200}
    pre = mmssl_ecg.Preprocessor(mmssl_ecg.Config(patch="lead", window=0.5, rate=100)).fit([recording])
    patches = modality(pre).patchify(pre([recording]))
    assert pre.state["leads"] == ["II", "aVR", "V1"]  # 400 samples at 200 Hz are 2 s, 4 windows
    wanted = [[seconds, lead] for lead in (1.0, 3.0, 6.0) for seconds in (0.0, 0.5, 1.0, 1.5)]
    assert patches.coords[0].tolist() == wanted and patches.full
    pre = prepared(window=0.25)
    patches = modality(pre).patchify(pre([wave()]))
    assert patches.coords.shape == (1, 40, 1) and patches.coords[0, :3, 0].tolist() == [0.0, 0.25, 0.5]
    # a patch holds (lead, sample): lead 1 of the second window is 25 numbers from 25 on
    x = pre([wave()])["signal"]
    torch.testing.assert_close(patches.values[0, 1, 25:50], x[0, 1, 25:50], rtol=0, atol=0)


def test_only_half_measured_windows_are_patches() -> None:
    pre = prepared(patch="lead", window=1.0)
    holed = wave()
    holed[0, 0:50] = np.nan  # half of the first window of lead I: still one
    holed[1, 0:51] = np.nan
    holed[3] = np.nan
    inputs = pre([holed, None])
    patches = modality(pre).patchify(inputs)
    valid = patches.valid[0].unflatten(0, (12, 10))
    assert valid[0].all() and not valid[1, 0] and valid[1, 1:].all() and not valid[3].any()
    assert not patches.valid[1].any() and inputs["present"].tolist() == [True, False]
    score = modality(pre).score(torch.zeros(2, 120, 100), modality(pre).target(inputs, patches), patches)
    assert torch.isfinite(score).all() and (score[0, 30:40] == 0).all()


@pytest.mark.parametrize("patch", ["time", "lead"])
def test_padding_and_absent_leads_change_nothing_in_other_samples(patch: str) -> None:
    pre = prepared(patch=patch)
    net = network(pre)
    lacking = {"signal": wave(2, 730), "leads": ["II", "V5"]}
    samples = [wave(), lacking, wave(samples=625) * 0.7]
    together = net.encode_batch({"ecg": pre([*samples, None])})
    for row, sample in enumerate(samples):
        alone = net.encode_batch({"ecg": pre([sample])})
        torch.testing.assert_close(alone.pooled["ecg"][0], together.pooled["ecg"][row], rtol=0, atol=1e-6)
    assert together.present["ecg"].tolist() == [True, True, True, False]


def test_permuting_patches_with_their_coordinates_permutes_the_tokens() -> None:
    pre = prepared(patch="lead", window=1.0)
    net = network(pre)
    patches = net.modality("ecg").patchify(pre([wave(), wave()]))
    order = torch.randperm(patches.count).expand(2, -1)
    straight = net.towers["ecg"]({"ecg": patches}).tokens["ecg"]
    permuted = net.towers["ecg"]({"ecg": patches.take(order)}).tokens["ecg"]
    torch.testing.assert_close(permuted, straight.gather(1, order[..., None].expand_as(straight)), rtol=0, atol=2e-6)


def test_targets() -> None:
    pre = prepared(window=0.5)
    net, inputs = modality(pre), pre([wave()])
    patches = net.patchify(inputs)
    normalised = net.target(inputs, patches)
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(1, 20), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.var(-1), torch.ones(1, 20), atol=1e-3, rtol=0)
    assert torch.equal(net.target(inputs, patches, "voltage"), patches.values)
    spectrum = net.target(inputs, patches, "spectrum").unflatten(2, (12, 26))
    rows = patches.values.unflatten(2, (12, 50))[0, 3, 5].double().numpy()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(50) / 50)
    hann /= np.sqrt((hann**2).mean())
    by_hand = np.log(np.abs(np.fft.rfft((rows - rows.mean()) * hann)) ** 2 / 50 + 1e-4)
    mean, std = (np.array(pre.state["spectrum"][key]) for key in ("mean", "std"))
    np.testing.assert_allclose(spectrum[0, 3, 5], (by_hand - mean) / std, atol=1e-3)
    # over what it was fitted on each bin of the target has mean 0 and deviation 1
    learned, varies = spectrum.reshape(-1, 26).numpy(), std > 0.011  # noiseless, it stays at the floor in some
    np.testing.assert_allclose(learned.mean(0), 0, atol=1e-2)
    np.testing.assert_allclose(learned.std(0)[varies], 1, atol=0.01)
    assert varies.sum() > 5
    for kind in net.targets:
        assert net.target(inputs, patches, kind).shape[2] == net.pred_width(kind)
    with refused(meant="voltage"):
        net.pred_width("voltages")


def test_raw_features_are_log_power_in_bands() -> None:
    time = np.arange(1000) / 100
    tone = torch.tensor(np.sin(2 * np.pi * 10 * time), dtype=torch.float32)[None, None]
    powers = band_powers(tone, 100.0, [0.5, 5, 8, 12, 40], 2.0)[0, 0]
    assert powers.argmax() == 2 and powers[2] - powers[0] > 8
    pre = prepared()
    inputs = pre([wave(), None, wave(samples=300)])
    features = modality(pre).raw_features(inputs)
    assert features.shape == (3, 12 * 12) and torch.isfinite(features).all()
    torch.testing.assert_close(features[2], modality(pre).raw_features(pre([wave(samples=300)]))[0], atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------------- what is read


def test_lead_names() -> None:
    assert [lead_of(n) for n in ("avr", "Lead II", "ECG V3", "MLII", "DIII", "D1", "C6", "-aVR")] == [
        ("aVR", 1.0),
        ("II", 1.0),
        ("V3", 1.0),
        ("II", 1.0),
        ("III", 1.0),
        ("I", 1.0),
        ("V6", 1.0),
        ("aVR", -1.0),
    ]
    assert lead_of("RESP") is None and lead_of("ECG") is None and all(lead_of(x) == (x, 1.0) for x in LEADS)


def test_leads_in_any_order_rate_and_unit_are_the_same() -> None:
    pre = prepared()
    signal = wave()
    straight = pre([signal])["signal"]
    order = RNG.permutation(12)
    names = [TWELVE[i].upper() for i in order]
    shuffled = pre([{"signal": (signal[order] * 1000).T, "leads": names, "units": "uV", "fs": 100}])["signal"]
    torch.testing.assert_close(shuffled, straight, atol=1e-5, rtol=0)
    columns = {TWELVE[i]: signal[i].tolist() for i in order}
    torch.testing.assert_close(pre([columns])["signal"], straight, atol=1e-6, rtol=0)
    fine = pre([{"signal": wave(12, 2500, 250.0) / 1000, "rate": 250, "unit": "V"}])["signal"]
    assert fine.shape == straight.shape
    torch.testing.assert_close(fine[..., 50:-50], straight[..., 50:-50], atol=0.02, rtol=0)


def test_limb_leads_are_derived_from_two() -> None:
    signal = wave(2)
    pre = prepared(derive=True, leads=["I", "II", "III", "aVR", "aVL", "aVF"])
    sample = pre.read({"signal": signal, "leads": ["I", "II"]})
    by_name = dict(zip(sample.names, sample.signal, strict=True))
    np.testing.assert_allclose(by_name["III"], by_name["II"] - by_name["I"], atol=1e-5)
    np.testing.assert_allclose(by_name["aVF"], by_name["II"] - by_name["I"] / 2, atol=1e-5)


def test_gaps_and_flat_leads_are_absent() -> None:
    pre = prepared(highpass=0.5, rate=50.0, window=0.2)
    signal = wave()
    signal[1, 200:300] = np.nan
    signal[4] = 0.25
    out = pre([signal])["signal"][0]
    assert out[4].isnan().all() and out.shape == (12, 500)
    assert out[1].isnan().nonzero().flatten().tolist() == list(range(100, 150))
    assert not out[0].isnan().any()


def test_filters_take_out_what_they_should() -> None:
    time = np.arange(2500) / 250
    heart, hum, drift = np.sin(2 * np.pi * 8 * time), np.sin(2 * np.pi * 50 * time), 2 * np.sin(2 * np.pi * 0.1 * time)
    raw = {"signal": (heart + hum + drift)[None], "leads": ["II"], "rate": 250}
    sample = prepared(rate=250.0, window=0.2, highpass=0.5, notch=50.0).prepare(raw)
    assert np.abs(sample.signal[0] - heart)[500:2000].max() < 0.1
    assert np.abs(prepared(rate=250.0, window=0.2).prepare(raw).signal[0] - heart)[500:2000].max() > 1


def test_windows_of_long_recordings() -> None:
    pre = prepared(seconds=2.0)
    long = wave(samples=1000)
    middle, again = pre.read(long), pre.read(long, 0)
    np.testing.assert_array_equal(middle.signal, again.signal)
    assert middle.signal.shape == (12, 200)
    assert not np.allclose(pre.read(long, 12345).signal, middle.signal)
    scale = pre.state["scale"]
    placed = pre.read({"signal": long, "start": 3.0}).signal[0] * scale
    np.testing.assert_allclose(placed, long[0, 300:500] - long[0, 100:700].mean(), atol=1e-5)  # centred with its margin
    with pytest.raises(BadSample, match="ends at 10 s"):
        pre.read({"signal": long, "start": 10.0})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (np.zeros((12, 1000)), "zero variance"),
        (np.full((12, 1000), np.nan), "all samples are NaN"),
        (wave() * 1000, "is the unit right"),
        (wave() * 1e-6, "is the unit right"),
        (np.full((12, 1000), np.inf), "infinite"),
        (wave(5), "nothing names the 5 channel"),
        ({"signal": wave(samples=10), "leads": TWELVE}, "less than half a window"),
        (np.zeros((2, 3, 4)), "of shape"),
        (np.zeros((12, 0)), "no samples"),
        ({"signal": wave(2), "leads": ["II", "V99"]}, "unknown lead 'V99'; did you mean 'V9'"),
        ({"signal": wave(2), "leads": ["II", "ii"]}, "there twice"),
        ({"signal": wave(3), "leads": ["II", "V1"]}, "expected 2 channels"),
        ({"signal": wave(1), "leads": ["II"], "unit": "mmHg"}, "is no voltage"),
        ({"signal": wave(1), "leads": ["II"], "rate": 0}, "rate: found 0"),
        ({"signal": [["a", "b"]], "leads": ["II"]}, "expected numbers"),
        ({"II": 0.1, "V1": 0.2}, "one row a sample"),
        ({"II": [0.1, 0.2], "V1": [0.2]}, "differ in their number"),
        ({"rate": 100}, "no signal among rate"),
        ("missing.hea", "no such file"),
        (b"bytes", "without the name"),
    ],
)
def test_what_is_broken_says_why(raw: Any, said: str) -> None:
    with pytest.raises(BadSample, match=said):
        prepared().read(raw)


def test_without_rate_or_leads_or_fit() -> None:
    with refused("sampling rate", error=BadSample):
        mmssl_ecg.Preprocessor(mmssl_ecg.Config()).prepare(wave())
    with refused("1 samples", "sampling rate"):
        mmssl_ecg.Preprocessor(mmssl_ecg.Config()).fit([wave()])
    with pytest.raises(UserError, match="not fitted"):
        mmssl_ecg.Preprocessor(mmssl_ecg.Config(source_rate=100)).read(wave())
    with pytest.raises(BadSample, match="the model has leads V1, the recording II"):
        prepared(leads=["V1"], derive=True).read({"signal": wave(1), "leads": ["II"]})
    with pytest.raises(UserError, match="whole number"):
        mmssl_ecg.Config(window=0.255)
    with refused("'V0'"):
        mmssl_ecg.Config(leads=["V0"])
    assert prepared().read(None) is None
    dropping = prepared(unknown="drop", aliases={"plethysmogram": "V1"})
    assert dropping.read({"signal": wave(2), "leads": ["plethysmogram", "RESP"]}).names == ["V1"]


def test_broken_rows_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    """Through the data pipeline: a file of signals, some of them broken, in a column of lists."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    good = wave()
    holed = good.copy()
    holed[:, 50:60] = np.nan
    signals = [good, np.zeros_like(good), np.full_like(good, np.nan), good * 1e9, holed, good[:, :3]]
    parquet.write_table(arrow.table({"signal": [s.tolist() for s in signals] + [None]}), tmp_path / "train.parquet")
    pre = prepared(source_channels=list(TWELVE))
    source = open_source(str(tmp_path / "train.parquet"))
    loaded = next(iter(evaluation_batches(source, {"ecg": pre}, {"ecg": "signal"}, batch_size=7)))
    reasons = {bad.index: bad.reason for bad in loaded.bad}
    assert set(reasons) == {1, 2, 3, 5, 6}
    for index, said in ((1, "zero variance"), (2, "all samples are NaN"), (3, "unit right"), (5, "half a window")):
        assert said in reasons[index]
    assert loaded.batch["ecg"]["present"].tolist() == [True, False, False, False, True, False, False]


# -------------------------------------------------------------------------------------------------- views, saving, real


EVERYTHING: dict[str, Any] = {
    "crop": [0.5, 0.8],
    "shift": 0.1,
    "flip": 0.3,
    "amplitude": 0.4,
    "gain": 0.2,
    "bandstop": 0.5,
    "wander": 0.5,
    "powerline": 0.3,
    "powerline_hz": 40.0,
    "noise": 0.2,
    "drop": 0.3,
}


def test_views_do_not_depend_on_batch_padding_or_process() -> None:
    pre = prepared()
    net = modality(pre)
    inputs = pre([wave(), wave() * 0.5, wave(samples=610), wave()])
    whole = net.augment(inputs, Draws(3, 4, 0, 4), **EVERYTHING)["signal"]
    assert whole.shape[2] % pre.window == 0 and whole.shape[2] == 800
    for row, samples in enumerate((1000, 1000, 610, 1000)):
        alone = pre([wave(samples=samples) * (0.5 if row == 1 else 1)])
        view = net.augment(alone, Draws(3, 1, row, 4), **EVERYTHING)["signal"][0]
        shared = min(view.shape[1], whole.shape[2])
        torch.testing.assert_close(view[:, :shared], whole[row, :, :shared], atol=1e-4, rtol=0, equal_nan=True)
        assert whole[row, :, shared:].isnan().all()
    assert not torch.equal(whole[0].nan_to_num(), whole[3].nan_to_num())


def test_single_views() -> None:
    pre = prepared()
    net, inputs = modality(pre), pre([wave()] * 64)
    signal = inputs["signal"]

    def view(**spec: Any) -> torch.Tensor:
        return net.augment(inputs, Draws(1, 64), **spec)["signal"]

    assert torch.equal(view(), signal)
    dropped = view(drop=0.5).isnan().all(2)
    assert 0.4 < dropped.float().mean() < 0.6 and not dropped.all(1).any()
    assert not view(drop=0.999).isnan().all(2).all(1).any()
    ratio = view(amplitude=1.0)[:, 0, 3] / signal[:, 0, 3]
    assert 0.5 <= ratio.min() < 0.6 and 1.8 < ratio.max() <= 2.0
    wander = (view(wander=1.0) - signal)[0]
    assert 0.05 < wander.abs().max() <= 1.0 and torch.fft.rfft(wander).abs()[:, 10:].max() < 20  # nothing above 1 Hz
    hum = torch.fft.rfft((view(powerline=1.0, powerline_hz=30.0) - signal)[0]).abs()
    assert (hum[hum.amax(1) > 1].argmax(1) == 300).all()
    flat = torch.tensor(np.sin(2 * np.pi * 10 * np.arange(1000) / 100), dtype=torch.float32).expand(4, 12, -1)
    stopped = net.augment({"signal": flat}, Draws(1, 4), bandstop=1.0, bandstop_hz=[10, 10])["signal"]
    assert stopped[..., 200:800].abs().max() < 0.05
    kept = net.augment({"signal": flat}, Draws(1, 4), bandstop=1.0, bandstop_hz=[30, 30])["signal"]
    torch.testing.assert_close(kept[..., 200:800], flat[..., 200:800], atol=0.01, rtol=0)
    with pytest.raises(UserError, match="50 Hz cannot be in a signal of 100"):
        view(powerline=0.1)
    with refused(meant="wander"):
        view(wonder=0.1)


def test_save_and_reload_of_processor_and_model(tmp_path: Path) -> None:
    pre = prepared(highpass=0.5)
    MMSSLProcessor({"ecg": pre}).save_pretrained(tmp_path)
    again = MMSSLProcessor.from_pretrained(tmp_path).preprocessors["ecg"]
    samples = [wave(), None, {"signal": wave(1), "leads": ["V4"]}]
    for key, value in pre(samples).items():
        assert torch.equal(again(samples)[key].nan_to_num(), value.nan_to_num()), key
    net = network(pre)
    net.save_pretrained(tmp_path)
    reloaded = MMSSLModel.from_pretrained(tmp_path).eval()
    batch = {"ecg": pre(samples)}
    assert torch.equal(net.encode_batch(batch).pooled["ecg"], reloaded.encode_batch(batch).pooled["ecg"])


def test_ptbxl(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(shared_data / "ptbxl_500" / "test.parquet", columns=["signal"]).to_pylist()
    signals = [row["signal"] for row in rows[:20]]
    pre = mmssl_ecg.Preprocessor(mmssl_ecg.Config(source_rate=100, source_unit="uV")).fit(signals)
    assert pre.state["leads"] == list(TWELVE) and 0.05 < pre.state["scale"] < 0.5  # mV
    inputs = pre(signals)
    assert inputs["signal"].shape == (20, 12, 1000) and "holes" not in inputs
    in_mv = inputs["signal"][:, :3] * pre.state["scale"]
    torch.testing.assert_close(in_mv[:, 2], in_mv[:, 1] - in_mv[:, 0], atol=0.01, rtol=0)  # Einthoven: III = II - I
    with pytest.raises(UserError, match="is the unit right"):
        mmssl_ecg.Preprocessor(mmssl_ecg.Config(source_rate=100, source_unit="V")).fit(signals)


def test_ecg5000(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(shared_data / "ecg5000_beats" / "test.parquet").to_pylist()[:10]
    config = mmssl_ecg.Config(source_rate=140, rate=140, window=0.1, source_channels=["II"])
    pre = mmssl_ecg.Preprocessor(config).fit([row["signal"] for row in rows])
    assert pre([row["signal"] for row in rows])["signal"].shape == (10, 1, 140)
