"""Any kind of raw sound to one mono waveform, float32 in -1..1, at the rate that is asked for.

What libsndfile opens (WAV, FLAC, OGG, MP3, ...) is read with soundfile, anything else (the sound of a video, AAC,
AMR) with av. Of a long file only the wanted stretch is read. A value that is broken raises `BadSample` with the
reason; a null one is None.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from mmssl.boundary import is_ours, regular_file
from mmssl.errors import BadSample, UserError, one_line
from mmssl.limits import check
from mmssl.modality.containers import STREAMED, announced, refuse_cut
from mmssl.modality.raw import NPY_MAGIC, Array, as_array, check_npy, is_blank, load_npy, single, stretch_of, unwrap

from .stretches import SEEK_FROM, Wanted, sound_library, sound_seconds, window_of_mpeg, with_av

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

CODECS = ("MPEG", "VORBIS", "OPUS")  # subtypes whose numbers of samples are not exact
PADDED = 0.1  # seconds by which such a number may be wrong
MOST_CHANNELS = 64  # of sound: more on the shorter axis of an array, and it is none
RATES = ("sampling_rate", "sample_rate", "samplerate", "rate", "sr", "fs")  # keys of what an array comes with
UNKNOWN_FORMAT = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT
FORKS = range(148, 155)  # its errors about Sound Designer 2: of what it does not know it takes `._` here for the header
OGG_PAGE = 27 + 255 + 255 * 255  # the longest page


def read_sound(
    raw: object,
    rate: int,
    seconds: float | None = None,
    choice: int = 0,
    layout: str | None = None,
    source_rate: float | None = None,
) -> Array | None:
    """One raw sound to a waveform, all channels averaged.

    Args:
        raw: encoded bytes, {"bytes", "path"} with or without "start" and "stop" in seconds, a path,
            {"array", "sampling_rate"}, (array, rate), or an array (S,), (S, C) or (C, S). Integers are divided by the
            largest of their type, floats are taken as they are.
        rate: samples a second of the result.
        seconds: the longest stretch wanted; None: all.
        choice: picks where that starts in a longer sound, 0 is at the beginning.
        layout: which axis of an array of two is the channels: "channels_first" or "channels_last"; None: the shorter.
        source_rate: samples a second of arrays that do not say theirs; None: these are refused.

    Returns:
        (S,) float32; None for a null value, and for a video without a sound track.

    Raises:
        BadSample: the value is broken, with the reason.
        UserError: a struct of other things, or a package that decodes it is missing.
    """
    recorded = recorded_sound(raw, seconds, choice, layout, source_rate)
    if recorded is None:
        return None
    wave = resample(*recorded, rate)
    return wave if seconds is None else wave[: max(round(seconds * rate), 1)]


def recorded_sound(
    raw: object,
    seconds: float | None = None,
    choice: int = 0,
    layout: str | None = None,
    source_rate: float | None = None,
) -> tuple[Array, int] | None:
    """(waveform, samples a second) as it was recorded, its channels averaged; arguments, errors: see `read_sound`."""
    raw = original = single(raw, "sound")
    if isinstance(raw, Mapping):
        raw = _unwrap(raw)
    if is_blank(raw):
        return None
    found: int | None = None
    wave: Array | None
    part = stretch_of(original)
    if isinstance(raw, tuple) and len(raw) == 2 and np.ndim(raw[1]) == 0:
        raw, said = raw
        found = None if said is None else _checked_rate(said)
    if isinstance(raw, (str, Path)):
        path = regular_file(raw)
        try:
            with open(path, "rb") as file:
                wave, found = _from_file(file, found or source_rate, Wanted(seconds, choice, *part), layout)
        except OSError as error:
            if is_ours(error):
                raise
            raise BadSample(f"cannot read file '{one_line(raw, 120)}': {error.strerror or error}") from error
    elif isinstance(raw, (bytes, bytearray, memoryview)):
        wave, found = _from_file(io.BytesIO(bytes(raw)), found or source_rate, Wanted(seconds, choice, *part), layout)
    else:
        array = oriented(raw, layout)
        found = _rate(found or source_rate)
        wave = scaled(Wanted(seconds, choice, *part).of(array, found))
    if wave is None:
        return None
    wave = wave.mean(1, dtype=np.float32)
    if not np.isfinite(wave).all():
        raise BadSample("NaN or infinite samples")
    return wave, found


def seconds_of(raw: object, layout: str | None, source_rate: float | None) -> float | None:
    """How long a raw sound is, by its header or shape; None where nothing says it. Arguments as `read_sound`'s."""
    raw = single(raw, "sound")
    if isinstance(raw, Path) and raw.suffix.lower() == ".npy":
        with open(regular_file(raw), "rb") as file:
            shape = check_npy(file)
        if source_rate is None or len(shape) not in (1, 2):
            return None
        return shape[-1 if len(shape) == 2 and _channels_first(shape, layout) else 0] / _checked_rate(source_rate)
    if isinstance(raw, Mapping):
        raw = _unwrap(raw)
    if isinstance(raw, (Path, bytes, memoryview)):
        return sound_seconds(raw if isinstance(raw, Path) else bytes(raw))
    if is_blank(raw) or isinstance(raw, str):
        return None
    said = source_rate
    if isinstance(raw, tuple) and len(raw) == 2 and np.ndim(raw[1]) == 0:
        array, rate = raw
        raw, said = array, rate or source_rate
    return None if said is None else len(oriented(raw, layout)) / _checked_rate(said)


def _unwrap(raw: Mapping[str, object]) -> object:
    """The inside of the structs that `datasets.Audio` gives, undecoded or decoded."""
    if "array" not in raw:
        return unwrap(raw, "a sound", "array and sampling_rate")
    if raw["array"] is None:
        return None
    return raw["array"], next((raw[key] for key in RATES if raw.get(key) is not None), None)


def _rate(found: float | None) -> int:
    """Samples a second of an array: what it says, else the option; BadSample where nothing does."""
    if found is None:
        raise BadSample(
            "nothing says the sampling rate of an array: give {array, sampling_rate}, or set source_rate "
            "(modalities.NAME.source_rate)"
        )
    return _checked_rate(found)


def _checked_rate(rate: object) -> int:
    try:
        number = round(float(rate))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = 0
    if not 0 < number <= 10_000_000:
        raise BadSample(f"sampling rate {rate!r}, expected a positive number of Hz")
    return number


def oriented(raw: object, layout: str | None = None) -> Array:
    """Numbers (S,), (S, C) or (C, S), array, tensor or list, to (S, C) of their own type, not copied.

    The channels are the axis that `layout` names, else the shorter one; BadSample where that is open, or none could be.
    """
    array = as_array(raw, "sound")
    if array.dtype.kind not in "iuf":
        raise BadSample(f"expected a sound (bytes, path or array of numbers), found {_what(raw, array)}")
    if array.ndim not in (1, 2):
        raise BadSample(f"expected an array (samples,) or (samples, channels), found shape {tuple(array.shape)}")
    if 0 in array.shape:
        raise BadSample("no sound: zero samples")
    if array.dtype.kind == "i" and array.dtype.itemsize > 4:
        raise BadSample("64-bit integers have no known full scale; expected floats in -1..1 or 8- to 32-bit integers")
    if array.ndim == 1:
        array = array[:, None]
    elif _channels_first(array.shape, layout):
        array = array.T
    return array


def scaled(array: Array) -> Array:
    """Samples of any type as float32: integers are divided by the largest of their type."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    info = np.iinfo(array.dtype)
    if array.dtype.kind == "u":
        half = (info.max + 1) / 2
        return ((array.astype(np.float64) - half) / half).astype(np.float32)
    return (array.astype(np.float64) / (info.max + 1)).astype(np.float32)


def _channels_first(shape: tuple[int, ...], layout: str | None) -> bool:
    if layout is not None:
        return layout == "channels_first"
    if shape[0] == shape[1] > 1 or min(shape) > MOST_CHANNELS:
        raise BadSample(
            f"found an array of shape {tuple(shape)}: either axis could hold the channels "
            "(option layout: channels_first or channels_last)"
        )
    return shape[0] < shape[1]


def _what(raw: object, array: Array) -> str:
    return f"dtype {array.dtype}" if isinstance(raw, (np.ndarray, list, torch.Tensor)) else type(raw).__name__


# ------------------------------------------------------------------------------------------------------------- files


def _from_file(
    file: BinaryIO, source_rate: float | None, wanted: Wanted, layout: str | None
) -> tuple[Array | None, int]:
    """((S, C) float32, rate) of an open file; None instead of the wave of a video without a sound track.

    soundfile reads it where it knows the format, else av, which reads the containers of videos and more codecs.
    """
    head = file.read(64)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not size:
        raise BadSample("empty file (0 bytes)")
    if head.startswith(NPY_MAGIC):
        array, rate = oriented(load_npy(file), layout), _rate(source_rate)
        return scaled(wanted.of(array, rate)), rate
    file = _whole(file, head, size)
    library = sound_library()
    try:
        with library.SoundFile(file) as sound:
            if not sound.frames:
                raise BadSample("no sound: zero samples")
            check("seconds", sound.frames / max(sound.samplerate, 1), "seconds of sound")
            start, count = wanted.place(sound.frames, sound.samplerate)
            check("values", count * sound.channels, "samples of sound")
            if wanted.start > SEEK_FROM and sound.subtype.startswith("MPEG"):
                place = file.tell()
                part = window_of_mpeg(file, wanted, int(sound.samplerate))
                if part is not None:
                    return part, int(sound.samplerate)
                file.seek(place)  # where libsndfile left it
            if start:
                sound.seek(start)
            wave, found = sound.read(count, dtype="float32", always_2d=True), int(sound.samplerate)
            if sound.subtype.startswith(CODECS):  # the header counts what a codec pads and an encoder may leave out
                count = min(count, len(wave) + round(PADDED * found))
    except (library.LibsndfileError, RuntimeError) as error:
        if getattr(error, "code", None) not in (UNKNOWN_FORMAT, *FORKS):
            raise BadSample(f"cannot decode sound: {_said(error)} ({size} bytes)") from error
        file.seek(0)
        return with_av(file, size, wanted)
    if len(wave) < count:
        raise BadSample(f"truncated: {len(wave)} of {count} samples could be decoded")
    return wave, found


def _said(error: Exception) -> str:
    """What libsndfile says of a file, without Python's name of the object that it was read from."""
    return one_line(getattr(error, "error_string", error))


def _whole(file: BinaryIO, head: bytes, size: int) -> BinaryIO:
    """The file, at its beginning; of a WAV file whose writer did not know how long it would be, a copy that says it.

    libsndfile plays what is left of a file that was cut off; such a sample is broken: BadSample.
    """
    refuse_cut(file)
    if head[:4] == b"RIFF" and not 8 < int.from_bytes(head[4:8], "little") < STREAMED:
        found = announced(file)
        if found is not None and not found.bytes and size > found.start:
            return _measured(file, found.start - 8, size - found.start)
    elif head[:4] == b"OggS":
        file.seek(max(0, size - OGG_PAGE))
        tail = file.read()
        page = tail[tail.rfind(b"OggS") :]
        segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
        if len(page) < 27 or len(segments) < page[26] or len(page) < 27 + len(segments) + sum(segments):
            raise BadSample("truncated: the last OGG page is not complete")
    file.seek(0)
    return file


def _measured(file: BinaryIO, at: int, length: int) -> BinaryIO:
    """A copy of a WAV file whose "data" chunk, at byte `at`, says that it has `length` bytes."""
    file.seek(0)
    data = bytearray(file.read())
    data[at + 4 : at + 8] = length.to_bytes(4, "little")
    data[4:8] = (len(data) - 8).to_bytes(4, "little")
    return io.BytesIO(bytes(data))


# ---------------------------------------------------------------------------------------------------------- resampling


@functools.lru_cache(maxsize=32)
def _resampler(old: int, new: int) -> Resample:
    try:
        from torchaudio.transforms import Resample
    except (ImportError, OSError) as error:
        raise UserError(f"resampling needs torchaudio, which cannot be used: {error}") from error
    return Resample(old, new)


def resample(wave: Array, old: int, new: int) -> Array:
    """(S,) at `old` Hz to (ceil(S * new / old),) at `new` Hz, band-limited (torchaudio's Hann-windowed sinc).

    The ratio is the nearest one whose denominator is at most 1000: the table of an odd one would be huge. It is right
    for the rates in use, and at most 5e-4 off (16,001 Hz counts as 16,000 Hz).

    Raises:
        BadSample: the rates differ by a factor of more than 1000.
    """
    if not 1 / 1000 <= new / old <= 1000:
        raise BadSample(f"sampling rate {old} Hz is more than 1000 times more or less than the wanted {new} Hz")
    ratio = Fraction(new, old).limit_denominator(1000)
    if ratio == 1:
        return np.ascontiguousarray(wave)
    with torch.no_grad():
        return _resampler(ratio.denominator, ratio.numerator)(torch.from_numpy(np.ascontiguousarray(wave))).numpy()
