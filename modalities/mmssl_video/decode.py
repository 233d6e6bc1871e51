"""Any kind of raw video to one clip: the frames that are shown at asked times, and these times.

Files are decoded with av; a folder or a list holds a frame a picture. Of a long file only the wanted stretch is
decoded. A value that is broken raises `BadSample` with the reason; a null one is None.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mmssl.boundary import regular_file
from mmssl.errors import BadSample
from mmssl.limits import check
from mmssl.modality.pixels.decode import decode, from_array, read_file
from mmssl.modality.pixels.folder import pictures_in
from mmssl.modality.raw import FFMPEG, NPY_MAGIC, Array, as_array, is_blank, load_npy, stretch_of, unwrap

from .lengths import LOST, all_listed, first_stream, length_of, video_library, zero_of

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

TOLERANCE = 1e-4
"""Seconds by which a frame's time may lie after the asked one: times are rounded to the file's time base."""
SEEK_FROM = 2.0
"""Seconds before which decoding from the start is no slower than seeking to a key frame."""


@dataclass(frozen=True)
class Wanted:
    """Which clip is wanted of a video.

    Attributes:
        frames: at most so many.
        fps: so many a second; None: every frame as it comes.
        choice: a large random integer that picks where a clip starts in a longer video, 0 is at the beginning.
        default_fps: rate of frame folders, lists and arrays that say none.
        channels: 1 = grey, None = as the data has.
        background: 1 or 3 numbers of 0..255, behind transparent pixels.
        layout: "channels_first" or "channels_last", of frames that are arrays; None: by their shape.
        begin: seconds before which no clip starts.
        stop: seconds at which it ends at the latest; None: with the video.
    """

    frames: int
    fps: float | None
    choice: int = 0
    default_fps: float = 25.0
    channels: int | None = None
    background: Sequence[int] = (0,)
    layout: str | None = None
    begin: float = 0.0
    stop: float | None = None

    def start(self, duration: float, rate: float) -> float:
        """Seconds at which the clip starts in a video of this duration and frame rate."""
        if self.begin and self.begin >= duration:
            raise BadSample(f"start: found {self.begin:g} s, but the video ends at {duration:g} s")
        room = max(self._end(duration) - self.begin - self.frames / (self.fps or rate), 0.0)
        return self.begin + (room * (self.choice % (1 << 20)) / (1 << 20) if room else 0.0)

    def _end(self, duration: float) -> float:
        return duration if self.stop is None else min(self.stop, duration)

    def times(self, start: float, duration: float) -> list[float]:
        """The asked times, those before the video's end."""
        assert self.fps is not None
        asked = [start + k / self.fps for k in range(self.frames)]
        return [t for k, t in enumerate(asked) if t < self._end(duration) - TOLERANCE or k == 0]


Timed = Iterator[tuple[float, "VideoFrame"]]
"""Pictures of a file with their seconds from its first one."""
Clip = tuple[list[Array], list[float]]
"""Frames (h, w, C), uint8, uint16 or float32, and their times in seconds from the clip's first one."""


def read_clip(raw: object, wanted: Wanted) -> Clip | None:
    """One clip of a raw video.

    Args:
        raw: encoded bytes, {"bytes", "path"} with or without "start" and "stop" in seconds, a path of a file or of a
            folder of pictures (in natural order), a list of pictures, {"frames", "fps"}, or an array (T, H, W),
            (T, H, W, C) or (T, C, H, W).
        wanted: which clip.

    Returns:
        None for a null value.

    Raises:
        BadSample: the value is broken, with the reason.
        UserError: a struct of other things, or a package that decodes it is missing.
    """
    fps = wanted.default_fps
    if isinstance(raw, Mapping):
        begin, stop = stretch_of(raw)
        wanted = replace(wanted, begin=begin, stop=stop)
        raw, fps = _unwrap(raw, fps)
    if is_blank(raw):
        return None
    if isinstance(raw, (str, Path)):
        path = Path(raw)
        if path.is_dir():
            return _from_pictures(pictures_in(path), fps, wanted)
        if not path.exists():
            raise BadSample(f"cannot read file '{path}': no such file or folder")
        if regular_file(path).suffix.lower() == ".npy":
            raw = read_file(path)
        elif not path.stat().st_size:
            raise BadSample("empty file (0 bytes)")
        else:
            return _decoded(lambda: str(path.absolute()), wanted)
    if isinstance(raw, (bytes, bytearray, memoryview)):
        data = bytes(raw)
        if not data:
            raise BadSample("empty file (0 bytes)")
        if data.startswith(NPY_MAGIC):
            return _from_array(load_npy(data), fps, wanted)
        return _decoded(lambda: io.BytesIO(data), wanted)
    if isinstance(raw, (list, tuple)) and raw and not isinstance(raw[0], (list, tuple, int, float)):
        return _from_pictures(raw, fps, wanted)
    return _from_array(raw, fps, wanted)


def _unwrap(raw: Mapping[str, object], fps: float) -> tuple[object, float]:
    """(inside of the struct, its frame rate)."""
    if "frames" not in raw and "array" not in raw:
        return unwrap(raw, "a video", "frames and fps"), fps
    found = fps if raw.get("fps") is None else raw["fps"]
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < 1e6:
        raise BadSample(f"frame rate {found!r}, expected a positive number of frames a second")
    return raw["frames"] if "frames" in raw else raw["array"], float(found)


# ---------------------------------------------------------------------------------------------- pictures and arrays


def _from_pictures(pictures: Sequence[object], fps: float, wanted: Wanted) -> Clip:
    def one(index: int) -> Array:
        picture = decode(pictures[index], wanted.background, wanted.channels, wanted.layout)
        if picture is None:
            raise BadSample(f"frame {index} is empty")
        return picture

    return _chosen(len(pictures), fps, wanted, one)


def _from_array(raw: object, fps: float, wanted: Wanted) -> Clip:
    array = as_array(raw, "video")
    if array.dtype.kind not in "buif":
        raise BadSample(f"expected a video (bytes, path, frames or array of numbers), found {type(raw).__name__}")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise BadSample(f"expected an array (T, H, W), (T, H, W, C) or (T, C, H, W), found shape {tuple(array.shape)}")
    if array.ndim == 3 and array.shape[2] <= 4 < array.shape[1]:
        raise BadSample(
            f"found an array of shape {tuple(array.shape)}, a picture; expected a video: (1, H, W, C) for one"
        )
    return _chosen(len(array), fps, wanted, lambda index: from_array(array[index], wanted.channels, wanted.layout))


def _chosen(count: int, fps: float, wanted: Wanted, frame: Callable[[int], Array]) -> Clip:
    """The wanted ones of `count` frames that come `fps` a second."""
    duration = count / fps
    start = wanted.start(duration, fps)
    if wanted.fps is None:
        first = min(round(start * fps), count - 1)
        indices = list(range(first, min(first + wanted.frames, count)))
        return [frame(i) for i in indices], [k / fps for k in range(len(indices))]
    times = wanted.times(start, duration)
    indices = [min(int((t + TOLERANCE) * fps), count - 1) for t in times]
    known = {i: frame(i) for i in dict.fromkeys(indices)}
    return [known[i] for i in indices], [t - start for t in times]


# ------------------------------------------------------------------------------------------------------------- files


def _decoded(source: Callable[[], str | BinaryIO], wanted: Wanted) -> Clip:
    """A clip of a file; source() is its path, or a new file object on its bytes."""
    av = video_library()
    try:
        duration, rate, promised = length_of(source())
        start = wanted.start(duration, rate)
        timed = _from_time(source, start)
        if wanted.fps is None:
            clip, end = _every(timed, start, rate, wanted)
        else:
            clip, end = _at(timed, start, duration, rate, wanted)
    except (av.FFmpegError, ValueError, EOFError) as error:
        raise BadSample(f"cannot decode video: {' '.join(str(error).split())}") from error
    if not clip[0]:
        raise BadSample("no picture could be decoded")
    if end is not None and promised and end < duration - max(LOST, 0.1 * duration) and not all_listed(source()):
        raise BadSample(f"truncated: the pictures end after {end:.2f} of {duration:.2f} s")
    return clip


def _from_time(source: Callable[[], str | BinaryIO], start: float) -> Timed:
    """(seconds from the video's first picture, frame), from the picture shown at `start` or from an earlier one."""
    av = video_library()
    if start > SEEK_FROM:
        with av.open(source(), options=dict(FFMPEG)) as container:
            stream = first_stream(container)
            assert stream is not None and stream.time_base is not None
            try:
                container.seek(int((zero_of(stream) + start) / stream.time_base), stream=stream, backward=True)
                seekable = True
            except av.FFmpegError:
                seekable = False  # raw streams; decoded from the start below
            if seekable:
                frames = _timed(container, stream)
                head = next(frames, None)
                if head is not None and head[0] <= start + TOLERANCE:
                    yield head
                    yield from frames
                    return
    with av.open(source(), options=dict(FFMPEG)) as container:
        stream = first_stream(container)
        assert stream is not None
        yield from _timed(container, stream)


def _timed(container: InputContainer, stream: VideoStream) -> Timed:
    zero, rate = zero_of(stream), float(stream.average_rate or stream.guessed_rate or 25)
    for number, frame in enumerate(container.decode(stream)):
        time = number / rate
        if frame.pts is not None and frame.time_base is not None:
            time = float(frame.pts * frame.time_base) - zero
        if frame.is_corrupt:
            raise BadSample(f"corrupt picture at {time:.2f} s")
        yield time, frame


def _at(timed: Timed, start: float, duration: float, rate: float, wanted: Wanted) -> tuple[Clip, float | None]:
    """What is shown at the asked times, and the end of the pictures in seconds where it was met."""
    asked = wanted.times(start, duration)
    convert = _converter(wanted.channels)
    pictures: list[Array] = []
    shown: Array | None = None
    last: tuple[float, VideoFrame] | None = None
    end: float | None = None
    while len(pictures) < len(asked):
        following = next(timed, None)
        until = following[0] if following else last[0] + 1 / rate if last else 0.0
        while last is not None and len(pictures) < len(asked) and asked[len(pictures)] < until - TOLERANCE:
            shown = convert(last[1]) if shown is None else shown
            pictures.append(shown)
        if following is None:
            end = until
            break
        last, shown = following, None
    return (pictures, [t - start for t in asked[: len(pictures)]]), end


def _every(timed: Timed, start: float, rate: float, wanted: Wanted) -> tuple[Clip, float | None]:
    """Consecutive pictures from the first one at `start` on, and the end of the pictures where it was met."""
    convert = _converter(wanted.channels)
    pictures: list[Array] = []
    times: list[float] = []
    last = 0.0
    for time, frame in timed:
        last = time
        if time >= start - 0.5 / rate:
            pictures.append(convert(frame))
            times.append(time)
            if len(pictures) == wanted.frames:
                return (pictures, [t - times[0] for t in times]), None
    return (pictures, [t - times[0] for t in times]), last + 1 / rate


def _converter(channels: int | None) -> Callable[[VideoFrame], Array]:
    """Frames of one video to (h, w, C) uint8, turned upright as the file asks. `frame.to_ndarray(format=...)` gives
    the same, but sets up its conversion anew for every frame, which takes longer than decoding does."""
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    kind = "gray" if channels == 1 else "rgb24"

    taken = 0

    def convert(frame: VideoFrame) -> Array:
        nonlocal taken
        taken += frame.width * frame.height * (1 if channels == 1 else 3)
        check("pixels", frame.width * frame.height, f"pixels a picture ({frame.width} x {frame.height})")
        check("bytes", taken, "bytes of pictures")
        picture: Array = reformatter.reformat(frame, format=kind).to_ndarray()
        picture = picture[..., None] if picture.ndim == 2 else picture
        return _upright(picture, frame)

    return convert


def _upright(picture: Array, frame: VideoFrame) -> Array:
    """(h, w, C) as it is to be shown: turned, and turned over, by the display matrix, where the file has one.

    Its rows a, b and c, d of 16.16 fixed point say that a pixel (x, y) is shown at (a x + c y, b x + d y); of other
    angles the nearest of 90 degrees counts.
    """
    from av.sidedata.sidedata import Type

    found: Any = frame.side_data  # a mapping to av's annotations, and a sequence in use
    matrix = next((data for data in found if data.type is Type.DISPLAYMATRIX), None)
    if matrix is None:
        return picture
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), "<i4" if sys.byteorder == "little" else ">i4").tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, x, y = picture.transpose(1, 0, 2), c, b
    else:
        x, y = a, d
    return picture[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
