"""Faults that are planted in real recordings are named, with the channel and the file, and none else is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mmssl.errors import BadSample
from mmssl.looking import decoding
from mmssl.looking.check import check
from mmssl.looking.decoding import told
from mmssl.looking.findings import Finding, channels_of, of_modality, reasons_of, sizes_of
from mmssl.looking.options import CheckConfig
from mmssl.modality import Preprocessor, load_modality

Array = NDArray[np.float64]
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
CLIPPED, FLAT, UNITS, ONE_UNIT, LACKING, RATE = 3, 5, 8, 11, 14, 17


def cut(signal: Array, share: float = 0.97) -> Array:
    """A channel as an amplifier leaves it that ends where so many of its samples lie."""
    middle = np.median(signal)
    most = np.quantile(np.abs(signal - middle), share)
    return np.clip(signal, middle - most, middle + most)


def planted(signals: Array, names: list[str], rate: float, unit: str, factor: float) -> list[dict[str, object]]:
    """Recordings (N, C, T), six of them with a fault each."""
    rows: list[dict[str, object]] = []
    for number, signal in enumerate(signals.copy()):
        row = {"path": f"records/r{number}.hea", "signal": signal, "rate": rate, "names": names, "unit": unit}
        if number == CLIPPED:
            signal[7] = cut(signal[7])
        if number == FLAT:
            signal[2] = 20.0
        if number == UNITS:
            signal *= factor
        if number == ONE_UNIT:
            signal[4] *= 1000
        if number == LACKING:
            row |= {"signal": np.delete(signal, 9, 0), "names": [*names[:9], *names[10:]]}
        if number == RATE:
            row["rate"] = 5 * rate
        rows.append(row)
    return rows


def found(reader: Preprocessor, rows: list[dict[str, object]]) -> list[Finding]:
    """What `check` finds in rows; a file that is named is not opened, the array lies beside its name."""
    facts = []
    for number, row in enumerate(rows):
        raw = {key: value for key, value in row.items() if key != "path"}
        facts.append({"row": number, "modalities": {}, "bad": {}})
        try:
            reader.read(raw)
        except BadSample as error:
            facts[-1]["bad"]["s"] = f"{error} ({row['path']})"
            continue
        looked = reader.look(raw)
        assert looked is not None
        facts[-1]["modalities"]["s"] = told(looked) | {"file": f"/data/{row['path']}"}
    of = {"present": len(facts), "reasons": reasons_of(facts, "s"), "sizes": sizes_of(facts, "s")}
    return list(of_modality("s", "train", facts, of | {"channels": channels_of(facts, "s")}, 0.1))


@pytest.fixture(scope="module")
def recordings(shared_data: Path) -> Callable[[str, int], Array]:
    def of(name: str, channels: int) -> Array:
        rows = pq.read_table(shared_data / f"{name}.parquet", columns=["signal"])["signal"][:30].to_pylist()
        signals = np.asarray(rows, dtype=np.float64)
        return signals if signals.shape[1] == channels else signals.transpose(0, 2, 1)

    return of


def test_an_ecg_is_looked_at_as_it_was_recorded(recordings: Callable[[str, int], Array]) -> None:
    package = load_modality("ecg")
    config = package.Config(highpass=0.5, lowpass=40.0, rate=50.0, source_rate=100.0, window=0.5)
    rows = planted(recordings("ptbxl_500/train", 12), LEADS, 100.0, "uV", 1000.0)
    whole = package.Preprocessor(config).fit([{k: v for k, v in row.items() if k != "path"} for row in rows])
    lines = {one.kind: one.text for one in found(whole, rows)}
    assert "40 mV" not in lines and "r8.hea" in lines.pop("broken"), "its unit is another"
    assert {kind: text.rsplit(": ", 1)[1].split("? ")[-1] for kind, text in lines.items()} == {
        "flat": "row 5 (III; records/r5.hea)",
        "saturated": "row 3 (V2; records/r3.hea)",
        "outlier": "row 11 (aVL; records/r11.hea)",
        "no-channel": "row 14 (V4; records/r14.hea)",
        "other-rate": "row 17 (500; records/r17.hea)",
        "doubt": lines["doubt"].rsplit("? ", 1)[1],
    }
    assert lines["doubt"].endswith("; records/r17.hea)")


def test_an_eeg_is_looked_at_as_it_was_recorded(recordings: Callable[[str, int], Array]) -> None:
    package = load_modality("eeg")
    names = ["Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "FC3", "FC4", "T7", "C3", "Cz"]
    names += ["C4", "T8", "CP3", "CP4", "P7", "P3", "Pz", "P4", "P8", "O1", "Oz", "O2"]
    config = package.Config(highpass=1.0, lowpass=45.0, rate=128.0, window=0.5, reference="average")
    rows = planted(recordings("eegmmi_s001/motor-train", 24), names, 160.0, "uV", 1000.0)
    whole = package.Preprocessor(config).fit([{k: v for k, v in row.items() if k != "path"} for row in rows])
    lines = {one.kind: one.text for one in found(whole, rows)}
    assert "r8.hea" in (lines.pop("broken", "") or lines["outlier"]), "its unit is another"
    assert "row 11 (Fz; records/r11.hea)" in " row " + lines.pop("outlier").replace(", ", ", row ").replace(
        "rows", "row"
    )
    assert {kind: text.rsplit(": ", 1)[1] for kind, text in lines.items()} == {
        "flat": "row 5 (F7; records/r5.hea)",
        "saturated": "row 3 (FC3; records/r3.hea)",
        "no-channel": "row 14 (T7; records/r14.hea)",
        "other-rate": "row 17 (800; records/r17.hea)",
    }


def test_good_recordings_rest_at_no_extreme(recordings: Callable[[str, int], Array]) -> None:
    signals = [*recordings("ptbxl_500/train", 12).reshape(-1, 1000)]
    signals += [*recordings("eegmmi_s001/motor-train", 24).reshape(-1, 640)]
    assert not any(decoding._channel(signal, True)[5] for signal in signals)
    cuts = [decoding._channel(cut(signal, 0.95), True)[5] for signal in signals]
    assert np.mean(cuts) > 0.95


def test_counts_that_are_often_zero_and_coarse_numbers_are_not_clipped() -> None:
    rng = np.random.default_rng(0)
    assert not decoding._channel(np.maximum(rng.gamma(3, 100, 4000).round() - 60, 0.0), True)[5]
    assert not decoding._channel(rng.integers(0, 60, 4000) / 8 + 1.0, True)[5]


def test_a_file_of_a_folder_is_named(tmp_path: Path) -> None:
    wave = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    for number in range(6):
        sound = rng.normal(0, 0.2, 4000)
        wave.write(tmp_path / f"{number}.wav", cut(sound, 0.9) if number == 4 else sound, 8000)
    one = next(
        f for f in check(CheckConfig(path=str(tmp_path), workers=0), every=True).findings if f.kind == "saturated"
    )
    assert one.text.endswith(f"(sound; {tmp_path.name}/4.wav)") or one.text.endswith("(sound; 4.wav)")
