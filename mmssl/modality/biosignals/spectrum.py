"""Log spectra: of patches, as a target, and of channels in bands, as the raw features of EEG and ECG.

Shapes: B batch, C channels, T samples, w samples of a patch, F bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FLOOR = 1e-4
"""Added to a power before its logarithm, in squares of the normalised signal's unit."""
BAND_FLOOR = 1e-6
"""The same for powers in bands, which are means over many bins and stretches."""


def hann(count: int, device: torch.device) -> Tensor:
    """(count,) Hann window, scaled so that white noise keeps its power."""
    window = torch.hann_window(count, periodic=True, device=device)
    return window / window.square().mean().sqrt()


def log_spectrum(x: Tensor, least: float = 1.0) -> Tensor:
    """x (..., w) to (..., w // 2 + 1): log of the power in each bin, where white noise of variance 1 has power 1.

    Each stretch is centred and Hann-windowed. NaN in all bins where less than that share of the elements exists; in a
    stretch that counts, those that do not exist are the mean of the others, whose power stands for all.
    """
    if not x.numel():  # nobody hides anything; FFTs of nothing raise
        return x.new_empty(*x.shape[:-1], bins(x.shape[-1]))
    there = ~x.isnan()
    count = there.sum(-1, keepdim=True)
    mean = x.nan_to_num(0.0).sum(-1, keepdim=True) / count.clamp(min=1)
    x = (x - mean).nan_to_num(0.0)
    power = torch.fft.rfft(x * hann(x.shape[-1], x.device)).abs().square() / count.clamp(min=1)
    return (power + FLOOR).log().masked_fill(count < least * x.shape[-1], torch.nan)


def spectrum_moments(signals: Iterable[NDArray[np.float32]], window: int) -> dict[str, list[float]]:
    """{"mean": F numbers, "std": F numbers}: of each bin of the log spectra of all whole windows without holes.

    signals: (C, T) each. A spectrum falls off over many decades; without these a decoder would spend most of a short
    training on learning its average. Mean 0 and deviation 1 where there is no whole window.
    """
    count, total, squares = 0, torch.zeros(bins(window)), torch.zeros(bins(window))
    for signal in signals:
        x = torch.from_numpy(signal)
        if x.shape[1] >= window:
            spectra = log_spectrum(x.unfold(1, window, window)).flatten(0, 1)
            spectra = spectra[~spectra.isnan().any(1)].double()
            count, total, squares = count + len(spectra), total + spectra.sum(0), squares + spectra.square().sum(0)
    if not count:
        return {"mean": [0.0] * bins(window), "std": [1.0] * bins(window)}
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-4).sqrt()
    return {"mean": [round(v, 5) for v in mean.tolist()], "std": [round(v, 5) for v in std.tolist()]}


def bins(count: int) -> int:
    """F: bins of a spectrum of `count` samples."""
    return count // 2 + 1


def strongest(signal: Tensor, cycles: float = 2.0) -> tuple[Tensor, Tensor]:
    """((B,) the frequency of most power in octaves from an eighth of the rate, (B,) that power) of signal (B, C, T),
    NaN where nothing was measured; over all channels, from so many cycles in T samples on."""
    there = ~signal.isnan()
    mean = signal.nan_to_num(0.0).sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)
    centred = (signal - mean).nan_to_num(0.0)
    power = torch.fft.rfft(centred * hann(signal.shape[2], signal.device)).abs().square().sum(1)
    number = torch.arange(power.shape[1], device=signal.device)
    found = power.masked_fill(number < cycles, 0.0).max(1)
    return (found.indices.clamp(min=1) * 8 / signal.shape[2]).log2(), found.values


def band_powers(signal: Tensor, rate: float, edges: Sequence[float], seconds: float) -> Tensor:
    """signal (B, C, T) to (B, C, bands): log of the mean power in each band, over stretches of `seconds` (Welch).

    Stretches overlap by half; those with holes are left out, unless a channel has no other. A channel without samples
    has the floor.

    Args:
        signal: (B, C, T), NaN where nothing was measured.
        rate: samples a second.
        edges: Hz, rising; band i lies between edges[i] and edges[i + 1].
        seconds: length of a stretch: it resolves 1 / seconds Hz.
    """
    size = min(max(round(seconds * rate), 2), signal.shape[2])
    pieces = signal.float().unfold(2, size, max(size // 2, 1))  # (B, C, pieces, size)
    there = ~pieces.isnan()
    whole = there.all(-1)
    use = torch.where(whole.any(-1, keepdim=True), whole, there.any(-1)).to(torch.float32)
    mean = pieces.nan_to_num(0.0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp(min=1)
    centred = (pieces - mean).nan_to_num(0.0) * hann(size, signal.device)
    power = torch.fft.rfft(centred).abs().square() / size  # (B, C, pieces, F)
    power = (power * use[..., None]).sum(2) / use.sum(2).clamp(min=1)[..., None]
    hertz = torch.fft.rfftfreq(size, 1 / rate, device=signal.device)
    member = torch.stack([(hertz >= low) & (hertz < high) for low, high in zip(edges, edges[1:], strict=False)])
    member = member.to(torch.float32)
    member = member / member.sum(1, keepdim=True).clamp(min=1)
    return (power @ member.T + BAND_FLOOR).log()
