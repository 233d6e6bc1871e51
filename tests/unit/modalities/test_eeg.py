"""The EEG modality: electrodes where mne has them, files as mne reads them, montages and rates mixed in one batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys.refusals import refused

import mmssl_eeg
from mmssl.data.loading import evaluation_batches
from mmssl.data.sources import open_source
from mmssl.draws import Draws
from mmssl.errors import BadSample, UserError
from mmssl.models.configuration_mmssl import MMSSLConfig
from mmssl.models.modeling_mmssl import MMSSLModel, tower_spec
from mmssl.models.options import TowerConfig
from mmssl.models.processing_mmssl import MMSSLProcessor
from mmssl_eeg import electrodes
from mmssl_eeg.electrodes import channel_of, is_other, place_of, table

NEEDS_MNE = "mne is not installed: pip install 'mmssl[eeg]'"
NAMES = ["Fp1", "Cz", "O2"]


def wave(channels: int = 3, samples: int = 512, rate: float = 128.0) -> np.ndarray:
    """Smooth signals of some 30 uV."""
    time = np.arange(samples) / rate
    return np.stack([30 * np.sin(2 * np.pi * (5 + i) * time + i) for i in range(channels)])


def named(names: list[str], samples: int = 512, rate: float = 128.0, **more: Any) -> dict[str, Any]:
    return {"signal": wave(len(names), samples, rate), "channels": names, "rate": rate} | more


def prepared(**options: Any) -> mmssl_eeg.Preprocessor:
    return mmssl_eeg.Preprocessor(mmssl_eeg.Config(**options)).fit([named(NAMES)])


def modality(pre: mmssl_eeg.Preprocessor, width: int = 16) -> mmssl_eeg.Modality:
    torch.manual_seed(0)
    return mmssl_eeg.Modality(width, **pre.sizes())


def network(pre: mmssl_eeg.Preprocessor) -> MMSSLModel:
    torch.manual_seed(0)
    tower = tower_spec(TowerConfig(width=24, depth=2, heads=2))
    return MMSSLModel(MMSSLConfig(modalities={"eeg": {"type": "eeg", **pre.sizes()}}, towers={"eeg": tower})).eval()


# --------------------------------------------------------------------------------------------------------- electrodes


def test_electrode_positions_equal_those_of_mne() -> None:
    pytest.importorskip("mne", reason=NEEDS_MNE)
    theirs = electrodes.montage()
    assert set(theirs) == set(table()) and len(theirs) > 300
    for name, place in theirs.items():
        np.testing.assert_allclose(table()[name], place, atol=1e-8)


def test_channel_names() -> None:
    wanted = {
        "EEG Fp1-REF": "Fp1",
        "Fc5.": "FC5",
        "Cz..": "Cz",
        "C3-M2": "C3",
        "EEG F4-LE": "F4",
        "fp1": "Fp1",
        "T3": "T7",
        "EEG T6-A2": "P8",
        "T8-P8-0": "T8-P8",
        "Fp1-F7": "Fp1-F7",
        "EEG A1": "A1",
        "P O 3": "PO3",
    }
    assert {name: channel_of(name) for name in wanted} == wanted
    assert [channel_of(n) for n in ("X9", "EOG", "Fp1-X9", "", "EEG 12")] == [None] * 5
    assert all(is_other(n) for n in ("EOG left", "ECG", "Status", "EDF Annotations", "EMG1", "STI 014", "SpO2"))
    assert not any(is_other(n) for n in ("Fp1", "X9", "EEG 12"))
    first, second = np.array(table()["Fp1"]), np.array(table()["F7"])
    np.testing.assert_allclose(place_of("Fp1-F7"), (first + second) / 2, atol=1e-12)
    assert place_of("my-own") is None


# ------------------------------------------------------------------------------------------------------------ patches


def test_coordinates_are_seconds_and_metres() -> None:
    pre = prepared(window=0.5)
    patches = modality(pre).patchify(pre([named(["O2", "Fp1-F7"], 256, 128.0)]))
    assert patches.values.shape == (1, 8, 64) and patches.full
    assert patches.coords[0, :, 0].tolist() == [0.0, 0.5, 1.0, 1.5] * 2
    for row in range(4):
        np.testing.assert_allclose(patches.coords[0, row, 1:], table()["O2"], atol=1e-7)
        np.testing.assert_allclose(patches.coords[0, 4 + row, 1:], place_of("Fp1-F7"), atol=1e-7)
    assert patches.coords[0, 0, 1] > 0 > patches.coords[0, 0, 2]  # right and at the back, in mne's frame


def test_unpatchify_inverts_patchify() -> None:
    pre = prepared()
    holed = named(NAMES)
    holed["signal"][1, 100:300] = np.nan
    inputs = pre([named(NAMES), holed, None, named(["Cz"], 300)])
    patches = modality(pre).patchify(inputs)
    back = modality(pre).unpatchify(patches.values, inputs)
    for key, value in inputs.items():
        torch.testing.assert_close(back[key], value, rtol=0, atol=0, equal_nan=True)
    assert not patches.valid[2].any() and inputs["present"].tolist() == [True, True, False, True]
    assert patches.valid[1].tolist() == [True] * 4 + [True, False, True, True] + [True] * 4
    assert patches.valid[3].tolist() == [True, True] + [False] * 10  # 300 samples: two windows and a bit


def test_different_montages_and_rates_in_one_batch_do_not_touch_each_other() -> None:
    pre = prepared(reference="average")
    net = network(pre)
    clinical = ["EEG O1-REF", "EEG O2-REF", "EEG Pz-REF", "EEG Cz-REF"]
    samples = [named(NAMES), named(["F3", "F4"], 640, 160.0), named(clinical, 500)]
    inputs = pre([*samples, None])
    assert inputs["signal"].shape == (4, 4, 512) and inputs["channel"][1].tolist() == [-1, -1, -1, -1]
    assert inputs["channel"][2].tolist() == [-1, 2, -1, 1]
    together = net.encode_batch({"eeg": inputs})
    for row, sample in enumerate(samples):
        alone = net.encode_batch({"eeg": pre([sample])})
        torch.testing.assert_close(alone.pooled["eeg"][0], together.pooled["eeg"][row], rtol=0, atol=1e-6)
    assert together.present["eeg"].tolist() == [True, True, True, False]


def test_the_order_of_channels_does_not_matter() -> None:
    pre = prepared()
    net = network(pre)
    straight, turned = named(NAMES), named(NAMES[::-1])
    turned["signal"] = straight["signal"][::-1].copy()
    pooled = net.encode_batch({"eeg": pre([straight, turned])}).pooled["eeg"]
    torch.testing.assert_close(pooled[0], pooled[1], rtol=0, atol=1e-6)
    raw = modality(pre).raw_features(pre([straight, turned]))
    torch.testing.assert_close(raw[0], raw[1], rtol=0, atol=1e-6)


def test_permuting_patches_with_their_coordinates_permutes_the_tokens() -> None:
    pre = prepared()
    net = network(pre)
    patches = net.modality("eeg").patchify(pre([named(NAMES)] * 2))
    order = torch.randperm(patches.count).expand(2, -1)
    straight = net.towers["eeg"]({"eeg": patches}).tokens["eeg"]
    permuted = net.towers["eeg"]({"eeg": patches.take(order)}).tokens["eeg"]
    torch.testing.assert_close(permuted, straight.gather(1, order[..., None].expand_as(straight)), rtol=0, atol=2e-6)


def test_targets_and_raw_features() -> None:
    pre = prepared()
    net, inputs = modality(pre), pre([named(NAMES), named(["Cz"])])
    patches = net.patchify(inputs)
    for kind, width in (("normalised", 128), ("voltage", 128), ("spectrum", 65)):
        target = net.target(inputs, patches, kind)
        assert target.shape == (2, 12, width) and net.pred_width(kind) == width
        score = net.score(torch.zeros(2, 12, width), target, patches, kind)
        assert torch.isfinite(score).all() and (score[1, 4:] == 0).all()
    mean, std = (torch.tensor(pre.state["spectrum"][key]) for key in ("mean", "std"))
    spectrum = net.target(inputs, patches, "spectrum")[0, 4] * std + mean  # targets are standardised bin by bin
    assert spectrum.argmax() == 6  # Cz swings 6 times a second
    raw = net.raw_features(inputs).unflatten(1, (3, 6))
    assert raw[0].argmax(1).tolist() == [1, 1, 1]  # 5, 6 and 7 Hz are theta
    assert (raw[1, [0, 2]] == raw.min()).all() and raw[1, 1, 1] > 0  # only Cz is there
    stranger = net.raw_features(pre([named(["F3"])]))
    assert (stranger == stranger.min()).all()


# -------------------------------------------------------------------------------------------------------- what is read


def test_units_references_and_bad_channels() -> None:
    pre = prepared()
    straight = pre.read(named(NAMES)).signal
    in_volts = named(NAMES, unit="V")
    in_volts["signal"] = in_volts["signal"] * 1e-6
    np.testing.assert_allclose(pre.read(in_volts).signal, straight, atol=1e-5)
    columns = {name: row.tolist() for name, row in zip(NAMES, wave(), strict=True)} | {"rate": 128}
    np.testing.assert_allclose(pre.read(columns).signal, straight, atol=1e-6)
    averaged = prepared(reference="average").prepare(named(NAMES)).signal
    np.testing.assert_allclose(averaged.mean(0), 0, atol=1e-4)
    centred = wave() - wave().mean(1, keepdims=True)
    to_ears = prepared(reference=["Cz", "O2"], channels=["Fp1"]).prepare(named(NAMES))
    assert to_ears.names == ["Fp1"]
    np.testing.assert_allclose(to_ears.signal[0], centred[0] - centred[1:].mean(0), atol=1e-4)
    assert prepared(bad=["Cz"]).read(named(NAMES)).names == ["Fp1", "O2"]
    assert pre.read(named(NAMES, bads=["o2"])).names == ["Fp1", "Cz"]
    flat = named(NAMES)
    flat["signal"][0] = 4.0
    assert np.isnan(pre.read(flat).signal[0]).all() and not np.isnan(pre.read(flat).signal[1:]).any()


def test_names_that_are_no_electrode() -> None:
    raw = named(["Fp1", "EOG left", "Status"])
    assert prepared().read(raw).names == ["Fp1"]
    unknown = named(["Fp1", "Cpz7"])
    with refused("channel 'Cpz7'", "did you mean", error=BadSample):
        prepared().read(unknown)
    assert prepared(unknown="drop").read(unknown).names == ["Fp1"]
    keeping = prepared(unknown="keep")
    assert keeping([unknown])["electrodes"][0, 1].tolist() == [0.0, 0.0, 0.0]
    assert prepared(aliases={"Cpz7": "CPz"}).read(unknown).names == ["Fp1", "CPz"]


def test_filters_and_normalisation() -> None:
    time = np.arange(1280) / 256
    alpha, hum = 30 * np.sin(2 * np.pi * 10 * time), 30 * np.sin(2 * np.pi * 50 * time)
    raw = {"signal": (alpha + hum)[None], "channels": ["Oz"], "rate": 256}
    out = mmssl_eeg.Preprocessor(mmssl_eeg.Config(notch=50, rate=256)).prepare(raw).signal[0]
    assert np.abs(out - alpha)[256:-256].max() < 1
    out = mmssl_eeg.Preprocessor(mmssl_eeg.Config(highpass=1, lowpass=30, rate=128)).prepare(raw).signal[0]
    assert np.abs(out - alpha[::2])[128:-128].max() < 2
    uneven = named(NAMES)
    uneven["signal"] *= np.array([[1.0], [2.0], [3.0]])
    each = prepared(normalise="channel").read(uneven).signal
    np.testing.assert_allclose(each.std(1), 1, atol=1e-3)
    whole = prepared(normalise="recording").read(uneven).signal.std(1)
    np.testing.assert_allclose(whole / whole[0], [1, 2, 3], atol=0.02)
    np.testing.assert_allclose((whole**2).mean(), 1, atol=0.01)
    spike = named(NAMES)
    spike["signal"][0, 5] = 1e5
    assert np.abs(prepared(clip=8.0).read(spike).signal).max() == 8


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (named(NAMES) | {"signal": np.zeros((3, 512))}, "zero variance"),
        (named(NAMES) | {"signal": np.full((3, 512), np.nan)}, "all samples are NaN"),
        (named(NAMES) | {"signal": wave() * 1e-6}, "is the unit right"),
        (named(NAMES, unit="V"), "is the unit right"),
        (named(NAMES, unit="degC"), "unit 'degC' is no voltage"),
        (wave(), "nothing names the 3 channel"),
        ({"signal": wave(), "channels": NAMES}, "sampling rate"),
        (named(NAMES, samples=20), "less than half a window"),
        (named(["Cz", "cz"]), "there twice"),
        (named(["ECG", "EOG"]), "none of the channels ECG, EOG"),
        (dict.fromkeys(NAMES, 1.0) | {"rate": 128}, "one row a sample"),
        ("somewhere.edf", "no such file"),
        ("somewhere.txt", "no such file: somewhere.txt"),
        ("part.eeg", "give the .vhdr file"),
    ],
)
def test_what_is_broken_says_why(raw: Any, said: str) -> None:
    with pytest.raises(BadSample, match=said):
        prepared().read(raw)


def test_impossible_options() -> None:
    for options, said in (
        ({"reference": "mastoids"}, "expected average"),
        ({"reference": ["Cq"]}, "unknown electrode 'Cq'"),
        ({"channels": ["Cz", "Foo"]}, "channels: unknown electrode 'Foo'"),
        ({"highpass": 40.0, "lowpass": 30.0}, "expected less than lowpass"),
        ({"window": 0.003}, "whole number"),
        ({"seconds": 0.5}, "at least one window"),
    ):
        with pytest.raises(UserError, match=said):
            mmssl_eeg.Config(**options)
    with pytest.raises(BadSample, match="reference: the recording has no A1 among"):
        prepared_without_fit = mmssl_eeg.Preprocessor(mmssl_eeg.Config(reference=["A1"]))
        prepared_without_fit.prepare(named(NAMES))


def test_broken_rows_are_quarantined_with_their_reason(tmp_path: Path) -> None:
    """Through the data pipeline: a file of signals, some of them broken, in a column of lists."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    good = wave()
    holed = good.copy()
    holed[:, 50:60] = np.nan
    signals = [good, np.zeros_like(good), np.full_like(good, np.nan), good * 1e9, holed, good[:, :5]]
    parquet.write_table(arrow.table({"signal": [s.tolist() for s in signals] + [None]}), tmp_path / "train.parquet")
    pre = prepared(source_channels=NAMES, source_rate=128)
    source = open_source(str(tmp_path / "train.parquet"))
    loaded = next(iter(evaluation_batches(source, {"eeg": pre}, {"eeg": "signal"}, batch_size=7)))
    reasons = {bad.index: bad.reason for bad in loaded.bad}
    assert set(reasons) == {1, 2, 3, 5, 6}
    for index, said in ((1, "zero variance"), (2, "all samples are NaN"), (3, "unit right"), (5, "half a window")):
        assert said in reasons[index]
    assert loaded.batch["eeg"]["present"].tolist() == [True, False, False, False, True, False, False]


# -------------------------------------------------------------------------------------------------- views, saving, real


def test_views_do_not_depend_on_batch_padding() -> None:
    pre = prepared()
    net = modality(pre)
    spec: dict[str, Any] = {
        "crop": [0.5, 0.9],
        "shift": 0.1,
        "amplitude": 0.5,
        "gain": 0.1,
        "bandstop": 1.0,
        "noise": 0.2,
        "drop": 0.4,
    }
    samples = [named(["Cz"], 400), named(NAMES)]
    both = net.augment(pre(samples), Draws(5, 2), **spec)
    alone = net.augment(pre(samples[:1]), Draws(5, 1), **spec)["signal"][0]
    shared = both["signal"][0, :1, : alone.shape[1]]
    torch.testing.assert_close(alone[:, : shared.shape[1]], shared, atol=1e-4, rtol=0, equal_nan=True)
    assert both["holes"].all() and not both["signal"].isnan().all(2).all(1).any()
    patches = net.patchify(both)
    assert patches.valid.any(1).all() and not patches.full


def test_save_and_reload_of_processor_and_model(tmp_path: Path) -> None:
    pre = prepared(reference="average", highpass=1.0)
    MMSSLProcessor({"eeg": pre}).save_pretrained(tmp_path)
    again = MMSSLProcessor.from_pretrained(tmp_path).preprocessors["eeg"]
    samples = [named(NAMES), None, named(["F3", "F4"], 640, 160.0)]
    for key, value in pre(samples).items():
        assert torch.equal(again(samples)[key].nan_to_num(), value.nan_to_num()), key
    net = network(pre)
    net.save_pretrained(tmp_path)
    reloaded = MMSSLModel.from_pretrained(tmp_path).eval()
    batch = {"eeg": pre(samples)}
    assert torch.equal(net.encode_batch(batch).pooled["eeg"], reloaded.encode_batch(batch).pooled["eeg"])


def test_eegmmi(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = shared_data / "eegmmi_s001"
    channels = json.loads((folder / "channels.json").read_text())["channels"]
    rows = parquet.read_table(folder / "eyes-test.parquet").to_pylist()
    pre = mmssl_eeg.Preprocessor(mmssl_eeg.Config(source_rate=160, source_channels=channels, highpass=1.0))
    inputs = pre.fit([row["signal"] for row in rows])([row["signal"] for row in rows])
    assert inputs["signal"].shape == (20, 24, 256) and pre.state["channels"] == channels
    alpha = modality(pre).raw_features(inputs).unflatten(1, (24, 6))[:, -3:, 2].mean(1)  # at O1, Oz, O2
    closed = torch.tensor([row["label"] == 1 for row in rows])
    assert alpha[closed].mean() > alpha[~closed].mean() + 1  # Berger: closing the eyes brings alpha waves


def test_eye_state_table_in_windows(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    data = parquet.read_table(shared_data / "eeg_eye_state" / "eye_state.parquet")
    names = [name for name in data.column_names if channel_of(name)]
    assert len(names) == 14
    rows = list(mmssl_eeg.windows({name: data[name].to_numpy() for name in names}, 2.0, rate=128))
    pre = mmssl_eeg.Preprocessor(mmssl_eeg.Config(highpass=1.0)).fit(rows)
    signal = pre(rows)["signal"]
    assert signal.shape == (58, 14, 256) and signal.abs().max() <= 20  # artefacts of 700 mV are clipped


def test_bonn(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = parquet.read_table(shared_data / "bonn_eeg" / "test.parquet", columns=["signal"]).to_pylist()[:8]
    config = mmssl_eeg.Config(source_rate=173.61, source_channels=["unknown"], unknown="keep", seconds=23.6)
    pre = mmssl_eeg.Preprocessor(config).fit([row["signal"] for row in rows])
    inputs = pre([row["signal"] for row in rows])
    assert inputs["signal"].shape == (8, 1, 24 * 128) and (inputs["electrodes"] == 0).all()
