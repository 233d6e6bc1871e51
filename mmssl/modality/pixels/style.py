"""One style for a whole batch: the amplitudes of low frequencies, of one of its pictures.

Shapes: B batch, C channels, H, W rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...distributed import global_sum
from ...draws import Draws


def standardise_style(pixels: Tensor, draws: Draws, share: tuple[float, float]) -> Tensor:
    """Every picture with the low-frequency amplitudes of one of the batch, and its own phases (Batch Styles
    Standardization, Scalbert et al. 2023, arXiv 2303.06088; the exchange of amplitudes is that of Yang & Soatto 2020).

    Negatives then share their style, and the two views of a picture differ in it. The picture and the square are drawn
    once for the global batch, for each view. No reference implementation is known: amplitudes are replaced, not mixed,
    before any other step of the view, channel by channel, and values are not clamped.

    Args:
        pixels: (B, C, ..., H, W) float32 or float64, without NaN; a picture of zeros alone is absent.
        draws: random numbers of the B samples.
        share: lowest and highest side of the square of frequencies, over that of all of them.
    """
    there = (pixels != 0).flatten(1).any(1)
    style = _one_of(pixels, there, draws)
    if style is None:
        return pixels
    height, width = pixels.shape[-2:]
    side = share[0] + (share[1] - share[0]) * float(draws("square").once().uniform()[0])
    rows = (torch.fft.fftfreq(height, device=pixels.device) * height).abs() <= side * height / 2
    columns = torch.fft.rfftfreq(width, device=pixels.device) * width <= side * width / 2
    own, theirs = torch.fft.rfft2(pixels), torch.fft.rfft2(style)
    amplitude = torch.where(rows[:, None] & columns, theirs.abs(), own.abs())
    out = torch.fft.irfft2(torch.polar(amplitude, own.angle()), s=(height, width))
    return torch.where(there.view(-1, *[1] * (pixels.ndim - 1)), out, pixels)


def _one_of(pixels: Tensor, there: Tensor, draws: Draws) -> Tensor | None:
    """(C, ..., H, W) the picture that is drawn among those of all processes that are `there` (B,); None without any."""
    order = draws("picture").permutation().to(pixels.device)
    present = torch.zeros(len(order), device=pixels.device)
    present[draws.first : draws.first + len(pixels)] = there.float()
    among = order[global_sum(present)[order] > 0]
    if not len(among):
        return None
    at = int(among[0]) - draws.first
    return global_sum(pixels[at] if 0 <= at < len(pixels) else torch.zeros_like(pixels[0]))
