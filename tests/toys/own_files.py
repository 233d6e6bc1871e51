"""Folders as people have them: written by the field's own writers, small, of signals that vary."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .recordings import heart, write_edf

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
ELECTRODES = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")


def wav(path: Path, seconds: float = 0.5, rate: int = 8000, seed: int = 0) -> Path:
    """A tone in noise, with the standard library alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    sound = 0.4 * np.sin(2 * np.pi * (300 + 100 * seed) * time) + 0.05 * rng.normal(size=len(time))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return path


def encoded(path: Path, seconds: float = 0.5, rate: int = 8000, seed: int = 0) -> Path:
    """The same in the format of the ending, by libsndfile, or by FFmpeg what that does not write."""
    if path.suffix == ".wav":
        return wav(path, seconds, rate, seed)
    source = wav(path.with_name(f"{path.name}.tmp.wav"), seconds, rate, seed)
    if path.suffix in (".flac", ".ogg", ".mp3", ".aiff"):
        import soundfile

        soundfile.write(path, *soundfile.read(source))
    else:
        import av

        with av.open(str(source)) as given, av.open(str(path), "w") as made:
            stream = made.add_stream("aac", rate=rate)
            for frame in given.decode(audio=0):
                made.mux(stream.encode(frame))
            made.mux(stream.encode(None))
    source.unlink()
    return path


def video(path: Path, seconds: float = 1.0, seed: int = 0, size: int = 32) -> Path:
    """A square that moves, in the codec that the container is known for."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".mpg": "mpeg1video", ".webm": "libvpx", ".avi": "mpeg4"}.get(path.suffix, "h264")
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(round(seconds * 25)):
            picture = np.full((size, size, 3), 20 * (seed % 5) + 40, np.uint8)
            at = (3 * seed + number) % (size - 8)
            picture[at : at + 8, 4:12] = 220
            made.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        made.mux(stream.encode(None))
    return path


def wfdb_record(folder: Path, name: str, seconds: float = 10, rate: int = 100, leads: Sequence[str] = LEADS) -> Path:
    """A record by wfdb's own writer."""
    import wfdb

    folder.mkdir(parents=True, exist_ok=True)
    size = 0.5 + (sum(map(ord, name)) % 7) / 10
    signal = np.stack([size * heart(rate, seconds) * (1 + 0.1 * row) for row in range(len(leads))], 1)
    signal += 0.01 * np.random.default_rng(len(name)).normal(size=signal.shape)
    units = ["mV"] * len(leads)
    wfdb.wrsamp(name, rate, units, list(leads), p_signal=signal, fmt=["16"] * len(leads), write_dir=str(folder))
    return folder / f"{name}.hea"


def brain(seconds: int, rate: int, seed: int = 0) -> np.ndarray:
    """(channels, samples) microvolts of noise with an alpha rhythm."""
    rng = np.random.default_rng(seed)
    time = np.arange(seconds * rate) / rate
    return 20 * np.sin(2 * np.pi * 10 * time) + rng.normal(size=(len(ELECTRODES), len(time))) * 10


def edf(path: Path, seconds: int = 8, rate: int = 128, seed: int = 0) -> Path:
    """An EDF or BDF file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(ELECTRODES, brain(seconds, rate, seed), strict=True)
    return write_edf(path, [(name, "uV", rate, row, (-500, 500)) for name, row in rows], seconds)


def gdf(path: Path, seconds: int = 8, rate: int = 128, seed: int = 0) -> Path:
    """A GDF 1.25 file of whole numbers, a record a second, without events."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digital = (brain(seconds, rate, seed) * 10).round().astype("<i2")
    n = len(ELECTRODES)

    def text(word: str, size: int) -> bytes:
        return word.encode().ljust(size)

    head = text("GDF 1.25", 8) + text("X X", 80) + text("toy", 80) + text("2024010112000000", 16)
    head += struct.pack("<q24x20xqIII", 256 * (n + 1), seconds, 1, 1, n)
    head += b"".join(text(name, 16) for name in ELECTRODES) + b" " * 80 * n + text("uV", 8) * n
    for value, kind in ((-3276.8, "d"), (3276.7, "d"), (-32768, "q"), (32767, "q")):
        head += struct.pack(f"<{n}{kind}", *[value] * n)
    head += b" " * 80 * n + struct.pack(f"<{2 * n}i", *[rate] * n, *[3] * n) + bytes(32 * n)
    records = digital.reshape(n, seconds, rate).transpose(1, 0, 2)
    path.write_bytes(head + records.tobytes() + bytes(8))
    return path


def by_mne(path: Path, seconds: int = 8, rate: int = 128, seed: int = 0) -> Path:
    """A FIF, BrainVision or EEGLAB file: what mne writes itself, or a header of text beside samples."""
    import mne

    path.parent.mkdir(parents=True, exist_ok=True)
    signal = brain(seconds, rate, seed)
    if path.suffix == ".vhdr":
        (signal.T * 10).astype("<i2").tofile(path.with_suffix(".eeg"))
        channels = "\n".join(f"Ch{i}={name},,0.1,uV" for i, name in enumerate(ELECTRODES, 1))
        path.write_text(
            "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
            f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
            f"NumberOfChannels={len(ELECTRODES)}\nSamplingInterval={1e6 / rate:g}\n[Binary Infos]\n"
            f"BinaryFormat=INT_16\n[Channel Infos]\n{channels}\n"
        )
        path.with_suffix(".vmrk").write_text(
            "Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\n"
            f"DataFile={path.stem}.eeg\n[Marker Infos]\n"
        )
        return path
    if path.suffix == ".set":
        from scipy.io import savemat

        chanlocs = np.array([(name,) for name in ELECTRODES], dtype=[("labels", "O")])
        eeg = {"data": signal, "srate": rate, "nbchan": len(ELECTRODES), "pnts": signal.shape[1], "trials": 1}
        eeg |= {"xmin": 0.0, "xmax": seconds, "chanlocs": chanlocs, "event": [], "setname": path.stem, "icawinv": []}
        eeg |= {"epoch": [], "ref": "common", "icaweights": [], "icasphere": [], "icaact": [], "comments": ""}
        savemat(path, {"EEG": eeg}, appendmat=False)
        return path
    info = mne.create_info(list(ELECTRODES), rate, "eeg")
    mne.io.RawArray(signal * 1e-6, info, verbose="ERROR").save(path, overwrite=True, verbose="ERROR")
    return path


def person(path: Path, rows: int = 400, kind: str = "comma", seed: int = 0) -> Path:
    """Four radio signals of one person as somebody's script wrote them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(size=(rows, 4)).cumsum(0) * 0.3 - 60
    names = [f"RSS_anchor{i}" for i in range(1, 5)]
    plain = [[f"{v:.2f}" for v in row] for row in values]
    if kind == "comma":
        text = "#" + ", ".join(names) + "\n" + "".join(", ".join(row) + "\n" for row in plain)
    elif kind == "semicolon":
        plain = [[f"{at * 0.125:g}", *row] for at, row in enumerate(plain)]
        text = "\ufeff" + ";".join(["time [s]", *names]) + "\r\n"
        text += "".join(";".join(row).replace(".", ",") + "\r\n" for row in plain)
    else:
        text = "".join(" ".join(row) + "\n" for row in plain)
    path.write_bytes(text.encode())
    return path


def tudataset(folder: Path, name: str = "MUTAG", graphs: int = 24) -> Path:
    """A TUDataset: rings of 5 to 8 nodes, of which every second one has a tail."""
    folder.mkdir(parents=True, exist_ok=True)
    edges, indicator, kinds, labels = [], [], [], []
    first = 1
    for number in range(1, graphs + 1):
        count, tail = 5 + number % 4, number % 2
        ring = [(first + i, first + (i + 1) % count) for i in range(count)]
        ring += [(first, first + count)] if tail else []
        edges += ring + [(b, a) for a, b in ring]
        indicator += [number] * (count + tail)
        kinds += [0] * count + [1] * tail
        labels.append(tail)
        first += count + tail
    for part, lines in {
        "A": [f"{a}, {b}" for a, b in edges],
        "graph_indicator": indicator,
        "node_labels": kinds,
        "graph_labels": labels,
    }.items():
        (folder / f"{name}_{part}.txt").write_text("\n".join(map(str, lines)) + "\n")
    return folder
