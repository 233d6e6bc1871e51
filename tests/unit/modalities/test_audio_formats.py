"""Headers that do not know how long a sound is, formats that soundfile does not know, clips without a sound track."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmssl.errors import BadSample
from mmssl_audio.decode import read_sound

RATE = 16000
WAVE = (np.sin(np.arange(24000) / 9) * 9000).astype("<i2")


def wav(length: int, riff: int, extra: bytes = b"", samples: np.ndarray = WAVE) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVEfmt "
        + form
        + extra
        + b"data"
        + struct.pack("<I", length)
        + samples.tobytes()
    )


@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, 0x7FFFF024, 0x7FFFFFFF])
@pytest.mark.parametrize(
    "length", [0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36, 0x7FFF0000, 0]
)
@pytest.mark.parametrize("extra", [b"", b"LIST\x04\x00\x00\x00INFO"])
def test_lengths_of_pipes(length: int, riff: int, extra: bytes) -> None:
    found = read_sound(wav(length, riff, extra), RATE)
    np.testing.assert_array_equal(found, (WAVE / 32768).astype(np.float32))


@pytest.mark.parametrize("length", [48002, 100000, 0x10000000, 0x7FFE0000])
def test_what_is_cut_off_is_broken(length: int) -> None:
    with pytest.raises(BadSample, match=f"truncated: 48000 of {length} bytes"):
        read_sound(wav(length, length + 36), RATE)


def test_no_samples_are_no_sound() -> None:
    for data in (wav(0, 36, samples=WAVE[:0]), wav(0, 0, samples=WAVE[:0])):
        with pytest.raises(BadSample, match="zero samples"):
            read_sound(data, RATE)
    au = b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, RATE, 1) + WAVE.byteswap().tobytes()
    np.testing.assert_array_equal(read_sound(au, RATE), (WAVE / 32768).astype(np.float32))


def encoded(form: str, codec: str | None, picture: str | None = None, rate: int = RATE) -> bytes:
    """A second of a tone of 440 Hz, and of ten grey pictures."""
    av = pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    out = io.BytesIO()
    with av.open(out, "w", format=form) as file:
        sound, pictures = None, None
        if picture:
            pictures = file.add_stream(picture, rate=10)
            pictures.width = pictures.height = 32
            pictures.pix_fmt = "yuv420p"
        if codec:
            sound = file.add_stream(codec, rate=rate)
            sound.layout = "mono"
        for number in range(10 if pictures else 0):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            file.mux(pictures.encode(frame))
        if pictures:
            file.mux(pictures.encode())
        if sound:
            tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = rate
            fit = av.AudioResampler(sound.format.name, "mono", rate, frame_size=sound.frame_size or None)
            for part in [*fit.resample(frame), *fit.resample(None)]:
                file.mux(sound.encode(part))
            file.mux(sound.encode())
    return out.getvalue()


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("adts", "aac"),
        ("ac3", "ac3"),
        ("eac3", "eac3"),
        ("mp4", "aac"),
        ("matroska", "aac"),
        ("mpegts", "aac"),
        ("avi", "ac3"),
        ("flv", "aac"),
        ("tta", "tta"),
        ("wv", "wavpack"),
        ("wav", "pcm_mulaw"),
        ("wav", "adpcm_ms"),
        ("au", "pcm_s16be"),
    ],
)
def test_formats_by_whichever_decoder_knows_them(form: str, codec: str) -> None:
    data = encoded(form, codec, rate=48000)
    wave = read_sound(data, RATE)
    assert wave is not None and len(wave) / RATE == pytest.approx(1, abs=0.1)
    middle = wave[4000:12000]
    assert middle.std() == pytest.approx(0.5 / 2**0.5, rel=0.1)
    assert np.abs(np.fft.rfft(middle)).argmax() / 0.5 == pytest.approx(440, abs=4)
    if form == "mp4":
        with pytest.raises(BadSample):
            read_sound(data[: len(data) // 2], RATE)


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi", "mpegts"])
def test_a_clip_without_a_sound_track_lacks_it(form: str, tmp_path: Path) -> None:
    silent = encoded(form, None, "mpeg4")
    (tmp_path / "clip").write_bytes(silent)
    for raw in (silent, {"bytes": silent, "path": None}, str(tmp_path / "clip")):
        assert read_sound(raw, RATE) is None
    both = read_sound(encoded(form, "aac", "mpeg4"), RATE)
    assert both is not None and both.std() > 0.2


def test_what_is_no_sound_at_all_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    cases: list[bytes] = [b"this is a text, and no sound\n" * 50, np.random.default_rng(0).bytes(5000)]
    for kind in ("PNG", "JPEG", "BMP", "WEBP"):
        out = io.BytesIO()
        Image.new("RGB", (20, 20)).save(out, kind)
        cases.append(out.getvalue())
    for data in cases:
        with pytest.raises(BadSample, match="cannot decode sound"):
            read_sound(data, RATE)
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadSample, match=r"av.*not installed.*pip install 'mmssl\[video\]'"):
        read_sound(cases[0], RATE)


def test_a_picture_that_is_shown_for_long_is_no_truncation(tmp_path: Path) -> None:
    """The file's duration counts it; its pictures end before."""
    av = pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")
    from mmssl_video.decode import Wanted, read_clip

    path = tmp_path / "slow.mp4"
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * number, np.uint8), format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                if number == 9:
                    packet.duration = 50
                file.mux(packet)
        for packet in stream.encode():
            packet.duration = 50
            file.mux(packet)
    clip = read_clip(str(path), Wanted(100, 5.0))
    assert clip is not None and len(clip[0]) >= 5
