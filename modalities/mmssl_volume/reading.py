"""Any kind of raw volume to one array (C, slices, rows, columns) with the names of its channels and its spacing.

What says how it lies in the body (NIfTI, MGH) is turned so that columns run from left to right, rows from back to
front and slices from the feet to the head (RAS+ in the order S, A, R), by whole axes and without resampling. Values are
those that the file means: its slope and intercept are applied. A value that is broken raises `BadSample`; a null one is
None. Nothing is unpickled, and sizes are looked at before memory is taken.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.boundary import reading_sample
from mmssl.errors import BadSample, UserError
from mmssl.limits import check, current
from mmssl.modality.pixels.decode import decode, read_file
from mmssl.modality.pixels.folder import pictures_in
from mmssl.modality.raw import NPY_MAGIC, Array, as_array, is_blank, load_npy

FILES = (".nii", ".nii.gz", ".mgh", ".mgz")
GZIP = b"\x1f\x8b"
ARRAY, CHANNELS, SPACING = ("array", "volume"), ("channels", "names"), ("spacing", "voxel_size", "zooms")
"""Fields of a struct that hold one volume with what is to be known of it."""
SLICES = "slices"
"""Field of a struct: [first, last (excluded)] of the slices that are meant."""
MGH_VERSION = 1
NIFTI = {348: "Nifti1Image", 540: "Nifti2Image"}
"""Length of the header, which it begins with -> the class that reads it."""


@dataclass
class Volume:
    """array (C, slices, rows, columns) of numbers; names of the C channels, where something says them; mm from voxel to
    voxel along slices, rows and columns, where something says it."""

    array: Array
    names: list[str] | None = None
    spacing: tuple[float, float, float] | None = None


def read_volume(raw: object, layout: str | None = None) -> Volume | None:
    """One raw value.

    Args:
        raw: the path of a NIfTI, MGH or .npy file, or of a folder of slices (pictures, in natural order); its bytes;
            {"bytes", "path"}; an array (slices, rows, columns), with a fourth axis of channels in front or behind; a
            list of pictures; {"array", "spacing", "channels"}; {channel: any of these} of one shape; any of these
            structs with {"slices": [first, last (excluded)]}.
        layout: "channels_first" or "channels_last", of arrays of four axes.

    Returns:
        None for a null value.

    Raises:
        BadSample: the value is broken, with the reason.
        UserError: the package that reads the file is missing.
    """
    if isinstance(raw, Mapping):
        return _from_struct(raw, layout)
    if is_blank(raw):
        return None
    if isinstance(raw, (str, Path)):
        path = Path(raw)
        if path.is_dir():
            return _from_slices(pictures_in(path))
        return _from_bytes(read_file(path), layout)
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(raw), layout)
    if isinstance(raw, (list, tuple)) and raw and not isinstance(raw[0], (list, tuple, int, float)):
        return _from_slices(raw)
    return _from_array(as_array(raw, "volume"), layout)


def _from_struct(raw: Mapping[Any, object], layout: str | None) -> Volume | None:
    fields = {str(key).lower(): value for key, value in raw.items()}
    if SLICES in fields:
        rest = {key: value for key, value in raw.items() if str(key).lower() != SLICES}
        return _slab(_from_struct(rest, layout), fields[SLICES])
    if fields.keys() <= {"bytes", "path"}:
        inner = fields.get("bytes")
        return read_volume(fields.get("path") if inner is None else inner, layout)
    key = next((key for key in ARRAY if key in fields), None)
    if key is None:
        return _from_channels(raw, layout)
    found = read_volume(fields[key], layout)
    if found is None:
        return None
    names = next((fields[key] for key in CHANNELS if fields.get(key) is not None), None)
    spacing = next((fields[key] for key in SPACING if fields.get(key) is not None), None)
    if names is not None:
        if not isinstance(names, (list, tuple)) or len(names) != len(found.array):
            raise BadSample(f"channels {names!r}, expected the names of {len(found.array)}")
        found.names = [str(name) for name in names]
    if spacing is not None:
        found.spacing = _spacing(np.asarray(spacing).ravel().tolist())
    return found


def _slab(volume: Volume | None, wanted: object) -> Volume | None:
    """Some of its slices; all where nothing is wanted."""
    if volume is None or wanted is None:
        return volume
    ends = np.asarray(wanted)
    total = volume.array.shape[1]
    if ends.shape != (2,) or ends.dtype.kind not in "iu" or not 0 <= ends[0] < ends[1] <= total:
        raise BadSample(f"slices {wanted!r}, expected [first, last] of {total}, the last one excluded")
    volume.array = volume.array[:, ends[0] : ends[1]]
    return volume


def _from_channels(raw: Mapping[Any, object], layout: str | None) -> Volume | None:
    """Volumes of one channel each, of one shape."""
    parts: dict[str, Volume] = {}
    for name, value in raw.items():
        try:
            part = read_volume(value, layout)
        except BadSample as error:
            raise BadSample(f"channel '{name}': {error}") from error
        if part is None:
            continue
        if len(part.array) != 1:
            raise BadSample(f"channel '{name}': found {len(part.array)} channels, expected one")
        parts[str(name)] = part
    if not parts:
        return None
    (first, one), *others = parts.items()
    for name, part in others:
        if part.array.shape != one.array.shape:
            shapes = " and ".join("x".join(map(str, p.array.shape[1:])) for p in (one, part))
            raise BadSample(f"channels '{first}' and '{name}' have {shapes} voxels, expected one shape")
    known = [part.spacing for part in parts.values() if part.spacing is not None]
    return Volume(np.concatenate([part.array for part in parts.values()]), list(parts), known[0] if known else None)


# ------------------------------------------------------------------------------------------------ arrays and slices


def _from_array(array: Array, layout: str | None) -> Volume:
    if array.dtype.kind not in "buif":
        raise BadSample(f"expected a volume (a file, slices or an array of numbers), found dtype {array.dtype}")
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise BadSample(
            "expected an array (slices, rows, columns), with channels in front or behind, found shape "
            f"{tuple(array.shape)}"
        )
    if array.ndim == 3:
        return Volume(array[None])
    if layout is None:
        first, last = array.shape[0], array.shape[3]
        if first == last or max(min(first, last), 1) >= min(array.shape[1:3]):
            raise BadSample(
                f"found an array of shape {tuple(array.shape)}: first or last axis could hold the channels (option "
                "layout: channels_first or channels_last)"
            )
        layout = "channels_first" if first < last else "channels_last"
    return Volume(array if layout == "channels_first" else np.moveaxis(array, 3, 0))


def _from_slices(pictures: Sequence[object]) -> Volume:
    """Pictures of one shape, each a slice, from the first on."""
    slices: list[Array] = []
    for number, picture in enumerate(pictures):
        found = decode(picture, (0,))
        if found is None:
            raise BadSample(f"slice {number} is empty")
        if slices and found.shape != slices[0].shape:
            raise BadSample(f"slice {number} is {found.shape}, the first {slices[0].shape}: expected one shape")
        slices.append(found)
        check("values", len(pictures) * found.size, "numbers in the slices")
    return Volume(np.moveaxis(np.stack(slices), 3, 0))


# ------------------------------------------------------------------------------------------------------------- files


def _from_bytes(data: bytes, layout: str | None) -> Volume:
    if not data:
        raise BadSample("empty file (0 bytes)")
    if data.startswith(GZIP):
        data = _unpacked(data)
    if data.startswith(NPY_MAGIC):
        return _from_array(load_npy(data), layout)
    name = _kind(data)
    if name is None:
        words = data[:64].translate(None, b"\r\n\t").decode("latin-1").isprintable()
        found = "is text" if words else f"begins with {data[:4]!r}"
        raise BadSample(f"the file is no volume: it {found}, expected one of {', '.join(FILES)} or .npy")
    try:
        import nibabel
    except ModuleNotFoundError as error:
        raise UserError("NIfTI and MGH files need the package 'nibabel': pip install 'mmssl[volume]'") from error
    cls = nibabel.freesurfer.MGHImage if name == "MGHImage" else getattr(nibabel, name)
    with reading_sample("cannot be read as a volume"):
        image = cls.from_bytes(data)
        check("values", math.prod(map(int, image.shape)), "numbers in the volume")
        if image.get_data_dtype().kind not in "buif":
            raise BadSample(f"voxels of type {image.get_data_dtype()}, expected numbers")
        image = nibabel.as_closest_canonical(image)
        array = np.asarray(image.dataobj, dtype=np.float32)
        zooms = [float(size) for size in image.header.get_zooms()[:3]]
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:  # NIfTI has time in the fourth axis, and several values in the fifth
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4) or 0 in array.shape:
        raise BadSample(f"expected a volume of three axes, and a fourth of channels, found shape {tuple(array.shape)}")
    array = array[..., None] if array.ndim == 3 else array
    return Volume(array.transpose(3, 2, 1, 0), None, _spacing(zooms[::-1]))


def _kind(data: bytes) -> str | None:
    """The name of nibabel's class for such bytes."""
    if len(data) < 348:
        return None
    for order in "<>":
        name = NIFTI.get(struct.unpack(f"{order}i", data[:4])[0])
        if name is not None:
            return name
    return "MGHImage" if struct.unpack(">i", data[:4])[0] == MGH_VERSION else None


def _unpacked(data: bytes) -> bytes:
    """What is packed, up to `data.limits.bytes`."""
    most = current().bytes
    with reading_sample("cannot be unpacked"), gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        out = file.read(most + 1)
    check("bytes", len(out), "bytes and more, unpacked")
    return out


def _spacing(sizes: Sequence[float]) -> tuple[float, float, float]:
    if len(sizes) != 3 or not all(isinstance(s, (int, float)) and 0 < s < 1e6 for s in sizes):
        raise BadSample(f"spacing {list(sizes)}, expected three positive numbers in mm")
    return float(sizes[0]), float(sizes[1]), float(sizes[2])
