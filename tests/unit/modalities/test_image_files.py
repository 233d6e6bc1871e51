"""The image modality's decoder: every kind of file and array, and what is broken."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys.refusals import refused

import mmssl_image
from mmssl.errors import BadSample
from mmssl.modality.pixels.decode import decode

RNG = np.random.default_rng(0)
WHITE = [255]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def png16(array: np.ndarray, orientation: int | None = None) -> bytes:
    """A 16-bit PNG of (H, W, 1..4), written by hand: Pillow cannot write one in colour."""
    height, width, channels = array.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = [chunk(b"IHDR", header)]
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        parts.append(chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16(array: np.ndarray, order: str, compressed: bool, orientation: int = 1) -> bytes:
    """A 16-bit TIFF of (H, W, 3 or 4), written by hand."""
    height, width, channels = array.shape
    data = array.astype(order + "u2").tobytes()
    data = zlib.compress(data) if compressed else data
    count = 11 + (channels == 4)
    bits = 8 + 2 + count * 12 + 4
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, channels, bits),
        (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, 2),
        (273, 4, 1, bits + 2 * channels),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 1, len(data)),
        (284, 3, 1, 1),
    ]
    entries += [(338, 3, 1, 2)] if channels == 4 else []
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, count)
    for tag, kind, number, value in entries:
        short = kind == 3 and number == 1
        out += struct.pack(order + "HHI", tag, kind, number)
        out += struct.pack(order + "HH", value, 0) if short else struct.pack(order + "I", value)
    return out + struct.pack(order + "I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels) + data


def bytes_of(size: tuple[int, ...], top: int = 256, dtype: Any = np.uint8) -> np.ndarray:
    return RNG.integers(0, top, size).astype(dtype)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_lossless_files_decode_exactly(kind: str, tmp_path: Path) -> None:
    pixels = np.repeat(bytes_of((6, 5, 1)), 3, 2) if kind == "GIF" else bytes_of((6, 5, 3))
    data = encoded(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path / "image.file"
    path.write_bytes(data)
    for raw in (
        data,
        bytearray(data),
        memoryview(data),
        path,
        str(path),
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        Image.open(io.BytesIO(data)),
    ):
        array = decode(raw, WHITE)
        assert array is not None and array.dtype == np.uint8
        assert np.array_equal(array, pixels) or np.array_equal(array, pixels[..., :1])


def test_jpeg_is_close() -> None:
    pixels = np.full((16, 16, 3), [200, 100, 50], dtype=np.uint8)
    array = decode(encoded(Image.fromarray(pixels), "JPEG", quality=95), WHITE)
    assert array is not None and np.abs(array.astype(int) - pixels).max() <= 4


def test_cmyk_and_one_bit() -> None:
    pixels = np.full((8, 8, 3), [250, 10, 10], dtype=np.uint8)
    array = decode(encoded(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95), WHITE)
    assert array is not None and np.abs(array.astype(int) - pixels).max() <= 8
    bits = bytes_of((5, 9), 2).astype(bool)
    array = decode(encoded(Image.fromarray(bits), "PNG"), WHITE)
    assert array is not None and np.array_equal(array[..., 0], bits * 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    upright = bytes_of((4, 6, 3))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    png = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    array = decode(png, WHITE)
    assert array is not None and np.array_equal(array, upright)
    deep = stored.astype(np.uint16) * 256 + 7
    for data in (png16(deep, orientation), tiff16(deep, "<", False, orientation)):
        array = decode(data, WHITE)
        assert array is not None and np.array_equal(array, upright.astype(np.uint16) * 256 + 7)


def test_alpha_and_palette_over_the_background() -> None:
    red_half = np.zeros((2, 2, 4), dtype=np.uint8)
    red_half[0] = [255, 0, 0, 51]  # a fifth opaque
    over_white, over_blue = decode(red_half_png := encoded(Image.fromarray(red_half), "PNG"), WHITE), None
    over_blue = decode(red_half_png, [0, 0, 255])
    assert over_white is not None and over_blue is not None
    assert over_white[0, 0].tolist() == [255, 204, 204] and over_white[1, 0].tolist() == [255, 255, 255]
    assert over_blue[0, 0].tolist() == [51, 0, 204] and over_blue[1, 1].tolist() == [0, 0, 255]

    palette = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="L").convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    array = decode(encoded(palette, "PNG", transparency=1), WHITE)
    assert array is not None and array.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]

    grey = np.array([[[100, 0], [100, 255]]], dtype=np.uint8)
    data = encoded(Image.fromarray(grey, mode="LA"), "PNG")
    array = decode(data, [9])
    assert array is not None and array.tolist() == [[[9], [100]]]
    array = decode(data, [1, 2, 3])  # a coloured background makes a coloured image
    assert array is not None and array.tolist() == [[[1, 2, 3], [100] * 3]]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_png_keeps_all_bits(channels: int) -> None:
    pixels = bytes_of((5, 4, channels), 65536, np.uint16)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    array = decode(png16(pixels), WHITE)
    assert array is not None and array.dtype == np.uint16
    assert np.array_equal(array, pixels[..., : 3 if channels > 2 else 1])
    preprocessor = mmssl_image.Preprocessor(mmssl_image.Config(size=[5, 4], patch=1)).fit([png16(pixels)])
    read = preprocessor.read(png16(pixels))
    assert read is not None and np.allclose(read, array / 65535, atol=1e-7)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_tiff_keeps_all_bits(order: str, compressed: bool, channels: int) -> None:
    pixels = bytes_of((5, 4, channels), 65536, np.uint16)
    pixels[..., 3:] = 65535
    array = decode(tiff16(pixels, order, compressed), WHITE)
    assert array is not None and np.array_equal(array, pixels[..., :3])


def test_float_and_grey_sixteen_bit_pillow_modes() -> None:
    values = RNG.normal(size=(4, 3)).astype(np.float32) * 100
    array = decode(encoded(Image.fromarray(values), "TIFF"), WHITE)
    assert array is not None and array.dtype == np.float32 and np.array_equal(array[..., 0], values)
    grey = bytes_of((4, 3), 65536, np.uint16)
    for kind in ("TIFF", "PNG", "PPM"):
        array = decode(encoded(Image.fromarray(grey), kind), WHITE)
        assert array is not None and array.dtype == np.uint16 and np.array_equal(array[..., 0], grey), kind


def test_arrays_of_every_layout(tmp_path: Path) -> None:
    five = RNG.normal(size=(7, 9, 5)).astype(np.float32)
    np.save(tmp_path / "five.npy", five)
    buffer = io.BytesIO()
    np.save(buffer, five.transpose(2, 0, 1).astype(np.float64))
    for raw in (
        five,
        five.transpose(2, 0, 1),
        torch.from_numpy(five),
        five.tolist(),
        str(tmp_path / "five.npy"),
        buffer.getvalue(),
        {"bytes": buffer.getvalue()},
    ):
        array = decode(raw, WHITE)
        assert array is not None and np.array_equal(array, five)
    grey = bytes_of((4, 6))
    array = decode(grey, WHITE)
    assert array is not None and np.array_equal(array[..., 0], grey) and array.dtype == np.uint8
    wide = bytes_of((3, 8, 4))  # 3 rows of 8 pixels with 4 channels, or 3 channels of 8x4?
    assert decode(wide, WHITE).shape == (8, 4, 3)  # type: ignore[union-attr]
    assert decode(wide, WHITE, channels=4).shape == (3, 8, 4)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "0 bytes"),
        (b"not an image", "not an image file"),
        ("/nowhere/at-all.png", "No such file"),
        (np.array(["a", "b"]), "dtype"),
        (np.array([[None]], dtype=object), "dtype"),
        (np.zeros((2, 2, 2, 2)), "shape"),
        (np.zeros((0, 4, 3)), "shape"),
        ([[1, 2], [3]], "unequal"),
        (np.array([[1.0, np.inf]]), "infinite"),
        (np.array([[1e300, 0.0]]), "infinite"),
        (np.full((2, 2), np.nan), "NaN"),
        (12, "found int"),
    ],
)
def test_broken_values_say_why(raw: Any, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        decode(raw, WHITE)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_truncated_files_are_bad_samples(kind: str) -> None:
    data = encoded(Image.fromarray(bytes_of((64, 64, 3))), kind)
    for share in (0.01, 0.3, 0.6):
        with pytest.raises(BadSample):
            decode(data[: int(len(data) * share)], WHITE)


def test_truncated_deep_files_and_arrays_are_bad_samples() -> None:
    pixels = bytes_of((32, 32, 3), 65536, np.uint16)
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    for data in (png16(pixels), tiff16(pixels, "<", False), buffer.getvalue()):
        with pytest.raises(BadSample):
            decode(data[: len(data) // 2], WHITE)
    with refused("npy", error=BadSample):
        decode(pickled.getvalue(), WHITE)


def test_null_values_are_absent_and_several_columns_refused() -> None:
    assert decode(None, WHITE) is None and decode("", WHITE) is None
    assert decode({"bytes": None, "path": None}, WHITE) is None
    with refused("front"):
        decode({"front": b"", "back": b""}, WHITE)


def test_real_images_of_three_sets_decode(shared_data: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for file, shape in (
        ("fashion_mnist/test.parquet", (28, 28, 1)),
        ("cifar10_mini/test.parquet", (32, 32, 3)),
        ("emoji/openmoji-test.parquet", (72, 72, 3)),
    ):
        for row in parquet.read_table(shared_data / file, columns=["image"])["image"].to_pylist()[:40]:
            array = decode(row, WHITE)
            assert array is not None and array.shape == shape and array.dtype == np.uint8
            corner = array[0, 0]
            assert "emoji" not in file or corner.tolist() == [255, 255, 255]  # transparent became white


@pytest.mark.parametrize("order", "<>")
def test_arrays_of_either_byte_order_are_the_same(order: str, tmp_path: Path) -> None:
    """16-bit pixels that a big-endian machine wrote are no numbers "as they are"."""
    pixels = bytes_of((4, 6, 3)).astype(np.uint16) * 256 + 7
    stored = pixels.astype(f"{order}u2")
    np.save(tmp_path / "a.npy", stored)
    for raw in (
        stored,
        tmp_path / "a.npy",
        (tmp_path / "a.npy").read_bytes(),
        {"bytes": None, "path": tmp_path / "a.npy"},
    ):
        array = decode(raw, WHITE)
        assert array is not None and array.dtype == np.uint16 and array.dtype.isnative
        assert np.array_equal(array, pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_transparent_colour_of_a_sixteen_bit_png(channels: int) -> None:
    """As of one of 8 bits, which Pillow composites."""
    pixels = bytes_of((4, 6, channels)).astype(np.uint16) * 256 + 7
    pixels[1, 2] = pixels[3, 5] = 0x1234
    key = struct.pack(">H", 0x1234) * (1 if channels == 1 else 3)
    chunk = struct.pack(">I", len(key)) + b"tRNS" + key + struct.pack(">I", zlib.crc32(b"tRNS" + key))
    plain = png16(pixels)
    at = plain.index(b"IDAT") - 4
    array = decode(plain[:at] + chunk + plain[at:], WHITE)
    expected = pixels.copy()
    expected[1, 2] = expected[3, 5] = 65535
    assert array is not None and np.array_equal(array, expected)


@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_tiffs_of_which_white_is_zero(photometric: int) -> None:
    """X-rays are often stored so; of 8 bits Pillow turns them over, of 16 not."""
    pixels = bytes_of((4, 6)).astype(np.uint16) * 256 + 7
    data = bytearray(encoded(Image.fromarray(pixels if photometric else 65535 - pixels), "TIFF"))
    tag = struct.pack("<HHI", 262, 3, 1)
    data[data.index(tag) + 8] = photometric
    array = decode(bytes(data), WHITE)
    assert array is not None and array.dtype == np.uint16 and np.array_equal(array[..., 0], pixels)


def test_grey_tiffs_of_twelve_bits() -> None:
    """Pillow hands out 0..4095, which as 16 bits would be nearly black."""
    values = np.array([[0, 1, 2048, 4095]], dtype=np.uint16)
    packed = bytearray()
    for a, b in values.reshape(-1, 2).tolist():
        packed += bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
    entries = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(packed))]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + bytes(packed) + ifd + b"\0" * 4
    array = decode(data, WHITE)
    assert array is not None and array[..., 0].tolist() == [[0, 16, 32776, 65535]]
