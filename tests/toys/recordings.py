"""Small EDF, BDF and WFDB files with what real ones have: gaps, odd units, several rates, several segments."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

Channel = tuple[str, str, int, "np.ndarray | None", tuple[float, float]]
"""(label, unit, rate, physical values, (least, most)); values None: annotations."""
MICROVOLTS = (-3276.8, 3276.7)


def sine(rate: int, hertz: float, size: float, seconds: int) -> np.ndarray:
    return size * np.sin(2 * np.pi * hertz * np.arange(rate * seconds) / rate)


def write_edf(
    path: Path,
    channels: Sequence[Channel],
    seconds: int,
    plus: str | None = None,
    onsets: Sequence[float] | None = None,
    notes: str = "",
) -> Path:
    """One record a second; plus: "EDF+D" adds a signal of annotations with the onset of each record."""
    wide = path.suffix == ".bdf"
    top = 2 ** (23 if wide else 15)
    rows = [*channels, *([(f"{'BDF' if wide else 'EDF'} Annotations", "", 60, None, (-1, 1))] if plus else [])]

    def column(values: Sequence[object], size: int) -> bytes:
        return b"".join(str(value).encode("latin-1").ljust(size) for value in values)

    head = (b"\xffBIOSEMI" if wide else b"0".ljust(8)) + column(["X X X X", "Startdate 01-JAN-2020 X X X"], 80)
    head += column(["01.01.20", "00.00.00", 256 * (len(rows) + 1)], 8) + column([plus or ""], 44)
    head += column([seconds, 1], 8) + column([len(rows)], 4)
    head += column([row[0] for row in rows], 16) + column([""] * len(rows), 80) + column([row[1] for row in rows], 8)
    head += column([f"{row[4][0]:g}" for row in rows], 8) + column([f"{row[4][1]:g}" for row in rows], 8)
    head += column([-top] * len(rows), 8) + column([top - 1] * len(rows), 8) + column([""] * len(rows), 80)
    head += column([row[2] for row in rows], 8) + column([""] * len(rows), 32)
    body, each = b"", 3 if wide else 2
    for second in range(seconds):
        for _, _, rate, values, (low, high) in rows:
            if values is None:
                onset = f"{(onsets or range(seconds))[second]:g}"
                text = f"+{onset}\x14\x14\x00" + (notes if second == 0 else "")
                body += text.encode("latin-1").ljust(each * rate, b"\0")
                continue
            part = (values[second * rate : (second + 1) * rate] - low) / (high - low) * (2 * top - 1) - top
            whole = np.round(part).clip(-top, top - 1).astype("<i4")
            body += whole.view(np.uint8).reshape(-1, 4)[:, :each].tobytes()
    path.write_bytes(head + body)
    return path


def heart(rate: int = 500, seconds: float = 20, beats: float = 75) -> np.ndarray:
    """An electrocardiogram of some mV: narrow complexes, broad waves, slow breathing."""
    time = np.arange(round(rate * seconds)) / rate
    phase = (time * beats / 60) % 1
    out: np.ndarray = np.exp(-(((phase - 0.3) / 0.012) ** 2)) + 0.15 * np.exp(-(((phase - 0.55) / 0.05) ** 2))
    return out + 0.02 * np.sin(2 * np.pi * 0.3 * time)


def write_wfdb(
    folder: Path,
    name: str,
    signals: Sequence[np.ndarray],
    names: Sequence[str | None],
    rate: float = 500,
    units: Sequence[str] | None = None,
    checksums: Sequence[int] | None = None,
) -> Path:
    """A record in format 16 with 1000 steps a mV, signals in mV; where they are longer than the first, they have more
    samples a frame, and `rate` is the frames'."""
    frames = min(len(signal) for signal in signals)
    counts = [len(signal) // frames for signal in signals]
    digital = [np.round(signal * 1000).astype("<i2") for signal in signals]
    parts = [one.reshape(frames, count) for one, count in zip(digital, counts, strict=True)]
    (folder / f"{name}.dat").write_bytes(np.concatenate(parts, 1).tobytes())
    lines = [f"{name} {len(signals)} {rate:g} {frames}"]
    for row, (count, title) in enumerate(zip(counts, names, strict=True)):
        unit = "mV" if units is None else units[row]
        gain = {"mV": 1000, "uV": 1, "V": 1000000}[unit]
        said = int(digital[row].sum(dtype=np.int64)) if checksums is None else checksums[row]
        said = (said + 32768) % 65536 - 32768
        many = f"x{count}" if count > 1 else ""
        lines.append(f"{name}.dat 16{many} {gain}(0)/{unit} 16 0 {digital[row][0]} {said} 0 {title or ''}".rstrip())
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    return folder / f"{name}.hea"


def write_cnt(
    path: Path,
    signals: np.ndarray,
    names: Sequence[str],
    rate: int = 128,
    *,
    wide: bool = True,
    bad: Sequence[str] = (),
    events: Sequence[tuple[int, int]] = (),
    block: int = 1,
) -> Path:
    """Neuroscan's continuous file, as http://paulbourke.net/dataformats/eeg/ lays it out: (C, T) microvolts.

    events: (sample, code): 0xC0 begins what was rejected, 0xD0 what was accepted. block: samples of a channel that
    follow each other.
    """
    channels, samples = signals.shape
    size = 4 if wide else 2
    head = bytearray(900)
    head[:11] = b"Version 3.0"
    head[225:247] = b"01/02/20  10:00:00".ljust(22, b"\0")
    start = 900 + 75 * channels
    end = start + channels * samples * size
    for place, kind, value in (
        (370, "<H", channels),
        (376, "<H", rate),
        (864, "<i", samples),
        (886, "<i", end),
        (894, "<i", block * size if block > 1 else 0),
    ):
        struct.pack_into(kind, head, place, value)
    baseline, sensitivity, calibration = 7, 2.048, 1.0  # 0.01 microvolts a step
    for row, name in enumerate(names):
        electrode = bytearray(75)
        electrode[: len(name)] = name.encode()
        electrode[14] = name in bad
        struct.pack_into("<2f", electrode, 19, 100.0 + 40 * np.cos(row), 80.0 + 30 * np.sin(row))
        struct.pack_into("<h", electrode, 47, baseline)
        struct.pack_into("<f", electrode, 59, sensitivity)
        struct.pack_into("<f", electrode, 71, calibration)
        head += electrode
    counts = np.round(signals / (sensitivity * calibration / 204.8)) + baseline
    body = counts.reshape(channels, samples // block, block).transpose(1, 0, 2).astype("<i4" if wide else "<i2")
    table = b"".join(
        struct.pack("<HBBl", 3, 0, code, start + (sample + 1) * channels * size) for sample, code in events
    )
    path.write_bytes(bytes(head) + body.tobytes() + struct.pack("<Bll", 1, len(table), 0) + table)
    return path
