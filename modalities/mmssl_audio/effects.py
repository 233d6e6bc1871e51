"""Effects on a batch of waveforms (B, S), each with a parameter of its own, zero-padded at the end.

All are linear or blockwise from the start of the sound, so that what follows a sound does not change it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def convolve(wave: Tensor, kernel: Tensor) -> Tensor:
    """Causal convolution of wave (B, S) with kernel (B, K), cut to S samples, by FFT.

    At the next power of two: `torchaudio.functional.fftconvolve` transforms at S + K - 1, whatever its prime factors,
    and takes 5 to 6 times as long (8 sounds of 10 s, 64 of half a second, echoes of 0.8 s, one thread; they differ by
    3e-7).
    """
    size = wave.shape[1] + kernel.shape[1] - 1
    fast = 1 << (size - 1).bit_length()
    spectrum = torch.fft.rfft(wave, n=fast) * torch.fft.rfft(kernel, n=fast)
    return torch.fft.irfft(spectrum, n=fast)[:, : wave.shape[1]]


def first_order(wave: Tensor, hertz: Tensor, high: Tensor, rate: int) -> Tensor:
    """High-pass (where high (B,)) or low-pass of the first order at hertz (B,), as CLMR takes from Essentia.

    y = (x -+ a(x)) / 2 with the first-order all-pass a (Zoelzer, DAFX): y[n] = b0 x[n] + b1 x[n-1] - c y[n-1].
    torchaudio's recursion, which on a GPU goes through the samples one after the other: 7 ms for 48,000 of them
    (pytorch/audio#3628). On a CPU it takes 0.4 of the time of a convolution with the impulse response.
    """
    from torchaudio.functional import lfilter

    top = 0.49  # of the rate: at half of it the tangent is infinite
    c = torch.tan(math.pi * ((hertz / rate).clamp(max=top) - 0.25))  # = (tan(pi f) - 1) / (tan(pi f) + 1)
    sign = torch.where(high, -1.0, 1.0)
    back, forth = torch.stack([torch.ones_like(c), c], 1), torch.stack([1 + sign * c, c + sign], 1) / 2
    return lfilter(wave, back, forth, clamp=False)


def delay(wave: Tensor, samples: Tensor, volume: float) -> Tensor:
    """The mean of the sound and of itself `samples` (B,) later at `volume`, as in CLMR."""
    place = torch.arange(wave.shape[1], device=wave.device) - samples[:, None]
    late = wave.gather(1, place.clamp(min=0)) * (place >= 0)
    return (wave + volume * late) / 2


def reverb(wave: Tensor, seconds: Tensor, wet: Tensor, echo: Tensor, rate: int) -> Tensor:
    """A room's echo: white noise echo (B, K) that decays by 60 dB in seconds (B,) (Polack's model of a diffuse field;
    CLMR calls sox's Freeverb instead), of unit energy, mixed in with share wet (B,)."""
    time = torch.arange(echo.shape[1], device=wave.device) / rate
    kernel = echo * 10 ** (-3 * time / seconds[:, None])
    kernel = kernel / kernel.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)
    return (1 - wet[:, None]) * wave + wet[:, None] * convolve(wave, kernel)


def pitch_shift(wave: Tensor, semitones: Tensor, rate: int, highest: float) -> Tensor:
    """Pitch up by semitones (B,), length kept: stretched by a phase vocoder, then read faster (Laroche & Dolson 1999).

    What would lie above half the rate is left out before. highest: no shift lies above, in semitones.
    `torchaudio.functional.pitch_shift` has one shift for a batch, and resamples from int(rate * ratio) Hz, which has
    hardly a factor in common with the rate: called for each of two sounds of a second it took 850 times as long.
    """
    fft = 1 << max(round(math.log2(rate * 0.032)), 4)
    hop = fft // 4
    window = torch.hann_window(fft, device=wave.device)
    ratio = 2 ** (semitones / 12)  # (B,) of the frequencies, and of the stretched length
    most = 2 ** (max(highest, 0.0) / 12)
    spectrum = torch.stft(wave, fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    bins, steps = spectrum.shape[1:]
    size, angle = (torch.nn.functional.pad(x, (0, 2)) for x in (spectrum.abs(), spectrum.angle()))
    count = math.ceil(steps * most) + 2
    place = torch.arange(count, device=wave.device) / ratio[:, None]  # (B, K) in frames of the sound
    before = place.floor().long().clamp(max=steps)
    part = (place - before).clamp(0, 1)[:, None]
    index = before[:, None].expand(-1, bins, -1)
    magnitude = torch.lerp(size.gather(2, index), size.gather(2, index + 1), part)
    # what each bin's phase turns by in one hop, modulo a full turn: all that matters for the sum, and kept small
    turn = torch.remainder(angle[..., 1:] - angle[..., :-1], 2 * math.pi).gather(2, index)
    phase = torch.cat([angle[..., :1], turn[..., :-1]], 2).cumsum(2)
    fits = torch.arange(bins, device=wave.device)[:, None] * ratio[:, None, None] < bins - 1
    stretched = torch.istft(torch.polar(magnitude * fits, phase), fft, hop, window=window, center=True)
    return _read_at(stretched, torch.arange(wave.shape[1], device=wave.device) * ratio[:, None])


def _read_at(wave: Tensor, place: Tensor) -> Tensor:
    """wave (B, S) at fractional places (B, n), by cubic interpolation (Catmull-Rom); zero outside."""
    padded = torch.nn.functional.pad(wave, (1, 3))
    at = place.floor().clamp(max=wave.shape[1] - 1)
    t = (place - at).clamp(0, 1)
    first = at.long()
    a, b, c, d = (padded.gather(1, first + k) for k in range(4))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
