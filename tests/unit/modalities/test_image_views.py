"""The image modality's augmented views: per sample, the same on any process, and equal to stock implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from toys.refusals import refused

import mmssl_image
from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality.pixels.augment import resize_weights
from mmssl.modality.pixels.options import View

RNG = np.random.default_rng(0)


def modality(size: int = 8, patch: int = 2, channels: int = 3, width: int = 16, **more: Any) -> mmssl_image.Modality:
    mean, std = [0.5] * channels, [0.25] * channels
    return mmssl_image.Modality(width, [size, size], [patch, patch], channels, mean, std, **more)


EVERYTHING: dict[str, Any] = {
    "crop_scale": [0.2, 1.0],
    "crop_size": 6,
    "flip": 0.5,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "jitter": 0.8,
    "gray": 0.2,
    "blur": 0.5,
    "solarize": 0.2,
    "noise_std": 0.1,
}


def view(pixels: torch.Tensor, draws: Draws | None = None, model: Any = None, **spec: Any) -> torch.Tensor:
    model = model or modality(size=pixels.shape[-1], channels=pixels.shape[1])
    return model.augment({"pixel_values": pixels}, draws or Draws(7, len(pixels)), **spec)["pixel_values"]


def test_views_do_not_depend_on_batch_size_or_process() -> None:
    pixels = (torch.rand(8, 3, 8, 8) - 0.5) * 4
    whole = view(pixels, Draws(7, 8, 0, 8), **EVERYTHING)
    assert whole.shape == (8, 3, 6, 6)
    halves = [view(pixels[i : i + 4], Draws(7, 4, i, 8), **EVERYTHING) for i in (0, 4)]
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-5, rtol=1e-5)
    alone = torch.cat([view(pixels[i : i + 1], Draws(7, 1, i, 8), **EVERYTHING) for i in range(8)])
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(whole, view(pixels, Draws(7, 8, 0, 8), **EVERYTHING))
    assert not torch.allclose(whole, view(pixels, Draws(8, 8, 0, 8), **EVERYTHING))
    same = view(pixels[:1].repeat(8, 1, 1, 1), Draws(7, 8), **EVERYTHING)
    assert (same[1:] - same[:1]).flatten(1).abs().amax(1).min() > 0.01  # every sample has draws of its own


def test_view_without_options_changes_nothing_and_keeps_present() -> None:
    pixels = torch.randn(3, 3, 8, 8)
    assert torch.equal(view(pixels), pixels)
    inputs = {"pixel_values": pixels, "present": torch.tensor([True, False, True])}
    out = modality().augment(inputs, Draws(0, 3), flip=1.0)
    assert torch.equal(out["present"], inputs["present"]) and torch.equal(inputs["pixel_values"], pixels)
    torch.testing.assert_close(out["pixel_values"], pixels.flip(3), atol=1e-6, rtol=1e-6)


def test_flip_is_drawn_for_about_half() -> None:
    pixels = torch.randn(400, 1, 4, 4)
    flipped = (view(pixels, flip=0.5) - pixels.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    kept = (view(pixels, flip=0.5) - pixels).abs().amax((1, 2, 3)) < 1e-5
    assert (flipped ^ kept).all() and 160 < int(flipped.sum()) < 240


@pytest.mark.parametrize(("height", "width", "out"), [(16, 12, 8), (16, 12, 24), (9, 9, 4)])
def test_resampling_equals_antialiased_interpolation(height: int, width: int, out: int) -> None:
    x = torch.randn(2, 3, height, width)
    zero = torch.zeros(2)
    rows = resize_weights(zero, zero + height, height, out)
    columns = resize_weights(zero, zero + width, width, out)
    ours = (rows[:, None] @ x) @ columns[:, None].transpose(2, 3)
    stock = F.interpolate(x, size=(out, out), mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(ours, stock, atol=1e-5, rtol=1e-5)


def test_resampling_of_a_box_equals_pillow() -> None:
    image = Image.fromarray(RNG.normal(size=(20, 30)).astype(np.float32))
    box = (3.25, 2.5, 27.5, 17.75)
    stock = np.asarray(image.resize((10, 8), Image.Resampling.BILINEAR, box=box))
    rows = resize_weights(torch.tensor([box[1]]), torch.tensor([box[3] - box[1]]), 20, 8)
    columns = resize_weights(torch.tensor([box[0]]), torch.tensor([box[2] - box[0]]), 30, 10)
    ours = rows[0] @ torch.from_numpy(np.asarray(image).copy()) @ columns[0].T
    np.testing.assert_allclose(ours, stock, atol=1e-4)


def test_crops_have_the_area_and_ratio_asked_for() -> None:
    ramp_x = torch.arange(64.0).expand(500, 1, 64, 64).clone()
    ramp_y = ramp_x.transpose(2, 3).contiguous()
    # magnified, so exactly linear inside: the slope of the ramp is the box's side over the output's
    widths = view(ramp_x, crop_scale=[0.25, 0.5])[:, 0, 32, [8, 55]].diff(dim=1)[:, 0] / 47 * 64
    heights = view(ramp_y, crop_scale=[0.25, 0.5])[:, 0, [8, 55], 32].diff(dim=1)[:, 0] / 47 * 64
    share, ratio = widths * heights / 64**2, widths / heights
    assert 0.249 < share.min() < 0.26 and 0.49 < share.max() < 0.501 and abs(share.mean() - 0.375) < 0.01
    assert 0.749 < ratio.min() < 0.78 and 1.29 < ratio.max() < 1.334


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "gray", "solarize"])
def test_colour_operations_equal_torchvision(name: str) -> None:
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    x = torch.rand(4, 3, 8, 8)
    strength = {"hue": 0.4, "gray": 1.0, "solarize": 1.0}.get(name, 0.8)
    draws = Draws(7, 4)
    out = view((x - 0.5) / 0.25, draws, **{name: strength}) * 0.25 + 0.5
    low, high = (-0.4, 0.4) if name == "hue" else (0.2, 1.8)
    drawn = draws(name).uniform(low=low, high=high)
    for got, image, parameter in zip(out, x, drawn.tolist(), strict=True):
        if name == "gray":
            stock = functional.rgb_to_grayscale(image, num_output_channels=3)
        elif name == "solarize":
            stock = functional.solarize(image, 0.5)
        else:
            stock = getattr(functional, f"adjust_{name}")(image, parameter)
        torch.testing.assert_close(got, stock, atol=2e-4, rtol=1e-4)


def test_blur_equals_a_gaussian_and_noise_has_its_spread() -> None:
    point = torch.zeros(1, 1, 32, 32)
    point[0, 0, 16, 16] = 1.0
    blurred = view(point, blur=1.0, blur_sigma=[1.5, 1.5])[0, 0].double()
    place = torch.arange(32, dtype=torch.float64) - 16
    gauss = torch.exp(-(place**2) / (2 * 1.5**2))
    gauss = gauss / gauss.sum()
    torch.testing.assert_close(blurred, gauss[:, None] * gauss, atol=1e-5, rtol=1e-3)
    noise = view(torch.zeros(4, 3, 32, 32), noise_std=0.5)
    assert abs(float(noise.std()) - 0.5) < 0.02 and abs(float(noise.mean())) < 0.02


def test_unit_range_is_kept_and_other_units_are_not_clamped() -> None:
    x = (torch.rand(16, 3, 8, 8) - 0.5) / 0.25
    out = view(x, brightness=0.9) * 0.25 + 0.5
    assert out.min() >= -1e-6 and out.max() <= 1 + 1e-6
    free = modality(unit_range=False)
    assert (view(x, model=free, brightness=0.9) * 0.25 + 0.5).max() > 1.05


def test_missing_pixels_move_with_the_crop() -> None:
    pixels = torch.randn(2, 3, 8, 8)
    pixels[:, :, :, 6:] = torch.nan
    out = view(pixels, flip=1.0, blur=1.0, brightness=0.2)
    assert out[..., :2].isnan().all() and out[..., 2:].isfinite().all()


def test_views_are_exact_under_autocast() -> None:
    pixels = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = view(pixels, **EVERYTHING)
    torch.testing.assert_close(out, view(pixels, **EVERYTHING))
    assert out.dtype == torch.float32


@pytest.mark.parametrize(
    ("spec", "channels", "message"),
    [
        ({"flipp": 0.5}, 3, "did you mean 'flip'"),
        ({"flip": 2}, 3, "flip: found 2"),
        ({"flip": "often"}, 3, "flip: found 'often'"),
        ({"crop_scale": [0.9, 0.1]}, 3, "crop_scale: found .* expected .lowest, highest."),
        ({"crop_size": 5}, 3, "multiples of the patch"),
        ({"hue": 0.1}, 1, "hue: needs images of 3 channels"),
        ({"gray": 0.1}, 5, "gray: needs images of 3 channels"),
        ({"saturation": 0.1}, 1, "saturation: needs images of 3 channels"),
    ],
)
def test_wrong_views_are_refused(spec: dict[str, Any], channels: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        view(torch.randn(1, channels, 8, 8), **spec)


def test_views_that_the_images_cannot_have() -> None:
    with pytest.raises(UserError, match="solarize: needs 8- or 16-bit"):
        view(torch.randn(1, 3, 8, 8), model=modality(unit_range=False), solarize=0.5)
    with refused("positions: sincos"):
        view(torch.randn(1, 3, 8, 8), model=modality(positions="learned"), crop_size=4)
    assert view(torch.randn(1, 5, 8, 8), brightness=0.5, contrast=0.5).shape == (1, 5, 8, 8)
    assert set(View.names()) == set(mmssl_image.Modality.views)


def test_what_has_no_holes_is_the_same_beside_what_has() -> None:
    """Where no pixel is missing nothing is looked for; a row must not show whether another one lacks some."""
    whole = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    holed = whole.clone()
    holed[0, :, :4, :4] = torch.nan
    options: dict[str, Any] = {"crop_scale": [0.3, 1.0], "flip": 0.5}
    seen = [view(x, Draws(1, 3), **options) for x in (whole, holed)]
    assert torch.equal(seen[0][1:], seen[1][1:]) and not seen[0].isnan().any() and seen[1].isnan().any()
    infinite = whole.clone()
    infinite[0, 0, 0, 0] = torch.inf
    found = view(infinite, Draws(1, 3), **options)
    assert torch.equal(found[1:], seen[0][1:]) and found.isfinite().all()
