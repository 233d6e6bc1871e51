"""What EEG files say of themselves: gaps, marks, units, names that are no electrode's, and places of electrodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.recordings import MICROVOLTS, sine, write_edf
from toys.refusals import refused

import mmssl_eeg
from mmssl.errors import BadSample
from mmssl_eeg.electrodes import from_head, is_other, place_of

mne = pytest.importorskip("mne", reason="mne is not installed: pip install 'mmssl[eeg]'")
pytestmark = pytest.mark.filterwarnings("ignore::Warning")


def prepared(**options: Any) -> mmssl_eeg.Preprocessor:
    return mmssl_eeg.Preprocessor(mmssl_eeg.Config(**options))


def two(seconds: int = 8, unit: str = "uV", scale: float = 1.0, top: tuple[float, float] = MICROVOLTS) -> list[Any]:
    x = sine(100, 7, 40, seconds) * scale
    return [("Fp1", unit, 100, x, top), ("Cz", unit, 100, x[::-1], top)]


# ------------------------------------------------------------------------------------------------------- gaps and marks


@pytest.mark.parametrize("ending", ["edf", "bdf"])
@pytest.mark.parametrize(
    ("onsets", "gaps"),
    [
        ([0, 1, 2, 3, 60, 61, 62, 63], [(400, 6000)]),
        ([0.5, 1.5, 2.5, 10.5, 11.5, 20.5, 21.5, 22.5], [(300, 1000), (1200, 2000)]),
        ([0, 1.004, 1.996, 3, 4, 5, 6, 7], []),  # rounded, no gap
        ([0, 1, 2, 3, 4, 5, 6, 7.25], [(700, 725)]),
    ],
)
def test_gaps_between_records_are_nan(
    tmp_path: Path, ending: str, onsets: list[float], gaps: list[tuple[int, int]]
) -> None:
    x, path = sine(100, 7, 40, 8), tmp_path / f"d.{ending}"
    write_edf(path, two(), 8, f"{ending.upper()}+D", onsets)
    recording = prepared().open(path)
    missing = sum(high - low for low, high in gaps)
    assert recording.length == 800 + missing
    values = recording.load(0, recording.length)[0] * 1e6
    hole = np.zeros(recording.length, bool)
    for low, high in gaps:
        hole[low:high] = True
    np.testing.assert_array_equal(np.isnan(values), hole)
    np.testing.assert_allclose(values[~hole], x, atol=0.11)
    np.testing.assert_allclose(recording.load(250, recording.length - 150)[0] * 1e6, values[250:-150], rtol=1e-12)
    whole = prepared(rate=100.0, seconds=None).prepare(str(path)).signal
    assert np.isnan(whole).sum() == 2 * missing
    # the same file without its gaps; EDF+C has none
    (tmp_path / "c").mkdir()
    one = write_edf(tmp_path / "c" / f"c.{ending}", two(), 8, f"{ending.upper()}+C", range(8))
    assert prepared().open(one).spans is None and prepared().open(one).length == 800


def test_windows_lie_where_something_was_measured(tmp_path: Path) -> None:
    path = write_edf(tmp_path / "d.edf", two(), 8, "EDF+D", [0, 1, 2, 3, 3600, 3601, 3602, 3603])
    pre = prepared(rate=100.0, seconds=2.0)
    for choice in (0, 1, 399, 400, 799, 10**9 + 7, 2**60):
        assert not np.isnan(pre.prepare(str(path), choice).signal).any()
    assert np.isnan(pre.prepare({"path": str(path), "start": 3.0}).signal).sum() == 2 * 100
    starts = [row["start"] for row in mmssl_eeg.windows(path, 2.0)]
    assert starts == [0, 2, 3600, 3602]


@pytest.mark.parametrize(
    ("onsets", "said"), [([0, 1, 1, 3], "record 2 begins at 1 s"), ([0, 5, 2, 7], "record 2 begins at 2 s")]
)
def test_records_out_of_order(tmp_path: Path, onsets: list[float], said: str) -> None:
    path = write_edf(tmp_path / "d.edf", two(4), 4, "EDF+D", onsets)
    with refused(said, error=BadSample):
        prepared().prepare(str(path))


def test_gaps_that_nothing_locates(tmp_path: Path) -> None:
    content = write_edf(tmp_path / "d.edf", two(4), 4).read_bytes()
    (tmp_path / "d.edf").write_bytes(content[:192] + b"EDF+D" + content[197:])
    with refused("no annotations that say where they are", error=BadSample):
        prepared().prepare(str(tmp_path / "d.edf"))


@pytest.mark.parametrize("text", ["BAD_movement", "bad", "Bad blink", "BAD_ACQ_SKIP", "EDGE boundary gap"])
def test_what_is_marked_as_bad_is_left_out(tmp_path: Path, text: str) -> None:
    info = mne.create_info(["Fp1", "Cz"], 100.0, "eeg")
    x = np.stack([sine(100, f, 3e-5, 20) for f in (5, 9)])
    x[:, 800:1000] += 3e-3 * np.random.default_rng(0).normal(size=(2, 200))
    raw = mne.io.RawArray(x, info, first_samp=250, verbose="ERROR")
    raw.set_annotations(mne.Annotations([8.0, 12.0], [2.0, 1.0], [text, "stimulus"]), verbose="ERROR")
    raw.save(tmp_path / "b_raw.fif", verbose="ERROR")
    signal = prepared(rate=100.0, seconds=None).prepare(str(tmp_path / "b_raw.fif")).signal
    hole = np.isnan(signal)
    assert hole[:, 800:1000].all() and hole.sum() == 400
    assert np.nanstd(signal) == pytest.approx(30 / 2**0.5, rel=0.02)
    assert not np.isnan(prepared(rate=100.0, seconds=4.0).prepare(str(tmp_path / "b_raw.fif"), 850).signal).any()


def test_marks_of_one_channel_and_of_a_file_with_gaps(tmp_path: Path) -> None:
    raw = mne.io.RawArray(
        np.stack([sine(100, f, 3e-5, 20) for f in (5, 9)]), mne.create_info(["Fp1", "Cz"], 100.0, "eeg")
    )
    raw.set_annotations(mne.Annotations([8.0], [2.0], ["BAD"], ch_names=[["Cz"]]), verbose="ERROR")
    raw.save(tmp_path / "b_raw.fif", verbose="ERROR")
    hole = np.isnan(prepared(rate=100.0, seconds=None).prepare(str(tmp_path / "b_raw.fif")).signal)
    assert hole[1, 800:1000].all() and hole.sum() == 200
    for text, rest in (("BAD_muscle", 8), ("BAD_mus\xe9", 8), ("blink", 0)):
        notes = f"+61\x15{0.08:g}\x14{text}\x14\x00"
        path = write_edf(tmp_path / f"{rest}{len(text)}.edf", two(), 8, "EDF+D", [0, 1, 2, 3, 60, 61, 62, 63], notes)
        hole = np.isnan(prepared().open(path).load(0, 6400))
        assert hole.sum() == 2 * (5600 + rest) and hole[:, 6100 : 6100 + rest].all()


@pytest.mark.parametrize(
    ("text", "seconds"), [("BAD boundary", 0.0), ("BAD_x", 0.004), ("boundary", 7.5), ("New Segment/", 0.01)]
)
def test_no_window_goes_across_a_place_where_stretches_were_joined(tmp_path: Path, text: str, seconds: float) -> None:
    """mne's own mark of what it joins has no length; that of EEGLAB has the length of what was cut out."""
    x = np.stack([sine(100, f, 3e-5, 20) for f in (5, 9)])
    raw = mne.io.RawArray(x, mne.create_info(["Fp1", "Cz"], 100.0, "eeg"), verbose="ERROR")
    raw.set_annotations(mne.Annotations([0.0, 8.0], [0.0, seconds], ["New Segment/", text]), verbose="ERROR")
    raw.save(tmp_path / "b_raw.fif", verbose="ERROR")
    hole = np.isnan(prepared(rate=100.0, seconds=None).prepare(str(tmp_path / "b_raw.fif")).signal)
    assert hole[:, 800].all() and hole.sum() == 2
    for choice in range(0, 2000, 50):
        assert not np.isnan(prepared(rate=100.0, seconds=6.0).prepare(str(tmp_path / "b_raw.fif"), choice).signal).any()


# ---------------------------------------------------------------------------------------------------------------- units


@pytest.mark.parametrize("unit", ["", ".V", "?V", "n/a", "nV", "uV", "UV", "\xb5V", "\xc2\xb5V", "mV", "V", "mmHg"])
@pytest.mark.parametrize("option", ["uV", "mV", "V"])
def test_units_of_files(tmp_path: Path, unit: str, option: str) -> None:
    unsaid = unit in ("", ".V", "?V", "n/a")
    scale = {"nV": 1e3, "mV": 1e-3, "V": 1e-6}.get(option if unsaid else unit, 1.0)
    path = write_edf(tmp_path / "u.edf", two(unit=unit, scale=scale, top=(-200 * scale, 200 * scale)), 8)
    pre = prepared(source_unit=option)
    if unit == "mmHg":
        with refused("unit 'mmHg' is no voltage", error=BadSample):
            pre.prepare(str(path))
        return
    assert pre.prepare(str(path)).signal.std() == pytest.approx(40 / 2**0.5, rel=1e-3)


def test_the_message_names_options_that_do_something(tmp_path: Path) -> None:
    high = write_edf(tmp_path / "a.edf", two(unit="V", top=(-200, 200)), 8)
    with pytest.raises(BadSample, match="plausible") as caught:
        prepared().prepare(str(high))
    assert "source_unit" not in str(caught.value)
    unsaid = write_edf(tmp_path / "b.edf", two(unit="", top=(-200, 200)), 8)
    with refused("source_unit", "plausible", error=BadSample):
        prepared(source_unit="V").prepare(str(unsaid))
    with refused("source_unit", "plausible", error=BadSample):
        prepared(source_unit="V", source_rate=100.0, source_channels=["Cz"]).prepare(sine(100, 7, 40, 8))


# ---------------------------------------------------------------------------------------------------- names and places

OTHERS = """Resp oro-nasal;EMG submental;Temp rectal;Event marker;EOG horizontal;EEG EKG1-REF;EEG ROC-REF;EEG LOC-REF
;EMG-REF;PHOTIC-REF;EEG RESP1-REF;IBI;BURSTS;SUPPR;PULSE RATE;DC1-DC;EOG(L);EOG(R);H.R.;SaO2;OX stat;THOR RES;ABDO RES
;AIRFLOW;NEW AIR;POSITION;LIGHT;SOUND;ROC-LOC;ECG1-ECG2;EMG1-EMG2;Left EOG;HEOG;VEOGL;E1-M2;Chin 1;Chin1-Chin2;Leg/L
;Snore;Nasal Pressure;Thoracic;Abdomen;SpO2;PLETH;Status;TRIG;STI 014;EDF Annotations;ECG II;Body;ECGI;Flow;ETCO2
;EEG EOG1;Aux1;GSR;Acc X;EEG ECG-LE;HR;PR;EKG;CPAP flow;Marker""".replace("\n", "").split(";")


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_other_measurements(name: str) -> None:
    assert is_other(name) and is_other(name.upper()) and is_other(name.lower())


ELECTRODES = """Fp1;EEG Fpz-Cz;C3-M2;T3;EEG 26-REF;EEG X1-REF;T1;SP1;EEG(sec);EXG1;POz;TP7;E3;EEG 001;A12;Ch1;PO8
;LTemporal3;Fp1-EOG""".replace("\n", "").split(";")


@pytest.mark.parametrize("name", ELECTRODES)
def test_names_of_none(name: str) -> None:
    assert not is_other(name)


def test_other_measurements_are_left_out_of_files(tmp_path: Path) -> None:
    for number, names in enumerate((OTHERS[:7], OTHERS[7:14], OTHERS[14:20])):
        extra = [(name[:16], "uV", 100, sine(100, 2, 30, 8), MICROVOLTS) for name in names]
        path = write_edf(tmp_path / f"{number}.edf", [*two(), *extra], 8)
        assert prepared().prepare(str(path)).names == ["Fp1", "Cz"]
    path = write_edf(tmp_path / "u.edf", [*two(), ("EEG 26-REF", "uV", 100, sine(100, 2, 30, 8), MICROVOLTS)], 8)
    with refused("unknown channel 'EEG 26-REF'", "aliases", error=BadSample):
        prepared().prepare(str(path))


def test_a_net_that_numbers_its_electrodes() -> None:
    x = np.stack([sine(100, 3 + row, 30, 8) for row in range(4)])
    row = {"signal": x, "channels": ["E1", "E2", "E3", "E4"], "rate": 100}
    assert prepared(unknown="keep").prepare(row).names == ["E1", "E2", "E3", "E4"]
    eyes = {"signal": x, "channels": ["E1", "E2", "C3", "C4"], "rate": 100}
    assert prepared(unknown="keep").prepare(eyes).names == ["C3", "C4"]


def test_the_rate_of_another_measurement_changes_nothing(tmp_path: Path) -> None:
    fast = ("ECG", "uV", 512, sine(512, 2, 300, 8), MICROVOLTS)
    alone = prepared(rate=100.0).prepare(str(write_edf(tmp_path / "a.edf", two(), 8)))
    beside = prepared(rate=100.0).prepare(str(write_edf(tmp_path / "b.edf", [two()[0], fast, two()[1]], 8)))
    np.testing.assert_array_equal(alone.signal, beside.signal)


@pytest.mark.parametrize("unknown", ["refuse", "drop", "keep"])
def test_places_that_the_file_gives_its_electrodes(tmp_path: Path, unknown: str) -> None:
    names = ["Fp1", "Cz", "O2"]
    raw = mne.io.RawArray(np.stack([sine(100, f, 3e-5, 8) for f in (5, 9, 11)]), mne.create_info(names, 100.0, "eeg"))
    raw.set_montage("standard_1005")
    raw.rename_channels({"Fp1": "EEG 001", "Cz": "E1", "O2": "O2"})
    raw.save(tmp_path / "p_raw.fif", verbose="ERROR")
    pre = prepared(unknown=unknown).fit([str(tmp_path / "p_raw.fif")])
    sample = pre.read(str(tmp_path / "p_raw.fif"))
    assert sample.names == ["EEG 001", "E1", "O2"]
    found = pre.collate([sample])["electrodes"][0].numpy()
    np.testing.assert_allclose(found, [place_of(name) for name in names], atol=1e-5)


def test_the_frame_of_places_is_that_of_the_template() -> None:
    with np.errstate(all="ignore"):
        native = mne.channels.compute_native_head_t(mne.channels.make_standard_montage("standard_1005"))
    for place in np.random.default_rng(0).normal(size=(5, 3)) * 0.1:
        np.testing.assert_allclose(from_head(mne.transforms.apply_trans(native, place)), place, atol=1e-7)


def test_a_channel_without_a_place_is_still_refused(tmp_path: Path) -> None:
    raw = mne.io.RawArray(np.stack([sine(100, f, 3e-5, 8) for f in (5, 9)]), mne.create_info(["q", "Cz"], 100.0, "eeg"))
    raw.save(tmp_path / "p_raw.fif", verbose="ERROR")
    with refused("unknown channel 'q'", error=BadSample):
        prepared().prepare(str(tmp_path / "p_raw.fif"))
