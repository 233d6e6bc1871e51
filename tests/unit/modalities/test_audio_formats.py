"""Headers that do not know how long a sound is, formats that soundfile does not know, clips without a sound track."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmssl.errors import BadSample
from mmssl.modality.containers import refuse_cut
from mmssl_audio.decode import read_sound
from mmssl_audio.stretches import sound_seconds

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


# --------------------------------------------------------------------- lengths in headers of other containers than WAV

PIPES = {  # format -> where its header says the length of the samples, its bytes, and what a writer into a pipe says
    "AIFF": (b"SSND", 4, 0x7F000008),
    "AU": (b".snd", 8, 0xFFFFFFFF),
    "W64": (b"data\xf3\xac\xd3\x11", 16, 2**63 - 1),
    "CAF": (b"data", 4, 2**64 - 1),
    "RF64": (b"ds64", 16, 0),
    "NIST": None,
    "AVR": None,
    "VOC": None,
    "SVX": None,
}


def written(form: str) -> bytes:
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    out = io.BytesIO()
    soundfile.write(out, WAVE, RATE, format=form, subtype="PCM_16")
    return out.getvalue()


@pytest.mark.parametrize("form", PIPES)
def test_a_container_that_is_cut_off_is_broken(form: str) -> None:
    whole = written(form)
    found = read_sound(whole, RATE)
    assert found is not None
    np.testing.assert_allclose(found[: len(WAVE)], WAVE / 32768, atol=1e-4)
    for rest in (len(whole) - 4000, len(whole) // 2):
        with pytest.raises(BadSample, match="truncated"):
            read_sound(whole[:rest], RATE)


@pytest.mark.parametrize("form", [form for form, place in PIPES.items() if place])
def test_lengths_of_pipes_in_other_containers(form: str) -> None:
    mark, behind, unknown = PIPES[form]
    width, order = (8 if form in ("W64", "CAF", "RF64") else 4), ("little" if form in ("W64", "RF64") else "big")
    data = bytearray(written(form))
    at = data.index(mark) + behind
    data[at : at + width] = unknown.to_bytes(width, order)
    with io.BytesIO(bytes(data)) as file:
        refuse_cut(file)
        assert file.tell() == 0


@pytest.mark.parametrize("form", ["mov", "avi", "matroska"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8"])
def test_samples_that_a_container_lists_one_by_one_are_no_truncation(form: str, codec: str) -> None:
    """AVI and MOV count every sample of PCM as a frame, of which a packet holds many: the sound of many cameras."""
    whole = encoded(form, codec)
    wave = read_sound(whole, RATE)
    assert wave is not None and abs(len(wave) - RATE) < 10
    assert wave.std() == pytest.approx(0.5 / 2**0.5, rel=0.05)
    if form != "mov":  # whose list stands at the end
        with pytest.raises(BadSample, match="truncated"):
            read_sound(whole[: len(whole) // 2], RATE)


@pytest.mark.parametrize("fork", [b"", b"no fork", None])
def test_a_file_of_the_working_directory_is_no_part_of_a_sound(
    fork: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libsndfile takes `._` for the header (Sound Designer 2) of whatever it does not know."""
    soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed: pip install 'mmssl[audio]'")
    monkeypatch.chdir(tmp_path)
    if fork is None:
        soundfile.write("x.sd2", WAVE, RATE, format="SD2")
        (tmp_path / "._x.sd2").rename(tmp_path / "._")
    else:
        (tmp_path / "._").write_bytes(fork)
    wave = read_sound(encoded("adts", "aac"), RATE)
    assert wave is not None and abs(len(wave) - RATE) < 0.15 * RATE
    assert sound_seconds(encoded("adts", "aac")) == pytest.approx(1.1, abs=0.2)
    with pytest.raises(BadSample, match="neither soundfile nor av can"):
        read_sound(b"hello, no sound at all", RATE)


def test_reasons_name_no_object_of_python() -> None:
    with pytest.raises(BadSample) as caught:
        read_sound(wav(48000, 48036).replace(b"\x01\x00\x01\x00", b"\x01\x00\x00\x00", 1), RATE)
    assert "hannel" in str(caught.value) and "<_io" not in str(caught.value) and "object at" not in str(caught.value)


@pytest.mark.parametrize("rate", [1, 15, 16_000_001])
def test_rates_that_are_none(rate: int) -> None:
    """Of 32 kB at 1 Hz 256 million samples would become."""
    with pytest.raises(BadSample, match="sampling rate"):
        read_sound({"array": WAVE, "sampling_rate": rate}, RATE)
