"""Folders of `.npy`: what the arrays are, by the shapes in the headers of some of them.

One axis is a recording. Two are a picture where they are bytes or nearly square, and nothing tells of channels or a
rate; else a recording. Three are a picture where the first or the last of them is of channels, else a volume. Four are
a video of frames, or a volume with channels. Each could be otherwise in somebody's data, so the reason is said, and
`--column MODALITY=MODALITY` says another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..boundary import reading_sample
from ..errors import BadSample, UserError
from ..modality.pixels.decode import MOST_COLOURS, channels_first
from ..modality.raw import header_of

LOOKED_AT = 64
"""Arrays whose headers are read, from all parts of the list."""
COLOURS = (3, 4)
"""Channels of a frame of a video; of bytes also one."""
BANDS, BESIDE = 16, 4
"""Channels of pictures at most, where more than `MOST_COLOURS`; the other axes are so many times as long."""
LEAST_SIDE, SQUARE = 8, 2
"""Of a picture without channels: its shorter side at least, and how many times that the longer one is at most."""


@dataclass(frozen=True)
class Arrays:
    """What arrays are: a modality (`signal`: a recording of some kind), why, and what else they may be."""

    modality: str
    why: str
    other: str = ""


def headers(files: Sequence[str]) -> list[tuple[tuple[int, ...], str]]:
    """(shape, kind of number as numpy has it) of some of the files that can be read.

    Raises:
        UserError: of none.
    """
    step = max(len(files) // LOOKED_AT, 1)
    found, fault = [], ""
    for file in files[::step][:LOOKED_AT]:
        try:
            with reading_sample(), open(file, "rb") as opened:
                shape, dtype = header_of(opened)
            found.append((shape, dtype.str[1:]))
        except BadSample as error:
            fault = fault or f"'{file}': {error}"
    if not found:
        raise UserError(f"data.path: none of some .npy files can be read: {fault}")
    return found


def look_at_arrays(files: Sequence[str], signals: Callable[[set[int]], bool]) -> Arrays:
    """What a folder's arrays are.

    Args:
        files: paths of .npy files.
        signals: whether something beside them says that they are recordings, of so many channels.

    Raises:
        UserError: none can be read, or they are nothing that a modality reads.
    """
    known = headers(files)
    if len(files) == 1:
        raise UserError(
            f"data.path: '{files[0]}' is one array, {_span([known[0][0]])}, and one file is one row: write a file a "
            "row, or a table"
        )
    (axes, _), *_ = Counter(len(shape) for shape, _ in known).most_common()
    shapes = [shape for shape, _ in known if len(shape) == axes and 0 not in shape]
    where = Path(files[0]).parent
    if not shapes or not 1 <= axes <= 4:
        some = f"empty: {known[0][0]}" if 1 <= axes <= 4 else f"of {axes} axes" if axes else "a single number each"
        raise UserError(
            f"data.path: the arrays in '{where}' are {some}; expected recordings, pictures, volumes or videos of 1 to "
            "4 axes (numbers of one row each: a table)"
        )
    if axes == 1:
        return Arrays("signal", "arrays of one axis are recordings of one channel")
    octets = all(kind == "u1" for _, kind in known)
    if axes == 2:
        return _two(shapes, octets, signals)
    return _three(shapes) if axes == 3 else _four(shapes, octets)


def _two(shapes: Sequence[tuple[int, ...]], octets: bool, signals: Callable[[set[int]], bool]) -> Arrays:
    short, long = min(map(min, shapes)), max(max(shape) / min(shape) for shape in shapes)
    told = f"arrays of two axes, {_span(shapes)}"
    if octets and short >= LEAST_SIDE:
        return Arrays("image", f"{told}, of bytes: pictures without colour", "series")
    if short >= LEAST_SIDE and long <= SQUARE and not signals({size for shape in shapes for size in shape}):
        return Arrays(
            "image", f"{told}: nearly square, and nothing beside them tells channels or a rate: pictures", "series"
        )
    return Arrays("signal", f"{told}: recordings, the shorter axis is of channels")


def _three(shapes: Sequence[tuple[int, ...]]) -> Arrays:
    told = f"arrays of three axes, {_span(shapes)}"
    axis = _channels_of(shapes)
    if axis is not None:
        counts = sorted({shape[axis] for shape in shapes})
        which, many = "first" if axis == 0 else "last", " or ".join(map(str, counts))
        return Arrays("image", f"{told}: the {which} axis, of {many}, is taken for the channels of pictures", "volume")
    return Arrays("volume", f"{told}: neither the first nor the last axis looks like channels: volumes", "image")


def _channels_of(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """Which of three axes, 0 or 2, is of channels in all: short enough for colours, or the same few bands everywhere;
    and the one for which a reader of pictures would take it."""
    for axis in (2, 0):
        sizes = {shape[axis] for shape in shapes}
        others = min(min(shape[1], shape[2 - axis]) for shape in shapes)
        bands = len(sizes) == 1 and max(sizes) <= BANDS and BESIDE * max(sizes) <= others
        if (max(sizes) <= MOST_COLOURS or bands) and all(_taken(shape) == axis for shape in shapes):
            return axis
    return None


def _taken(shape: tuple[int, ...]) -> int | None:
    try:
        return 0 if channels_first(shape) else 2
    except BadSample:
        return None


def _four(shapes: Sequence[tuple[int, ...]], octets: bool) -> Arrays:
    told = f"arrays of four axes, {_span(shapes)}"
    colours = (*COLOURS, 1) if octets else COLOURS
    for axis, name in ((3, "last"), (1, "second")):
        if all(shape[axis] in colours for shape in shapes):
            return Arrays("video", f"{told}: the {name} axis is taken for the colours of frames: videos", "volume")
    return Arrays("volume", f"{told}: none is of the colours of frames: volumes with channels", "video")


def _span(shapes: Sequence[tuple[int, ...]]) -> str:
    """ "18 to 20 x 24 x 20 to 24": how long each axis is."""
    spans = [(min(of), max(of)) for of in zip(*shapes, strict=True)]
    return " x ".join(f"{low}" if low == high else f"{low} to {high}" for low, high in spans)
