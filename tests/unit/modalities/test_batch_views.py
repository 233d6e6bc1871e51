"""Views with one draw a batch: the same for every sample, and BSS, by which all take the style of one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toys.processes import joined, two_processes

from mmssl.draws import Draws
from mmssl.errors import UserError
from mmssl.modality.pixels.style import standardise_style
from mmssl.recipe.loading import load_recipe
from mmssl_image import Modality

SIZE = (12, 9)


def pictures(batch: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(2).normal(size=(batch, 3, *SIZE))).float()


def view(pixels: torch.Tensor, draws: Draws, **spec: Any) -> torch.Tensor:
    modality = Modality(8, [*SIZE], [3, 3], 3, [0.4] * 3, [0.3] * 3)
    return modality.augment({"pixel_values": pixels}, draws, **spec)["pixel_values"]


def centre(side: float) -> torch.Tensor:
    """Of the whole spectrum, where it was replaced."""
    rows, columns = (torch.fft.fftfreq(n) * n for n in SIZE)
    return (rows.abs() <= side * SIZE[0] / 2)[:, None] & (columns.abs() <= side * SIZE[1] / 2)


def by_whole_transforms(x: np.ndarray, style: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Of pictures (B, C, H, W) in float64: amplitudes of `style` (C, H, W) inside, their own outside, their own phases,
    and back, all with numpy's transform of every frequency."""
    own, theirs = np.fft.fft2(x), np.fft.fft2(style)
    back = np.fft.ifft2(np.where(inside, abs(theirs), abs(own)) * np.exp(1j * np.angle(own)))
    assert abs(back.imag).max() < 1e-12
    return back.real


@pytest.mark.parametrize("side", [0.3, 0.5, 1.0])
def test_phases_stay_and_amplitudes_of_low_frequencies_are_those_of_one_picture(side):
    """In float64, by the whole Fourier transform; the view, which computes in float32, to its rounding."""
    pixels = pictures().double()
    styled = standardise_style(pixels, Draws(4, 6)("style"), (side, side)).numpy()
    inside = centre(side).numpy()
    before, after = (np.fft.fft2(x) for x in (pixels.numpy(), styled))
    of_each = [by_whole_transforms(pixels.numpy(), one, inside) for one in pixels.numpy()]
    chosen = [number for number, wanted in enumerate(of_each) if abs(styled - wanted).max() < 1e-10]
    assert len(chosen) == 1
    assert abs(np.angle(after * before.conj())).max() < 1e-10
    amplitude = abs(after)[:, :, inside]
    np.testing.assert_allclose(amplitude, np.broadcast_to(amplitude[:1], amplitude.shape), atol=1e-10)
    np.testing.assert_allclose(abs(after)[:, :, ~inside], abs(before)[:, :, ~inside], atol=1e-10)
    np.testing.assert_allclose(view(pixels, Draws(4, 6), style=[side, side]).double(), styled, rtol=0, atol=2e-6)


def test_the_style_and_the_square_are_drawn_anew_for_each_view():
    one, other = (view(pictures(), Draws(4, 6)("view", name), style=[0.2, 0.9]) for name in "ab")
    assert not torch.allclose(one, other)


def test_absent_pictures_give_no_style_and_stay_absent():
    pixels = pictures()
    pixels[[0, 1, 2, 4]] = 0.0
    for key in range(8):
        styled = standardise_style(pixels.double(), Draws(key, 6), (0.5, 0.5))
        assert (styled[[0, 1, 2, 4]] == 0).all()
        low = np.abs(np.fft.fft2(styled[[3, 5]].numpy()))[..., centre(0.5).numpy()]
        np.testing.assert_allclose(low[0], low[1], atol=1e-10)
    nobody = torch.zeros(2, 3, *SIZE)
    assert torch.equal(view(nobody, Draws(1, 2), style=[0.5, 0.5]), nobody)


def worker(rank: int, port: int, results: Any) -> None:
    with joined(rank, port):
        mine = pictures()[rank * 3 : rank * 3 + 3]
        results[rank] = standardise_style(mine, Draws(9, 3, rank * 3, 6), (0.2, 0.8)).numpy()


@pytest.mark.slow
def test_two_processes_take_one_style():
    found = two_processes(worker)
    both = torch.from_numpy(np.concatenate([found[0], found[1]]))
    torch.testing.assert_close(both, standardise_style(pictures(), Draws(9, 6), (0.2, 0.8)), rtol=0, atol=1e-6)


MUCH: dict[str, Any] = {
    "crop_scale": [0.2, 0.9],
    "flip": 0.5,
    "brightness": 0.4,
    "hue": 0.1,
    "gray": 0.3,
    "blur": 0.5,
    "noise_std": 0.1,
}


def test_alike_is_one_draw_for_all():
    same = pictures(1).expand(6, -1, -1, -1)
    styled = view(same, Draws(3, 6), alike=True, **MUCH)
    torch.testing.assert_close(styled, styled[:1].expand_as(styled), rtol=0, atol=1e-6)
    whole = view(pictures(), Draws(3, 6), alike=True, **MUCH)
    halves = [view(pictures()[i : i + 3], Draws(3, 3, i, 6), alike=True, **MUCH) for i in (0, 3)]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=0, atol=1e-5)
    one = view(pictures()[:1], Draws(3, 1), **MUCH)  # the first sample's own draws
    torch.testing.assert_close(whole[:1], one, rtol=0, atol=1e-5)
    assert not torch.allclose(whole, view(pictures(), Draws(4, 6), alike=True, **MUCH))


def test_recipes_and_refusals():
    words = ["views.a={image: {style: [0.1, 0.5]}}", "views.b={image: {alike: true, flip: 0.5}}"]
    assert load_recipe("examples/image_contrastive", words).views["a"]["image"]["style"] == [0.1, 0.5]
    for more, line in (
        (["views.a.image.style=[0.5, 0.1]"], "style: found .*, expected .lowest, highest."),
        (["train.accumulation=2"], "views.a.image.style: takes from other rows of the batch"),
    ):
        with pytest.raises(UserError, match=line):
            load_recipe("examples/image_contrastive", [*words, *more])
