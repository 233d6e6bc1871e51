"""What containers of videos say of them: turned and mirrored pictures, lengths, formats that nobody knows."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import numpy as np
import pytest

from mmssl.errors import BadSample
from mmssl.modality.raw import FFMPEG
from mmssl_video.decode import Wanted, read_clip
from mmssl_video.lengths import all_listed, length_of, video_seconds

av = pytest.importorskip("av", reason="av is not installed: pip install 'mmssl[video]'")

CORNERS = np.array([[[220, 30, 30], [30, 200, 30]], [[40, 40, 220], [230, 220, 40]]], dtype=np.uint8)
PICTURE = CORNERS.repeat(24, axis=0).repeat(32, axis=1)  # 48 high, 64 wide, a colour in each quarter


def video(form: str, codec: str, pictures: list[np.ndarray], rate: int = 8, kind: str = "yuv420p") -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = kind
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(format=kind)
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return out.getvalue()


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An mp4 file whose pictures are to be shown through (a, b, c, d)."""
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 4 + 40
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def test_every_look_at_a_file_opens_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    data, real, given = video("mp4", "mpeg4", [PICTURE] * 40), av.open, []

    def spied(*words: object, **options: object) -> object:
        given.append(options.get("options"))
        return real(*words, **options)

    monkeypatch.setattr(av, "open", spied)
    assert all_listed(io.BytesIO(data)) and length_of(io.BytesIO(data))[2] and video_seconds(data) == 5
    assert read_clip(data, Wanted(4, 1.0, choice=3)) is not None
    assert len(given) >= 5 and all(options == FFMPEG for options in given)


@pytest.mark.parametrize(
    ("matrix", "stored"),
    [
        ((1, 0, 0, 1), PICTURE),
        ((0, 1, -1, 0), np.rot90(PICTURE, 1)),
        ((-1, 0, 0, -1), np.rot90(PICTURE, 2)),
        ((0, -1, 1, 0), np.rot90(PICTURE, 3)),
        ((-1, 0, 0, 1), PICTURE[:, ::-1]),
        ((1, 0, 0, -1), PICTURE[::-1]),
        ((0, 1, 1, 0), PICTURE.transpose(1, 0, 2)),
        ((0, -1, -1, 0), np.rot90(PICTURE, 2).transpose(1, 0, 2)),
    ],
)
def test_pictures_are_shown_as_their_matrix_says(matrix: tuple[int, int, int, int], stored: np.ndarray) -> None:
    """A camera that looks at its owner mirrors what it stores."""
    clip = read_clip(with_matrix(video("mp4", "mpeg4", [stored] * 2), matrix), Wanted(1, None))
    assert clip is not None and clip[0][0].shape == PICTURE.shape
    assert np.abs(clip[0][0].astype(int) - PICTURE)[4::16, 4::16].max() < 20


@pytest.mark.parametrize(("form", "codec"), [("matroska", "mpeg4"), ("matroska", "ffv1"), ("webm", "libvpx")])
def test_a_segment_that_is_cut_off_is_broken(form: str, codec: str) -> None:
    """Matroska has no list of pictures that would tell it, but says how long its one segment is."""
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in range(16)]
    data = video(form, codec, noise)
    clip = read_clip(data, Wanted(16, 8.0))
    assert clip is not None and len(clip[0]) == 16
    with pytest.raises(BadSample, match="truncated: .* bytes are there"):
        read_clip(data[: len(data) // 2], Wanted(16, 8.0))


@pytest.mark.parametrize("form", ["mpeg", "mpegts"])
def test_short_streams_without_a_duration_are_counted(form: str) -> None:
    """av guesses from the last time stamp that it finds, which for sixteen small pictures is the first, too."""
    clip = read_clip(video(form, "mpeg2video", [PICTURE] * 16, rate=24), Wanted(16, 8.0))
    assert clip is not None and clip[1] == pytest.approx([k / 8 for k in range(6)])


def test_pictures_in_a_format_that_nobody_knows() -> None:
    data = video("mp4", "mpeg4", [PICTURE] * 2)
    with pytest.raises(BadSample, match="in no format that av knows"):
        read_clip(data.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"), Wanted(1, None))
