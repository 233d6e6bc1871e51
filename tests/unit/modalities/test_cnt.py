"""Neuroscan's .cnt, written here as its layout is published; EGI's .mff, which is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toys.recordings import write_cnt
from toys.refusals import refused

import mmssl_eeg
from mmssl.cli import main
from mmssl.data.kinds import Files
from mmssl.data.sources import open_source
from mmssl.data.windows import Windows
from mmssl.errors import BadSample

mne = pytest.importorskip("mne", reason="mne is not installed: pip install 'mmssl[eeg]'")
NAMES = ["FP1", "CZ", "VEOGL", "TP10A"]


def waves(seconds: int = 4, rate: int = 128) -> np.ndarray:
    """Some 30 uV, no two channels alike."""
    time = np.arange(seconds * rate) / rate
    return np.stack([30 * np.sin(2 * np.pi * (5 + i) * time + i) for i in range(len(NAMES))])


def reader(**options: object) -> mmssl_eeg.Preprocessor:
    return mmssl_eeg.Preprocessor(mmssl_eeg.Config(**{"unknown": "keep", **options}))


@pytest.mark.parametrize(("wide", "block"), [(True, 1), (False, 1), (True, 32)])
def test_samples_are_those_that_were_written(wide: bool, block: int, tmp_path: Path) -> None:
    path = write_cnt(tmp_path / "a.cnt", waves(), NAMES, wide=wide, block=block)
    sample = reader().prepare(str(path))
    assert sample.names == ["Fp1", "Cz", "TP10A"], "VEOGL is an eye's by its name, TP10A is none of the bad ones"
    wanted = waves()[[0, 1, 3]]
    np.testing.assert_allclose(sample.signal, wanted - wanted.mean(1, keepdims=True), atol=0.01)
    theirs = mne.io.read_raw_cnt(path, header="new", verbose="ERROR").get_data()[[0, 1, 3]] * 1e6
    np.testing.assert_allclose(theirs, wanted, atol=0.01)
    assert not sample.places, "a flat map says no place on the head"
    assert mne.io.read_raw_cnt(path, verbose="ERROR").info["bads"] == ["VEOGL", "TP10A"], "mne's default"


def test_what_is_marked_is_left_out(tmp_path: Path) -> None:
    path = write_cnt(tmp_path / "a.cnt", waves(), NAMES, bad=["CZ"], events=[(128, 0xC0), (256, 0xD0)])
    recording = reader().open(path)
    assert recording.bads == ["CZ"] and recording.spans == [(0, 128), (256, 512)]
    assert np.isnan(recording.load(0, 512)[:, 128:256]).all() and reader().prepare(str(path)).names == ["Fp1", "TP10A"]


def test_refused_with_the_way_out(tmp_path: Path) -> None:
    path = write_cnt(tmp_path / "a.cnt", waves(), NAMES)
    data = path.read_bytes()
    for changed, facts in (
        (data[:864] + bytes(4) + data[868:], ("16 or 32 bits", "data_format='int16'", "a_raw.fif")),
        (data[: len(data) // 2], ("a.cnt is truncated", "its table of events begins at 9,392")),
        (b"RIFF" + data[4:], ("ANT Neuro", "mne.io.read_raw('a.cnt')", "a_raw.fif")),
        (b"", ("0 bytes", "a.cnt")),
    ):
        path.write_bytes(changed)
        with refused(*facts, error=BadSample):
            reader().prepare(str(path))


def test_a_folder_of_them_by_its_path_alone(tmp_path: Path) -> None:
    write_cnt(tmp_path / "0.cnt", waves(25), NAMES)
    source = open_source(tmp_path, files=Files({"eeg": reader(seconds=10.0)}, {}, Windows()))
    assert source["start"][:] == [0.0, 10.0] and source["file"][:] == ["0.cnt"] * 2


def test_mff_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a folder of recordings, and as the recording itself, which is a folder."""
    inside = tmp_path / "data" / "s1.mff"
    inside.mkdir(parents=True)
    (inside / "signal1.bin").write_bytes(bytes(100))
    (inside / "info.xml").write_text("<fileInfo/>")
    for path in (tmp_path / "data", inside):
        words = ["train.steps=1", "--output", str(tmp_path / "run")]
        assert main(["pretrain", "eeg_mae", f"data.path={path}", *words]) == 2
        said = capsys.readouterr().err
        assert "s1.mff: EGI's .mff is not read here: mne.io.read_raw('s1.mff').save('s1_raw.fif')" in said
