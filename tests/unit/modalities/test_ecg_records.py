"""WFDB records of several rates and segments, with names, units and checksums of all kinds; and rates nobody says."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.recordings import heart, write_wfdb
from toys.refusals import refused

import mmssl_ecg
from mmssl.errors import BadSample, UserError
from mmssl_ecg.beats import beats_a_minute

pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'mmssl[ecg]'")
pytestmark = pytest.mark.filterwarnings("ignore::Warning")
LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()


def prepared(**options: Any) -> mmssl_ecg.Preprocessor:
    return mmssl_ecg.Preprocessor(mmssl_ecg.Config(**options))


@pytest.mark.parametrize("count", [2, 4, 16, 500])
def test_several_samples_a_frame_are_the_samples_of_the_signal(tmp_path: Path, count: int) -> None:
    x = heart()
    options: dict[str, Any] = {"rate": 500.0, "window": 0.2, "seconds": None}
    (tmp_path / "plain").mkdir()
    plain = prepared(**options).prepare(str(write_wfdb(tmp_path / "plain", "m", [x], ["II"])))
    rounded = x[: len(x) // count * count]
    path = write_wfdb(tmp_path, "m", [rounded, rounded[::count]], ["II", "RESP"], rate=500 / count)
    many = prepared(unknown="drop", **options).prepare(str(path))
    np.testing.assert_array_equal(many.signal, plain.signal[:, : many.signal.shape[1]])
    window = prepared(**options | {"seconds": 3.0}, unknown="drop").prepare({"path": str(path), "start": 1.234})
    assert np.corrcoef(window.signal[0], many.signal[0, 617 : 617 + 1500])[0, 1] > 0.999999


def test_large_records_are_read_in_frames_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = heart()
    path = write_wfdb(tmp_path, "m", [x, 2 * x[::4]], ["II", "V1"], rate=125)
    whole = mmssl_ecg.Preprocessor(mmssl_ecg.Config()).open(path)
    monkeypatch.setattr("mmssl.modality.biosignals.wfdb_records.CHECKED", 0)
    parts = mmssl_ecg.Preprocessor(mmssl_ecg.Config()).open(path)
    assert (parts.length, parts.rate) == (whole.length, whole.rate) == (len(x), 500.0)
    np.testing.assert_allclose(parts.load(0, parts.length), whole.load(0, whole.length))
    np.testing.assert_array_equal(parts.load(1001, 2003)[0], whole.load(1001, 2003)[0])
    # V1 came at a quarter of the rate and is resampled: the same beats, twice as high, but for the lost frequencies
    assert np.corrcoef(whole.load(0, len(x)))[0, 1] > 0.97
    # without a known lead the highest rate of all
    path = write_wfdb(tmp_path, "n", [x, x[::4]], ["A", "B"], rate=125)
    assert prepared().open(path).rate == 500.0


@pytest.mark.parametrize("layout", ["fixed", "variable"])
@pytest.mark.parametrize("names", [LEADS, [*LEADS[6:], *LEADS[:6]], ["II", "V5"], ["V5", "MLII", "aVR"]])
def test_leads_of_segments_have_their_names(tmp_path: Path, names: list[str], layout: str) -> None:
    signals = [heart(seconds=10) * (1 + 0.1 * row) for row in range(len(names))]
    for name in "ab":
        write_wfdb(tmp_path, name, signals, names)
    first, count = ("lay 0\n", 3) if layout == "variable" else ("", 2)
    (tmp_path / "ms.hea").write_text(f"ms/{count} {len(names)} 500 10000\n{first}a 5000\nb 5000\n")
    lines = [f"~ 0 1000/mV 16 0 0 0 0 {name}" for name in names]
    (tmp_path / "lay.hea").write_text("\n".join([f"lay {len(names)} 500 0", *lines]) + "\n")
    options: dict[str, Any] = {"rate": 500.0, "window": 0.2, "seconds": 10.0}
    one = prepared(**options).prepare(str(tmp_path / "a.hea"))
    two = prepared(**options).prepare({"path": str(tmp_path / "ms.hea"), "start": 10.0})
    assert two.names == one.names
    for name, row in zip(one.names, one.signal, strict=True):
        found = two.signal[two.names.index(name)]  # its mean is that of a window with margins
        np.testing.assert_allclose(found - found.mean(), row - row.mean(), atol=1e-5, err_msg=name)


def test_segments_of_other_leads_order_and_units_and_a_gap(tmp_path: Path) -> None:
    x = heart(seconds=4)
    write_wfdb(tmp_path, "a", [x, 2 * x], ["II", "V5"])
    write_wfdb(tmp_path, "b", [3 * x, x], ["V1", "II"], units=["uV", "uV"])
    (tmp_path / "ms.hea").write_text("ms/3 2 500 5000\na 2000\n~ 1000\nb 2000\n")
    recording = prepared().open(tmp_path / "ms.hea")
    assert recording.names == ["II", "V5", "V1"] and recording.units == ["mV", "mV", "uV"]
    values = recording.load(0, 5000)
    np.testing.assert_allclose(values[0, :2000], x, atol=6e-4)
    np.testing.assert_allclose(values[0, 3000:], x, atol=6e-4)  # in uV there
    np.testing.assert_allclose(values[2, 3000:], 3000 * x, atol=0.6)
    assert (
        np.isnan(values[:, 2000:3000]).all() and np.isnan(values[1, 3000:]).all() and np.isnan(values[2, :2000]).all()
    )
    assert recording.spans == [(0, 2000), (3000, 5000)]
    # a window lies where something was measured, whatever is drawn
    pre = prepared(seconds=4.0, rate=500.0, window=0.2)
    for choice in (0, 1, 10**9, 2**60 + 12345):
        assert not np.isnan(pre.prepare(str(tmp_path / "ms.hea"), choice).signal[0]).any()


def test_names_that_nothing_says(tmp_path: Path) -> None:
    x = heart(seconds=10)
    for name in "ab":
        write_wfdb(tmp_path, name, [x, 2 * x], [None, None])
    (tmp_path / "ms.hea").write_text("ms/2 2 500 10000\na 5000\nb 5000\n")
    for name in ("a.hea", "ms.hea"):
        with refused("nothing names the 2 channel(s)", "source_channels", error=BadSample):
            prepared().prepare(str(tmp_path / name))
        assert prepared(source_channels=["V5", "II"]).prepare(str(tmp_path / name)).names == ["V5", "II"]
        with refused("found 2 channels, expected 3", error=BadSample):
            prepared(source_channels=["V5", "II", "I"]).prepare(str(tmp_path / name))
        row = {"path": str(tmp_path / name), "leads": ["I", "V1"]}
        assert prepared(source_channels=["V5", "II"]).prepare(row).names == ["I", "V1"]
    # what a file says comes first
    write_wfdb(tmp_path, "c", [x, x], ["I", "III"])
    assert prepared(source_channels=["V5", "II"]).prepare(str(tmp_path / "c.hea")).names == ["I", "III"]


@pytest.mark.parametrize("said", [[0, 0], [17, 17]])
def test_checksums_that_are_not_right(tmp_path: Path, said: list[int]) -> None:
    path = write_wfdb(tmp_path, "r", [heart(seconds=10)] * 2, ["I", "II"], checksums=said)
    if any(said):
        with refused("the checksum of 'I'", "option checksums: false", error=BadSample):
            prepared().prepare(str(path))
    else:  # nobody computed them
        assert prepared().prepare(str(path)).names == ["I", "II"]
    assert prepared(checksums=False).prepare(str(path)).names == ["I", "II"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ms/2 2 500 10000\na 5000\n../b 5000\n", "names the file '../b', expected one beside it"),
        ("ms/2 2 250 10000\na 5000\na 5000\n", "500 frames a second, not 250"),
        ("ms/2 2 500 9000\na 5000\na 5000\n", "10000 samples, expected 9000"),
        ("ms/2 2 500 10000\na 5000\ngone 5000\n", "no such file"),
        ("ms/1 2 500 10000\n~ 10000\n", "none of its segments holds anything"),
    ],
)
def test_segments_that_do_not_fit(tmp_path: Path, text: str, said: str) -> None:
    write_wfdb(tmp_path, "a", [heart(seconds=10)] * 2, ["I", "II"])
    (tmp_path / "ms.hea").write_text(text)
    with refused(said, error=BadSample):
        prepared().prepare(str(tmp_path / "ms.hea"))


# ----------------------------------------------------------------------------------------------------- whose rate it is


@pytest.mark.parametrize("key", ["rate", "fs", "sampling_rate", "sfreq", "sample_rate", "srate", "sampling_frequency"])
def test_what_a_row_says_of_its_rate_comes_first(key: str, caplog: pytest.LogCaptureFixture) -> None:
    x = heart()
    pre = prepared(source_rate=100.0)
    with caplog.at_level(logging.WARNING, "mmssl"):
        rows = [pre.prepare({"signal": x[None], "leads": ["II"], key: 500}) for _ in range(3)]
    np.testing.assert_array_equal(rows[2].signal, prepared().prepare({"II": x, "rate": 500}).signal)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "500 Hz" in line and "source_rate" in line and "100 Hz" in line


def test_a_row_says_the_rate_and_the_unit_of_its_array_file(tmp_path: Path) -> None:
    x = heart()
    np.save(tmp_path / "a.npy", x[None] * 1000)
    row = {"path": str(tmp_path / "a.npy"), "fs": 500, "unit": "uV", "leads": ["II"]}
    np.testing.assert_allclose(
        prepared(source_rate=100.0).prepare(row).signal, prepared().prepare({"II": x, "fs": 500}).signal, atol=1e-6
    )
    write_wfdb(tmp_path, "r", [x], ["II"])
    with refused("the row says 100 Hz, its file 500 Hz", error=BadSample):
        prepared().prepare({"path": str(tmp_path / "r.hea"), "fs": 100})


@pytest.mark.parametrize("rate", [100, 128, 250, 360, 500, 1000])
@pytest.mark.parametrize("beats", [55, 75, 110])
def test_beats_are_counted(rate: int, beats: int) -> None:
    noise = np.random.default_rng(rate).normal(size=rate * 10) * 0.01
    x = (heart(rate, 10, beats) + noise)[None]
    assert beats_a_minute(x, rate) == pytest.approx(beats, rel=0.04)
    assert beats_a_minute(x, rate / 2.5) == pytest.approx(beats / 2.5, rel=0.04)
    assert beats_a_minute(noise[None], rate) is None
    assert beats_a_minute(np.sin(np.arange(rate * 10) * 6.28 / rate)[None], rate) is None


def test_hearts_that_beat_as_none_does_say_that_the_rate_is_wrong() -> None:
    def data(rate: int) -> list[np.ndarray]:
        return [heart(rate, 10, beats)[None] for beats in range(55, 100, 5)]

    options: dict[str, Any] = {"source_rate": 100.0, "source_channels": ["II"]}
    assert prepared(**options).fit(data(100)).state
    with refused("source_rate: at 100 Hz", "would beat 15 times a minute", "options source_rate, beats"):
        prepared(**options).fit(data(500))
    with refused("source_rate: at 500 Hz"):
        prepared(**options | {"source_rate": 500.0}).fit(data(100))
    assert prepared(**options, beats=[1.0, 500.0]).fit(data(500)).state
    # a model that is given other data than it was trained on
    pre = prepared(**options).fit(data(100))
    again = mmssl_ecg.Preprocessor(pre.config)
    again.state = pre.state
    with pytest.raises(UserError, match="source_rate: at 100 Hz"):
        for x in data(500) * 2:
            again.read(x)


def test_real_hearts_beat_as_hearts_do(shared_data: Path) -> None:
    from mmssl.data import open_source

    source = open_source(shared_data / "ptbxl_500", split="train", limit=40)
    signals = [np.asarray(signal) for signal in source["signal"]]
    options: dict[str, Any] = {"source_unit": "uV", "source_rate": 100.0}
    assert prepared(**options).fit(signals).state
    with refused("source_rate: at 33 Hz"):
        prepared(**options | {"source_rate": 33.0}).fit(signals)


@pytest.mark.parametrize("letters", ["latin-1", "utf-8"])
@pytest.mark.parametrize("checked", [0, 2_000_000])
@pytest.mark.parametrize("unit", ["\u00b5V", "mV"])
def test_units_with_letters_that_wfdb_drops(
    tmp_path: Path, unit: str, checked: int, letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of \u00b5V it leaves V, a million times as much."""
    monkeypatch.setattr("mmssl.modality.biosignals.wfdb_records.CHECKED", checked)
    path = write_wfdb(tmp_path, "m", [heart()], ["II"])
    plain = mmssl_ecg.Preprocessor(mmssl_ecg.Config()).open(path)
    text = path.read_text()
    assert "/mV" in text
    path.write_bytes(text.replace("/mV", f"/{unit}").encode(letters))
    found = mmssl_ecg.Preprocessor(mmssl_ecg.Config()).open(path)
    assert found.units == [unit]
    np.testing.assert_array_equal(found.load(0, found.length), plain.load(0, plain.length))


def test_a_rate_with_an_exponent_is_refused(tmp_path: Path) -> None:
    """wfdb reads 5 of 5e2."""
    path = write_wfdb(tmp_path, "m", [heart()], ["II"])
    path.write_text(path.read_text().replace(" 500 ", " 5e2 ", 1))
    with refused("m.hea", "5e2", "without an exponent", error=BadSample):
        prepared().prepare(str(path))
