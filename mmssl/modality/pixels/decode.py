"""Any kind of raw image to one array (height, width, channels): uint8, uint16, or float32 in the image's own units.

Later 8-bit values are divided by 255 and 16-bit values by 65535; all other numbers are taken as they are. EXIF
orientation is applied, palettes are looked up, alpha is composited over a background. A value that is broken raises
`BadSample` with the reason; a null one is None.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch

from ...boundary import is_ours, reading_sample, regular_file
from ...errors import BadSample, UserError, one_line
from ...limits import check
from ..raw import NPY_MAGIC, Array, as_array, is_blank, load_npy, single, unwrap
from .in_place import rgb_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile
    from PIL.ImageFile import _Tile as Tile

TIFF_BITS_PER_SAMPLE, TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0
EXIF_ORIENTATION = 0x0112
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R 601 weights, as Pillow's convert("L") has them."""

FORMATS = frozenset(
    "AVIF BLP BMP CUR DCX DDS DIB FITS FLI FTEX GIF ICNS ICO IM JPEG JPEG2000 MSP PCD PCX PIXAR PNG PPM PSD QOI SGI "
    "SPIDER SUN TGA TIFF WEBP XBM XPM".split()
)
"""Pillow's formats that hold pixels. Not those that it hands to other programs (EPS to Ghostscript), and no films,
archives or formats that it only knows the names of."""
MANY_ROWS, LEAST_ROW = 1 << 20, 16
"""From how many rows on a row counts how many pixels at least against `data.limits.pixels`."""
MOST_COLOURS = 4
"""Grey, grey and alpha, RGB, RGBA: of an axis that has no more than these nobody doubts that they are channels."""
STRIP = 1 << 22
"""Pixels that are composited at a time: of a picture of 80 million all at once would take gigabytes."""


def pillow() -> ModuleType:
    """The PIL.Image module; UserError with the pip line when Pillow is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(
            f"images are decoded with Pillow, which is not installed ({error}): pip install pillow"
        ) from error
    return Image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has."""
    module = pillow()
    module.init()
    return tuple(name for name in module.OPEN if name in FORMATS)


Shrink = Callable[[int, int], int]
"""(height, width) of a picture -> by which factor it may be read smaller: 1, 2, 4 or 8."""


def decode(
    raw: object,
    background: Sequence[int],
    channels: int | None = None,
    layout: str | None = None,
    shrink: Shrink | None = None,
) -> Array | None:
    """One raw image to (H, W, C) uint8, uint16 or float32, C as the image has it.

    Args:
        raw: a PIL image, encoded bytes, {"bytes", "path"}, a path, a numpy array or torch tensor (H, W), (H, W, C) or
            (C, H, W), nested lists of numbers.
        background: 1 or 3 numbers of 0..255 that transparent pixels are composited over.
        channels: the channel count that the user configured; tells (C, H, W) from (H, W, C) where both are possible.
        layout: "channels_first" or "channels_last", of arrays; None: by their shape.
        shrink: of JPEG files, whose decoder gives a half, a quarter or an eighth of each side for less. With it the
            array of a colour picture may be Pillow's own memory (`.in_place`), to read parts of.

    Returns:
        None for a null value.

    Raises:
        BadSample: the value is broken, with the reason.
        UserError: a struct without bytes and path, or Pillow is missing.
    """
    raw = single(raw, "image")
    if isinstance(raw, Mapping):
        raw = unwrap(raw, "an image")
    if is_blank(raw):
        return None
    if isinstance(raw, (str, Path)):
        raw = read_file(Path(raw))
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(raw), background, channels, layout, shrink)
    if isinstance(raw, (torch.Tensor, np.ndarray, list, tuple)):
        return from_array(as_array(raw, "image"), channels, layout)
    if _is_pillow(raw):
        return _guarded(lambda: _from_pillow(raw, background))
    raise BadSample(f"expected an image (bytes, path, PIL image or array), found {type(raw).__name__}")


def read_file(path: Path) -> bytes:
    """The content of a file that a sample names; BadSample where it is none, or too large."""
    file = regular_file(path)
    check("bytes", file.stat().st_size, "bytes")
    try:
        return file.read_bytes()
    except OSError as error:
        if is_ours(error):
            raise
        raise BadSample(f"cannot read file '{one_line(path, 120)}': {error.strerror or error}") from error


def _from_bytes(
    data: bytes, background: Sequence[int], channels: int | None, layout: str | None, shrink: Shrink | None
) -> Array:
    if not data:
        raise BadSample("empty image (0 bytes)")
    if data.startswith(NPY_MAGIC):
        return from_array(load_npy(data), channels, layout)
    return _guarded(lambda: _open_with_pillow(data, background, shrink))


def _guarded(decoder: Callable[[], Array]) -> Array:
    """Run a Pillow decoder; whatever it raises on damaged data becomes BadSample with the reason kept."""
    module: Any = pillow()
    theirs, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None  # large pictures have their own limit here
    try:
        with reading_sample("cannot decode image"):
            return decoder()
    finally:
        module.MAX_IMAGE_PIXELS = theirs


# ----------------------------------------------------------------------------------------------------------- Pillow


def _open_with_pillow(data: bytes, background: Sequence[int], shrink: Shrink | None) -> Array:
    image_module = pillow()
    try:
        image = image_module.open(io.BytesIO(data), formats=_formats())
    except image_module.UnidentifiedImageError as error:
        raise BadSample(f"not an image file that Pillow knows ({len(data)} bytes)") from error
    _check_size(image)
    if shrink is not None and (factor := shrink(image.height, image.width)) > 1:
        image.draft(None, (image.width // factor, image.height // factor))
    if _is_deep_colour(image, data):
        return _finish(_keyed(_decode_deep_colour(data), image.info.get("transparency")), background)
    return _from_pillow(image, background, in_place=shrink is not None)


def _check_size(image: Image) -> None:
    """BadSample where a picture is too large; one of very many rows counts `LEAST_ROW` pixels a row at least: Pillow
    keeps the address of each, and adds to it, so that one pixel takes the memory of several."""
    width = max(image.width, LEAST_ROW) if image.height > MANY_ROWS else image.width
    check("pixels", width * image.height, f"pixels ({image.width} x {image.height})")


def _is_pillow(raw: object) -> TypeGuard[Image]:
    return isinstance(raw, pillow().Image)


def _from_pillow(image: Image, background: Sequence[int], in_place: bool = False) -> Array:
    from PIL import ImageOps

    from_netpbm = image.format == "PPM"  # exif_transpose makes a copy without a format
    tags = getattr(image, "tag_v2", {})
    _check_size(image)
    image.load()
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:  # which makes a copy in any case
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey = _deep_grey(np.asarray(image).astype(np.uint16, copy=False), tags)
        return _finish(_keyed(grey, image.info.get("transparency")), background)
    if image.mode == "I" and from_netpbm:  # Pillow scales a 16-bit PGM to 0..65535 in 32-bit numbers
        return _finish(np.asarray(image).astype(np.uint16), background)
    if image.mode in ("I", "F"):
        return from_array(np.asarray(image, dtype=np.float32))
    if image.has_transparency_data:
        mode = "LA" if image.mode in ("1", "L", "LA", "La") else "RGBA"
    else:  # of palette, CMYK, YCbCr, HSV, RGBX: colour
        mode = "L" if image.mode in ("1", "L") else "RGB"
    if image.mode != mode:  # else it would be copied
        image = image.convert(mode)
    if in_place and mode == "RGB" and (found := rgb_of(image)) is not None:
        return found
    if image.width * image.height > STRIP:
        return _in_strips(image, background)
    return _finish(np.asarray(image), background)


def _in_strips(image: Image, background: Sequence[int]) -> Array:
    """`_finish` of a large picture, some rows at a time: Pillow hands out an array of all by way of two copies."""
    rows = max(1, STRIP // image.width)
    out: Array | None = None
    for top in range(0, image.height, rows):
        part = _finish(np.asarray(image.crop((0, top, image.width, min(top + rows, image.height)))), background)
        if out is None:
            out = np.empty((image.height, *part.shape[1:]), part.dtype)
        out[top : top + len(part)] = part
    assert out is not None  # a picture has a row
    return out


# ------------------------------------------------------------------------------------------------- 16 bits a channel


def _deep_grey(array: Array, tags: Mapping[int, Any]) -> Array:
    """(H, W) uint16 of a grey picture of more than 8 bits, black 0 and white 65535; of a TIFF Pillow hands out numbers
    of 12 bits, and those of which white is 0, as they are stored."""
    bits = tags.get(TIFF_BITS_PER_SAMPLE, (16,))
    if max(bits if isinstance(bits, tuple) else (bits,)) == 12:
        array = np.rint(array * (65535 / 4095)).astype(np.uint16)
    return 65535 - array if tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO else array


def _keyed(array: Array, key: object) -> Array:
    """(H, W) or (H, W, C) uint16, with an alpha of 0 where a PNG says that its one transparent colour (tRNS) is."""
    if not isinstance(key, (int, tuple)):
        return array
    pixels = array if array.ndim == 3 else array[..., None]
    if pixels.shape[2] not in (1, 3):  # it has alpha of its own
        return array
    alpha = np.where((pixels == np.array(key)).all(-1, keepdims=True), 0, 65535)
    return np.concatenate([pixels, alpha.astype(np.uint16)], axis=2)


def _is_deep_colour(image: ImageFile, data: bytes) -> bool:
    """A file of 16 bits a channel with colour or alpha: Pillow has no such mode and silently keeps the high bytes."""
    if image.format == "PNG":
        depth, colour_type = data[24], data[25]  # of the IHDR chunk, which always comes first
        return depth == 16 and colour_type in (2, 4, 6)  # RGB, grey + alpha, RGB + alpha
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA"):
        return bool(max(getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (8,))) == 16)
    return False


def _decode_deep_colour(data: bytes) -> Array:
    """(H, W, 2..4) uint16 of a 16-bit colour PNG or TIFF.

    Pillow keeps the high byte of each number; told that the byte order is the other one, it keeps the low byte. Two
    readings give all 16 bits. Grey + alpha is read once, as if its four bytes were RGBA.
    """
    image = pillow().open(io.BytesIO(data), formats=_formats())
    modes = {_raw_mode(tile) for tile in image.tile}
    if modes == {"LA;16B"}:
        bytes_ = np.asarray(_as_if(image, lambda mode: "RGBA")).astype(np.uint16)
        array = (bytes_[..., 0::2] << 8) | bytes_[..., 1::2]
    elif all(mode in ("RGB;16B", "RGBA;16B", "RGB;16L", "RGBA;16L", "RGB;16N", "RGBA;16N") for mode in modes):
        other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}  # "N": the machine's own order
        low = np.asarray(
            _as_if(pillow().open(io.BytesIO(data), formats=_formats()), lambda mode: mode[:-1] + other[mode[-1]])
        )
        array = (np.asarray(image).astype(np.uint16) << 8) | low
    else:
        found = ", ".join(sorted(modes))
        raise BadSample(f"16-bit {image.format} stored as {found} cannot be read without loss: convert it to .npy")
    # Pillow turns a TIFF upright when it reads it, a PNG not
    return _orient(array, image.getexif().get(EXIF_ORIENTATION, 1)) if image.format == "PNG" else array


def _raw_mode(tile: Tile) -> str:
    assert tile.args is not None  # every decoder of pixels is told how they are stored
    return str(tile.args if isinstance(tile.args, str) else tile.args[0])


def _as_if(image: ImageFile, mode_of: Callable[[str], str]) -> ImageFile:
    """The unread image, to be read as if its numbers were stored in another way."""
    tiles = []
    for tile in image.tile:
        mode = mode_of(_raw_mode(tile))
        tiles.append(tile._replace(args=mode if isinstance(tile.args, str) else (mode, *(tile.args or ())[1:])))
    image.tile = tiles
    return image


def _orient(array: Array, orientation: int) -> Array:
    """EXIF orientation 1..8 undone on (H, W, C)."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


# ------------------------------------------------------------------------------------------------------------ arrays


def from_array(array: Array, channels: int | None = None, layout: str | None = None) -> Array:
    """An array (H, W), (H, W, C) or (C, H, W) of numbers to (H, W, C) uint8, uint16 or float32.

    Which of three axes the channels are: the one that `layout` says; else the one that has the configured count;
    otherwise the smaller of first and last. BadSample where that leaves both, or either could be: (4, 3, 3), and
    (9, 9, 200), which may be a patch of 200 bands. NaN says that a pixel does not exist.
    """
    if array.dtype.kind not in "buif":
        raise BadSample(f"expected an array of numbers, found dtype {array.dtype}")
    if array.ndim == 2 and array.size:
        return _checked(array[..., None])
    if array.ndim != 3 or 0 in array.shape:
        raise BadSample(f"expected an array (H, W), (H, W, C) or (C, H, W), found shape {tuple(array.shape)}")
    return _checked(array.transpose(1, 2, 0) if channels_first(array.shape, channels, layout) else array)


def channels_first(shape: tuple[int, ...], channels: int | None = None, layout: str | None = None) -> bool:
    """Whether the first of an array's three axes is its channels, and not the last; as `from_array` tells them."""
    first, last = shape[0], shape[2]
    if layout is not None:
        return layout == "channels_first"
    if first == last:
        raise BadSample(_open_axes(shape))
    if channels in (first, last):
        return first == channels
    few, many, middle = min(first, last), max(first, last), shape[1]
    # colours on either axis, or bands: the smaller one, unless the other would leave a squarer picture
    if (many <= MOST_COLOURS or few > MOST_COLOURS) and _oblong(middle, few) < _oblong(middle, many):
        raise BadSample(_open_axes(shape))
    return first < last


def _oblong(one: int, other: int) -> float:
    return max(one, other) / min(one, other)


def _open_axes(shape: tuple[int, ...]) -> str:
    return (
        f"found an array of shape {tuple(shape)}: first or last axis could hold the channels "
        "(option layout: channels_first or channels_last)"
    )


def _checked(array: Array) -> Array:
    """(H, W, C) of any number type to uint8 or uint16 as they are, all others as float32."""
    if array.dtype in (np.uint8, np.uint16):
        return array
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
        array = array.astype(np.float32)
    if np.isinf(array).any():
        raise BadSample("infinite pixel values")
    if np.isnan(array).all():
        raise BadSample("every pixel is NaN")
    return array


def _finish(array: Array, background: Sequence[int]) -> Array:
    """uint8 or uint16 (H, W) or (H, W, 1..4), straight alpha last where there are 2 or 4, to (H, W, 1 or 3)."""
    if array.ndim == 2:
        array = array[..., None]
    return _composite(array, background) if array.shape[2] in (2, 4) else array


def _composite(array: Array, background: Sequence[int]) -> Array:
    """Straight alpha (last channel) over the background, in the array's own integer type, rounded to nearest.

    Grey over a coloured background becomes colour.
    """
    top = int(np.iinfo(array.dtype).max)
    wide = np.dtype(np.uint16 if top == 255 else np.uint32)  # holds top * top + top / 2
    colours = background if len(set(background)) > 1 else background[:1]
    behind = np.asarray([colour * (top // 255) for colour in colours], dtype=wide)
    height, width, channels = array.shape
    out = np.empty((height, width, max(channels - 1, len(behind))), array.dtype)
    rows = max(1, STRIP // width)
    for first in range(0, height, rows):
        part: Array = array[first : first + rows].astype(wide)
        alpha = part[..., -1:]
        # no half lies between two integers, as top is odd: adding a half of it rounds to the nearest
        out[first : first + rows] = (part[..., :-1] * alpha + behind * (top - alpha) + top // 2) // top
    return out


def adapt_channels(array: Array, channels: int) -> Array:
    """(H, W, C) to (H, W, channels): grey is repeated to three, colour becomes grey by luma, else BadSample."""
    found = array.shape[2]
    if found == channels:
        return array
    if found == 1 and channels == 3:
        return np.repeat(array, 3, axis=2)
    if found == 3 and channels == 1:
        grey = array.astype(np.float32) @ LUMA
        return (grey if array.dtype == np.float32 else np.rint(grey).astype(array.dtype))[..., None]
    raise BadSample(f"image has {found} channels, expected {channels}")
