"""Stretches of sound files: what is wanted of them, how long they are, and what av reads where soundfile cannot."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mmssl.boundary import regular_file
from mmssl.errors import BadSample, UserError
from mmssl.limits import check
from mmssl.modality.raw import FFMPEG, Array

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

SEEK_FROM = 5.0  # seconds before which decoding from the start is no slower than seeking
PREROLL = 0.2  # seconds decoded before a window: codecs need the frames before


@dataclass(frozen=True)
class Wanted:
    """Which stretch is wanted of a sound.

    Attributes:
        seconds: the longest; None: all.
        choice: picks where it begins, 0 at the beginning.
        start: seconds before which nothing is taken.
        stop: seconds from which on nothing is; None: the end.
    """

    seconds: float | None
    choice: int
    start: float = 0.0
    stop: float | None = None

    def of(self, wave: Array, rate: int) -> Array:
        """The wanted samples of (S, C)."""
        start, count = self.place(len(wave), rate)
        return wave[start : start + count]

    def place(self, total: int, rate: int) -> tuple[int, int]:
        """(first, count) of the samples wanted of `total`."""
        low = round(self.start * rate)
        if low and low >= total:
            raise BadSample(f"start: found {self.start:g} s, but the sound ends at {total / rate:g} s")
        # one more than asked for, so that resampling does not fall short of it
        end = total if self.stop is None else min(total, math.ceil(self.stop * rate) + 1)
        count = end - low if self.seconds is None else min(end - low, math.ceil(self.seconds * rate) + 1)
        free = end - low - count
        return low + (self.choice % (free + 1) if free else 0), count


def sound_seconds(file: Path | bytes) -> float | None:
    """How long a sound is by the header of its file (its path, or what it holds); None where that does not say it, or
    the file holds no sound."""
    try:
        found = sound_library().info(io.BytesIO(file) if isinstance(file, bytes) else str(regular_file(file)))
        return float(found.frames) / max(found.samplerate, 1)
    except RuntimeError:  # none of soundfile's formats
        pass
    try:
        import av
    except ImportError:  # whoever reads the file says so
        return None
    source = io.BytesIO(file) if isinstance(file, bytes) else str(file)
    with av.open(source, "r", options=dict(FFMPEG)) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / av.time_base


def sound_library() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its libsndfile cannot be loaded
        raise UserError(
            f"sound files are decoded with soundfile, which cannot be used ({error}): pip install 'mmssl[audio]'"
        ) from error
    return soundfile


def window_of_mpeg(file: BinaryIO, wanted: Wanted, rate: int) -> Array | None:
    """A window of an MP3 by av, where it is installed: libsndfile's decoder begins in the middle of what a frame takes
    from those before it, and says so on the terminal. None where av cannot find it."""
    try:
        import av
    except ImportError:
        return None
    file.seek(0)
    try:
        with av.open(file, "r", options=dict(FFMPEG)) as container:
            stream = container.streams.audio[0]
            found = wanted if wanted.stop is not None else replace(wanted, stop=wanted.start + (wanted.seconds or 0))
            same = int(stream.rate) == rate and found.stop is not None and found.stop > found.start
            return _sought(container, stream, found, rate) if same else None
    except (av.FFmpegError, IndexError, ValueError):
        return None


def with_av(file: BinaryIO, size: int, wanted: Wanted) -> tuple[Array | None, int]:
    """What is wanted of the first sound track of a file that soundfile does not know, ((S, C) float32, rate); None for
    a video without one."""
    try:
        import av
    except ImportError as error:
        lacking = f"av, which is not installed ({error}): pip install 'mmssl[video]'"
        file.seek(0)
        if _is_container(file.read(12)):
            raise UserError(f"the sound of videos is decoded with {lacking}") from error
        raise BadSample(
            f"cannot decode sound: no format that soundfile knows ({size} bytes); more are decoded with {lacking}"
        ) from error
    try:
        with av.open(file, "r", options=dict(FFMPEG)) as container:
            if not container.streams.audio:
                if _is_clip(container):
                    return None, 0
                raise BadSample(f"cannot decode sound: a file without any ({container.format.name}, {size} bytes)")
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            if wanted.start > SEEK_FROM and wanted.stop is not None and stream.time_base is not None:
                part = _sought(container, stream, wanted, rate)
                if part is not None:
                    return part, rate
                container.seek(0)
            planar = av.AudioResampler(format="fltp")
            parts, packets, count = [], 0, 0
            for packet in container.demux(stream):
                packets += packet.size > 0
                parts += [out.to_ndarray() for frame in packet.decode() for out in planar.resample(frame)]
                count += sum(part.size for part in parts[-1:])
                check("values", count, "samples of sound")
            parts += [out.to_ndarray() for out in planar.resample(None)]
            # AVI and MOV list every sample of PCM as a frame, of which a packet holds many
            listed = sum(part.shape[1] for part in parts) if stream.codec_context.name.startswith("pcm") else packets
            if listed < stream.frames:  # 0 where the file does not list them
                raise BadSample(f"truncated: {listed} of {stream.frames} packets of sound are there")
    except BadSample:
        raise
    except (av.FFmpegError, ValueError) as error:
        raise BadSample(f"cannot decode sound: neither soundfile nor av can ({error}, {size} bytes)") from error
    if not parts:
        raise BadSample("no sound: zero samples")
    return wanted.of(np.ascontiguousarray(np.concatenate(parts, axis=1).T), rate), rate


def _sought(container: InputContainer, stream: AudioStream, wanted: Wanted, rate: int) -> Array | None:
    """The window of a long track, without decoding what lies before it; None where the file cannot be sought in."""
    import av

    assert stream.time_base is not None and wanted.stop is not None
    zero = float((stream.start_time or 0) * stream.time_base)
    try:
        container.seek(int((wanted.start - PREROLL + zero) / stream.time_base), stream=stream, backward=True)
    except av.FFmpegError:
        return None
    planar, parts, begin = av.AudioResampler(format="fltp"), [], None
    for frame in container.decode(stream):
        if frame.pts is None or frame.time_base is None:
            return None
        time = float(frame.pts * frame.time_base) - zero
        begin = time if begin is None else begin
        parts += [out.to_ndarray() for out in planar.resample(frame)]
        if time > wanted.stop + 1:
            break
    if begin is None or begin > wanted.start or not parts:
        return None
    wave = np.ascontiguousarray(np.concatenate(parts, axis=1).T)
    return replace(wanted, start=wanted.start - begin, stop=wanted.stop - begin).of(wave, rate)


def _is_container(head: bytes) -> bool:
    """Whether it surely is a video, so that av is what is lacking: MP4 and its like, Matroska or WebM, AVI, MPEG."""
    starts = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba")
    return head[4:8] == b"ftyp" or head.startswith(starts) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def _is_clip(container: InputContainer) -> bool:
    """Whether it is a video. A still picture or a text, which av opens, too, is a broken sound, not a missing one."""
    name = container.format.name
    return bool(container.streams.video) and not (name.endswith("_pipe") or name in ("image2", "tty"))
