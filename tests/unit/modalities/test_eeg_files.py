"""EEG files: samples as mne reads them, channels marked as bad, and what is broken about a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys.refusals import refused

import mmssl_eeg
from mmssl.errors import BadSample

NEEDS_MNE = "mne is not installed: pip install 'mmssl[eeg]'"


def wave(channels: int = 3, samples: int = 512, rate: float = 128.0) -> np.ndarray:
    """Smooth signals of some 30 uV."""
    time = np.arange(samples) / rate
    return np.stack([30 * np.sin(2 * np.pi * (5 + i) * time + i) for i in range(channels)])


def prepared(**options: Any) -> mmssl_eeg.Preprocessor:
    raw = {"signal": wave(), "channels": ["Fp1", "Cz", "O2"], "rate": 128}
    return mmssl_eeg.Preprocessor(mmssl_eeg.Config(**options)).fit([raw])


def write_edf(path: Path, signal: np.ndarray, names: list[str], rate: int, wide: bool = False) -> None:
    """EDF of 16 or BDF of 24 bits, 1-second records; signal (C, T) in uV within +-3276.8."""
    count, seconds = len(names), signal.shape[1] // rate
    top = 2 ** (23 if wide else 15)

    def column(values: list[Any], size: int) -> bytes:
        return b"".join(str(value).encode().ljust(size) for value in values)

    head = (b"\xffBIOSEMI" if wide else b"0".ljust(8)) + column(["someone", "somewhere"], 80)
    head += column(["01.01.20", "10.00.00", 256 * (count + 1)], 8) + column(["24BIT" if wide else ""], 44)
    head += column([seconds, 1], 8) + column([count], 4)
    head += column(names, 16) + column([""] * count, 80) + column(["uV"] * count, 8)
    head += column([-3276.8] * count, 8) + column([3276.7] * count, 8)
    head += column([-top] * count, 8) + column([top - 1] * count, 8)
    head += column([""] * count, 80) + column([rate] * count, 8) + column([""] * count, 32)
    digital = np.round((signal + 3276.8) / 6553.5 * (2 * top - 1) - top).astype("<i4")
    records = digital.reshape(count, seconds, rate).transpose(1, 0, 2)
    body = np.ascontiguousarray(records).view(np.uint8).reshape(-1, 4)[:, : 3 if wide else 2].tobytes()
    path.write_bytes(head + body)


def write_brainvision(folder: Path, signal: np.ndarray, names: list[str], rate: int) -> Path:
    (folder / "b.eeg").write_bytes(signal.T.astype("<f4").tobytes())
    (folder / "b.vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nDataFile=b.eeg\n\n[Marker Infos]\n"
    )
    channels = "\n".join(f"Ch{i + 1}={name},,1,µV" for i, name in enumerate(names))
    (folder / "b.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\nDataFile=b.eeg\n"
        "MarkerFile=b.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(names)}\nSamplingInterval={1e6 / rate:g}\n\n[Binary Infos]\n"
        f"BinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    return folder / "b.vhdr"


def write_set(folder: Path, signal: np.ndarray, names: list[str], rate: int) -> Path:
    from scipy.io import savemat

    places = np.array([(name, 0.0, 0.0, 1.0) for name in names], dtype=[(k, object) for k in ("labels", "X", "Y", "Z")])
    eeg = {
        "data": signal,
        "srate": rate,
        "nbchan": len(names),
        "pnts": signal.shape[1],
        "trials": 1,
        "xmin": 0.0,
        "xmax": signal.shape[1] / rate,
        "chanlocs": places,
        "event": [],
        "epoch": [],
        "icawinv": [],
        "icaweights": [],
        "icasphere": [],
        "setname": "s",
        "ref": "common",
    }
    savemat(folder / "s.set", {"EEG": eeg}, appendmat=False)
    return folder / "s.set"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One recording, 4 s of three channels at 128 Hz, in five formats."""
    mne = pytest.importorskip("mne", reason=NEEDS_MNE)
    folder, names = tmp_path_factory.mktemp("eeg"), ["EEG Fp1-REF", "EEG Cz-REF", "EOG"]
    signal = wave(3)
    for ending in ("edf", "bdf"):
        write_edf(folder / f"a.{ending}", signal, names, 128, wide=ending == "bdf")
    info = mne.create_info(["Fp1", "Cz", "EOG"], 128.0, ["eeg", "eeg", "eog"])
    info["bads"] = []
    mne.io.RawArray(signal * 1e-6, info, verbose="ERROR").save(folder / "f_raw.fif", verbose="ERROR")
    info["bads"] = ["Cz"]
    mne.io.RawArray(signal * 1e-6, info, verbose="ERROR").save(folder / "bad_raw.fif", verbose="ERROR")
    found = {"edf": folder / "a.edf", "bdf": folder / "a.bdf"}
    found |= {"fif": folder / "f_raw.fif", "bad": folder / "bad_raw.fif"}
    found["vhdr"] = write_brainvision(folder, signal, ["Fp1", "Cz", "EOG"], 128)
    found["set"] = write_set(folder, signal, ["Fp1", "Cz", "EOG"], 128)
    return found


@pytest.mark.parametrize("kind", ["edf", "bdf", "fif", "vhdr", "set"])
def test_samples_of_files_equal_those_of_mne(files: dict[str, Path], kind: str) -> None:
    mne = pytest.importorskip("mne", reason=NEEDS_MNE)
    theirs = mne.io.read_raw(files[kind], preload=True, verbose="ERROR").get_data(picks=[0, 1]) * 1e6
    np.testing.assert_allclose(theirs, wave(2), atol=0.1)  # EDF has steps of 0.1 uV
    sample = mmssl_eeg.Preprocessor(mmssl_eeg.Config()).prepare(str(files[kind]))
    assert sample.names == ["Fp1", "Cz"]
    np.testing.assert_allclose(sample.signal, theirs - theirs.mean(1, keepdims=True), atol=2e-5)
    pre = prepared(seconds=2.0)
    cut = pre.prepare({"path": str(files[kind]), "start": 1.0}).signal
    np.testing.assert_allclose(cut, theirs[:, 128:384] - theirs.mean(1, keepdims=True), atol=2e-5)


def test_channels_marked_as_bad_in_the_file_are_left_out(files: dict[str, Path]) -> None:
    assert prepared().read(str(files["bad"])).names == ["Fp1"]


def test_bytes_with_a_name(files: dict[str, Path]) -> None:
    content = {"bytes": files["edf"].read_bytes(), "path": "archive/x.edf"}
    np.testing.assert_array_equal(prepared().read(content).signal, prepared().read(str(files["edf"])).signal)


def test_broken_files(files: dict[str, Path], tmp_path: Path) -> None:
    whole = files["edf"].read_bytes()
    for content, said in (
        (whole[:1500], "a.edf is truncated: 1500 bytes of the"),
        (whole[:100], "is no EDF file"),
        (b"", "empty"),
        (b"\x89PNG" + whole[4:], "is no EDF file"),
        (whole[:236] + b"many    " + whole[244:], "header is damaged"),
    ):
        (tmp_path / "a.edf").write_bytes(content)
        with pytest.raises(BadSample, match=said):
            prepared().read(str(tmp_path / "a.edf"))
    for name in ("x_raw.fif", "x.set", "x.vhdr"):
        (tmp_path / name).write_bytes(b"this is something else entirely" * 40)
        with pytest.raises(BadSample, match=f"{name} cannot be read as"):
            prepared().read(str(tmp_path / name))


def test_windows_of_a_file_and_of_a_table(files: dict[str, Path]) -> None:
    rows = list(mmssl_eeg.windows(files["edf"], 1.5, step=1.0))
    assert [row["start"] for row in rows] == [0.0, 1.0, 2.0]
    assert prepared(seconds=1.5).read(rows[1]).signal.shape == (2, 192)
    table_rows = list(mmssl_eeg.windows({"Cz": wave()[0], "O2": wave()[1]}, 1.0, rate=128))
    assert len(table_rows) == 4 and prepared().read(table_rows[3]).names == ["Cz", "O2"]
    with refused("Oz"):
        list(mmssl_eeg.windows({"Cz": [1.0]}, 1.0, rate=1, channels=["Oz"]))


def test_a_file_written_anew_is_opened_anew(tmp_path: Path) -> None:
    pytest.importorskip("mne", reason=NEEDS_MNE)
    pre, path = prepared(), tmp_path / "a.edf"
    for names, size in ((["Fp1", "Cz", "O2"], 1.0), (["Fp2", "Pz", "O1"], 2.0)):
        write_edf(path, size * wave(), names, 128)
        for _ in range(2):  # the second time its header is known
            recording = pre.open(path)
            assert recording.names == names
            np.testing.assert_allclose(recording.load(5, 200) * 1e6, size * wave()[:, 5:200], atol=0.11)
    write_edf(path, wave()[:, :256], ["Fp1", "Cz", "O2"], 128)
    path.write_bytes(path.read_bytes()[:-10])
    with refused("truncated", error=BadSample):
        pre.open(path)
