"""ECG files: WFDB records as wfdb reads them, arrays, and what is broken about a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmssl_ecg
from mmssl.errors import BadSample


def wave(leads: int = 12, samples: int = 1000, rate: float = 100.0) -> np.ndarray:
    """Smooth signals of about 1 mV."""
    time = np.arange(samples) / rate
    return np.stack([np.sin(2 * np.pi * (1 + 0.3 * i) * time + i) for i in range(leads)])


def prepared(**options: Any) -> mmssl_ecg.Preprocessor:
    options = {"source_rate": 100.0} | options
    return mmssl_ecg.Preprocessor(mmssl_ecg.Config(**options)).fit([wave()])


def record(folder: Path, name: str = "r1", **changes: Any) -> np.ndarray:
    """A two-lead record of 1 mV and 16 bits at 250 Hz; returns what was written, in mV."""
    wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'mmssl[ecg]'")
    signal = wave(2, 1000, 250.0).T
    options = {
        "fs": 250,
        "units": ["mV", "uV"],
        "sig_name": ["V2", "II"],
        "p_signal": signal * [1, 1000],
        "fmt": ["16", "16"],
        "adc_gain": [1000.0, 1.0],
        "baseline": [0, 0],
    } | changes
    wfdb.wrsamp(name, write_dir=str(folder), **options)
    return signal


def test_wfdb_samples_equal_those_of_wfdb(tmp_path: Path) -> None:
    wfdb = pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'mmssl[ecg]'")
    record(tmp_path)
    theirs = wfdb.rdrecord(str(tmp_path / "r1")).p_signal
    pre = mmssl_ecg.Preprocessor(mmssl_ecg.Config())
    for path in ("r1.hea", "r1.dat", "r1"):
        recording = pre.open(tmp_path / path)
        ours = recording.load(0, recording.length)
        np.testing.assert_allclose(ours, theirs.T, atol=1e-9)
        assert (recording.names, recording.rate, recording.units) == (["V2", "II"], 250.0, ["mV", "uV"])
        np.testing.assert_allclose(recording.load(100, 300), theirs.T[:, 100:300], atol=1e-9)
    sample = mmssl_ecg.Preprocessor(mmssl_ecg.Config(rate=250.0, window=0.2)).prepare(str(tmp_path / "r1.hea"))
    in_mv = theirs * [1, 1e-3]
    np.testing.assert_allclose(sample.signal, (in_mv - in_mv.mean(0)).T, atol=1e-6)
    assert sample.names == ["V2", "II"]


def test_broken_wfdb_records(tmp_path: Path) -> None:
    record(tmp_path)
    data, header = (tmp_path / "r1.dat").read_bytes(), (tmp_path / "r1.hea").read_text()
    pre = prepared()

    def fails(said: str, name: str = "r1.hea") -> None:
        with pytest.raises(BadSample, match=said):
            pre.read(str(tmp_path / name))

    (tmp_path / "r1.dat").write_bytes(data[:1000])
    fails("truncated")
    (tmp_path / "r1.dat").write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    fails("checksum of 'V2'")
    (tmp_path / "r1.dat").write_bytes(b"")
    fails("empty")
    (tmp_path / "r1.dat").unlink()
    fails("no such file")
    (tmp_path / "r1.hea").write_text("this is a letter to you")
    fails("no readable WFDB header")
    (tmp_path / "lone.dat").write_bytes(data)
    fails("has no header", "lone.dat")
    (tmp_path / "photo.png").write_bytes(b"x")
    fails("expected a WFDB record", "photo.png")
    assert header


def test_arrays_in_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", wave())
    pre = prepared()
    np.testing.assert_array_equal(pre.read(str(tmp_path / "a.npy")).signal, pre.read(wave()).signal)
    content = {"bytes": (tmp_path / "a.npy").read_bytes(), "path": "elsewhere/a.npy"}
    np.testing.assert_array_equal(pre.read(content).signal, pre.read(wave()).signal)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadSample, match="cannot read .npy"):
        pre.read(str(tmp_path / "objects.npy"))
