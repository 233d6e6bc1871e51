"""Views that are cut out of pictures as they were recorded: the pixels, where they lie, and what is drawn."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmssl_image
from mmssl.draws import Draws
from mmssl.modality.pixels.boxes import boxes_in, least_side
from mmssl_image.cutting import PictureCutter

SIZE = 32
VIEW = {"crop_scale": [0.2, 0.8], "flip": 0.5}


def cutter(views: dict[str, Any] | None = None, channels: int = 3, **more: Any) -> PictureCutter:
    known: dict[str, Any] = {"channels": channels, "mean": [0.4] * channels, "std": [0.2] * channels}
    config = mmssl_image.Config(**{"size": SIZE, "patch": 8, **known, **more})
    made = mmssl_image.Preprocessor(config).fit([np.zeros((8, 8, channels), np.uint8)])
    found = made.cutter(views or {"a": VIEW})
    assert found is not None
    return found


def draws(count: int, first: int = 0) -> list[Draws]:
    return [Draws(200 + first + i, 1) for i in range(count)]


def photograph(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Waves and noise, uint8."""
    row, column, channel = np.mgrid[:height, :width, :channels]
    noise = np.random.default_rng(seed).normal(0, 8, row.shape)
    waves = 127 + 60 * np.sin(row / (5 + channel)) + 50 * np.cos(column / 9)
    return np.asarray((waves + noise).clip(0, 255), np.uint8)


def jpeg(array: np.ndarray, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=92, **more)
    return out.getvalue()


def boxes(made: PictureCutter, sizes: list[tuple[int, int]], view: str = "a") -> Any:
    options = made.options[view]
    return boxes_in(options, draws(len(sizes)), sizes, made.out(options))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_the_original_cut_and_resized_once(interpolation: str) -> None:
    pictures = [photograph(*sides) for sides in ((150, 220), (90, 300), (400, 130), (120, 120), (80, 99), (99, 80))]
    made = cutter(interpolation=interpolation)
    cut = made.cut([made.read(jpeg(one)) for one in pictures], "a", draws(6))["cut"]
    found, mirrored = boxes(made, [one.shape[:2] for one in pictures])
    assert cut.dtype == torch.uint8 and set(mirrored) == {True, False}
    for number, one in enumerate(pictures):
        top, left, height, width = (int(getattr(found, side)[number]) for side in ("top", "left", "height", "width"))
        assert height < one.shape[0] or width < one.shape[1]
        part = Image.open(io.BytesIO(jpeg(one))).crop((left, top, left + width, top + height))
        want = np.asarray(part.resize((SIZE, SIZE), Image.Resampling[interpolation.upper()])).astype(int)
        want = want[:, ::-1] if mirrored[number] else want
        assert np.abs(cut[number].permute(1, 2, 0).numpy() - want).max() <= 1


def test_torchvision_cuts_the_same() -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    picture, made = photograph(150, 220), cutter(interpolation="bilinear")
    (found, _), cut = boxes(made, [(150, 220)]), made.cut([picture], "a", draws(1))["cut"][0]
    sides = [int(side) for side in (found.top, found.left, found.height, found.width)]
    want = functional.resized_crop(torch.from_numpy(picture).permute(2, 0, 1), *sides, [SIZE, SIZE], antialias=True)
    assert torch.equal(cut, want) or torch.equal(cut, want.flip(-1))


def test_the_step_does_the_rest() -> None:
    """Normalised as `collate` does, absent rows zero, colour as of any other picture."""
    made = cutter({"a": VIEW, "loud": {**VIEW, "brightness": 0.4, "hue": 0.1, "blur": 1.0, "noise_std": 0.1}})
    modality = mmssl_image.Modality(16, **made.preprocessor.sizes())
    samples = [made.read(photograph(80, 100)), None, made.read(photograph(100, 80))]
    cut = made.cut(samples, "a", draws(3))
    plain = modality.augment(cut, Draws(0, 3), **VIEW)
    assert list(plain["present"]) == [True, False, True] and not plain["pixel_values"][1].any()
    torch.testing.assert_close(plain["pixel_values"][0], (cut["cut"][0] / 255 - 0.4) / 0.2)
    loud = dict(made.options["loud"].__dict__)
    said = modality.augment(made.cut(samples, "loud", draws(3)), Draws(0, 3), **loud)["pixel_values"]
    shown = {"pixel_values": plain["pixel_values"]}
    want = modality.augment(shown, Draws(0, 3), **{**loud, "crop_scale": None, "flip": 0.0})["pixel_values"]
    torch.testing.assert_close(said[[0, 2]], want[[0, 2]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("how", ["crop", "squash", "pad"])
def test_places_say_where_patches_lie_in_the_whole_picture(how: str) -> None:
    """Ramps over two pictures of different shapes: what a patch shows is where its place says that it is."""
    sizes = [(96, 160), (140, 70)]
    made = cutter(channels=2, resize=how)
    modality = mmssl_image.Modality(16, **made.preprocessor.sizes())
    ramps = [np.stack(np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij"), -1) for h, w in sizes]
    samples = [made.read(one.astype(np.float32)) for one in ramps]
    cut = made.cut(samples, "a", draws(2))
    patches = modality.patchify(modality.augment(cut, Draws(0, 2), **VIEW))
    places = modality.places(cut, patches, Draws(0, 2), **VIEW)
    shown = patches.values.unflatten(2, (2, 64)).mean(-1) * 0.2 + 0.4  # rows and columns of the original
    for number, (height, width) in enumerate(sizes):
        scale = {"crop": max, "pad": min}.get(how, lambda a, b: None)(SIZE / height, SIZE / width)
        factor = torch.tensor([scale, scale] if scale else [SIZE / height, SIZE / width])
        inside = torch.tensor([height, width]) * factor
        want = (shown[number] * factor + (SIZE - inside) / 2) / 8
        torch.testing.assert_close(places.centre[number], want, rtol=0, atol=0.12)


def test_a_large_photograph_is_decoded_no_larger_than_its_crops_need() -> None:
    raw = jpeg(photograph(640, 900))
    made = cutter({"a": {"crop_scale": [0.5, 1.0]}, "b": {"crop_scale": [0.2, 0.4], "crop_size": 24}})
    assert made.read(raw).shape == (640, 900, 3)  # the whole picture is wanted, too, as ever
    whole = made.cut([made.read(raw)], "a", draws(1))["cut"].int()
    made.whole = False
    small = made.read(raw)
    assert small.shape == (80, 113, 3)
    least = min(least_side(made.options[view], 640, 900) / made.out(made.options[view])[0] for view in "ab")
    assert 8 <= least < 16 and made.shrink(640, 900) == made.shrink(900, 640) == 8 and made.shrink(300, 300) == 4
    assert made.shrink(60, 60) == 1
    off = (made.cut([small], "a", draws(1))["cut"].int() - whole).abs().float()
    assert off.mean() < 8  # the same part, through another filter
    turned = made.read(
        jpeg(photograph(640, 900), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    )
    assert turned.shape == (113, 80, 3)


def test_what_is_drawn_follows_the_sample_alone() -> None:
    made = cutter({"a": VIEW, "b": VIEW})
    pictures = [photograph(70 + 9 * i, 90, seed=i) for i in range(4)]
    together = made.cut(pictures, "a", draws(4))
    alone = [made.cut([one], "a", draws(1, number)) for number, one in enumerate(pictures)]
    for key, value in together.items():
        assert torch.equal(value, torch.cat([one[key] for one in alone]))
    assert not torch.equal(together["box"], made.cut(pictures, "a", draws(4, 1))["box"])


def test_small_pictures_are_cut_between_pixels_and_large_ones_at_them() -> None:
    made = cutter()
    small, _ = boxes(made, [(8, 8)] * 50)
    large, _ = boxes(made, [(65, 100)] * 50)
    assert (small.height != small.height.round()).sum() > 40
    for side in (large.top, large.left, large.height, large.width):
        assert torch.equal(side, side.round())
    assert (large.top >= 0).all() and (large.top + large.height <= 65).all() and (large.left + large.width <= 100).all()
    assert int(((large.top + large.height) == 65).sum()) < 40  # not all at the edge
    digits = [np.asarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3)), np.uint8)]
    cut = made.cut(digits, "a", draws(1))["cut"]
    top, left, height, width = (float(getattr(small, side)[0]) for side in ("top", "left", "height", "width"))
    box = (left, top, left + width, top + height)
    want = np.asarray(Image.fromarray(digits[0]).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box))
    shown = cut[0].permute(1, 2, 0).numpy()
    assert np.array_equal(shown, want) or np.array_equal(shown[:, ::-1], want)


def test_pictures_of_other_numbers_are_cut_as_well() -> None:
    """Grey joins colour, 16 bits count in 0..1 beside 8, holes stay holes and do not spread."""
    grey = photograph(80, 90, channels=1)
    deep = photograph(80, 90).astype(np.uint16) * 257
    made = cutter()
    alike = made.cut([made.read(grey)], "a", draws(1))["cut"]
    assert alike.dtype == torch.uint8 and torch.equal(alike[0, 0], alike[0, 2])
    mixed = made.cut([made.read(photograph(80, 90)), made.read(deep)], "a", draws(2))["cut"]
    own = made.cut([made.read(photograph(80, 90)), made.read(photograph(80, 90))], "a", draws(2))["cut"] / 255
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, own, rtol=0, atol=0.02)
    holes = photograph(80, 90).astype(np.float32)
    holes[:, 40:] = np.nan
    modality = mmssl_image.Modality(16, **made.preprocessor.sizes())
    whole = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}
    made = cutter({"a": whole})
    view = modality.augment(made.cut([made.read(holes)], "a", draws(1)), Draws(0, 1), **whole)["pixel_values"]
    share = view.isnan().float().mean()
    assert 0.3 < share < 0.7 and view.nan_to_num().isfinite().all()


def test_views_that_look_at_others_of_the_batch_are_not_cut() -> None:
    views = {"a": VIEW, "b": {**VIEW, "alike": True}, "c": {**VIEW, "style": [0.1, 0.2]}, "d": {"crop_size": 16}}
    assert cutter(views).views == ("a",)
    made = mmssl_image.Preprocessor(mmssl_image.Config(size=SIZE, patch=8))
    assert made.cutter({"c": {"flip": 0.5}}) is None
