"""What raw values of all kinds have in common: structs of bytes and path, tensors, .npy."""

from __future__ import annotations

import ast
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch

from ..boundary import reading_sample, reason
from ..errors import BadSample, UserError, one_line
from ..limits import check

Array = np.ndarray[Any, Any]

NPY_MAGIC = b"\x93NUMPY"
FFMPEG = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,nut,mxf,ivf,"
    "gif,apng,h264,hevc,av1,obu,m4v,mjpeg,dv,yuv4mpegpipe,rm,wtv,wav,mp3,flac,aac,aiff,ac3,eac3,amr,tta,wv,ape,"
    "caf,w64,au,voc,dts,truehd,oma,tak,mpc,mpc8,dsf",
    "protocol_whitelist": "file",
}
"""Options for `av.open`: containers that hold what they play. Playlists, session descriptions and lists of files name
other files and addresses, which FFmpeg would open."""
NPY_HEADER = 10_000  # bytes, as NumPy has it


class Window(dict[str, Any]):
    """The raw value of a window of a longer recording in a table: what `read` takes, with "start" and "stop".

    Attributes:
        whole: the value of the whole recording, without its place; arrays in it are views.
        told_by: what is equal of windows of one recording alone.
    """

    def __init__(self, whole: object, start: float | None, stop: float | None, told_by: object = None) -> None:
        if isinstance(whole, Mapping):
            named = dict(whole)
        elif isinstance(whole, (bytes, memoryview)):
            named = {"bytes": whole, "path": None}
        else:
            named = {"bytes": None, "path": whole} if isinstance(whole, str) else {"array": whole}
        super().__init__(named, start=start, stop=stop)
        self.whole, self.told_by = whole, told_by


def select(raw: Mapping[str, object], columns: str | Sequence[str]) -> object:
    """The value(s) of a modality in one row: a column's value, or a dict of several columns' values, with "start" and
    "stop" where they are windows of longer ones."""
    if isinstance(columns, str):
        return raw[columns]
    values = {column: raw[column] for column in columns}
    windows = [value for value in values.values() if isinstance(value, Window)]
    place = {"start": windows[0]["start"], "stop": windows[0]["stop"]} if windows else {}
    return {c: v.whole if isinstance(v, Window) else v for c, v in values.items()} | place


def unwrap(raw: Mapping[str, object], noun: str, *others: str) -> object:
    """The bytes, or else the path, of the struct that undecoded columns of `datasets` hold.

    Args:
        raw: the struct.
        noun: what it is, for the message: "an image".
        others: which other structs its caller takes, for the message.

    Raises:
        UserError: it is none: the recipe's columns are wrong.
    """
    if "bytes" not in raw and "path" not in raw:
        found = ", ".join(map(repr, raw)) or "nothing"
        structs = " or of ".join(["bytes and path", *others])
        raise UserError(f"{noun} is read from one column, or from a struct of {structs}; found {found}")
    data = raw.get("bytes")
    return raw.get("path") if data is None else data


def stretch_of(raw: object) -> tuple[float, float | None]:
    """(start, stop) in seconds of the stretch that a struct names; of anything else all."""
    if not isinstance(raw, Mapping) or raw.get("start") is None:
        return 0.0, None
    start, stop = raw["start"], raw.get("stop")
    good = isinstance(start, (int, float)) and start >= 0 and (stop is None or isinstance(stop, (int, float)))
    if not good or (stop is not None and not stop > start):
        raise BadSample(f"start {start!r} and stop {stop!r}, expected seconds, in this order")
    return float(start), None if stop is None else float(stop)


def single(raw: object, noun: str) -> object:
    """The one value of a list of one, such as a column `images` of the Hub holds; anything else as it is.

    Lists of numbers are arrays. Raises BadSample where a list holds several values.
    """
    if not isinstance(raw, (list, tuple)) or not all(v is None or isinstance(v, (Mapping, bytes, str)) for v in raw):
        return raw
    if len(raw) > 1:
        raise BadSample(f"a list of {len(raw)} values, expected one {noun}: give each of them a row of its own")
    return raw[0] if raw else None


def is_blank(raw: object) -> bool:
    """Whether a raw value is null: None, or blank where a path is expected."""
    return raw is None or (isinstance(raw, str) and not raw.strip())


def as_array(raw: object, noun: str) -> Array:
    """A tensor, an array or nested lists of numbers as an array; BadSample where lists are of unequal lengths."""
    if isinstance(raw, torch.Tensor):
        dense = raw.detach().cpu().to_dense()
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()  # NumPy has no bfloat16
    try:
        return native(np.asarray(raw))
    except ValueError as error:
        raise BadSample(f"nested lists of unequal lengths are no {noun} ({error})") from error


def native(array: Array) -> Array:
    """The array in this machine's byte order: of the other one its type equals no other, and torch takes none."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def load_npy(source: bytes | BinaryIO) -> Array:
    """The array of a .npy file, never unpickled; BadSample where it cannot be read, or is too large."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    check_npy(file)
    with reading_sample("cannot read .npy"):
        try:
            array: Array = np.lib.format.read_array(file, allow_pickle=False)
        except ValueError as error:
            raise BadSample(f"cannot read .npy: {numpy_said(error)}") from error
    return native(array)


def numpy_said(error: Exception) -> str:
    """What numpy says of an array that it cannot read; not its advice to run whatever a file holds (allow_pickle)."""
    if "pickle" in str(error):
        return "it holds objects of Python and no plain array; save it as an array of numbers"
    return one_line(error)


def check_npy(file: BinaryIO, name: str = "") -> tuple[int, ...]:
    """The shape that the header of a .npy file says; see `header_of`."""
    return header_of(file, name)[0]


def header_of(file: BinaryIO, name: str = "") -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, type) that the header of a .npy file says, before memory is taken for it; the file is at its beginning
    then.

    Args:
        file: at its beginning.
        name: of the array, for the message.

    Raises:
        BadSample: the header is damaged, the array is too large or holds Python objects.
    """
    what = f"array '{name}'" if name else ".npy"
    try:
        major, _ = np.lib.format.read_magic(file)
        length = int.from_bytes(file.read(2 if major == 1 else 4), "little")
        if not 0 < length <= NPY_HEADER:
            raise ValueError(f"a header of {length:,} bytes, expected at most {NPY_HEADER:,}")
        said = ast.literal_eval(file.read(length).decode("utf-8" if major == 3 else "latin-1"))
        shape, dtype = tuple(map(int, said["shape"])), np.lib.format.descr_to_dtype(said["descr"])
    except (Exception, MemoryError) as error:  # a dict as Python writes it: its parser raises whatever it meets
        raise BadSample(f"cannot read {what}: {reason(error)}") from error
    if dtype.hasobject:
        raise BadSample(
            f"cannot read {what}: it holds objects of Python and no plain array; save it as an array of numbers"
        )
    check("values", math.prod(shape), f"numbers in {what}")
    check("bytes", math.prod(shape) * dtype.itemsize, f"bytes in {what}")
    file.seek(0)
    return shape, dtype
