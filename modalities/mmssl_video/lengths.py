"""How long a video is, by its file: what the header says, or else what its packets do."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

from mmssl.boundary import regular_file
from mmssl.errors import BadSample, UserError
from mmssl.limits import check
from mmssl.modality.containers import cut_off
from mmssl.modality.raw import FFMPEG, NPY_MAGIC

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

ESTIMATED, ESTIMATE_FROM = ("mpeg", "mpegts"), 10.0
"""Formats without a duration, of which av looks at the times near the end; of few pictures it sees one alone, so that
up to these seconds all are counted."""
LOST = 0.5
"""Seconds of pictures that may be missing from what a file promises; more, and it is truncated."""


def video_library() -> ModuleType:
    """av. UserError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError(
            f"videos are decoded with av, which is not installed ({error}): pip install 'mmssl[video]'"
        ) from error
    return av


def first_stream(container: InputContainer) -> VideoStream | None:
    """The first stream of moving pictures: the cover of a song is none."""
    from av.stream import Disposition

    return next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)


def zero_of(stream: VideoStream) -> float:
    """Seconds at which the file's own clock shows its first picture."""
    if stream.start_time is None or stream.time_base is None:
        return 0.0
    return float(stream.start_time * stream.time_base)


def length_of(source: str | BinaryIO) -> tuple[float, float, bool]:
    """(duration in seconds, frames a second, whether the file says so of its pictures) without decoding."""
    cut = _cut_off(source)
    with video_library().open(source, options=dict(FFMPEG)) as container:
        stream = first_stream(container)
        if stream is None:
            raise BadSample("a file without pictures")
        if stream.codec_context is None:
            raise BadSample(
                "cannot decode video: its pictures are in no format that av knows, or their header is cut off"
            )
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        check("pixels", stream.width * stream.height, f"pixels a picture ({stream.width} x {stream.height})")
        check("frames", stream.frames, "pictures")
        if stream.duration and stream.time_base:
            check("seconds", float(stream.duration * stream.time_base), "seconds of pictures")
            said = float(stream.duration * stream.time_base)
            if said > ESTIMATE_FROM or container.format.name not in ESTIMATED:
                return said, rate, True
        first, last, count = None, 0.0, 0
        for packet in container.demux(stream):
            count += packet.size > 0
            if packet.pts is not None and packet.time_base is not None and packet.size:
                time = float(packet.pts * packet.time_base)
                first = time if first is None else min(first, time)
                last = max(last, time + (float(packet.duration * packet.time_base) if packet.duration else 1 / rate))
        length = count / rate if first is None else last - first
        whole = (container.duration or 0) / video_library().time_base
        if cut and (not whole or length < whole - max(LOST, 0.1 * whole)):
            raise BadSample(cut)
        return length, rate, False


def _cut_off(source: str | BinaryIO) -> str | None:
    if isinstance(source, str):
        with open(source, "rb") as file:
            return cut_off(file)
    return cut_off(source)


def video_seconds(file: Path | bytes) -> float | None:
    """How long a video is by the header of its file (its path, or what it holds); None where that does not say it."""
    head = file[:6] if isinstance(file, bytes) else file.suffix.lower()
    if head in (".npy", ".gif", NPY_MAGIC, b"GIF87a", b"GIF89a"):
        return None
    source = io.BytesIO(file) if isinstance(file, bytes) else str(regular_file(file))
    with video_library().open(source, options=dict(FFMPEG)) as container:
        stream = first_stream(container)
        if stream is None:
            return None
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / video_library().time_base


def all_listed(source: str | BinaryIO) -> bool:
    """Whether all pictures that the file's index lists are there: then its duration is wrong, or its last picture is
    shown for long."""
    with video_library().open(source, options=dict(FFMPEG)) as container:
        stream = first_stream(container)
        if stream is None or not stream.frames:
            return False
        return sum(packet.size > 0 for packet in container.demux(stream)) >= stream.frames
