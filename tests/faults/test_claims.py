"""What a header counts is looked at before time or memory is spent on it: the sample is broken, not the machine small.

Each of these few bytes took all of the memory, minutes, or the run ("there is not enough memory").
"""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from toys import own_files
from toys.recordings import heart, sine, write_edf, write_wfdb

from mmssl.boundary import is_ours, reading_sample
from mmssl.errors import BadSample, RunError
from mmssl.modality import load_modality

pytestmark = pytest.mark.filterwarnings("ignore::Warning")


def refused(modality: str, path: Path, words: str) -> None:
    package = load_modality(modality)
    preprocessor = package.Preprocessor(package.Config())
    begin = time.process_time()
    with pytest.raises(BadSample, match=words), reading_sample():  # as behind every `Preprocessor.read`
        preprocessor.prepare(str(path))
    assert time.process_time() - begin < 2


WFDB = {
    "signals": ("m 2 500", "m 999999999 500", "found 999999999 signals in its first line, expected 2"),
    "samples a frame": ("m.dat 16 ", "m.dat 16x99999999 ", "m.dat is truncated: .* asks for"),
    "frames": ("500 1000", "500 99999999999", "m.dat is truncated"),
    "skew": ("m.dat 16 ", "m.dat 16:99999999 ", "m.dat is truncated"),
    "packed": ("m.dat 16 ", "m.dat 516x999999999999 ", "m.dat is truncated"),
    "digits": ("m 2 500", f"m {'9' * 5000} 500", "signals in its first line"),
}


@pytest.mark.parametrize("name", WFDB)
def test_wfdb(name: str, tmp_path: Path) -> None:
    pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'mmssl[ecg]'")
    before, after, words = WFDB[name]
    path = write_wfdb(tmp_path, "m", [heart(seconds=2)] * 2, ["I", "II"])
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    refused("ecg", path, words)


def test_wfdb_of_eight_bits_is_no_claim(tmp_path: Path) -> None:
    """8 bits are the least that a sample takes, where it is not packed."""
    pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'mmssl[ecg]'")
    import wfdb

    signal = np.round(heart(seconds=2) * 50)[:, None] / 50
    wfdb.wrsamp("e", 500, ["mV"], ["II"], signal, fmt=["80"], adc_gain=[50.0], baseline=[0], write_dir=str(tmp_path))
    package = load_modality("ecg")
    assert package.Preprocessor(package.Config()).prepare(str(tmp_path / "e.hea")) is not None


EDF = {
    "no samples": (2 * 216, "0       ", "the header is damaged"),
    "negative": (2 * 216, "-1      ", "the header is damaged"),
    "first record": (184 - 256, "512     ", "the header is damaged"),
    "records": (236 - 256, "-5      ", "the header is damaged"),
    "seconds": (244 - 256, "0       ", "a record has 0 s"),
    "seconds nan": (244 - 256, "nan     ", "a record has nan s"),
    "many": (236 - 256, "99999999", "truncated"),
}


@pytest.mark.parametrize("name", EDF)
def test_edf(name: str, tmp_path: Path) -> None:
    """mne takes these as they are, moves all samples behind them, or puts 1 in their place."""
    pytest.importorskip("mne", reason="mne is not installed: pip install 'mmssl[eeg]'")
    place, text, words = EDF[name]
    rows = [(label, "uV", 100, sine(100, hertz, 30, 8), (-200, 200)) for label, hertz in (("Fp1", 7), ("Cz", 9))]
    path = write_edf(tmp_path / "a.edf", rows, 8)
    data = bytearray(path.read_bytes())
    data[256 + place : 256 + place + 8] = text.encode()
    path.write_bytes(data)
    refused("eeg", path, words)


@pytest.mark.parametrize("count", [10**9, 65_535])
def test_channels_of_brainvision_gdf_and_cnt(count: int, tmp_path: Path) -> None:
    pytest.importorskip("mne", reason="mne is not installed: pip install 'mmssl[eeg]'")
    vhdr = own_files.by_mne(tmp_path / "v.vhdr", seconds=2)
    vhdr.write_text(vhdr.read_text().replace("NumberOfChannels=6", f"NumberOfChannels={count}"))
    gdf = own_files.gdf(tmp_path / "g.gdf", seconds=2)
    data = bytearray(gdf.read_bytes())
    data[252:256] = struct.pack("<I", count)
    gdf.write_bytes(data)
    cnt = tmp_path / "c.cnt"
    cnt.write_bytes(b"Version 3.0".ljust(370, b"\0") + struct.pack("<H", min(count, 65_535)) + bytes(1000))
    for path in (vhdr, gdf, cnt):
        refused("eeg", path, "its header counts .* channels, and describes")


def test_a_picture_of_one_pixel_a_row() -> None:
    """Pillow keeps an address for each row: 69 bytes took 1.3 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 1, 89_000_000, 8, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    package = load_modality("image")
    preprocessor = package.Preprocessor(package.Config(size=8, patch=4, channels=3, mean=[0.5] * 3, std=[0.5] * 3))
    with pytest.raises(BadSample, match=r"pixels \(1 x 89000000\)"):
        preprocessor.read(data)


def test_an_array_that_no_machine_holds_is_the_samples_fault() -> None:
    """Wherever a library believes a count that nobody looked at: an array beyond `data.limits.values` was asked for."""
    with pytest.raises(BadSample, match="Unable to allocate"), reading_sample():
        np.empty(1 << 60, np.uint8)
    with pytest.raises(RunError), reading_sample():
        raise MemoryError("Unable to allocate 8 bytes")
    error = MemoryError()
    error.shape = (10, 10)  # type: ignore[attr-defined]
    assert is_ours(error)
