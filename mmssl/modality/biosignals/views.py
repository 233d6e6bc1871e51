"""Augmented views of a batch of voltage signals, on its device, every sample with parameters of its own.

All parameters come from `mmssl.draws.Draws`, and no step lets a sample depend on how its batch is padded. NaN ("not
measured") stays NaN and moves along. Order: crop, shift, polarity, amplitude, channel gain, band-stop, baseline wander,
powerline, noise, channel dropout.

Sizes of what is added are in units of the normalised signal. Shapes: B batch, C channels, T samples, S taps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ...draws import Draws
from ...errors import UserError
from ..inputs import Inputs
from ..view import check_rows
from .options import View

WANDER_HZ = (0.05, 0.5)  # of breathing and of moving electrodes
WANDER_WAVES = 3
NOISE_STRETCH = 1 << 15
TAPS_SECONDS = 1.0  # length of the band-stop filter: its edges are about 2 Hz wide


def augment(inputs: Inputs, draws: Draws, view: View, rate: float, window: int) -> Inputs:
    """One view of a batch.

    Args:
        inputs: "signal" (B, C, T), and what else describes it.
        draws: random numbers of the B samples.
        view: what is done.
        rate: samples a second.
        window: samples of a patch; T stays a multiple of it.

    Returns:
        Inputs whose "holes" (see `preparation.with_holes`) is there where it was, or where the view may have made some.

    Raises:
        UserError: hum that this rate cannot carry.
    """
    signal = inputs["signal"]
    check_rows(draws.rows, len(signal))
    if view.powerline and view.powerline_hz >= rate / 2:
        raise UserError(
            f"powerline_hz: {view.powerline_hz:g} Hz cannot be in a signal of {rate:g} samples a second, "
            f"expected less than {rate / 2:g}"
        )
    with torch.autocast(signal.device.type, enabled=False):
        signal = _in_time(signal.float(), draws, view, rate, window)
        signal = _in_size(signal, draws, view)
        if view.bandstop:
            signal = bandstop(signal, draws("bandstop"), view, rate)
        signal = _added(signal, draws, view, rate)
        if view.drop:
            signal = dropped(signal, draws("drop"), view.drop)
    out = inputs | {"signal": signal}
    if view.makes_holes or "holes" in inputs:
        out["holes"] = signal.isnan().flatten(1).any(1)
    return out


def lengths(signal: Tensor) -> Tensor:
    """(B,) int64: samples up to the last one that some channel has."""
    there = (~signal.isnan()).any(1)
    place = torch.arange(1, signal.shape[2] + 1, device=signal.device)
    return (there * place).amax(1)


def _in_time(signal: Tensor, draws: Draws, view: View, rate: float, window: int) -> Tensor:
    """Crop and shift. A crop is of the sample's own length; all results are as long as the longest crop can be."""
    if view.crop is None and not view.shift:
        return signal
    total = signal.shape[2]
    start, count, out, moved = stretch_of(signal, draws, view, rate, window)
    at = torch.arange(out, device=signal.device) + moved[:, None]  # place inside the crop
    inside = (at >= 0) & (at < count[:, None])
    index = (at + start[:, None]).clamp(0, total - 1)
    taken = signal.gather(2, index[:, None].expand(-1, signal.shape[1], -1))
    return taken.masked_fill(~inside[:, None], torch.nan)


def stretch_of(
    signal: Tensor, draws: Draws, view: View, rate: float, window: int
) -> tuple[Tensor, Tensor, int, Tensor]:
    """(where the crop begins (B,), how long it is (B,), how long the view is, how far it is shifted (B,)), samples."""
    total = signal.shape[2]
    start = torch.zeros(len(signal), dtype=torch.int64, device=signal.device)
    out, count = total, torch.full_like(start, total)
    if view.crop is not None:
        low, high = view.crop
        out = max(math.ceil(high * total / window - 1e-6), 1) * window
        share, place = draws("crop").uniform(2).to(signal.device).unbind(1)
        own = lengths(signal)
        count = ((low + (high - low) * share) * own).round().to(torch.int64).clamp(min=min(window, total))
        count = torch.minimum(count, own)
        start = (place * (own - count + 1)).floor().to(torch.int64)
    moved = torch.zeros_like(start)
    if view.shift:
        moved = (draws("shift").uniform(low=-view.shift, high=view.shift) * rate).round().to(start)
    return start, count, out, moved


def _in_size(signal: Tensor, draws: Draws, view: View) -> Tensor:
    device = signal.device
    if view.flip:
        signal = torch.where(draws("flip").chance(view.flip).to(device)[:, None, None], -signal, signal)
    if view.amplitude:
        bound = math.log1p(view.amplitude)
        signal = signal * draws("amplitude").uniform(low=-bound, high=bound).exp().to(device)[:, None, None]
    if view.gain:
        bound = math.log1p(view.gain)
        signal = signal * draws("gain").uniform(signal.shape[1], low=-bound, high=bound).exp().to(device)[..., None]
    return signal


def bandstop(signal: Tensor, draws: Draws, view: View, rate: float) -> Tensor:
    """One band taken out of each sample that is drawn, by a filter of zero phase and fixed length (windowed sinc).

    Args:
        signal: (B, C, T), NaN where nothing was measured.
        draws: random numbers of the B samples.
        view: probability, place (Hz) and width (Hz) of the band.
        rate: samples a second.
    """
    chosen = draws.chance(view.bandstop).to(signal.device)
    low, high = view.bandstop_hz
    centre = draws("centre").uniform(low=low, high=high).to(signal.device)
    half = max(round(TAPS_SECONDS * rate / 2), 1)
    time = torch.arange(-half, half + 1, device=signal.device) / rate  # (S,)
    window = 0.5 + 0.5 * torch.cos(torch.pi * torch.arange(-half, half + 1, device=signal.device) / (half + 1))
    lowpass = torch.sinc(view.bandstop_width * time) * window
    lowpass = lowpass / lowpass.sum()
    band = 2 * torch.cos(2 * torch.pi * centre[:, None] * time) * lowpass  # (B, S), gain 1 in the middle
    there = ~signal.isnan()
    fast = 1 << (signal.shape[2] + 2 * half - 1).bit_length()
    spectrum = torch.fft.rfft(signal.nan_to_num(0.0), n=fast) * torch.fft.rfft(band, n=fast)[:, None]
    within = torch.fft.irfft(spectrum, n=fast)[..., half : half + signal.shape[2]]
    out = torch.where(chosen[:, None, None], signal - within, signal)
    return out.masked_fill(~there, torch.nan)


def _added(signal: Tensor, draws: Draws, view: View, rate: float) -> Tensor:
    channels, total = signal.shape[1:]
    device = signal.device
    seconds = torch.arange(total, device=device) / rate

    def waves(hertz: Tensor, name: str, size: float) -> Tensor:
        """(B, C, T) sines of hertz (B,): one phase a sample, a signed size a channel."""
        own = draws(name)
        phase = own("phase").uniform(high=2 * math.pi).to(device)
        sizes = own("size").uniform(channels, low=-size, high=size).to(device)
        wave = torch.sin(2 * torch.pi * hertz.to(device)[:, None] * seconds + phase[:, None])
        return sizes[..., None] * wave[:, None]

    if view.wander:
        for number in range(WANDER_WAVES):
            hertz = draws("wander", number).uniform(low=WANDER_HZ[0], high=WANDER_HZ[1])
            signal = signal + waves(hertz, f"wander {number}", view.wander / WANDER_WAVES)
    if view.powerline:
        hertz = torch.full((len(signal),), view.powerline_hz)
        signal = signal + waves(hertz, "powerline", view.powerline)
    if view.noise:
        deviation = draws("noise size").uniform(high=view.noise).to(device)[:, None, None]
        signal = signal + deviation * white_noise(signal, draws("noise"))
    return signal


def white_noise(signal: Tensor, draws: Draws) -> Tensor:
    """(B, C, T) standard normal noise: one long stretch of it, from a place drawn for each channel on.

    Drawing every number by itself would take longer than a training step of a small model.
    """
    stretch = replace(draws, rows=1, first=0).normal(NOISE_STRETCH)[0].to(signal.device)
    start = draws("start").integers(NOISE_STRETCH, signal.shape[1]).to(signal.device)
    return stretch[(start[..., None] + torch.arange(signal.shape[2], device=signal.device)) % NOISE_STRETCH]


def dropped(signal: Tensor, draws: Draws, p: float) -> Tensor:
    """signal (B, C, T) with whole channels missing, each with probability p.

    Of those that a sample has, the one with the highest draw stays.
    """
    has = ~signal.isnan().all(2)
    drawn = draws.uniform(signal.shape[1]).to(signal.device).masked_fill(~has, -1.0)
    spared = torch.zeros_like(has).scatter_(1, drawn.argmax(1, keepdim=True), True)
    return signal.masked_fill(((drawn < p) & ~spared)[..., None], torch.nan)
