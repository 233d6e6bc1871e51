"""What raw values of all kinds have in common: structs of bytes and path, tensors, .npy."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch

from ..errors import BadSample, UserError

Array = np.ndarray[Any, Any]

NPY_MAGIC = b"\x93NUMPY"


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
        return np.asarray(raw)
    except ValueError as error:
        raise BadSample(f"nested lists of unequal lengths are no {noun} ({error})") from error


def load_npy(source: bytes | BinaryIO) -> Array:
    """The array of a .npy file, never unpickled; BadSample where it cannot be read."""
    try:
        array: Array = np.load(io.BytesIO(source) if isinstance(source, bytes) else source, allow_pickle=False)
        return array
    except (ValueError, OSError, EOFError, SyntaxError, MemoryError) as error:
        raise BadSample(f"cannot read .npy: {numpy_said(error)}") from error


def numpy_said(error: Exception) -> str:
    """What numpy says of an array that it cannot read; not its advice to run whatever a file holds (allow_pickle)."""
    if "pickle" in str(error):
        return "it holds objects of Python and no plain array; save it as an array of numbers"
    return str(error)
