"""Pillow's own memory of a colour picture, without a copy of it: it holds a fourth byte beside each pixel's three."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..raw import Array

if TYPE_CHECKING:
    from PIL.Image import Image


def rgb_of(image: Image) -> Array | None:
    """(H, W, 3) uint8 of a loaded picture of mode RGB, read-only; None where it lies in several blocks, or this Pillow
    does not hand out its memory."""
    import pyarrow as pa

    if not hasattr(image, "__arrow_c_array__"):
        return None
    try:
        found = pa.array(image)
    except ValueError:  # of several blocks
        return None
    memory = np.frombuffer(found.values.buffers()[1], np.uint8)
    return memory.reshape(image.height, image.width, 4)[..., :3]


def with_fourth(array: Array) -> Array:
    """(h, w, 4) of what `rgb_of` gave, or of a part of it, with all bytes of its rows; any other array as it is."""
    if array.dtype != np.uint8 or array.shape[2] != 3 or array.strides[1:] != (4, 1):
        return array
    four: Array = np.lib.stride_tricks.as_strided(array, (*array.shape[:2], 4), array.strides, writeable=False)
    return four
